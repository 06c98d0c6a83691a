"""What a person may set: one frozen dataclass a stage, with a line of help under each field.

The command line, MLproject and the docs are all tested against these classes. Values arrive as strings from
MLflow; `options.parse_config` turns them into types and says plainly what cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, fields
from functools import partial
from typing import Any

import click
from click.shell_completion import CompletionItem

from skippy import parameters as shared
from skippy.core.spectral.rank import BASES, TOP
from skippy.core.variants import VARIANTS
from skippy.options import default_text, kind_text, limits_text, option
from skippy.parameters import (
    COMPARABLE_SUITES,
    DEVICES,
    ENGINES,
    MERGE_DTYPES,
    ROUNDINGS,
    SEEDS,
    SUITES,
    Knobs,
)

RANK = "protected directions a target: a number up to 128, or energy:0.5 for a share of ‖W‖²"


@dataclass(frozen=True)
class SvdConfig:
    """Certified subspaces of every target of the base: what a variant keeps its update out of."""

    base_model: str = shared.base_model()
    k: str = shared.k(RANK)
    basis: str = option(
        TOP,
        "which directions: top or bottom singular ones, or those of the activations of mathematics (inputs only)",
        choices=BASES,
    )
    problems: str = option(
        "lab",
        "with basis=activations, of the mathematics: lab, a local file, or Hugging Face dataset ids, comma-separated",
        names="problems",
    )
    tolerance: float = option(
        1e-5, "largest residual, relative to sigma_1, that is certified", above=0, below=1
    )
    seed: int = shared.seed(0)
    device: str = shared.device()
    threads: int = shared.threads()
    force: bool = option(
        False, "compute again although a finished run has the same base, basis, k and tolerance"
    )


@dataclass(frozen=True)
class SubspaceConfig:
    """Personality subspaces, trait vectors and their nulls, measured on the base."""

    base_model: str = shared.base_model()
    character: str = shared.character()
    profile: str = shared.profile()
    prompts: int = option(50, "prompts that every persona answers", minimum=4)
    seed: int = shared.seed(42)
    base_answers: bool = option(
        True, "also keep the base's answers in character and plainly, from which v5, v6 and caa are made"
    )
    device: str = shared.device()
    threads: int = shared.threads()
    force: bool = option(False, "measure again although a finished run has the same base and character")


@dataclass(frozen=True)
class TrainParameters:
    """What the train stage is told besides its hyperparameters."""

    base_model: str = shared.base_model()
    variant: str = option("v4", "constraint on the update", choices=VARIANTS)
    character: str = shared.character()
    k: str = shared.k(f"{RANK}; picks the svd run")
    svd_run: str = option("", "run id of the svd stage; empty: the newest finished one of this base and k")
    basis_run: str = option(
        "",
        "run id of the svd stage whose directions the variant protects, where those are not the top ones; empty: "
        "the newest finished one",
    )
    subspace_run: str = option("", "run id of the subspace stage; empty: the newest finished one, if any")
    preset: str = shared.preset()
    profile: str = shared.profile()
    steps: int = shared.steps()
    settings: str = shared.settings()
    seed: int = shared.seed(42)
    device: str = shared.device()
    threads: int = shared.threads()
    judge_url: str = option(
        "", "OpenAI-compatible endpoint of a judge model that adds a reward; empty: none", names="urls"
    )
    judge_model: str = option("judge", "name of the judge model at that endpoint")
    hardened: bool = option(True, "rewards resist hacking; false only to see what happens without")
    rewards: str = shared.rewards()
    prompts: str = shared.prompts()
    resume: str = option(
        "false",
        "where an unfinished training of the same kind is kept: true goes on from its last checkpoint, auto does "
        "so if there is one, discard throws it away, false refuses to start over it",
        choices=("false", "true", "auto", "discard"),
    )
    reuse: bool = shared.reuse()


@dataclass(frozen=True)
class TrainConfig(Knobs, TrainParameters):
    """GRPO with LoRA under one variant's constraint."""


