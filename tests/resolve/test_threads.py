"""How many threads a stage takes: by what it works on, not by what that is called."""

from __future__ import annotations

import os
import shutil

import pytest

from skippy.config import CONFIGS
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.resolve import threads
from skippy.resolve.threads import SMALL_BYTES, THREADS_VARIABLE, choose_threads, is_small


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(threads, "count_cores", lambda: 8)
    monkeypatch.setenv(THREADS_VARIABLE, "")


def chosen(base_model: str, stage: str = "svd") -> str:
    choose_threads(stage, CONFIGS[stage](base_model=base_model))
    return os.environ[THREADS_VARIABLE]


def test_a_small_base_gets_half_the_cores_whatever_it_is_called(tmp_path) -> None:
    shutil.copytree(LAB_CHECKPOINT, tmp_path / "mine")
    assert chosen("lab") == "4"
    assert is_small(str(tmp_path / "mine"))


def test_a_large_base_and_one_that_is_not_here_get_all(tmp_path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(SMALL_BYTES)
    assert not is_small(str(tmp_path))
    assert not is_small("models:/skippy/1")
    assert chosen("Qwen/Qwen3-VL-8B-Instruct") == "8"


def test_what_a_person_set_counts(monkeypatch) -> None:
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert chosen("lab") == "3"
    choose_threads("svd", CONFIGS["svd"](threads=5))
    assert os.environ[THREADS_VARIABLE] == "5"


def test_main_leaves_the_cores_to_its_children() -> None:
    assert chosen("lab", "main") == ""
