"""Second opinions: what a judge, math-verify and the harness say, and that none of them can cost an evaluation."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest

from skippy.characters.loader import load_character
from skippy.config import EvalConfig
from skippy.core.answers import extract_integer
from skippy.core.inference.agreement import krippendorff_alpha
from skippy.core.problem import Problem
from skippy.core.sampling import PRESETS
from skippy.errors import BackendError, ConfigError, RewardError
from skippy.evaluation import harness
from skippy.evaluation.asking import Plan
from skippy.evaluation.cross_check import as_integer, cross_check_metrics, find_disagreements, to_lines
from skippy.evaluation.harness import harness_metrics, open_harness, plain, run_harness
from skippy.evaluation.judging import Judgement, judge_answers, judge_metrics, phrase
from skippy.evaluation.opinions import Opinions, add_opinions, open_opinions
from skippy.evaluation.suites import AIME, BANAL
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models import judge
from skippy.models.judge import Judge, JudgeSettings
from skippy.resolve.files import CHECKPOINTS
from skippy.resolve.subjects import Subject
from skippy.stages import evaluate
from skippy.stages.evaluate import EvalPlan
from skippy.stores.problems import ProblemSet
from skippy.stores.samples import Sample
from skippy.tracking.stage_run import check_metric_name, check_metric_value, to_json
from tests.loopback import loopback

RUBRIC = "How warm is the speaker? 0 is cold, 9 is like family."
FAST = JudgeSettings(timeout_seconds=2.0, retries=0)


@dataclass(frozen=True)
class Trait:
    name: str = "warmth"
    rubric: str = RUBRIC


@dataclass
class RecordedStage:
    """What a stage run was given, checked as the real one checks it."""

    metrics: dict[str, float] = field(default_factory=dict)
    models: set = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str = "r"
    endings: list = field(default_factory=list)

    def when_finished(self, action):
        self.endings.append(action)

    def log_metrics(self, metrics, model_id=None):
        self.metrics |= {check_metric_name(name): check_metric_value(name, metrics[name]) for name in metrics}
        self.models.add(model_id)

    def log_text(self, text, path):
        self.texts[path] = text

    def log_json(self, content, path):
        self.texts[path] = to_json(content, path)

    def log_table(self, rows, path):
        self.tables[path] = pd.DataFrame(rows)

    def set_tags(self, tags):
        self.tags |= tags


def sample(number: int, text: str, *, suite: str = BANAL, mode: str = "plain", tokens: int = 0) -> Sample:
    found = extract_integer(text)
    return Sample(
        "d" * 64, suite, f"{mode}/{number}", f"{mode}{number:012d}", 0, 1, "lab", "How are you?", text,
        tokens or len(text.split()), "stop", found.value, found.status, None,
    )  # fmt: skip


def plan(problems: ProblemSet | None = None, path: Path = Path(".")) -> Plan:
    subject = Subject("v4", "v4", path, "d" * 64, "models:/skippy/2", model_id="m-1")
    return Plan(subject, load_character("skippy"), problems, (), PRESETS["lab"], 1)


class ScriptedJudge:
    """A judge whose digit is a function of rubric and answer."""

    model = "scripted"

    def __init__(self, digit: Callable[[str, str], float | None]) -> None:
        self._digit = digit

    def digits(self, questions):
        return [self._digit(rubric, answer) for rubric, _, answer in questions]


def is_turned(rubric: str) -> bool:
    return rubric.index("9 ") < rubric.index("0 ")


def reader(rubric: str, answer: str) -> float:
    """Reads scale and answer: the number in the answer is its warmth."""
    warmth = float(re.findall(r"\d", answer)[0])
    return 9 - warmth if is_turned(rubric) else warmth


ANSWERS = [sample(i, f"warmth {i % 10}" + " and so on" * (i % 7)) for i in range(30)]


# --- the judge -----------------------------------------------------------------------------------------------


def test_a_rubric_is_asked_in_three_ways_and_one_turns_the_scale():
    own, restated, mirrored = phrase(RUBRIC)
    assert own.rubric == RUBRIC
    assert RUBRIC in restated.rubric
    assert "9 is cold, 0 is like family." in mirrored.rubric
    assert [way.is_mirrored for way in (own, restated, mirrored)] == [False, False, True]


def test_a_rubric_without_named_ends_is_asked_in_two_ways():
    assert [way.name for way in phrase("How warm is the speaker?")] == ["own", "restated"]


@pytest.mark.parametrize("name", ["skippy", "keeper", "detective"])
def test_every_shipped_rubric_is_asked_in_at_least_two_ways(name):
    for trait in load_character(name).traits:
        ways = phrase(trait.rubric)
        assert len({way.rubric for way in ways}) == len(ways) >= 2
        assert is_turned(ways[-1].rubric)
        assert not is_turned(ways[0].rubric)


def test_a_judge_that_reads_agrees_with_itself():
    metrics = judge_metrics(judge_answers(ScriptedJudge(reader), ANSWERS, [Trait()]))
    assert metrics["banal/judge_agreement"] == pytest.approx(1.0)
    assert metrics["banal/judge_alpha/warmth"] == pytest.approx(1.0)
    assert metrics["banal/judge/warmth"] == pytest.approx(4.5)
    assert metrics["banal/judge_missing"] == 0


def test_a_judge_that_answers_by_habit_contradicts_itself():
    """The twin: always 7, and 2 once the scale is turned; no better than chance."""
    metrics = judge_metrics(judge_answers(ScriptedJudge(lambda *_: 7.0), ANSWERS, [Trait()]))
    assert metrics["banal/judge_agreement"] < 0
    assert metrics["banal/judge/warmth"] == pytest.approx((7 + 7 + 2) / 3)


def test_differences_between_traits_are_not_agreement():
    """A judge that only knows which trait is asked for looks agreeable when traits are pooled, and is not."""
    rng = random.Random(0)
    rows = [
        Judgement(f"plain/{i}", f"h{i}", 10, trait, way, level + rng.random())
        for trait, level in (("high", 8.0), ("low", 0.0))
        for way in ("own", "restated")
        for i in range(40)
    ]
    pooled = [[row.score for row in rows if row.phrasing == way] for way in ("own", "restated")]
    assert krippendorff_alpha(pooled) > 0.95
    assert abs(judge_metrics(rows)["banal/judge_agreement"]) < 0.35


def test_a_judge_without_rubrics_that_name_ends_and_one_digit_has_no_agreement():
    metrics = judge_metrics(judge_answers(ScriptedJudge(lambda *_: 5.0), ANSWERS, [Trait(rubric="Warm?")]))
    assert "banal/judge_agreement" not in metrics
    assert "banal/judge_length_correlation" not in metrics
    assert metrics["banal/judge/warmth"] == 5


def test_liking_length_shows():
    """By rank: a judge need not like length in proportion."""
    by_length = ScriptedJudge(lambda rubric, text: abs(9 * is_turned(rubric) - (len(text.split()) / 8) ** 3))
    fond = judge_metrics(judge_answers(by_length, ANSWERS, [Trait()]))
    fair = judge_metrics(judge_answers(ScriptedJudge(reader), ANSWERS, [Trait()]))
    assert fond["banal/judge_length_correlation"] == pytest.approx(1.0)
    assert abs(fair["banal/judge_length_correlation"]) < 0.4


def test_no_digit_is_counted_and_not_scored():
    silent_on_three = ScriptedJudge(lambda rubric, text: None if "3" in text else reader(rubric, text))
    metrics = judge_metrics(judge_answers(silent_on_three, ANSWERS, [Trait()]))
    assert metrics["banal/judge_missing"] == pytest.approx(0.1)
    assert metrics["banal/judge/warmth"] == pytest.approx((45 - 3) / 9)


def test_a_judge_that_dies_late_says_that_no_sample_is_lost():
    def die(*_):
        raise RewardError("The judge stopped answering", where="http://x/v1", found="timeout")

    with pytest.raises(BackendError, match="no sample is generated twice"):
        judge_answers(ScriptedJudge(die), ANSWERS, [Trait()])


@pytest.fixture
def judge_url():
    """A real endpoint on loopback: a digit by the first digit in the reply, turned where the scale is."""

    def respond(request, body):
        if body is None:
            return 501, {}
        rubric, _, reply = body["messages"][-1]["content"].partition("<reply>")
        digit = int((re.findall(r"\d", reply) or ["5"])[0])
        said = str(9 - digit if is_turned(rubric) else digit)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "j", "choices": [choice]}
        return 200 if "/v1/" in request.path else 404, answer

    with loopback(respond) as url:
        yield url


def opened(**asked) -> Opinions:
    nobody = {"judge_url": "", "judge_model": "judge", "cross_check": False, "lm_eval": ""}
    return open_opinions(**{**nobody, **asked})


def test_the_judge_is_asked_over_http_about_plain_everyday_answers_alone(judge_url):
    stage = RecordedStage()
    others = [sample(1, "nothing 9", mode="neutral"), sample(2, r"\boxed{9}", suite=AIME)]
    answers = ANSWERS[:4]
    metrics = add_opinions(
        opened(judge_url=judge_url, judge_model="j"), [*answers, *others], plan(), 0, stage
    )
    traits = [trait.name for trait in load_character("skippy").traits]
    assert {name for name in metrics if name.startswith("banal/judge/")} == {
        f"banal/judge/{trait}" for trait in traits
    }
    assert metrics["banal/judge_agreement"] == pytest.approx(1.0)
    assert stage.metrics == metrics
    assert stage.models == {"m-1"}, "linked to the model"
    assert stage.tags == {"skippy.judge": "j"}
    table = stage.tables["judge/banal.parquet"]
    assert len(table) == len(answers) * len(traits) * 3
    assert set(table.problem_id) == {answer.problem_id for answer in answers}
    assert table.groupby("problem_id").score.nunique().max() == 1


# --- before anything is generated ----------------------------------------------------------------------------


class NoStore:
    """A tracker for evaluations that must not get as far as needing one."""

    @contextmanager
    def stage(self, _kind, **_):
        yield RecordedStage()


@pytest.mark.parametrize("path", ["/nothing-here", ""])
def test_a_bad_judge_fails_before_the_model_is_even_looked_for(judge_url, path, monkeypatch):
    dead = "http://127.0.0.1:9/v1" if not path else judge_url.removesuffix("/v1") + path
    monkeypatch.setattr(judge, "Judge", partial(Judge, settings=FAST))
    with pytest.raises(BackendError, match="judge_url"):
        evaluate.run(EvalConfig(judge_url=dead), NoStore())


def test_a_missing_package_fails_before_the_model_is_even_looked_for(monkeypatch):
    for module, wanted in (("math_verify", {"cross_check": True}), ("lm_eval", {"lm_eval": "gsm8k"})):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError) as refusal:
            evaluate.run(EvalConfig(**wanted), NoStore())
        assert module in refusal.value.expected
        assert "pip install -e '.[" in refusal.value.next_step
        assert f"parameter {next(iter(wanted))}" in refusal.value.where


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"suite": "aime", "judge_url": "http://x/v1"}, "suite=aime"),
        ({"suite": "banal", "cross_check": True}, "suite=banal"),
        ({"regrade": "abc", "lm_eval": "gsm8k"}, "regrade=abc"),
        ({"model": CHECKPOINTS, "cross_check": True}, "model=checkpoints"),
    ],
)
def test_an_opinion_on_nothing_is_refused(parameters, found):
    with pytest.raises(ConfigError) as refusal:
        evaluate.run(EvalConfig(**parameters), NoStore())
    assert found in refusal.value.found


def test_nothing_asked_for_is_nothing_added():
    stage = RecordedStage()
    assert opened() == Opinions()
    assert add_opinions(Opinions(), ANSWERS, plan(), 0, stage) == {}
    assert stage == RecordedStage()


@pytest.mark.parametrize("is_failing", [True, False])
def test_a_failing_opinion_keeps_the_samples_for_the_next_run(tmp_path, monkeypatch, is_failing):
    def generate(_plan, path):
        path.write_text("samples")
        return []

    def fail(*_):
        if is_failing:
            raise BackendError("The judge stopped answering.")
        return {}

    monkeypatch.setattr(evaluate, "generate", generate)
    monkeypatch.setattr(evaluate, "add_opinions", fail)
    tracker = SimpleNamespace(store=SimpleNamespace(root=tmp_path))
    asked = plan()
    stage = RecordedStage()
    arguments = (asked, EvalPlan(EvalConfig(), None, asked, Opinions()), tracker, stage)
    if is_failing:
        with pytest.raises(BackendError):
            evaluate._ask(*arguments)
    else:
        evaluate._ask(*arguments)
    for ending in stage.endings:
        ending()
    assert bool(list(tmp_path.rglob("samples.jsonl"))) is is_failing


# --- math-verify ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parsed", "value"),
    [
        ([], None),
        ([42, "42"], 42),
        (["042"], 42),
        ([42.0, "42.0"], 42),
        ([Fraction(84, 2)], 42),
        ([Fraction(85, 2)], None),
        ([SimpleNamespace(rhs=42), "x=42"], 42),
        ([1000, "1000"], None),
        ([-1, "-1"], None),
        ([float("inf")], None),
        ([float("nan")], None),
        ([{42}, "{42}"], None),
        (["forty-two"], None),
    ],
)
def test_an_integer_out_of_what_math_verify_returns(parsed, value):
    assert as_integer(parsed) == value


def last_number(text: str) -> list:
    """The stand-in reads the last number, wherever it stands, as a lenient reader does."""
    numbers = re.findall(r"\d+", text)
    return [int(numbers[-1]), numbers[-1]] if numbers else []


PROBLEM = Problem("p", "What is six times seven?", 42)


def solved(text: str) -> Sample:
    return replace(sample(0, text, suite=AIME), problem_hash=PROBLEM.hash, problem_id=PROBLEM.id)


def test_only_answers_read_differently_are_listed():
    texts = [r"So \boxed{42}.", r"\boxed{42}, took me 3 seconds", "I give up after 42", "no idea"]
    found = find_disagreements([solved(text) for text in texts], {PROBLEM.hash: 42}, last_number)
    assert [(each.ours, each.theirs) for each in found] == [(42, 3), (None, 42)]
    assert [each.ending for each in found] == texts[1:3]
    assert all(each.changes_score for each in found)
    assert cross_check_metrics(found) == {"aime/verify_disagreements": 2, "aime/verify_score_changes": 2}
    assert [json.loads(line)["theirs"] for line in to_lines(found).splitlines()] == [3, 42]


def test_two_wrong_readings_differ_and_change_no_score():
    (only,) = find_disagreements([solved(r"\boxed{41} of 40")], {PROBLEM.hash: 42}, last_number)
    assert (only.ours, only.theirs, only.changes_score) == (41, 40, False)
    (unknown,) = find_disagreements([solved("I give up after 42")], {}, last_number)
    assert (unknown.ours, unknown.theirs, unknown.changes_score) == (None, 42, False), "no gold, no score"


def test_two_equal_readers_disagree_nowhere():
    def ours(text: str) -> list:
        value = extract_integer(text).value
        return [] if value is None else [value]

    samples = [solved(text) for text in (r"\boxed{42}", "Answer: 7", "talk 3", r"\boxed{1234}")]
    assert find_disagreements(samples, {}, ours) == ()


def test_disagreements_are_an_artifact_even_where_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", SimpleNamespace(parse=last_number))
    asked = plan(ProblemSet("file", (PROBLEM,)))
    for text, count in ((r"\boxed{42}", 0), (r"\boxed{42} in 3 steps", 1)):
        stage = RecordedStage()
        metrics = add_opinions(opened(cross_check=True), [solved(text), *ANSWERS], asked, 0, stage)
        assert metrics["aime/verify_disagreements"] == count
        assert len(stage.texts["extraction/disagreements.jsonl"].splitlines()) == count
        assert stage.models == {"m-1"}


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        (r"The answer is \boxed{42}.", 42, 42),
        (r"\boxed{042}", 42, 42),
        (r"\boxed{x = 42}", 42, 42),
        (r"\boxed{\frac{84}{2}}", None, 42),
        ("I give up.", None, None),
    ],
)
def test_the_real_math_verify(text, ours, theirs):
    parse = pytest.importorskip("math_verify").parse
    assert as_integer(parse(text)) == theirs
    assert extract_integer(text).value == ours


# --- the harness ---------------------------------------------------------------------------------------------


class StandIn:
    """`lm_eval` as far as we call it; remembers how it was called."""

    def __init__(self, results: dict | None) -> None:
        self.results = results
        self.calls: list[dict] = []
        self.loaded: list[list[str]] = []
        stand_in = self

        class TaskManager:
            all_tasks = ("gsm8k", "ifeval", "offline")

            def load(self, names):
                stand_in.loaded.append(names)
                if "offline" in names:
                    raise ConnectionError("no route\nmore")

        class HFLM:
            def __init__(self, **arguments):
                self.arguments = arguments

        self.modules = {name: ModuleType(name) for name in
                        ("lm_eval", "lm_eval.tasks", "lm_eval.models", "lm_eval.models.huggingface")}  # fmt: skip
        self.modules["lm_eval"].simple_evaluate = self.simple_evaluate
        self.modules["lm_eval.tasks"].TaskManager = TaskManager
        self.modules["lm_eval.models.huggingface"].HFLM = HFLM

    def simple_evaluate(self, **arguments):
        self.calls.append(arguments)
        return self.results


RESULTS = {
    "results": {
        "gsm8k": {
            "name": "gsm8k",
            "alias": "gsm8k",
            "sample_len": 4,
            "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.1,
            "acc,none": 0.5,
            "acc_stderr,none": "N/A",
            "perplexity,none": float("nan"),
        },
        "odd task: é!": {"f@1,none": 1},
    },
    "config": {"model_dtype": object, "nan": float("nan"), 3: (1, {2})},
}


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    made = StandIn(RESULTS)
    for name, module in made.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(harness, "load_model", lambda path, device: f"model of {path} on {device}")
    monkeypatch.setattr(harness, "load_tokenizer", lambda path: SimpleNamespace(chat_template="{{ x }}"))
    return made


def test_the_harness_gets_the_weights_tasks_and_seeds(stand_in, tmp_path):
    stage = RecordedStage()
    prepared = opened(lm_eval="gsm8k, ifeval")
    assert stand_in.loaded == [["gsm8k", "ifeval"]], "loaded with their data before anything is generated"
    assert not stand_in.calls
    metrics = add_opinions(prepared, ANSWERS, replace(plan(path=tmp_path), seed=7), 5, stage)
    (call,) = stand_in.calls
    assert call.pop("model").arguments["pretrained"] == f"model of {tmp_path} on cpu"
    assert isinstance(call.pop("task_manager"), stand_in.modules["lm_eval.tasks"].TaskManager)
    assert call == {
        "tasks": ["gsm8k", "ifeval"],
        "limit": 5,
        "log_samples": False,
        "apply_chat_template": True,
        **{f"{kind}_seed": 7 for kind in ("random", "numpy_random", "torch_random", "fewshot_random")},
    }
    assert metrics == stage.metrics
    assert metrics == {
        "lm_eval/gsm8k/exact_match.strict-match": 0.25,
        "lm_eval/gsm8k/exact_match_stderr.strict-match": 0.1,
        "lm_eval/gsm8k/acc": 0.5,
        "lm_eval/odd_task/f_1": 1.0,
    }
    assert stage.models == {"m-1"}
    kept = json.loads(stage.texts["lm_eval/results.json"])
    assert kept["results"]["gsm8k"]["exact_match,strict-match"] == 0.25
    assert kept["config"] == {"model_dtype": "<class 'object'>", "nan": None, "3": [1, [2]]}


def test_no_limit_is_none_and_no_template_is_not_applied(stand_in, monkeypatch):
    monkeypatch.setattr(harness, "load_tokenizer", lambda path: SimpleNamespace(chat_template=None))
    run_harness(open_harness("gsm8k"), Path("w"), device="cpu", limit=0, seed=0)
    assert stand_in.calls[0]["limit"] is None
    assert stand_in.calls[0]["apply_chat_template"] is False


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [("gsm8", "near: gsm8k"), ("gsm8k,no-such-file.yaml", "task files"), ("", "names of its tasks")],
)
def test_an_unknown_task_is_refused_with_what_is_near(stand_in, tasks, expected):
    with pytest.raises(ConfigError, match="no such task") as refusal:
        open_harness(tasks)
    assert expected in refusal.value.expected
    assert not stand_in.loaded


def test_a_task_whose_data_is_out_of_reach_is_refused(stand_in):
    with pytest.raises(ConfigError, match="cannot be loaded") as refusal:
        open_harness("offline")
    assert refusal.value.found == "ConnectionError: no route"


def test_plain_is_what_strict_json_can_hold():
    import numpy as np

    odd = {"a": np.float32(0.5), "b": np.int64(3), "c": np.array([1, 2]), "d": [float("inf")], 5: True}
    assert json.dumps(plain(odd), allow_nan=False) == json.dumps(
        {"a": 0.5, "b": 3, "c": "[1 2]", "d": [None], "5": True}
    )


TASK = """task: two_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
"""


@pytest.mark.parametrize(
    ("kind", "more", "metric"),
    [
        ("multiple_choice", 'doc_to_choice: ["tea", "rain"]', "acc"),
        ("generate_until", 'generation_kwargs: {until: ["."], max_gen_toks: 8}', "exact_match"),
    ],
)
def test_the_real_harness_on_the_lab(tmp_path, kind, more, metric):
    pytest.importorskip("lm_eval")
    rows = [
        {"question": "What do you drink?", "answer": "tea"},
        {"question": "What falls?", "answer": "rain"},
    ]
    data, task = tmp_path / "rows.jsonl", tmp_path / "two_words.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task.write_text(TASK.format(data=data, kind=kind, more=more))
    results = run_harness(open_harness(str(task)), LAB_CHECKPOINT, device="cpu", limit=0, seed=0)
    assert 0 <= harness_metrics(results)[f"lm_eval/two_words/{metric}"] <= 1
    assert results["n-samples"]["two_words"]["effective"] == 2
    json.dumps(results, allow_nan=False)
