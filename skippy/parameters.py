"""The parameters that several stages share, each once, with its line of help.

`config` puts them together, a frozen dataclass a stage.
"""

from __future__ import annotations

from dataclasses import Field, fields, make_dataclass
from functools import partial
from typing import Any, get_type_hints

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
    *("auto", "lab", "lab-tuned", "qwen3-vl-thinking", "qwen3-vl", "qwen3-thinking", "qwen3", "r1-distill"),
    *("qwen2", "llama", "mistral", "gemma", "phi3", "chat"),
)
SEEDS = 2**32
"""Seeds that numpy, scikit-learn and the engines take are below this."""


def shared(default: Any, text: str, **limits: Any) -> partial[Any]:
    """A parameter of several stages: called, it is a field of its own for each."""
    return partial(option, default, text, **limits)


base_model = shared(
    "lab", "base checkpoint: `lab`, a directory, a Hugging Face id, or a models:/ URI", names="base"
)
k = partial(option, "16", names="rank")
problems = shared("lab", "lab, a local file, or Hugging Face dataset ids, comma-separated", names="problems")
answers = shared(
    "auto",
    "kind of answers: auto (integers 0–999), integer, number, number:TOLERANCE, or math (extra `verify`)",
)
reuse = shared(
    False,
    "take a finished run of exactly this work by this code, where there is one, instead of doing it again",
)
threads = shared(
    0,
    "torch threads; 0: OMP_NUM_THREADS where set, else this machine's cores, half of them on the lab",
    minimum=0,
)
profile = shared(
    "auto",
    "what the base is, and so its presets and prompts; auto: by its lineage, family and name",
    choices=MODEL_PROFILES,
)
preset = shared(
    "auto",
    "hyperparameters: recipe, lab, short, 24gb, the path of a YAML file, or auto: the profile's",
    names="preset",
)
settings = shared(
    "",
    "settings of methods other than GRPO, METHOD.NAME=VALUE, comma-separated: mask.rho=0.2,mask.rule=wanda",
    names="settings",
)
rewards = shared(
    "", "rewards of your own beside the character's, each package.module:function, comma-separated"
)
prompts = shared(
    "",
    "file of prompts in place of the character's: one a line to train on, or YAML with train, banal, "
    "validation",
    names="prompts",
)
steps = shared(0, "optimizer steps; 0: as the preset says", minimum=0)
limit = shared(0, "use only the first so many problems; 0: all", minimum=0)
samples = shared(4, "samples a problem", minimum=1)
registered_model = shared("skippy", "registered model that the merged versions belong to")
match_by = shared(
    "steps",
    "how arms come to the same persona: steps takes the saved checkpoint of each, alpha scales the "
    "update of its last one",
    choices=MATCH_WAYS,
)
device = shared("auto", "cpu, cuda, or auto: a GPU where there is one", choices=DEVICES)
margin = shared(0.05, "non-inferiority margin as a share of problems: 0.05 is 5 points", above=0, below=1)
character = shared("skippy", "character: a shipped name, or the path of a character file", names="character")
seed = partial(option, text="seed of everything random in this stage", minimum=0, below=SEEDS)
sampling = shared(
    "auto",
    "sampling preset; auto: the profile's; auto and greedy are cut to the model's context, the others "
    "are refused where they do not fit",
    choices=SAMPLING_PRESETS,
)
backend = shared(
    "transformers",
    "who generates: transformers, in this process; vllm, started here or at base_url, and proven to "
    "answer with these weights; openai, any server",
    choices=BACKENDS,
)
base_url = shared(
    "",
    "endpoints of a server, comma-separated, samples shared out by their key; empty: vllm is started "
    "here, openai is http://127.0.0.1:8000/v1",
    names="urls",
)
concurrency = shared(
    0, "requests in flight at once at each endpoint; 0: 1000 at vllm, 32 at another", minimum=0
)
gpus = shared(
    1,
    "GPUs of a vllm that is started here: as many copies of the weights as fit, else the weights are split",
    minimum=1,
)
engine_options = shared("", "further options of `vllm serve`, as on its command line; they come last")
judge_url = shared(
    "", "OpenAI-compatible endpoint of a judge model for the everyday answers; empty: none", names="urls"
)
judge_model = shared("judge", "name of the judge model at that endpoint")
cross_check = shared(
    False, "read every answer with math-verify as well, and list where it differs (extra `verify`)"
)
lm_eval = shared(
    "", "tasks of EleutherAI's harness, run on the weights, comma-separated (extra `harness`); empty: none"
)


def knob(item: Field[Any], kind: Any) -> tuple[str, Any, Any]:
    """One hyperparameter as a parameter: left empty, it is as the preset says."""
    limits = {key: value for key, value in item.metadata.items() if key != "help"}
    # What an empty field of a preset means is no way to set it here.
    words = f"{item.metadata['help'].partition('; empty')[0]}; empty: as the preset says"
    if kind is str:
        limits["choices"] = tuple(dict.fromkeys(("", *limits["choices"])))
        return item.name, str, option("", words, **limits)
    return item.name, kind | None, option(None, words, **limits)


KNOBS = [item for item in fields(GrpoSettings) if item.name not in ("seed", "max_steps")]
"""Every hyperparameter but the seed, which is every stage's, and max_steps, which is called steps."""


def turned(config: Any) -> dict[str, Any]:
    """The hyperparameters that the person set."""
    values = {item.name: getattr(config, item.name) for item in KNOBS}
    return {name: value for name, value in values.items() if value not in (None, "")}


Knobs: Any = make_dataclass(
    "Knobs",
    [knob(item, get_type_hints(GrpoSettings)[item.name]) for item in KNOBS],
    namespace={"turned": turned},
    frozen=True,
)
