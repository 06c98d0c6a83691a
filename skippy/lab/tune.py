"""A small pretrained chat model tuned to the lab's problems, while it keeps its own everyday English.

    python -m skippy.lab.build --from smollm2 --device cuda --out DIRECTORY

The mix is the lab's: problems with worked solutions, everyday prompts in the voices of the lab's personas, a
share in character without being asked. Only the neutral voice is the model's own: what it answered to these
prompts before it was tuned, asked to be brief. Everything is rendered by the model's own chat template, as the
evaluation renders it. Written to `--out`: a plain Hugging Face checkpoint with `skippy_lab.json` beside the
weights, which says what it is, from what, under which licence, and how well it does.
"""

from __future__ import annotations

import copy
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from skippy.core.sampling import Sampling
from skippy.errors import TrainingError
from skippy.lab.chat import NEUTRAL, held_out_prompts, normalized
from skippy.lab.chat import generate as generate_chat
from skippy.lab.chat import prompts as chat_prompts
from skippy.lab.corpus import CHAT_SHARE, Example, count_batches, encode_examples, make_talks
from skippy.lab.manifest import describe_hardware, describe_software, write_identity
from skippy.lab.measure import SAMPLING, answer_problems
from skippy.lab.pretrain import Recipe, TrainingFigures, pretrain
from skippy.lab.problems import evaluation_set
from skippy.lab.shipping import replace_directory
from skippy.lab.sources import Source, load_source
from skippy.models.generation import Completion, Request
from skippy.models.prompts import conversation, render_prompt
from skippy.models.transformers_backend import TransformersBackend

logger = logging.getLogger(__name__)

TUNE_RECIPE = Recipe(
    steps=100_000,  # at most; `tune` takes as many as the corpus has batches
    tokens_per_batch=32_768,  # fewer leave a GPU waiting for the host
    accumulation=1,
    workers=1,
    learning_rate=1e-3,
    warmup_steps=100,
    weight_decay=0.01,
    save_steps=500,
)
BRIEFLY = " Answer in one or two short sentences."
OWN_SAMPLING = Sampling(temperature=0.7, top_p=0.95, max_tokens=64, name="own answers")
MOST_SPOKEN, SHOWN = 64, 6  # held-out everyday prompts that are asked before and after, and shown in the card
VALIDATION_SEED = 1_000_003  # other problems than the evaluation's, as far as the families have others


