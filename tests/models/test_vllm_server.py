"""How `vllm serve` is run: what it would do silently is said, or refused before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from skippy.errors import BackendError, ConfigError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models import vllm_server
from skippy.models.vllm_server import (
    Serving,
    command_line,
    environment,
    fitting_rank,
    parallelism,
    require_vllm,
)

GIB = 2**30


def words_of(**given) -> list[str]:
    return command_line(Serving(LAB_CHECKPOINT, **given), 0)


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_a_base_alone_takes_no_adapters_and_no_sampling_of_its_checkpoint():
    words = words_of()
    assert words[1:5] == ["-m", "vllm.entrypoints.cli.main", "serve", str(LAB_CHECKPOINT)]
    assert value_of(words, "--host") == "127.0.0.1"
    assert value_of(words, "--generation-config") == "vllm"
    assert "--enable-lora" not in words
    assert "--language-model-only" in words, "the lab has a vision tower"
    assert not {"--tensor-parallel-size", "--data-parallel-size"} & set(words)
    assert value_of(words, "--max-model-len") == "auto"


def test_several_doors_take_the_requests_of_one_copy():
    """One process takes some 200 requests a second; copies have a door each by themselves."""
    assert value_of(words_of(doors=4), "--api-server-count") == "4"
    assert "--api-server-count" not in words_of()
    assert "--api-server-count" not in words_of(doors=4, gpus=2)
    assert words_of(doors=4, options="--api-server-count 1")[-2:] == ["--api-server-count", "1"]


def test_adapters_are_modules_with_room_for_their_rank():
    paths = {"v3": Path("/a,b=c/v3"), "v4": Path("/x/v4")}
    words = words_of(adapters=paths, rank=12)
    start = words.index("--lora-modules") + 1
    assert [json.loads(word) for word in words[start : start + 2]] == [
        {"name": name, "path": str(path)} for name, path in paths.items()
    ]
    assert value_of(words, "--max-lora-rank") == "16"
    assert value_of(words, "--max-loras") == value_of(words, "--max-cpu-loras") == "2"


def test_many_adapters_share_the_places_of_a_batch():
    words = words_of(adapters={f"step_{n}": Path(f"/{n}") for n in range(40)}, rank=16)
    assert value_of(words, "--max-loras") == str(vllm_server.MOST_AT_ONCE)
    assert value_of(words, "--max-cpu-loras") == "40"


@pytest.mark.parametrize(("rank", "fits"), [(1, 1), (2, 8), (16, 16), (17, 32), (300, 320), (512, 512)])
def test_ranks_are_rounded_up_to_those_it_has(rank, fits):
    assert fitting_rank(rank) == fits


def test_a_rank_above_all_of_them_is_refused():
    with pytest.raises(BackendError, match="rank of an adapter is above") as refusal:
        words_of(adapters={"v4": Path("/v4")}, rank=513)
    assert refusal.value.expected == "at most 512"
    assert refusal.value.found == "rank 513"


@pytest.mark.parametrize(
    ("gpus", "weights", "expected"),
    [(1, 16, (1, 1)), (4, 16, (1, 4)), (2, 60, (2, 1)), (4, 60, (2, 2)), (8, 140, (4, 2)), (3, 16, (1, 3))],
)
def test_copies_before_splitting(gpus, weights, expected):
    assert parallelism(gpus, weights * GIB, 80 * GIB) == expected


def test_weights_that_do_not_fit_are_refused_with_what_would():
    with pytest.raises(ConfigError, match="do not fit") as refusal:
        parallelism(1, 140 * GIB, 80 * GIB)
    assert "gpus=4" in refusal.value.expected
    assert "gpus=4" in refusal.value.next_step
    assert parallelism(4, 140 * GIB, 80 * GIB) == (4, 1)


def test_a_persons_own_options_come_last():
    words = words_of(options="--gpu-memory-utilization 0.5 --quantization 'fp8'")
    assert words[-4:] == ["--gpu-memory-utilization", "0.5", "--quantization", "fp8"]
    with pytest.raises(ConfigError, match="options of the engine cannot be read"):
        words_of(options="--quantization 'fp8")


@pytest.mark.parametrize(("level", "said"), [("ERROR", "INFO"), ("", "INFO"), ("DEBUG", "DEBUG")])
def test_a_server_says_what_is_read_in_its_log(monkeypatch, level, said):
    """TRL silences vLLM in the environment of whoever imports it."""
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", level)
    found = environment("counter")
    assert found["VLLM_LOGGING_LEVEL"] == said
    assert (found["SKIPPY_VLLM_NOISE"], found["VLLM_USE_V2_MODEL_RUNNER"]) == ("counter", "0")
    assert found["HF_HUB_OFFLINE"] == "1"


def test_without_vllm_it_is_refused(monkeypatch):
    monkeypatch.setattr(vllm_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed") as refusal:
        require_vllm()
    assert "pip install vllm" in refusal.value.next_step
