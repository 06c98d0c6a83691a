"""`vllm serve` as skippy runs it: one server for a base and its adapters, on loopback.

What vLLM would do silently is said here or refused before it starts: sampling defaults of the checkpoint are not
taken, ranks are rounded up to those it has, data parallelism is taken before tensor parallelism, and the noise that
draws the tokens has a name.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from skippy.errors import BackendError, ConfigError, nearest
from skippy.models.dialects import list_models
from skippy.models.engine import LOOPBACK, Engine
from skippy.models.vllm_noise import COUNTER, IN_EFFECT, NOISE_VARIABLE, is_known

logger = logging.getLogger(__name__)

BASE_NAME = "base"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM has kernels and buffers for."""
MOST_AT_ONCE = 16
"""Adapters in one batch; each takes GPU memory for the largest rank."""
WEIGHTS_SHARE = 0.6
"""Of a GPU's memory: weights above it leave too little for keys and values, and are spread over several GPUs."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
OWN_NOISE = ""
NOISES: Mapping[str, Mapping[str, str]] = {
    # Ours stands in the first of vLLM's two runners.
    COUNTER: {NOISE_VARIABLE: COUNTER, "VLLM_USE_V2_MODEL_RUNNER": "0"},
    # The second draws from counters as well, of its own: seed and position in the whole text.
    "runner2": {NOISE_VARIABLE: "runner2", "VLLM_USE_V2_MODEL_RUNNER": "1"},
    OWN_NOISE: {NOISE_VARIABLE: OWN_NOISE},
}
"""Noise that draws the tokens of a server of ours → what its environment says; empty: as vLLM draws by itself."""


@dataclass(frozen=True)
class Serving:
    """What one server answers for."""

    weights: Path  # checkpoint directory of the base
    adapters: Mapping[str, Path] = field(default_factory=dict)  # name → directory of a PEFT adapter
    rank: int = 0  # the largest of theirs
    gpus: int = 1  # it may use
    options: str = ""  # further ones of `vllm serve`, as a person would type them; they come last and win
    noise: str = OWN_NOISE  # that draws the tokens, of `NOISES`
    doors: int = 1  # processes that take requests; one takes some 200 a second

    @property
    def names(self) -> tuple[str, ...]:
        """The models it answers for."""
        return (BASE_NAME, *self.adapters)


def require_vllm() -> None:
    """Refuse where vLLM is not installed.

    Raises:
        ConfigError: there is no such package.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "vLLM was asked for, and it is not installed.",
            where="backend=vllm",
            expected="the package vllm in this environment",
            found="no such package",
            next_step="pip install vllm==0.22.0 beside skippy on a machine with a GPU, or leave backend out",
        )


def choose_noise() -> str:
    """The noise of servers started here: ours, where vLLM is one that the plugin knows; else vLLM's own.

    The variable SKIPPY_VLLM_NOISE chooses another of `NOISES`.

    Raises:
        ConfigError: the variable names none.
    """
    wanted = os.environ.get(NOISE_VARIABLE, COUNTER)
    if wanted not in NOISES:
        raise ConfigError(
            "There is no such noise.",
            where=NOISE_VARIABLE,
            expected=" or ".join(filter(None, NOISES)) + ", or empty for vLLM's own",
            found=wanted,
            next_step=f"unset {NOISE_VARIABLE}",
        )
    if wanted != COUNTER:
        return wanted
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = "of no known version"
    plugins = importlib.metadata.entry_points(group="vllm.general_plugins").names
    if is_known(version) and "skippy" in plugins:
        return COUNTER
    reason = (
        "install skippy again (make setup)" if is_known(version) else f"vLLM {version} is not known to it"
    )
    logger.warning(
        "seeded requests are left to vLLM, one by one: the plugin that draws them is not there; %s", reason
    )
    return OWN_NOISE


def environment(noise: str) -> dict[str, str]:
    """Of a server: this process's, and what it is to draw with."""
    # Importing TRL sets this to ERROR, and what we wait for and read in the log would not stand there.
    level = os.environ.get("VLLM_LOGGING_LEVEL", "")
    said = {"VLLM_LOGGING_LEVEL": level if level == "DEBUG" else "INFO"}
    return ENVIRONMENT | os.environ | said | dict(NOISES[noise])


def require_noise(noise: str, engine: Engine) -> None:
    """Check that a healthy server draws with the noise it was started for.

    Raises:
        BackendError: the plugin did not load there.
    """
    if noise == COUNTER and not engine.has_said(IN_EFFECT):
        raise BackendError(
            "The server draws seeded requests with vLLM's own noise.",
            where=f"{engine.name}, log {engine.log}",
            expected=f"the line: {IN_EFFECT}",
            found="a server that is healthy and did not say it",
            next_step=f"see in its log why the plugin skippy was not loaded, or leave them to vLLM: export "
            f"{NOISE_VARIABLE}=",
        )


def require_gpus(wanted: int) -> None:
    """Refuse to share weights out among more GPUs than there are.

    Raises:
        ConfigError: there are fewer.
    """
    there = torch.cuda.device_count()
    if wanted > max(1, there):
        raise ConfigError(
            "There are fewer GPUs here.",
            where="gpus",
            expected=f"at most {there}",
            found=str(wanted),
            next_step=f"pass gpus={max(1, there)}, or leave it out for one",
        )