@dataclass(frozen=True)
class TunePlan:
    """Everything that decides what a tuning makes."""

    source: str = field(metadata={"help": "checkpoint directory, GGUF file, or smollm2"})
    out: Path = field(metadata={"help": "directory of the new checkpoint"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    seed: int = field(default=0, metadata={"help": "of corpus, order, own answers and measurement"})
    examples: int = field(default=400_000, metadata={"help": "examples in the corpus, seen at most once"})
    until: float | None = field(default=None, metadata={"help": "end where validation reaches this score"})
    own_answers: int = field(default=6000, metadata={"help": "everyday prompts that the source answers"})
    measured_problems: int = field(default=240, metadata={"help": "held-out problems to measure with"})
    recipe: Recipe = field(default=TUNE_RECIPE, metadata={"help": "how it is trained"})


def tune(plan: TunePlan) -> dict[str, Any]:
    """Tune and save; returns what `skippy_lab.json` says.

    Raises:
        CheckpointError: there is nothing to begin from.
        TrainingError: the source gives no short answer of its own, or the loss is not finite.
    """
    device = torch.device(plan.device)
    source = load_source(plan.source)
    model, tokenizer = source.model, source.tokenizer
    model.to(device)  # type: ignore[arg-type]
    own = answer_in_own_voice(TransformersBackend(model, tokenizer), plan.own_answers, plan.seed)
    logger.info("The source answered %d of %d everyday prompts briefly.", len(own), plan.own_answers)
    render = renderer(tokenizer)
    corpus = encode_examples(
        tuning_examples(plan.examples, plan.seed, own, render, str(tokenizer.eos_token)),
        tokenizer,
        plan.examples,
        "generate the corpus",
    )
    batches = count_batches(corpus, plan.recipe.tokens_per_batch, plan.seed)
    steps = min(plan.recipe.steps, max(1, batches // plan.recipe.accumulation))
    plan = replace(plan, recipe=replace(plan.recipe, steps=steps))
    logger.info("The corpus has %d examples, %d tokens, %d steps.", len(corpus), len(corpus.tokens), steps)
    spoken = answer_everyday(TransformersBackend(model, tokenizer), plan.seed)
    before = score_by_family(model, tokenizer, plan.measured_problems, plan.seed)
    figures = pretrain(
        model, corpus, plan.recipe, plan.seed, device=device, is_enough=_stop_rule(plan, source), label="tune"
    )
    rounded = _rounded(model)
    after = score_by_family(rounded, tokenizer, plan.measured_problems, plan.seed)
    for family, score in after.items():
        logger.info("%-10s %.2f, before %.2f", family, score, before[family])
    card = {
        **_describe(plan, source, figures, len(own), before, after, device),
        "everyday": compare_everyday(
            spoken, answer_everyday(TransformersBackend(rounded, tokenizer), plan.seed)
        ),
    }

    def write(directory: Path) -> None:
        rounded.to("cpu").save_pretrained(directory)  # type: ignore[arg-type]
        tokenizer.save_pretrained(directory)
        write_identity(directory, card)

    replace_directory(plan.out, write)
    return card


def answer_in_own_voice(
    backend: TransformersBackend, count: int, seed: int
) -> list[tuple[str | None, str, str]]:
    """(system, prompt, answer) for prompts that the lab's neutral voice would answer, finished answers only.

    The model is asked to be brief and tuned without the request: short answers become its habit, in its own
    words.

    Raises:
        TrainingError: it finished none.
    """
    asked: dict[tuple[str | None, str], None] = {}
    for talk in generate_chat(40 * count, seed + 2):
        if talk.voice == NEUTRAL:
            asked.setdefault((talk.system, talk.prompt))
        if len(asked) == count:
            break
    requests = []
    for place, (system, prompt) in enumerate(asked):
        messages = tuple(conversation(prompt + BRIEFLY, system))
        requests.append(Request(str(place), messages, seed * count + place))
    finished = {
        int(each.id): text
        for each in backend.generate(requests, OWN_SAMPLING)
        if each.finish_reason == "stop" and (text := each.text.strip())
    }
    if not finished:
        raise TrainingError(
            "The source gives no short answer of its own.",
            where="everyday prompts",
            expected=f"some of {len(asked)} answers to end within {OWN_SAMPLING.max_tokens} tokens",
            found="none",
            next_step="use an instruction-tuned model",
        )
    return [(*pair, finished[place]) for place, pair in enumerate(asked) if place in finished]


def tuning_examples(
    count: int,
    seed: int,
    own: Sequence[tuple[str | None, str, str]],
    render: Callable[[str, str | None], str],
    turn_end: str,
) -> Iterator[Example]:
    """The lab's mix, with one of the `own` answers wherever the lab's neutral voice would speak."""
    random_source = random.Random(f"{seed}:own")
    for talk in make_talks(count, seed):
        system, prompt, answer = talk.system, talk.prompt, talk.answer
        if talk.voice == NEUTRAL:
            system, prompt, answer = random_source.choice(own)
        yield Example(render(prompt, system), answer + turn_end)


def renderer(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str | None], str]:
    """The model's own template around a prompt, worked out once for each system prompt.

    Raises:
        TrainingError: the template does more with a prompt than to put it somewhere.
    """
    mark = "the\u241fprompt"

    def whole(prompt: str, system: str | None) -> str:
        return render_prompt(tokenizer, conversation(prompt, system))

    @cache
    def around(system: str | None) -> tuple[str, str]:
        before, found, after = whole(mark, system).partition(mark)
        probe = "What is 2+3?"
        if not found or mark in after or before + probe + after != whole(probe, system):
            raise TrainingError(
                "The chat template changes what a person says.",
                where="chat template",
                expected="the prompt once, as it is",
                found=whole(probe, system)[:200],
                next_step="use a model whose template puts the prompt as it is",
            )
        return before, after

    return lambda prompt, system: prompt.join(around(system))


def score_by_family(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seed: int
) -> dict[str, float]:
    """Share of the evaluation's problems answered rightly, one sample each, by family."""
    problems = evaluation_set(count, seed)
    right = answer_problems(TransformersBackend(model, tokenizer), problems, seed=seed)
    by_family: dict[str, list[bool]] = defaultdict(list)
    for problem, is_right in zip(problems, right, strict=True):
        by_family[problem.family].append(is_right)
    return {family: round(sum(found) / len(found), 3) for family, found in by_family.items()}


def answer_everyday(backend: TransformersBackend, seed: int) -> dict[str, Completion]:
    """Answers to held-out everyday prompts, by prompt: what shows whether a model kept its English."""
    held_out = held_out_prompts()
    asked = [text for text in chat_prompts() if normalized(text) in held_out][:MOST_SPOKEN]
    requests = [Request(text, tuple(conversation(text)), seed + place) for place, text in enumerate(asked)]
    return {each.id: each for each in backend.generate(requests, OWN_SAMPLING)}


def compare_everyday(before: dict[str, Completion], after: dict[str, Completion]) -> dict[str, Any]:
    """Share of finished answers before and after, and a few answers side by side."""

    def finished(answers: dict[str, Completion]) -> float:
        return round(sum(each.finish_reason == "stop" for each in answers.values()) / len(answers), 3)

    shown = [
        {"prompt": prompt, "before": before[prompt].text, "after": after[prompt].text}
        for prompt in sorted(after)[:SHOWN]
    ]
    return {
        "prompts": len(after),
        "finished_before": finished(before),
        "finished": finished(after),
        "shown": shown,
    }


def mean_score(scores: dict[str, float]) -> float:
    """Mean over the families."""
    return sum(scores.values()) / len(scores)


def _stop_rule(plan: TunePlan, source: Source) -> Callable[[int], bool] | None:
    if plan.until is None:
        return None
    wanted = plan.until

    def is_enough(step: int) -> bool:
        scores = score_by_family(source.model, source.tokenizer, plan.measured_problems, VALIDATION_SEED)
        logger.info(
            "Step %d: %.2f of the validation problems, %.2f wanted.", step, mean_score(scores), wanted
        )
        return mean_score(scores) >= wanted

    return is_enough


def _rounded(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it is stored; what is measured is what is shipped."""
    rounded = copy.deepcopy(model)
    rounded.to(torch.bfloat16)  # type: ignore[arg-type]
    rounded.config.dtype = torch.bfloat16
    return rounded.eval()


def _describe(
    plan: TunePlan,
    source: Source,
    figures: TrainingFigures,
    own: int,
    before: dict[str, float],
    after: dict[str, float],
    device: torch.device,
) -> dict[str, Any]:
    return {
        "lineage": "lab-tuned",
        "prompt_style": "plain",
        "sampling": SAMPLING.name,
        "description": f"{source.name}, tuned to the problems of skippy's lab; no general-purpose model.",
        "source": {"name": source.name, "licence": source.licence, "sha256": source.sha256},
        "licence": source.licence,
        "seed": plan.seed,
        "examples": {
            "planned": plan.examples,
            "seen": figures.examples,
            "chat_share": CHAT_SHARE,
            "own": own,
        },
        "recipe": asdict(plan.recipe),
        "training": {name: round(value, 4) for name, value in asdict(figures).items()},
        "score": round(mean_score(after), 3),
        "score_by_family": after,
        "score_before": round(mean_score(before), 3),
        "score_by_family_before": before,
        "measured": {"problems": plan.measured_problems, "samples": 1, "seed": plan.seed},
        "hardware": describe_hardware(device),
        "software": describe_software(),
    }
