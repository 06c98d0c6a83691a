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
    answers_field,
    backend_field,
    base_model_field,
    base_url_field,
    character_field,
    concurrency_field,
    cross_check_field,
    device_field,
    engine_options_field,
    gpus_field,
    judge_model_field,
    judge_url_field,
    k_field,
    lm_eval_field,
    margin_field,
    match_by_field,
    preset_field,
    problems_field,
    profile_field,
    prompts_field,
    registered_model_field,
    reuse_field,
    rewards_field,
    sampling_field,
    seed_field,
    settings_field,
    threads_field,
)


@dataclass(frozen=True)
class SvdConfig:
    """Certified subspaces of every target of the base: what a variant keeps its update out of."""

    base_model: str = base_model_field()
    k: str = k_field("protected directions a target: a number up to 128, or energy:0.5 for a share of ‖W‖²")
    basis: str = option(
        TOP,
        "which directions: top or bottom singular ones, or those of the activations of mathematics (inputs only)",
        choices=BASES,
    )
    tolerance: float = option(
        1e-5, "largest residual, relative to sigma_1, that is certified", above=0, below=1
    )
    seed: int = seed_field(0)
    device: str = device_field()
    threads: int = threads_field()
    force: bool = option(
        False, "compute again although a finished run has the same base, basis, k and tolerance"
    )


@dataclass(frozen=True)
class SubspaceConfig:
    """Personality subspaces, trait vectors and their nulls, measured on the base."""

    base_model: str = base_model_field()
    character: str = character_field()
    profile: str = profile_field()
    prompts: int = option(50, "prompts that every persona answers", minimum=4)
    seed: int = seed_field()
    base_answers: bool = option(
        True, "also keep the base's answers in character and plainly, from which v5, v6 and caa are made"
    )
    device: str = device_field()
    threads: int = threads_field()
    force: bool = option(False, "measure again although a finished run has the same base and character")


@dataclass(frozen=True)
class TrainParameters:
    """What the train stage is told besides its hyperparameters."""

    base_model: str = base_model_field()
    variant: str = option("v4", "constraint on the update", choices=VARIANTS)
    character: str = character_field()
    k: str = k_field()
    svd_run: str = option("", "run id of the svd stage; empty: the newest finished one of this base and k")
    basis_run: str = option(
        "",
        "run id of the svd stage whose directions the variant protects, where those are not the top ones; empty: "
        "the newest finished one",
    )
    subspace_run: str = option("", "run id of the subspace stage; empty: the newest finished one, if any")
    preset: str = preset_field()
    profile: str = profile_field()
    steps: int = option(0, "optimizer steps; 0: as the preset says", minimum=0)
    settings: str = settings_field()
    seed: int = seed_field()
    device: str = device_field()
    threads: int = threads_field()
    judge_url: str = option("", "OpenAI-compatible endpoint of a judge model that adds a reward; empty: none")
    judge_model: str = option("judge", "name of the judge model at that endpoint")
    hardened: bool = option(True, "rewards resist hacking; false only to see what happens without")
    rewards: str = rewards_field()
    prompts: str = prompts_field()
    resume: str = option(
        "false",
        "where an unfinished training of the same kind is kept: true goes on from its last checkpoint, auto does "
        "so if there is one, discard throws it away, false refuses to start over it",
        choices=("false", "true", "auto", "discard"),
    )
    reuse: bool = reuse_field()


@dataclass(frozen=True)
class TrainConfig(Knobs, TrainParameters):
    """GRPO with LoRA under one variant's constraint."""


@dataclass(frozen=True)
class MergeConfig:
    """Base plus adapter as a plain checkpoint, registered."""

    base_model: str = base_model_field()
    variant: str = option(
        "", "variant whose adapter is merged; empty: that of train_run, else v4", choices=("", *VARIANTS)
    )
    character: str = character_field()
    train_run: str = option(
        "", "run id of the train stage; empty: the newest finished one of base, variant and character"
    )
    step: int = option(0, "checkpoint step to merge; 0: the end of training", minimum=0)
    match: str = option(
        "",
        "run ids of the checkpoint evaluations of all arms, comma-separated: merge where their personas match",
        excludes=("step",),
    )
    match_by: str = match_by_field()
    persona: float = option(
        0.0,
        "with match_by=alpha: the persona score to reach; 0: that of the arms in match",
        minimum=0,
        below=1,
        needs="match_by",
        excludes=("match",),
    )
    prompts: str = prompts_field()
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
    registered_model: str = registered_model_field()
    threads: int = threads_field()
    reuse: bool = reuse_field()


