"""Which command line starts which engine."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from skippy.core.sampling import PRESETS
from skippy.errors import BackendError, ConfigError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.resolve.subjects import Subject
from skippy.serving import engines
from skippy.serving.engines import ALONE, Places, choose_engine, command, group_by_engine, start
from skippy.serving.routes import Routes
from skippy.serving.served import Served

THREE, FOUR = (
    Served(name, name, Subject(name, name, LAB_CHECKPOINT, "d", name), PRESETS[preset], is_for_cpu=True)
    for name, preset in (("v3", "lab"), ("v4", "greedy"))
)


def test_our_own_engine_answers_for_all_in_one_process() -> None:
    words = command("transformers", [THREE, FOUR], 8123, "auto", ALONE)
    assert words[1:7] == ["-m", "skippy.serving.worker", "--port", "8123", "--device", "cpu"]
    assert words[7:] == [
        *("--model", f"v3={LAB_CHECKPOINT}", "--sampling", "lab"),
        *("--model", f"v4={LAB_CHECKPOINT}", "--sampling", "greedy"),
    ]


def test_vllm_answers_under_our_name_with_the_evaluations_sampling() -> None:
    last = options_of(THREE, Places(("v3", "v4", "base")))
    assert last["--served-model-name"] == "v3"
    assert last["--port"] == "8123"
    assert last["--host"] == "127.0.0.1"
    assert last["--gpu-memory-utilization"] == "0.30", "three share the GPU"
    assert json.loads(last["--override-generation-config"]) == {
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 50,
    }
    assert str(LAB_CHECKPOINT) in command("vllm", [THREE], 8123, "auto", ALONE)


def options_of(one: Served, places: Places) -> dict[str, str]:
    words = command("vllm", [one], 8123, "auto", places)
    return {word: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}


def test_names_of_the_same_weights_share_a_server_of_vllm() -> None:
    """The base and the base under a prompt; one of them sampled otherwise has a server of its own."""
    prompt = replace(THREE, name="prompt", subject=replace(THREE.subject, system="Be rude."))
    together = group_by_engine("vllm", [THREE, FOUR, prompt])
    assert [[one.name for one in group] for group in together] == [["v3", "prompt"], ["v4"]]
    words = command("vllm", together[0], 8123, "auto", ALONE)
    last = len(words) - words[::-1].index("--served-model-name")
    assert words[last : last + 2] == ["v3", "prompt"]
    assert group_by_engine("transformers", [THREE, FOUR, prompt]) == [[THREE, FOUR, prompt]]


GIB = 1 << 30
ARMS = ("v3", "v4", "base")


@pytest.mark.parametrize(
    ("places", "share", "cache"),
    [
        (Places(("v4",)), "0.90", None),
        (Places(("v4",), is_following=True), "0.45", 18 - 4),
        (Places(("v4",), 2, is_following=True), "0.45", 18 - 4),
        (Places(ARMS), "0.30", 12 - 4),
        (Places(ARMS, 2), "0.45", 18 - 4),
        (Places(ARMS, 3), "0.90", None),
    ],
)
def test_servers_that_share_a_gpu_are_told_what_they_may_take(places, share, cache, monkeypatch) -> None:
    """Else vLLM measures, and one that starts beside another measures what that one takes meanwhile."""
    monkeypatch.setattr(engines, "gpu_bytes", lambda: 40 * GIB)
    found = options_of(FOUR, places)
    assert found["--gpu-memory-utilization"] == share
    told = found.get("--kv-cache-memory-bytes")
    assert (told is None) == (cache is None)
    if cache is not None:  # the lab weighs 4 MB
        assert abs(int(told or 0) - cache * GIB) < GIB // 50


def test_a_watched_model_has_room_for_its_successor_or_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(engines, "gpu_bytes", lambda: 10 * GIB)
    with pytest.raises(BackendError, match="do not fit side by side") as refusal:
        command("vllm", [FOUR], 8123, "auto", Places(("v4",), is_following=True))
    assert "successor" in refusal.value.where
    assert "gpus=2" in refusal.value.next_step
    assert command("vllm", [FOUR], 8123, "auto", Places(("v4",)))


def test_several_models_take_the_gpus_in_turn_and_one_takes_all(monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    places = Places(ARMS, 2)
    assert [places.environment(name)["CUDA_VISIBLE_DEVICES"] for name in ARMS] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [places.environment(name)["CUDA_VISIBLE_DEVICES"] for name in ARMS] == ["5", "7", "5"]
    assert Places(("v4",), 2).environment("v4") == {}
    assert options_of(FOUR, Places(("v4",), 2))["--data-parallel-size"] == "2"
    assert options_of(FOUR, Places(options="--enforce-eager --seed 7"))["--seed"] == "7"


@pytest.mark.parametrize(
    ("given", "named"), [({"gpus": 2}, "gpus"), ({"options": "--enforce-eager"}, "engine_options")]
)
def test_what_only_vllm_reads_is_refused_elsewhere(given, named) -> None:
    with pytest.raises(ConfigError, match="Nobody reads") as refusal:
        choose_engine("auto", **given)
    assert refusal.value.where == named


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


def test_more_gpus_than_there_are_is_refused_by_name(monkeypatch) -> None:
    monkeypatch.setattr(engines, "require_vllm", lambda: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_engine("vllm", gpus=2) == "vllm"
    with pytest.raises(ConfigError, match="There are fewer GPUs here") as refusal:
        choose_engine("vllm", gpus=99)
    assert (refusal.value.where, refusal.value.expected) == ("gpus", "at most 2")
    assert refusal.value.next_step == "pass gpus=2, or leave it out for one"
