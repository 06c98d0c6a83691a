"""Which command line starts which engine."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from skippy.core.sampling import PRESETS
from skippy.errors import BackendError, ConfigError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.resolve.subjects import Subject
from skippy.serving import engines
from skippy.serving.engines import choose_engine, command, start
from skippy.serving.routes import Routes
from skippy.serving.served import Served

THREE, FOUR = (
    Served(name, name, Subject(name, name, LAB_CHECKPOINT, "d", name), PRESETS[preset], is_for_cpu=True)
    for name, preset in (("v3", "lab"), ("v4", "greedy"))
)


def test_our_own_engine_answers_for_all_in_one_process() -> None:
    words = command("transformers", [THREE, FOUR], 8123, "auto", 1)
    assert words[1:7] == ["-m", "skippy.serving.worker", "--port", "8123", "--device", "cpu"]
    assert words[7:] == [
        *("--model", f"v3={LAB_CHECKPOINT}", "--sampling", "lab"),
        *("--model", f"v4={LAB_CHECKPOINT}", "--sampling", "greedy"),
    ]


def test_vllm_answers_under_our_name_with_the_evaluations_sampling() -> None:
    words = command("vllm", [THREE], 8123, "auto", 3)
    last = {word: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}
    assert last["--served-model-name"] == "v3"
    assert last["--port"] == "8123"
    assert last["--host"] == "127.0.0.1"
    assert last["--gpu-memory-utilization"] == "0.30", "three share the GPU"
    assert json.loads(last["--override-generation-config"]) == {
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 50,
    }
    assert str(LAB_CHECKPOINT) in words


def test_vllm_is_taken_where_it_is_installed_and_there_is_a_gpu(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="vLLM"):
        choose_engine("vllm")
    assert choose_engine("auto") == choose_engine("transformers") == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_engine("auto") == "transformers", "no GPU"
    monkeypatch.setattr(engines, "pick_device", lambda name: __import__("torch").device("cuda:0"))
    assert choose_engine("auto") == "vllm"


def test_an_engine_that_cannot_start_leaves_no_other_running(monkeypatch, tmp_path: Path) -> None:
    made: list[FakeEngine] = []

    class FakeEngine:
        stopped = False

        @classmethod
        def start(cls, line, **_):
            made.append(cls())
            return made[-1]

        def wait_healthy(self) -> None:
            if len(made) == 2 and self is made[1]:
                raise BackendError("vLLM died before it could answer.")

        def stop(self) -> None:
            self.stopped = True

    monkeypatch.setattr(engines, "Engine", FakeEngine)
    routes = Routes()
    with pytest.raises(BackendError, match="died before"):
        start("vllm", [THREE, FOUR], routes, tmp_path, "auto")
    assert [engine.stopped for engine in made] == [True, True]
    assert routes.names() == []
