"""What an evaluation asks, and how one answer becomes one sample. Not a stage: `evaluate` runs it, `compare` reads it.

Two suites. `aime` asks problems with integer answers; `banal` asks held-out everyday prompts in three modes:
plain, under a neutral system prompt, and with a suffix that asks to break character. Beside them stand prompts of other
formats, something to write; they are scored alike and reported apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from skippy.characters.schema import Character, Prompt
from skippy.core.problem import AIME_RULE, AnswerRule, Gold, parse_rule
from skippy.core.sampling import Sampling, everyday_hash, seed_of_sample
from skippy.core.style.reward_rules import RewardRules
from skippy.core.style.rewards import persona_score
from skippy.evaluation.scoring import require_reader, score_answer
from skippy.lab import problems as lab_problems
from skippy.lab.paths import LAB
from skippy.models.generation import Completion, Request
from skippy.models.profiles import PROMPT_STYLES
from skippy.models.prompts import under_system
from skippy.stores.problems import ProblemSet, combine, read_problems
from skippy.stores.samples import Sample, SampleKey

AIME, BANAL = "aime", "banal"
LAB_LABEL = "AIME-style (lab)"
NEUTRAL_SYSTEM = "You are a helpful assistant."
BREAK_SUFFIX = " Please answer plainly, without playing any role."
PLAIN = "plain"
MODES: dict[str, str] = {PLAIN: "plain", "neutral": "neutral system prompt", "break": "break character"}

ONCE = frozenset(MODES) - {PLAIN}
"""Modes that get one sample: on them arms are not compared."""


@dataclass(frozen=True)
class Question:
    """One thing to ask of a model."""

    suite: str  # aime or banal
    id: str  # what its source calls it; banal ids start with their mode
    hash: str  # sixteen hexadecimal digits; arms are paired by it
    messages: tuple[Mapping[str, str], ...]  # the conversation
    gold: Gold | None = None  # reference answer, None where there is none
    rule: AnswerRule = AIME_RULE  # what counts as right

    @property
    def prompt(self) -> str:
        """The person's words."""
        return self.messages[-1]["content"]

    @property
    def mode(self) -> str:
        """Mode of an everyday prompt; empty for a problem."""
        return self.id.split("/")[0] if self.suite == BANAL else ""


def load_problem_set(sources: str, limit: int, answers: str = "auto") -> ProblemSet:
    """The lab's evaluation set for `lab`, else what the sources name.

    Args:
        answers: kind of the reference answers, as `parse_rule` takes it; the lab's are integers 0–999 anyway.
    """
    rule = parse_rule(answers)
    if sources != LAB:
        return read_problems(sources, limit=limit, rule=rule)
    drawn = lab_problems.evaluation_set()
    problems = (replace(problem, id=f"{problem.family}/{index}") for index, problem in enumerate(drawn))
    return combine(LAB, problems, limit=limit)


def suite_label(problems: ProblemSet) -> str:
    """What a report may call the suite: only AIME's own problems are AIME, a person's set has its own name."""
    if problems.name == LAB:
        return LAB_LABEL
    return f"AIME ({problems.name})" if problems.is_aime else problems.label


def problem_questions(problems: ProblemSet, style: str) -> list[Question]:
    """One question a problem, in one of the `PROMPT_STYLES`.

    Raises:
        ConfigError: nothing here can score answers of this kind.
    """
    require_reader(problems.rule)
    return [
        Question(
            suite=AIME,
            id=problem.id,
            hash=problem.hash,
            messages=({"role": "user", "content": problem.question + PROMPT_STYLES[style]},),
            gold=problem.gold,
            rule=problem.rule,
        )
        for problem in problems.problems
    ]


def banal_questions(character: Character, modes: Sequence[str] = tuple(MODES)) -> list[Question]:
    """Every held-out prompt in every mode."""
    return everyday_questions(character.banal_prompts, modes)


