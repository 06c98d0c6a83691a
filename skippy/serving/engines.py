"""The engines that answer: vLLM where it is installed, else our own on transformers."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from skippy.models.engine import Engine
from skippy.models.prompts import template_arguments
from skippy.models.vllm_server import ENVIRONMENT, Serving, command_line, require_vllm
from skippy.resolve.devices import pick_device
from skippy.serving.protocol import OWNER
from skippy.serving.routes import Routes
from skippy.serving.served import Served
from skippy.stores.biases import require_read_by
from skippy.stores.checkpoints import Checkpoint

logger = logging.getLogger(__name__)

VLLM, OWN, AUTO = "vllm", "transformers", "auto"
GPU_SHARE = 0.9
OWNERS = {VLLM: "vllm", OWN: OWNER}


def choose_engine(wanted: str) -> str:
    """The engine asked for; `auto` is vLLM where it is installed and there is a GPU.

    Raises:
        ConfigError: vLLM was asked for and is not installed.
    """
    if wanted == VLLM:
        require_vllm()
    if wanted != AUTO:
        return wanted
    return VLLM if importlib.util.find_spec("vllm") and pick_device("auto").type == "cuda" else OWN


def start(kind: str, served: Sequence[Served], routes: Routes, logs: Path, device: str) -> None:
    """Start what answers for `served`, wait until it does, and put it into the table.

    Our own engine holds all models in one process; vLLM holds one a server, and several share the GPU.

    Args:
        kind: from `choose_engine`.
        served: what is to be answered for.
        routes: where the names go once they can answer.
        logs: directory of the engines' logs.
        device: for our own engine.

    Raises:
        BackendError: an engine does not come up; those started here are stopped.
    """
    groups = [[one] for one in served] if kind == VLLM else [list(served)]
    started: list[Engine] = []
    try:
        for group in groups:
            log = logs / f"{'+'.join(one.name for one in group)}.log"
            name = "vLLM" if kind == VLLM else "engine"
            started.append(
                Engine.start(
                    lambda port, group=group: command(kind, group, port, device, len(groups)),  # type: ignore[misc]
                    name=f"{name} ({', '.join(one.name for one in group)})",
                    log=log,
                    environment=ENVIRONMENT | os.environ if kind == VLLM else None,
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


def command(kind: str, group: Sequence[Served], port: int, device: str, sharing: int) -> list[str]:
    """The command line of an engine.

    Args:
        kind: which engine.
        group: what it answers for; one for vLLM.
        port: where it listens.
        device: for our own.
        sharing: how many engines share the GPU.
    """
    if kind == VLLM:
        return _vllm(group[0], port, sharing)
    if device == AUTO and all(one.is_for_cpu for one in group):
        device = "cpu"
    where = str(pick_device(device))
    words = [sys.executable, "-m", "skippy.serving.worker", "--port", str(port), "--device", where]
    for one in group:
        words += ["--model", f"{one.name}={one.subject.path}", "--sampling", one.sampling.name]
    return words


def _vllm(one: Served, port: int, sharing: int) -> list[str]:
    """The line that an evaluation starts vLLM with, under our name; where a request is silent, sampling as there.

    Raises:
        BackendError: vLLM would drop a bias of these weights and answer as their base.
    """
    require_read_by(VLLM, one.subject.path, Checkpoint.open(one.subject.path).tensors)
    sampling = one.sampling
    defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1}
    options = ["--served-model-name", one.name, "--gpu-memory-utilization", f"{GPU_SHARE / sharing:.2f}"]
    options += ["--override-generation-config", json.dumps(defaults)]
    # Imported here: transformers takes seconds, and nothing else of a serving parent needs it.
    loading = import_module("skippy.models.loading")
    arguments = template_arguments(loading.load_tokenizer(one.subject.path))
    options += ["--default-chat-template-kwargs", json.dumps(arguments)] if arguments else []
    return [*command_line(Serving(one.subject.path, options=shlex.join(options)), 0), "--port", str(port)]
