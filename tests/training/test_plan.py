"""Settings, presets and requests: what the recipe says, and what is refused before anything loads."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from skippy.errors import ConfigError
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings
from tests.training.tiny_run import make_request

RECIPE = {
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "num_generations": 8,
    "temperature": 1.5,
    "top_p": 0.95,
    "top_k": 50,
    "beta": 0.04,
    "max_completion_length": 256,
    "per_device_batch": 2,
    "gradient_accumulation": 4,
    "learning_rate": 5e-6,
    "weight_decay": 0.01,
    "lr_scheduler": "cosine",
    "warmup": 0.1,
    "epochs": 3,
    "bf16": True,
    "gradient_checkpointing": True,
    "seed": 42,
    "save_steps": 25,
}


@pytest.mark.parametrize(("name", "value"), RECIPE.items())
def test_recipe(name: str, value: object) -> None:
    assert getattr(PRESETS["recipe"], name) == value


def test_recipe_takes_318_steps() -> None:
    assert PRESETS["recipe"].steps(prompts=106, processes=1) == 318


def test_more_processes_take_fewer_steps() -> None:
    assert PRESETS["recipe"].steps(prompts=106, processes=2) == 159
    assert PRESETS["recipe"].steps(prompts=105, processes=2) == 159, "a last step that is half full is one"


def test_every_setting_has_a_line_of_help() -> None:
    assert all(item.metadata["help"] for item in fields(GrpoSettings))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("max_grad_norm", 0.0),
        ("temperature", 0.0),
        ("lora_r", 0),
        ("lora_alpha", 0),
        ("num_generations", 1),
        ("math_mix", 1.0),
        ("save_steps", 0),
        ("vllm", "somewhere"),
    ],
)
def test_unusable_settings(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(PRESETS["short"], **{name: value})


def test_batches_hold_whole_groups() -> None:
    with pytest.raises(ConfigError, match="multiple of num_generations = 4"):
        replace(PRESETS["short"], per_device_batch=3).prompts_per_step(1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"projectors": None}, "projectors of variant v4"),
        ({"reward_names": ("one",)}, "reward functions"),
        ({"reward_names": (), "reward_functions": ()}, "reward functions"),
        ({"variant": "v9"}, "no such variant"),
        ({"settings": replace(PRESETS["short"], math_mix=0.2)}, "math_problems"),
    ],
)
def test_contradictory_requests(changes: dict, match: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        replace(make_request(tmp_path, {"a": (None, None, None)}, tmp_path), **changes)


def test_what_a_training_is_can_be_told_without_an_engine_room() -> None:
    """The twin, a module that trains, shows that the look can fail."""
    look = "import sys, importlib; importlib.import_module(sys.argv[1]); print('torch' in sys.modules)"
    for module, imports in (("skippy.training.makers", False), ("skippy.training.mask", True)):
        done = subprocess.run(
            [sys.executable, "-c", look, module], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{imports}\n", module