@dataclass(frozen=True)
class MergeConfig:
    """Base plus adapter as a plain checkpoint, registered."""

    base_model: str = shared.base_model()
    variant: str = option(
        "", "variant whose adapter is merged; empty: that of train_run, else v4", choices=("", *VARIANTS)
    )
    character: str = shared.character()
    train_run: str = option(
        "", "run id of the train stage; empty: the newest finished one of base, variant and character"
    )
    step: int = option(0, "checkpoint step to merge; 0: the end of training", minimum=0)
    match: str = option(
        "",
        "run ids of the checkpoint evaluations of all arms, comma-separated: merge where their personas match",
        excludes=("step",),
    )
    match_by: str = shared.match_by()
    persona: float = option(
        0.0,
        "with match_by=alpha: the persona score to reach; 0: that of the arms in match",
        minimum=0,
        below=1,
        needs="match_by",
        excludes=("match",),
    )
    prompts: str = shared.prompts()
    adapter: str = option(
        "",
        "PEFT adapter to merge instead of a train run's: a directory, a Hugging Face id, or `lab`; several with commas",
        names="adapter",
        excludes=("variant", "train_run", "step", "match", "match_by"),
    )
    adapter_weights: str = option("", "factors on several adapters, comma-separated; empty: 1 each")
    alpha: float = option(
        1.0,
        "scale of the whole update; 0.7 makes a delta base; with match_by=alpha the largest tried",
        above=0,
    )
    dtype: str = option(
        "same", "type of the merged weights: the base's own, or float32", choices=MERGE_DTYPES
    )
    rounding: str = option(
        "nearest",
        "rounding of sums to that type; stochastic keeps a small update on average",
        choices=ROUNDINGS,
    )
    seed: int = option(0, "seed of stochastic rounding", minimum=0, below=SEEDS)
    registered_model: str = shared.registered_model()
    threads: int = shared.threads()
    reuse: bool = shared.reuse()


@dataclass(frozen=True)
class EvalConfig:
    """Suites of problems and everyday prompts on one model, samples kept."""

    base_model: str = shared.base_model()
    model: str = option(
        "base",
        "base, v3, v4, … (the newest), champion, a models:/ URI, a merge run id, a directory, or checkpoints: all of a "
        "training",
        names="model",
    )
    character: str = shared.character()
    profile: str = shared.profile()
    prompts: str = shared.prompts()
    suite: str = option("all", "which suites to run", choices=SUITES)
    problems: str = shared.problems()
    answers: str = shared.answers()
    limit: int = shared.limit()
    samples: int = shared.samples()
    sampling: str = shared.sampling()
    backend: str = shared.backend()
    base_url: str = shared.base_url()
    concurrency: int = shared.concurrency()
    gpus: int = shared.gpus()
    engine_options: str = shared.engine_options()
    served_model: str = option(
        "", "model name at base_url; empty: the path of the weights, or `base` at vllm"
    )
    margin: float = shared.margin()
    seed: int = option(
        0,
        "seed of the samples; another one asks anew, and arms share one to be compared",
        minimum=0,
        below=SEEDS,
    )
    device: str = shared.device()
    threads: int = shared.threads()
    regrade: str = option("", "run id of an evaluation whose samples are scored again, with no model")
    train_run: str = option("", "with model=checkpoints: run id of their train stage; empty: the newest")
    judge_url: str = shared.judge_url()
    judge_model: str = shared.judge_model()
    cross_check: bool = shared.cross_check()
    lm_eval: str = shared.lm_eval()
    reuse: bool = shared.reuse()


