"""The parameters that several stages share, each once, with its line of help.

`config` puts them together, a frozen dataclass a stage.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from skippy.core.sampling import PRESETS
from skippy.options import option
from skippy.presets.settings import GrpoSettings

SUITES = ("banal", "aime", "all")
COMPARABLE_SUITES = ("aime", "all")
BACKENDS = ("transformers", "vllm", "openai")
ENGINES = ("auto", "vllm", "transformers")
DEVICES = ("auto", "cpu", "cuda")
MATCH_WAYS = ("steps", "alpha")
MERGE_DTYPES = ("same", "float32")
ROUNDINGS = ("nearest", "stochastic")
SAMPLING_PRESETS = ("auto", *PRESETS)
MODEL_PROFILES = (
    *(
        "auto",
        "lab",
        "lab-tuned",
        "qwen3-vl-thinking",
        "qwen3-vl",
        "qwen3-thinking",
        "qwen3",
        "r1-distill",
        "qwen2",
    ),
    *("llama", "mistral", "gemma", "phi3", "chat"),
)


def base_model_field() -> Any:
    """The base every stage works on."""
    text = "base checkpoint: `lab`, a directory, a Hugging Face id, or a models:/ URI"
    return option("lab", text, names="base")


def k_field(text: str = "protected directions a target; picks the svd run") -> Any:
    """How many singular directions are protected."""
    return option("16", text, names="rank")


def problems_field() -> Any:
    """The mathematics that is asked."""
    text = "lab, a local file, or Hugging Face dataset ids, comma-separated"
    return option("lab", text, names="problems")


def answers_field() -> Any:
    """The kind of the reference answers."""
    text = (
        "kind of answers: auto (integers 0–999), integer, number, number:TOLERANCE, or math (extra `verify`)"
    )
    return option("auto", text)


def reuse_field() -> Any:
    """Whether finished work is taken."""
    text = (
        "take a finished run of exactly this work by this code, where there is one, instead of doing it again"
    )
    return option(False, text)


def threads_field() -> Any:
    """Torch's threads."""
    text = "torch threads; 0: OMP_NUM_THREADS where set, else this machine's cores, half of them on the lab"
    return option(0, text, minimum=0)


def profile_field() -> Any:
    """What the base is."""
    text = "what the base is, and so its presets and prompts; auto: by its lineage, family and name"
    return option("auto", text, choices=MODEL_PROFILES)


def preset_field() -> Any:
    """The hyperparameters."""
    text = "hyperparameters: recipe, lab, short, 24gb, the path of a YAML file, or auto: the profile's"
    return option("auto", text, names="preset")


def settings_field() -> Any:
    """Hyperparameters of methods that are not GRPO."""
    text = "settings of methods other than GRPO, METHOD.NAME=VALUE, comma-separated: mask.rho=0.2,mask.rule=wanda"
    return option("", text, names="settings")


def rewards_field() -> Any:
    """Rewards of a person's own."""
    text = "rewards of your own beside the character's, each package.module:function, comma-separated"
    return option("", text)


def prompts_field() -> Any:
    """Prompts of a person's own."""
    text = "file of prompts in place of the character's: one a line to train on, or YAML with train, banal, validation"
    return option("", text, names="prompts")


def knob(name: str) -> Any:
    """One hyperparameter as a parameter: left empty, it is as the preset says."""
    item = next(item for item in fields(GrpoSettings) if item.name == name)
    limits = {key: value for key, value in item.metadata.items() if key != "help"}
    is_text = isinstance(item.default, str)
    if is_text:
        limits["choices"] = tuple(dict.fromkeys(("", *limits["choices"])))
    return option("" if is_text else None, f"{item.metadata['help']}; empty: as the preset says", **limits)