@dataclass(frozen=True)
class EvalConfig:
    """Suites of problems and everyday prompts on one model, samples kept."""

    base_model: str = base_model_field()
    model: str = option(
        "base",
        "base, v3, v4, … (newest), a models:/ URI, a merge run id, a directory, or checkpoints",
        names="model",
    )
    character: str = character_field()
    profile: str = profile_field()
    prompts: str = prompts_field()
    suite: str = option("all", "which suites to run", choices=SUITES)
    problems: str = problems_field()
    answers: str = answers_field()
    limit: int = option(0, "use only the first so many problems; 0: all", minimum=0)
    samples: int = option(4, "samples a problem", minimum=1)
    sampling: str = sampling_field()
    backend: str = backend_field()
    base_url: str = base_url_field()
    concurrency: int = concurrency_field()
    gpus: int = gpus_field()
    engine_options: str = engine_options_field()
    served_model: str = option(
        "", "model name at base_url; empty: the path of the weights, or `base` at vllm"
    )
    margin: float = margin_field()
    seed: int = option(
        0,
        "seed of the samples; another one asks anew, and arms share one to be compared",
        minimum=0,
        below=SEEDS,
    )
    device: str = device_field()
    threads: int = threads_field()
    regrade: str = option("", "run id of an evaluation whose samples are scored again, with no model")
    train_run: str = option("", "with model=checkpoints: run id of their train stage; empty: the newest")
    judge_url: str = judge_url_field()
    judge_model: str = judge_model_field()
    cross_check: bool = cross_check_field()
    lm_eval: str = lm_eval_field()
    reuse: bool = reuse_field()


@dataclass(frozen=True)
class CompareConfig:
    """Verdicts and report from evaluations of the base and any number of variants."""

    base_model: str = base_model_field()
    character: str = character_field()
    registered_model: str = registered_model_field()
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

    base_model: str = base_model_field()
    registered_model: str = registered_model_field()
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
        "", "promote against the gate, for this reason; marked as such for ever", needs="version"
    )


@dataclass(frozen=True)
class MainParameters:
    """What the whole pipeline is told besides the hyperparameters of training."""

    base_model: str = base_model_field()
    k: str = k_field("protected directions a target")
    character: str = character_field()
    arms: str = option("v3,v4", "variants to train and compare, comma-separated", names="arms")
    preset: str = preset_field()
    rewards: str = rewards_field()
    prompts: str = prompts_field()
    profile: str = profile_field()
    steps: int = option(0, "optimizer steps; 0: as the preset says", minimum=0)
    settings: str = settings_field()
    seed: int = seed_field()
    seeds: int = option(1, "training seeds a variant: seed, seed+1, …", minimum=1)
    suite: str = option(
        "all", "which suites to run; the comparison cannot do without problems", choices=COMPARABLE_SUITES
    )
    problems: str = problems_field()
    answers: str = answers_field()
    limit: int = option(0, "use only the first so many problems; 0: all", minimum=0)
    samples: int = option(4, "samples a problem", minimum=1)
    sampling: str = sampling_field()
    backend: str = backend_field()
    base_url: str = base_url_field()
    concurrency: int = concurrency_field()
    gpus: int = gpus_field()
    engine_options: str = engine_options_field()
    margin: float = margin_field()
    match_by: str = match_by_field()
    judge_url: str = judge_url_field()
    judge_model: str = judge_model_field()
    cross_check: bool = cross_check_field()
    lm_eval: str = lm_eval_field()
    registered_model: str = registered_model_field()
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

    plan: str = option("studies/lab.yaml", "plan of the study, a YAML file")
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
        "what is served: a models:/ URI, base, v3, v4, … (newest), a merge run id, or a directory",
        names="model",
    )
    arms: str = option(
        "",
        "several of these side by side under their names, comma-separated: base,v3,v4",
        excludes=("model",),
    )
    base_model: str = base_model_field()
    profile: str = profile_field()
    host: str = option("127.0.0.1", "address to listen on; other than loopback needs SKIPPY_API_KEY")
    port: int = option(8000, "port to listen on", minimum=1, below=65536)
    backend: str = option("auto", "engine that answers; auto: vllm where it is installed", choices=ENGINES)
    gpus: int = gpus_field()
    engine_options: str = engine_options_field()
    sampling: str = sampling_field()
    watch: bool = option(
        False, "follow the alias: a promotion swaps the model, requests in flight are finished"
    )
    voice_url: str = option(
        "",
        "OpenAI-compatible speech endpoint handed on at /v1/audio/speech, http://127.0.0.1:8081/v1 of skippy voice",
    )
    device: str = device_field()
    threads: int = threads_field()


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
                show_default=True,
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
    is_file = item.metadata["names"] in (
        "base",
        "character",
        "problems",
        "adapter",
        "model",
        "preset",
        "prompts",
    )
    return [*found, *([CompletionItem(typed, type="file")] if is_file else [])]


def config_dict(config: Any) -> dict[str, Any]:
    """The typed config as plain data, for `config.json`."""
    return asdict(config)