def require_room(serving: Serving) -> None:
    """Refuse what cannot be served, before anything is loaded: ranks, GPUs, options.

    Raises:
        BackendError: a rank is above what vLLM serves.
        ConfigError: the weights do not fit on the GPUs, or the options cannot be read.
    """
    require_gpus(serving.gpus)
    command_line(serving, gpu_bytes())


def start_vllm(serving: Serving, log: Path) -> Engine:
    """Start a server on a free port and return at once; wait for it, and stop it.

    Raises:
        ConfigError: vLLM is not installed, or an option cannot be read.
    """
    require_vllm()
    words = command_line(serving, gpu_bytes())
    return Engine.start(
        lambda port: [*words, "--port", str(port)],
        name="vLLM",
        log=log,
        environment=environment(serving.noise),
    )


def command_line(serving: Serving, gpu_bytes: int) -> list[str]:
    """The command line without its port.

    Raises:
        ConfigError: the options are no words of a command line.
    """
    words = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(serving.weights)]
    words += ["--host", LOOPBACK, "--served-model-name", BASE_NAME]
    # What is not sent with a request must not come from the checkpoint's generation_config.json.
    words += ["--generation-config", "vllm", "--seed", "0", "--disable-uvicorn-access-log"]
    if "vision_config" in json.loads((serving.weights / "config.json").read_text(encoding="utf-8")):
        words.append("--language-model-only")
    # As long a context as the GPU's memory holds: asked for more than that, vLLM refuses to start.
    words += ["--max-model-len", "auto"]
    if serving.adapters:
        modules = [json.dumps({"name": name, "path": str(path)}) for name, path in serving.adapters.items()]
        count = len(modules)
        words += ["--enable-lora", "--max-lora-rank", str(fitting_rank(serving.rank))]
        words += ["--max-loras", str(min(count, MOST_AT_ONCE)), "--max-cpu-loras", str(count)]
        words += ["--lora-modules", *modules]
    tensor, data = parallelism(serving.gpus, weights_bytes(serving.weights), gpu_bytes)
    words += ["--tensor-parallel-size", str(tensor)] if tensor > 1 else []
    words += ["--data-parallel-size", str(data)] if data > 1 else []
    if data == 1 and serving.doors > 1:  # copies have a door each by themselves
        words += ["--api-server-count", str(serving.doors)]
    try:
        return [*words, *shlex.split(serving.options)]
    except ValueError as error:
        raise ConfigError(
            "The options of the engine cannot be read.",
            where="engine_options",
            expected="options of vllm serve, quoted as on a command line",
            found=f"{serving.options!r}: {error}",
            next_step="close the quotes",
        ) from error


def fitting_rank(rank: int) -> int:
    """The smallest rank of vLLM's that holds `rank`.

    Raises:
        BackendError: none does.
    """
    for known in RANKS:
        if rank <= known:
            return known
    raise BackendError(
        "The rank of an adapter is above what vLLM serves.",
        where="backend=vllm",
        expected=f"at most {RANKS[-1]}",
        found=f"rank {rank}",
        next_step="merge the adapter and evaluate the merged model",
    )


def parallelism(gpus: int, weights: int, gpu_bytes: int) -> tuple[int, int]:
    """GPUs that share one copy of the weights, and copies: as many copies as fit, since these need not talk.

    Raises:
        ConfigError: the weights do not fit on them.
    """
    for tensor in (size for size in range(1, gpus + 1) if gpus % size == 0):
        if not gpu_bytes or weights <= WEIGHTS_SHARE * gpu_bytes * tensor:
            return tensor, gpus // tensor
    needed = 1
    while weights > WEIGHTS_SHARE * gpu_bytes * needed:
        needed *= 2
    raise ConfigError(
        "The weights do not fit on the GPUs with room for keys and values.",
        where=f"gpus={gpus}",
        expected=f"gpus={needed}: {weights / 2**30:.1f} GiB of weights in {WEIGHTS_SHARE:.0%} of their memory",
        found=f"{gpus} of {gpu_bytes / 2**30:.1f} GiB",
        next_step=f"pass -P gpus={needed}, or a quantisation of your own with -P engine_options=…",
    )


def require_served(base_url: str, names: tuple[str, ...], needed: int = 0, api_key: str = "unused") -> None:
    """Check that the server at an endpoint has every model by its name, with room for a completion.

    Raises:
        BackendError: nobody answers, a name is unknown there, or its context is too short.
    """
    served = list_models(base_url, api_key)
    for name in names:
        if name not in served:
            near = nearest(name, served)
            raise BackendError(
                "The server does not have this model.",
                where=base_url,
                expected=f"a model named {name}",
                found=", ".join(served) or "none",
                next_step=f"did you mean {near}? " if near else "pass one of these as -P served_model=NAME",
            )
        if 0 < served[name] <= needed:
            raise BackendError(
                "The server has no room for a completion of this length.",
                where=f"{name} at {base_url}",
                expected=f"a context of more than {needed} positions",
                found=f"{served[name]}, what the keys and values of one answer may take of the GPU's memory",
                next_step="use a preset of shorter answers, or spread the weights over more GPUs (gpus=2)",
            )


def weights_bytes(checkpoint: Path) -> int:
    """Bytes of the checkpoint's weights."""
    return sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))


def gpu_bytes() -> int:
    """Memory of one GPU; 0 where there is none."""
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(0).total_memory)