@dataclass(frozen=True)
class Knobs:
    """Every hyperparameter but the seed, which is every stage's, and max_steps, which is called steps."""

    learning_rate: float | None = knob("learning_rate")
    weight_decay: float | None = knob("weight_decay")
    max_grad_norm: float | None = knob("max_grad_norm")
    lr_scheduler: str = knob("lr_scheduler")
    warmup: float | None = knob("warmup")
    epochs: int | None = knob("epochs")
    num_generations: int | None = knob("num_generations")
    per_device_batch: int | None = knob("per_device_batch")
    gradient_accumulation: int | None = knob("gradient_accumulation")
    temperature: float | None = knob("temperature")
    top_p: float | None = knob("top_p")
    top_k: int | None = knob("top_k")
    max_completion_length: int | None = knob("max_completion_length")
    max_prompt_length: int | None = knob("max_prompt_length")
    beta: float | None = knob("beta")
    loss_type: str = knob("loss_type")
    lora_r: int | None = knob("lora_r")
    lora_alpha: int | None = knob("lora_alpha")
    lora_dropout: float | None = knob("lora_dropout")
    targets: str = knob("targets")
    bf16: bool | None = knob("bf16")
    gradient_checkpointing: bool | None = knob("gradient_checkpointing")
    merged_generation: bool | None = knob("merged_generation")
    vllm: str = knob("vllm")
    save_steps: int | None = knob("save_steps")
    logging_steps: int | None = knob("logging_steps")
    character_steps: int | None = knob("character_steps")
    math_mix: float | None = knob("math_mix")

    def turned(self) -> dict[str, Any]:
        """Those that the person set."""
        values = {item.name: getattr(self, item.name) for item in fields(Knobs)}
        return {name: value for name, value in values.items() if value not in (None, "")}


def registered_model_field() -> Any:
    """The registered model that merged versions join."""
    return option("skippy", "registered model that the merged versions belong to")


def match_by_field() -> Any:
    """How arms are brought to the same persona."""
    text = (
        "how arms come to the same persona: steps takes the saved checkpoint of each, alpha scales the update of its "
        "last one"
    )
    return option("steps", text, choices=MATCH_WAYS)


def device_field() -> Any:
    """Where tensors live."""
    return option("auto", "cpu, cuda, or auto: a GPU where there is one", choices=DEVICES)


def margin_field() -> Any:
    """The non-inferiority margin."""
    return option(0.05, "non-inferiority margin as a share of problems: 0.05 is 5 points", above=0, below=1)


def character_field() -> Any:
    """The character."""
    text = "character: a shipped name, or the path of a character file"
    return option("skippy", text, names="character")


SEEDS = 2**32
"""Seeds that numpy, scikit-learn and the engines take are below this."""


def seed_field(default: int = 42) -> Any:
    """The seed of a stage."""
    return option(default, "seed of everything random in this stage", minimum=0, below=SEEDS)


def sampling_field() -> Any:
    """The sampling preset."""
    text = (
        "sampling preset; auto: the profile's; auto and greedy are cut to the model's context, the others are "
        "refused where they do not fit"
    )
    return option("auto", text, choices=SAMPLING_PRESETS)


def backend_field() -> Any:
    """Who generates."""
    text = (
        "who generates: transformers, in this process; vllm, started here or at base_url, and proven to answer with "
        "these weights; openai, any server"
    )
    return option("transformers", text, choices=BACKENDS)


def base_url_field() -> Any:
    """Where a server answers."""
    text = (
        "endpoints of a server, comma-separated, samples shared out by their key; empty: vllm is started here, openai "
        "is http://127.0.0.1:8000/v1"
    )
    return option("", text)


def concurrency_field() -> Any:
    """How hard a server is asked."""
    text = "requests in flight at once at each endpoint; 0: 1000 at vllm, 32 at another"
    return option(0, text, minimum=0)


def gpus_field() -> Any:
    """How many GPUs an engine of our own takes."""
    text = "GPUs of a vllm that is started here: as many copies of the weights as fit, else the weights are split"
    return option(1, text, minimum=1)


def engine_options_field() -> Any:
    """What else the engine is told."""
    text = "further options of `vllm serve`, as on its command line; they come last"
    return option("", text)


def judge_url_field() -> Any:
    """Where a judge answers."""
    text = "OpenAI-compatible endpoint of a judge model for the everyday answers; empty: none"
    return option("", text)


def judge_model_field() -> Any:
    """Which judge answers there."""
    return option("judge", "name of the judge model at that endpoint")


def cross_check_field() -> Any:
    """A second reading of every answer."""
    text = "read every answer with math-verify as well, and list where it differs (extra `verify`)"
    return option(False, text)


def lm_eval_field() -> Any:
    """EleutherAI's tasks."""
    text = "tasks of EleutherAI's harness, run on the weights, comma-separated (extra `harness`); empty: none"
    return option("", text)