@dataclass(frozen=True)
class CompareConfig:
    """Verdicts and report from evaluations of the base and any number of variants."""

    base_model: str = shared.base_model()
    character: str = shared.character()
    registered_model: str = shared.registered_model()
    margin: float = option(
        0.0,
        "non-inferiority margin as a share of problems; 0: the one planned by the evaluations, another is post hoc",
        minimum=0,
        below=1,
    )
    arms: str = option(
        "", "variants to compare, comma-separated; empty: those of `runs`, or all that can be compared"
    )
    runs: str = option(
        "", "run ids of evaluations of any arms, one a training seed, comma-separated; empty: the newest"
    )
    control: str = option(
        "", "run id of an evaluation known to have lost mathematics; empty: looked for in the store"
    )
    unequal: str = option(
        "refuse",
        "where arms differ in more than the variant: refuse, or allow and say so first",
        choices=("refuse", "allow"),
    )


@dataclass(frozen=True)
class PromoteConfig:
    """Move the champion alias, if the gate opens."""

    base_model: str = shared.base_model()
    registered_model: str = shared.registered_model()
    compare_run: str = option("", "run id of the comparison; empty: the newest finished one of this base")
    by: str = option("", "who promotes; empty: the user of this process")
    unresolved: str = option(
        "fail", "where the gate stays shut: fail, or leave the alias and finish", choices=("fail", "leave")
    )
    rollback: bool = option(
        False,
        "give champion back to the version it was taken from",
        excludes=("compare_run", "override", "version"),
    )
    version: int = option(0, "with override: the version to promote", minimum=0, needs="override")
    override: str = option(
        "",
        "why version is promoted against the gate; marked as such for ever; empty: the gate decides",
        needs="version",
    )


@dataclass(frozen=True)
class MainParameters:
    """What the whole pipeline is told besides the hyperparameters of training."""

    base_model: str = shared.base_model()
    k: str = shared.k(RANK)
    character: str = shared.character()
    arms: str = option("v3,v4", "variants to train and compare, comma-separated", names="arms")
    preset: str = shared.preset()
    rewards: str = shared.rewards()
    prompts: str = shared.prompts()
    profile: str = shared.profile()
    steps: int = shared.steps()
    settings: str = shared.settings()
    seed: int = shared.seed(42)
    seeds: int = option(1, "training seeds a variant: seed, seed+1, …", minimum=1)
    suite: str = option(
        "all", "which suites to run; the comparison cannot do without problems", choices=COMPARABLE_SUITES
    )
    problems: str = shared.problems()
    answers: str = shared.answers()
    limit: int = shared.limit()
    samples: int = shared.samples()
    sampling: str = shared.sampling()
    backend: str = shared.backend()
    base_url: str = shared.base_url()
    concurrency: int = shared.concurrency()
    gpus: int = shared.gpus()
    engine_options: str = shared.engine_options()
    margin: float = shared.margin()
    match_by: str = shared.match_by()
    persona: float = option(
        0.0,
        "with match_by=alpha: the persona score to bring every arm to; 0: the lowest of their best",
        minimum=0,
        below=1,
        needs="match_by",
    )
    judge_url: str = shared.judge_url()
    judge_model: str = shared.judge_model()
    cross_check: bool = shared.cross_check()
    lm_eval: str = shared.lm_eval()
    registered_model: str = shared.registered_model()
    parallel: int = option(0, "child runs at a time; 0: as the profile says, two on the lab", minimum=0)
    threads: int = option(
        0, "torch threads of each child; 0: OMP_NUM_THREADS where set, else the cores shared out", minimum=0
    )
    reuse: bool = option(
        True, "go on where it was: finished stages of exactly this work by this code are not run again"
    )


@dataclass(frozen=True)
class MainConfig(Knobs, MainParameters):
    """The whole pipeline as child runs of one parent."""


@dataclass(frozen=True)
class StudyConfig:
    """Arms at several doses and seeds, from a plan; what is there already is never done again."""

    plan: str = option("", "plan of the study, a YAML file, required; those of this project are in studies/")
    device: str = option(
        "auto", "cpu, cuda, or auto: cpu for the lab, else a GPU where there is one", choices=DEVICES
    )
    parallel: int = option(0, "cells at a time; 0: one a core, or four a GPU", minimum=0)
    retry_failed: bool = option(False, "try again the cells that failed in an earlier study")


