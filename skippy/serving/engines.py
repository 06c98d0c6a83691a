"""The engines that answer: vLLM where it is installed, else our own on transformers."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from skippy.errors import BackendError, ConfigError
from skippy.models.engine import Engine
from skippy.models.prompts import template_arguments
from skippy.models.vllm_server import (
    OWN_NOISE,
    Serving,
    choose_noise,
    command_line,
    environment,
    gpu_bytes,
    require_gpus,
    require_vllm,
    weights_bytes,
)
from skippy.resolve.devices import pick_device
from skippy.serving.protocol import OWNER
from skippy.serving.routes import Routes
from skippy.serving.served import Served
from skippy.stores.biases import require_read_by
from skippy.stores.checkpoints import Checkpoint

VLLM, OWN, AUTO = "vllm", "transformers", "auto"
GPU_SHARE = 0.9
GRAPHS_BYTES = 4 << 30
"""Of each server, for activations, graphs and what CUDA itself takes."""
LEAST_CACHE_BYTES = 1 << 30
OWNERS = {VLLM: "vllm", OWN: OWNER}


@dataclass(frozen=True)
class Places:
    """Where the servers of vLLM stand.

    One model takes all GPUs; of several each takes one, in turn.
    """

    names: tuple[str, ...] = ()  # of the first model of each server, in their order
    gpus: int = 1  # to use
    is_following: bool = (
        False  # whether a model's successor is loaded beside it, which needs a place of its own
    )
    options: str = ""  # further ones of `vllm serve`

    @property
    def gpus_of_each(self) -> int:
        """GPUs that one server uses."""
        return self.gpus if len(self.names) <= 1 else 1

    @property
    def sharing(self) -> int:
        """Servers on the fullest GPU."""
        crowd = -(-len(self.names) // self.gpus) if len(self.names) > 1 else 1
        return crowd + self.is_following

    def environment(self, name: str) -> dict[str, str]:
        """Of the server that answers under a name: which GPU it sees, where there are several and it takes one."""
        if self.gpus == 1 or self.gpus_of_each > 1:
            return {}
        place = self.names.index(name) % self.gpus if name in self.names else 0
        visible = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        return {"CUDA_VISIBLE_DEVICES": visible[place] if place < len(visible) else str(place)}


ALONE = Places()


def choose_engine(wanted: str, *, gpus: int = 1, options: str = "") -> str:
    """The engine asked for; `auto` is vLLM where it is installed and there is a GPU.

    Raises:
        ConfigError: vLLM was asked for and is not installed, there are fewer GPUs than it is to use, or something that
            only it reads was given to another.
    """
    if wanted == VLLM:
        require_vllm()
    is_here = bool(importlib.util.find_spec("vllm")) and pick_device("auto").type == "cuda"
    engine = (VLLM if is_here else OWN) if wanted == AUTO else wanted
    if engine == VLLM:
        require_gpus(gpus)
    idle = [name for name, is_given in (("gpus", gpus != 1), ("engine_options", bool(options))) if is_given]
    if engine != VLLM and idle:
        raise ConfigError(
            "Nobody reads this parameter: vLLM does not answer here.",
            where=", ".join(idle),
            expected="backend=vllm",
            found=f"backend={wanted}, and so {engine}",
            next_step="leave it out, or install vllm on a machine with a GPU",
        )
    return engine


def start(
    kind: str, served: Sequence[Served], routes: Routes, logs: Path, device: str, places: Places = ALONE
) -> None:
    """Start what answers for `served`, wait until it does, and put it into the table.

    Raises:
        BackendError: an engine does not come up; those started here are stopped.
    """
    groups = group_by_engine(kind, served)
    noise = choose_noise() if kind == VLLM else OWN_NOISE
    started: list[Engine] = []
    try:
        for group in groups:
            log = logs / f"{'+'.join(one.name for one in group)}.log"
            name = "vLLM" if kind == VLLM else "engine"
            started.append(
                Engine.start(
                    lambda port, group=group: command(kind, group, port, device, places),  # type: ignore[misc]
                    name=f"{name} ({', '.join(one.name for one in group)})",
                    log=log,
                    environment=environment(noise) | places.environment(group[0].name)
                    if kind == VLLM
                    else None,
                )
            )
        for engine in started:
            engine.wait_healthy()
    except BaseException:
        for engine in started:
            engine.stop()
        raise
    for engine, group in zip(started, groups, strict=True):
        routes.put(engine, {one.name: one.facts(OWNERS[kind]) for one in group})


def group_by_engine(kind: str, served: Sequence[Served]) -> list[list[Served]]:
    """What is answered for by one process: all by our own engine; by vLLM the names of the same weights."""
    groups: dict[object, list[Served]] = {}
    for one in served:
        groups.setdefault((one.subject.path, one.sampling) if kind == VLLM else kind, []).append(one)
    return list(groups.values())


def command(kind: str, group: Sequence[Served], port: int, device: str, places: Places) -> list[str]:
    """The command line of an engine."""
    if kind == VLLM:
        return _vllm(group, port, places)
    if device == AUTO and all(one.is_for_cpu for one in group):
        device = "cpu"
    where = str(pick_device(device))
    words = [sys.executable, "-m", "skippy.serving.worker", "--port", str(port), "--device", where]
    for one in group:
        words += ["--model", f"{one.name}={one.subject.path}", "--sampling", one.sampling.name]
    return words


def _vllm(group: Sequence[Served], port: int, places: Places) -> list[str]:
    """The line that an evaluation starts vLLM with, under our names; where a request is silent, sampling as there.

    Raises:
        BackendError: vLLM would drop a bias of these weights and answer as their base, or has no room for them.
    """
    one = group[0]
    require_read_by(VLLM, one.subject.path, Checkpoint.open(one.subject.path).tensors)
    sampling = one.sampling
    defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1}
    options = ["--served-model-name", *(each.name for each in group), *_memory(one, places, gpu_bytes())]
    options += ["--override-generation-config", json.dumps(defaults)]
    # Imported here: transformers takes seconds, and nothing else of a serving parent needs it.
    loading = import_module("skippy.models.loading")
    arguments = template_arguments(loading.load_tokenizer(one.subject.path))
    options += ["--default-chat-template-kwargs", json.dumps(arguments)] if arguments else []
    said = f"{shlex.join(options)} {places.options}"
    serving = Serving(one.subject.path, gpus=places.gpus_of_each, options=said)
    return [*command_line(serving, gpu_bytes() // places.sharing), "--port", str(port)]


def _memory(one: Served, places: Places, whole: int) -> list[str]:
    """How much of its GPU a server may take.

    Left to itself vLLM measures what is free while it loads, and servers that start side by side, or beside one that
    answers, spoil each other's measurement: they are told how much to take for keys and values.

    Raises:
        BackendError: the models do not fit side by side.
    """
    if places.sharing == 1 or not whole:
        return ["--gpu-memory-utilization", f"{GPU_SHARE / places.sharing:.2f}"]
    weights = weights_bytes(one.subject.path) // places.gpus_of_each
    share = int(GPU_SHARE * whole / places.sharing)
    cache = share - weights - GRAPHS_BYTES
    if cache < LEAST_CACHE_BYTES:
        least = weights + GRAPHS_BYTES + LEAST_CACHE_BYTES
        raise BackendError(
            "The models do not fit side by side on the GPU.",
            where=f"{one.name}, {places.sharing} servers a GPU"
            + (", one of them for the successor of a watched alias" if places.is_following else ""),
            expected=f"at least {least / 2**30:.1f} GiB for each",
            found=f"{share / 2**30:.1f} GiB",
            next_step="serve fewer arms, leave watch out, or pass -P gpus=2",
        )
    return ["--gpu-memory-utilization", f"{share / whole:.2f}", "--kv-cache-memory-bytes", str(cache)]