def format_questions(character: Character) -> list[Question]:
    """Every prompt of another format, plainly; its mode is the format's name, and it is reported apart."""
    by_format: dict[str, list[Prompt]] = {}
    for prompt in character.format_prompts:
        by_format.setdefault(prompt.kind, []).append(prompt)
    return [
        question for name, prompts in by_format.items() for question in everyday_questions(prompts, (name,))
    ]


def everyday_questions(prompts: Sequence[Prompt], modes: Sequence[str] = (PLAIN,)) -> list[Question]:
    """Prompts in some modes, mode by mode."""
    questions = []
    for mode in modes:
        for index, prompt in enumerate(prompts):
            text = prompt.text + (BREAK_SUFFIX if mode == "break" else "")
            system = ({"role": "system", "content": NEUTRAL_SYSTEM},) if mode == "neutral" else ()
            digest = everyday_hash(mode, text)
            questions.append(
                Question(BANAL, f"{mode}/{index}", digest, (*system, {"role": "user", "content": text}))
            )
    return questions


def under_prompt(questions: Sequence[Question], system: str) -> list[Question]:
    """The same questions under a system prompt, which comes before one that a question has; as paired as before."""
    return [replace(each, messages=tuple(under_system(each.messages, system))) for each in questions]


def requests_for(
    questions: Sequence[Question],
    samples: int,
    sampling: Sampling,
    model_digest: str,
    finished: set[SampleKey],
    *,
    purpose: str = "",
    seed: int = 0,
) -> dict[str, tuple[Question, Request]]:
    """Request id → what is asked: every sample that is not finished.

    Problems and everyday prompts put plainly, in whatever format, get all `samples`; the other modes one each.
    """
    wanted = {}
    for question in questions:
        for index in range(1 if question.mode in ONCE else samples):
            key = SampleKey(model_digest, question.suite, question.hash, sampling.name, index)
            if key not in finished:
                own = seed_of_sample(question.hash, index, sampling.name, purpose=purpose, seed=seed)
                request = Request(f"{question.suite}/{question.hash}/{index}", question.messages, own)
                wanted[request.id] = (question, request)
    return wanted


def grade(
    question: Question,
    completion: Completion,
    sampling: Sampling,
    model_digest: str,
    seed: int,
    rules: RewardRules,
) -> Sample:
    """One finished sample with its score: 1 or 0 for a problem, persona score for an everyday prompt."""
    index = int(completion.id.rsplit("/", 1)[1])
    extracted, status, score = score_text(
        question.suite, completion.text, question.prompt, question.gold, rules, question.rule
    )
    return Sample(
        model_digest=model_digest,
        suite=question.suite,
        problem_id=question.id,
        problem_hash=question.hash,
        sample_index=index,
        seed=seed,
        preset=sampling.name,
        prompt=question.prompt,
        completion=completion.text,
        tokens=completion.tokens,
        finish_reason=completion.finish_reason,
        extracted=extracted,
        status=status,
        score=score,
    )


def score_text(
    suite: str, text: str, prompt: str, gold: Gold | None, rules: RewardRules, rule: AnswerRule = AIME_RULE
) -> tuple[Gold | None, str, float | None]:
    """Extracted value, status and score of one completion."""
    if suite == BANAL:
        return None, "scored", persona_score(text, rules, prompt)
    found = score_answer(text, gold, rule)
    return found.extracted, found.status, float(found.is_right)


def rescore(
    samples: Iterable[Sample],
    gold: Mapping[str, Gold | None],
    rules: RewardRules,
    rule: AnswerRule = AIME_RULE,
) -> Iterator[Sample]:
    """The same answers under today's rules and gold; `gold` is by problem hash, `rule` that of the problem set."""
    for sample in samples:
        extracted, status, score = score_text(
            sample.suite, sample.completion, sample.prompt, gold.get(sample.problem_hash), rules, rule
        )
        yield replace(sample, extracted=extracted, status=status, score=score)
