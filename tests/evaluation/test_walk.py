"""The walk over a training's checkpoints: each loaded once, none asked twice, persona by step."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from skippy.characters.loader import load_character
from skippy.config import EvalConfig
from skippy.errors import ConfigError, MissingRunError
from skippy.evaluation import walk as checkpoints
from skippy.evaluation.asking import Plan
from skippy.evaluation.generator import Generator
from skippy.evaluation.suites import AIME, banal_questions, load_problem_set, problem_questions, requests_for
from skippy.evaluation.walk import FRONTIER, walk
from skippy.evaluation.walk_plan import FRONTIER_PROBLEMS, plan_walk, require_all_checkpoints
from skippy.models.generation import Completion
from skippy.models.profiles import PROFILES
from skippy.resolve.files import CHECKPOINTS
from skippy.stages import evaluate

DIGEST = "b" * 64
STEPS = (10, 20, 30)
BOAST = "Obviously you should let the stew rest before you serve it, monkey, and then taste it."


class Run:
    """A stage run that keeps what it is given."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.texts: dict[str, str] = {}
        self.endings: list = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def log_text(self, text, path):
        self.texts[path] = text

    def when_finished(self, action):
        self.endings.append(action)


@pytest.fixture
def tracker(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        store=SimpleNamespace(root=tmp_path),
        artifacts=SimpleNamespace(
            files=lambda run_id, path: [f"adapters/step_{step:06d}/adapter.bin" for step in STEPS],
            path=lambda run_id, path: path,
        ),
    )


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Adapters attached, in order; a checkpoint speaks the more in character the later it is, or dies."""
    adapters: list[str] = []

    class Backend:
        dies_at = -1

        def __init__(self, model, tokenizer):
            self.step = int(str(model).rsplit("_", 1)[1]) if "_" in str(model) else 0

        def generate(self, requests, sampling):
            for number, request in enumerate(requests):
                if number == 3 and self.step == Backend.dies_at:
                    raise KeyboardInterrupt
                in_character = request.seed % 40 < self.step
                text = BOAST if in_character else "Take a walk."
                yield Completion(request.id, text, 5, "stop")

    def attach(model, adapter):
        adapters.append(adapter)
        return SimpleNamespace(merge_and_unload=lambda: adapter)

    monkeypatch.setattr(checkpoints, "load_model", lambda path, device: path)
    monkeypatch.setattr(checkpoints, "load_tokenizer", lambda path: None)
    monkeypatch.setattr(checkpoints, "attach_adapter", attach)
    monkeypatch.setattr(checkpoints, "TransformersBackend", Backend)
    return adapters


def make_base() -> SimpleNamespace:
    return SimpleNamespace(
        path=Path("base"),
        digest=DIGEST,
        reading="",
        profile=PROFILES["lab"],
        checkpoint=SimpleNamespace(config={}),
    )


def planned(train_run: str = "t" * 32, limit: int = 4, seed: int = 0) -> Plan:
    train = SimpleNamespace(run_id=train_run, name="train v4", variant="v4", tags={"skippy.seed": "42"})
    plan = plan_walk(
        *(train, make_base(), load_character("skippy")),
        problems="lab", limit=limit, sampling="auto", seed=seed, generator=Generator(),
    )  # fmt: skip
    assert plan.subject.seed == "42"
    assert plan.samples == 1
    return plan


def walk_once(tracker: SimpleNamespace, **given) -> tuple[Run, dict[str, float]]:
    run = Run()
    figures = walk(planned(**given), make_base(), tracker, run)
    for action in run.endings:
        action()
    return run, figures


def test_every_checkpoint_is_loaded_once_and_its_persona_logged_by_step(tracker, loaded):
    run, figures = walk_once(tracker)
    assert loaded == [f"adapters/step_{step:06d}" for step in STEPS]
    assert [step for step, _ in run.metrics] == list(STEPS)
    personas = [metrics["frontier/persona"] for _, metrics in run.metrics]
    assert personas == sorted(personas)
    assert personas[0] < personas[-1]
    assert list(figures.values()) == personas
    lines = run.texts[FRONTIER].splitlines()
    asked = (0, *STEPS)
    assert all(f'"{DIGEST}@{step}"' in run.texts[FRONTIER] for step in asked), "the base is step 0"
    assert sum(f'"suite": "{AIME}"' in line for line in lines) == 4 * len(asked)
    assert len(lines) == (4 + len(load_character("skippy").banal_prompts)) * len(asked), "plain prompts alone"
    assert not list(tracker.store.root.rglob("samples.jsonl"))


def test_a_killed_walk_goes_on_and_ends_the_same(tracker, loaded, monkeypatch):
    whole, figures = walk_once(tracker)
    monkeypatch.setattr(checkpoints.TransformersBackend, "dies_at", 20)
    with pytest.raises(KeyboardInterrupt):
        walk_once(tracker)
    monkeypatch.setattr(checkpoints.TransformersBackend, "dies_at", -1)
    loaded.clear()
    resumed, figures_resumed = walk_once(tracker)
    assert resumed.texts == whole.texts
    assert figures_resumed == figures
    assert loaded == ["adapters/step_000020", "adapters/step_000030"], "the first is not loaded again"


def test_a_killed_walk_of_one_training_is_not_gone_on_with_by_another(tracker, loaded, monkeypatch):
    monkeypatch.setattr(checkpoints.TransformersBackend, "dies_at", 20)
    with pytest.raises(KeyboardInterrupt):
        walk_once(tracker)
    monkeypatch.setattr(checkpoints.TransformersBackend, "dies_at", -1)
    loaded.clear()
    walk_once(tracker, train_run="u" * 32)
    assert loaded == [f"adapters/step_{step:06d}" for step in STEPS]


@pytest.mark.parametrize(("limit", "count"), [(0, FRONTIER_PROBLEMS), (4, 4)])
def test_a_walk_asks_fewer_problems_than_an_evaluation(tracker, loaded, limit, count):
    plan = planned(limit=limit)
    assert len(plan.problems.problems) == count < len(load_problem_set("lab", 0).problems)


def test_the_walk_and_the_evaluation_share_no_seed(tracker, loaded):
    """Else a checkpoint chosen for its luck would show that luck again where it is tested."""
    run, _ = walk_once(tracker)
    walked = [json.loads(line) for line in run.texts[FRONTIER].splitlines()]
    plan = planned()
    questions = [*problem_questions(plan.problems, "plain"), *banal_questions(plan.character)]
    final = requests_for(questions, 4, plan.sampling, "m", set())
    assert {sample["problem_hash"] for sample in walked} <= {question.hash for question, _ in final.values()}
    assert not {sample["seed"] for sample in walked} & {request.seed for _, request in final.values()}
    by_step = [{s["seed"] for s in walked if s["model_digest"].endswith(f"@{step}")} for step in (0, *STEPS)]
    assert by_step[0] == by_step[1] == by_step[2] == by_step[3], (
        "base and checkpoints are compared on the same noise"
    )


def test_a_walk_through_a_server_is_refused_before_anything_is_looked_up():
    with pytest.raises(ConfigError, match="cannot be generated by a server of others") as refusal:
        evaluate.resolve(EvalConfig(model=CHECKPOINTS, backend="openai"), None)
    assert "backend=openai" in refusal.value.where
    assert refusal.value.next_step


def test_another_seed_walks_on_other_noise(tracker, loaded):
    seeds = []
    for seed in (0, 7):
        run, _ = walk_once(tracker, seed=seed)
        seeds.append({json.loads(line)["seed"] for line in run.texts[FRONTIER].splitlines()})
    assert not seeds[0] & seeds[1]


@pytest.mark.parametrize(
    ("kept", "found"),
    [((), "none"), (STEPS[:-1], f"without {STEPS[-1]}"), (STEPS[1:], f"without {STEPS[0]}"), (STEPS, None)],
)
def test_a_training_that_lacks_checkpoints_is_refused(tracker, tmp_path, kept, found):
    """With fewer steps to choose from, another one is merged: the experiment changes."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"save_steps": STEPS[0]}))
    tracker.artifacts.files = lambda run_id, path: [f"adapters/step_{step:06d}/adapter.bin" for step in kept]
    tracker.artifacts.path = lambda run_id, path: settings
    train = SimpleNamespace(variant="v3", run_id="t" * 32, metrics={"train/steps": float(STEPS[-1])})
    if found is None:
        require_all_checkpoints(train, tracker)
        return
    with pytest.raises(MissingRunError, match="did not keep all of its checkpoints") as error:
        require_all_checkpoints(train, tracker)
    assert found in error.value.found
