"""Make the lab from nothing: tokenizer, base checkpoint, measurements, voice adapter, manifest.

    python -m skippy.lab.build --device cpu --minutes 59 --steps 8000 --out DIRECTORY   # made the shipped lab
    python -m skippy.lab.build --only measure            # measure and describe the shipped base anew
    python -m skippy.lab.build --from smollm2 --device cuda --out DIRECTORY   # a pretrained model instead

Written to `--out` (the package's own files by default): `checkpoint/`, `adapter/`, `manifest.json`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import click
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

from skippy.lab.adapter_training import ALPHA, RANK, train_adapter
from skippy.lab.architecture import make_config, make_model
from skippy.lab.corpus import CHAT_SHARE, encode_examples, make_examples
from skippy.lab.manifest import describe_hardware, describe_software, read_manifest, write_manifest
from skippy.lab.measure import SAMPLING, choose_levels, measure_accuracies
from skippy.lab.paths import LAB_DIRECTORY
from skippy.lab.pretrain import Recipe, TrainingFigures, pretrain
from skippy.lab.shipping import save_checkpoint
from skippy.lab.tokenizer import special_token_ids, train_tokenizer
from skippy.lab.tune import TUNE_RECIPE, TunePlan, tune
from skippy.models.transformers_backend import TransformersBackend

logger = logging.getLogger(__name__)

PHASES = ("base", "measure", "adapter")
ADAPTER_RECIPE = Recipe(
    steps=400, tokens_per_batch=1024, accumulation=1, learning_rate=1e-3, warmup_steps=20, weight_decay=0.0
)
# A GPU sees more data in larger batches; these figures follow a prototype and have not been tried here.
CUDA_RECIPE = {"tokens_per_batch": 16_384, "accumulation": 1, "steps": 5000}
CUDA_EXAMPLES = 1_200_000


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides what a build makes; what made the shipped lab is in its manifest."""

    out: Path = field(default=LAB_DIRECTORY, metadata={"help": "directory to write to"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    seed: int = field(default=0, metadata={"help": "of weights, corpus order, measurement and adapter"})
    tokenizer_examples: int = field(default=20_000, metadata={"help": "examples the merges are learned from"})
    examples: int = field(default=330_000, metadata={"help": "examples in the corpus, seen at most once"})
    recipe: Recipe = field(default_factory=Recipe, metadata={"help": "how the base is trained"})
    measured_problems: int = field(default=64, metadata={"help": "held-out problems by family and level"})
    adapter_examples: int = field(default=12_000, metadata={"help": "examples in the adapter's corpus"})
    adapter_recipe: Recipe = field(default=ADAPTER_RECIPE, metadata={"help": "how the adapter is trained"})

    @property
    def checkpoint(self) -> Path:
        """Where the base goes."""
        return self.out / "checkpoint"

    @property
    def adapter(self) -> Path:
        """Where the adapter goes."""
        return self.out / "adapter"


def build(plan: BuildPlan, phases: tuple[str, ...] = PHASES) -> None:
    """Run the phases in order, each leaving its part of the manifest."""
    for phase, run in zip(PHASES, (build_base, measure_base, build_adapter), strict=True):
        if phase in phases:
            run(plan)


def build_base(plan: BuildPlan) -> None:
    """Learn the tokenizer, generate the corpus, train the base and save it in bfloat16."""
    sample = make_examples(plan.tokenizer_examples, plan.seed + 1)
    tokenizer = train_tokenizer(example.prompt + example.answer for example in sample)
    logger.info("The tokenizer has %d tokens.", len(tokenizer))
    corpus = encode_examples(
        make_examples(plan.examples, plan.seed), tokenizer, plan.examples, "generate the corpus"
    )
    logger.info("The corpus has %d examples and %d tokens.", len(corpus), len(corpus.tokens))
    device = torch.device(plan.device)
    model = make_model(make_config(len(tokenizer), special_token_ids(tokenizer)), plan.seed)
    model.to(device)  # type: ignore[arg-type]
    model.model.visual.requires_grad_(False)

    interim = plan.out / "interim"

    def save(step: int) -> None:
        save_checkpoint(model, tokenizer, interim)
        logger.info("Saved an interim checkpoint at step %d.", step)

    figures = pretrain(
        model, corpus, plan.recipe, plan.seed, device=device, save=save, label="train the base"
    )
    save_checkpoint(model, tokenizer, plan.checkpoint)
    shutil.rmtree(interim, ignore_errors=True)
    write_manifest(
        plan.out,
        base={
            "seed": plan.seed,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "vocabulary": len(tokenizer),
            "corpus": {"examples": len(corpus), "tokens": len(corpus.tokens), "chat_share": CHAT_SHARE},
            "recipe": asdict(plan.recipe),
            "training": _describe(figures),
            "hardware": describe_hardware(device),
            "software": describe_software(),
        },
    )
    logger.info("The base is trained: %d steps, %.0f s.", figures.steps, figures.seconds)


def measure_base(plan: BuildPlan) -> None:
    """Measure the saved base by family and level and choose the levels to evaluate at."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(plan.checkpoint, dtype=torch.float32)
    model.to(plan.device).eval()  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(plan.checkpoint)
    backend = TransformersBackend(model, tokenizer)
    accuracies = measure_accuracies(backend, count=plan.measured_problems, seed=plan.seed)
    levels = choose_levels(accuracies, plan.seed)
    for family, by_level in accuracies.items():
        logger.info("%-10s %s, evaluated at %s", family, by_level, levels[family])
    write_manifest(
        plan.out,
        measured={
            "sampling": asdict(SAMPLING),
            "problems_per_level": plan.measured_problems,
            "seed": plan.seed,
            "accuracy": accuracies,
        },
        evaluation_levels=levels,
    )


def build_adapter(plan: BuildPlan) -> None:
    """Train the voice adapter on the saved base."""
    device = torch.device(plan.device)
    base = Qwen3VLForConditionalGeneration.from_pretrained(plan.checkpoint, dtype=torch.float32)
    base.to(device)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(plan.checkpoint)
    figures = train_adapter(
        base, tokenizer, plan.adapter_recipe, plan.adapter_examples, plan.seed + 2, plan.adapter, device
    )
    write_manifest(
        plan.out,
        adapter={
            "seed": plan.seed + 2,
            "rank": RANK,
            "alpha": ALPHA,
            "recipe": asdict(plan.adapter_recipe),
            "training": _describe(figures),
            "hardware": describe_hardware(device),
        },
    )
    logger.info("The adapter is trained: %d steps, %.0f s.", figures.steps, figures.seconds)


def _describe(figures: TrainingFigures) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(figures).items()}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=LAB_DIRECTORY, help="Directory to write to.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where to train.")
@click.option("--steps", type=int, default=None, help="Optimizer steps of the base.")
@click.option("--minutes", type=float, default=None, help="End the base's training by then, if sooner.")
@click.option("--examples", type=int, default=None, help="Examples in the corpus.")
@click.option("--seed", type=int, default=BuildPlan.seed, help="Of everything random.")
@click.option("--only", type=click.Choice(PHASES), default=None, help="Run one phase on what is there.")
@click.option(
    "--from",
    "source",
    default=None,
    help="Tune this pretrained model instead: a checkpoint directory, a GGUF file, or smollm2.",
)
@click.option("--until", type=float, default=None, help="With --from: end at this validation score.")
def main(
    out: Path,
    device: str,
    steps: int | None,
    minutes: float | None,
    examples: int | None,
    seed: int,
    only: str | None,
    source: str | None,
    until: float | None,
) -> None:
    """Make the lab's base, measure it, make its adapter; or tune a pretrained model to the lab's problems."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    out = out.resolve()
    if device == "cpu":
        torch.set_num_threads(1)  # the passes of a step run side by side instead, see `pretrain`
    if source is not None:
        if out == LAB_DIRECTORY or only:
            raise click.UsageError("--from needs --out, a directory of its own, and has no phases (--only).")
        recipe = replace(TUNE_RECIPE, minutes=minutes, steps=steps or TUNE_RECIPE.steps)
        tuning = TunePlan(source, out, device, seed, examples or TunePlan.examples, until, recipe=recipe)
        card = tune(tuning)
        logger.info("Done: %.2f of the problems, before %.2f.", card["score"], card["score_before"])
        return
    if until is not None:
        raise click.UsageError("--until belongs to --from.")
    recipe = replace(Recipe(minutes=minutes), **(CUDA_RECIPE if device == "cuda" else {}))
    examples = examples or (CUDA_EXAMPLES if device == "cuda" else BuildPlan.examples)
    recipe = replace(recipe, steps=steps or recipe.steps)
    plan = BuildPlan(out=out, device=device, seed=seed, examples=examples, recipe=recipe)
    build(plan, (only,) if only else PHASES)
    described = read_manifest(out)
    logger.info("Done: %d files in %s.", len(described["files"]), out)


if __name__ == "__main__":
    main()