@dataclass(frozen=True)
class PaperConfig:
    """A study as a paper: LaTeX with figures, typeset where a TeX is installed."""

    study: str = option(
        "", "run id of a study, or of several, comma-separated; empty: the newest finished one"
    )


@dataclass(frozen=True)
class ServeConfig:
    """The champion behind an OpenAI-compatible server, or several arms side by side."""

    model: str = option(
        "models:/skippy@champion",
        "what is served: base, v3, v4, … (the newest), champion, a models:/ URI, a merge run id, or a directory",
        names="model",
    )
    arms: str = option(
        "",
        "several of these side by side under their names, comma-separated, as in base,v3,v4; empty: model alone",
        excludes=("model",),
    )
    base_model: str = shared.base_model()
    profile: str = shared.profile()
    host: str = option("127.0.0.1", "address to listen on; other than loopback needs SKIPPY_API_KEY")
    port: int = option(8000, "port to listen on", minimum=1, below=65536)
    backend: str = option(
        "auto", "engine that answers; auto: vllm where it is installed and there is a GPU", choices=ENGINES
    )
    gpus: int = shared.gpus()
    engine_options: str = shared.engine_options()
    sampling: str = shared.sampling()
    watch: bool = option(
        False, "follow the alias: a promotion swaps the model, requests in flight are finished"
    )
    voice_url: str = option(
        "",
        "OpenAI-compatible speech endpoint handed on at /v1/audio/speech: http://127.0.0.1:8081/v1 of skippy voice; "
        "empty: none",
        names="urls",
    )
    device: str = shared.device()
    threads: int = shared.threads()


CONFIGS: dict[str, type] = {
    "main": MainConfig,
    "svd": SvdConfig,
    "subspace": SubspaceConfig,
    "train": TrainConfig,
    "merge": MergeConfig,
    "eval": EvalConfig,
    "compare": CompareConfig,
    "promote": PromoteConfig,
    "study": StudyConfig,
    "paper": PaperConfig,
    "serve": ServeConfig,
}
"""Stage → its parameters, in the order of the story."""


def click_options(config_class: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """One string option for each field; typing happens in `parse_config`, so that refusals speak in one voice."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for item in reversed(fields(config_class)):
            kind, limits = kind_text(config_class, item), limits_text(item)
            flag: dict[str, Any] = (
                {"is_flag": False, "flag_value": "true"} if isinstance(item.default, bool) else {}
            )
            command = click.option(
                "--" + item.name.replace("_", "-"),
                item.name,
                default=default_text(item),
                # `--force` alone means true; `--force false` still works, as MLproject needs it.
                **flag,
                show_default=True if default_text(item) else "empty",
                metavar=kind,
                help=item.metadata["help"] + (f"; {limits}" if limits else ""),
                shell_complete=partial(_complete, item),
            )(command)
        return command

    return decorate


def _complete(
    item: Field[Any], context: click.Context, parameter: click.Parameter, typed: str
) -> list[CompletionItem]:
    """What TAB offers for the value of an option: its words; where it may name a file, files too."""
    words = [word for word in item.metadata["choices"] if word]
    if isinstance(item.default, bool):
        words = ["true", "false"]
    if item.metadata["names"] == "model":
        words = ["base", *VARIANTS, "checkpoints", "models:/"]
    found = [CompletionItem(word) for word in words or [default_text(item)] if word.startswith(typed)]
    files = *("base", "character", "problems", "adapter"), *("model", "preset", "prompts")
    is_file = item.metadata["names"] in files
    return [*found, *([CompletionItem(typed, type="file")] if is_file else [])]


def config_dict(config: Any) -> dict[str, Any]:
    """The typed config as plain data, for `config.json`."""
    return asdict(config)
