"""The command that a stage proposes: the parameters in force, quoted, by the door that was used."""

from __future__ import annotations

import shlex

import pytest

from skippy.commands import command, next_command
from skippy.config import CompareConfig, EvalConfig, MergeConfig, SvdConfig, TrainConfig


def test_the_next_command_names_the_base_and_the_k_in_force() -> None:
    config = SvdConfig(base_model="my base's", k="energy:0.5", seed=7, force=True)
    said = next_command("train", config, "local", variant="v4")
    assert shlex.split(said) == [
        *("mlflow", "run", ".", "-e", "train", "--env-manager", "local"),
        *("-P", "base_model=my base's", "-P", "variant=v4", "-P", "k=energy:0.5"),
    ]


@pytest.mark.parametrize("manager", ["local", "uv", "virtualenv", "conda"])
def test_the_environment_manager_is_the_one_that_was_used(manager: str) -> None:
    assert f"--env-manager {manager} " in next_command("train", SvdConfig(), manager, variant="v3") + " "


def test_the_console_script_proposes_itself() -> None:
    said = next_command("eval", MergeConfig(character="keeper"), None, model="models:/skippy/3")
    assert said == "skippy eval --model models:/skippy/3 --character keeper"


def test_a_seed_means_another_thing_to_the_next_stage_and_is_not_handed_on() -> None:
    said = next_command("merge", TrainConfig(seed=9, character="keeper", variant="v3"), None, variant="v3")
    assert said == "skippy merge --variant v3 --character keeper"


def test_a_margin_and_a_registered_model_are_handed_on() -> None:
    assert "margin=0.03" in next_command("compare", EvalConfig(margin=0.03), "local")
    assert "registered_model=mine" in next_command("promote", CompareConfig(registered_model="mine"), "local")


def test_defaults_are_left_out_and_booleans_are_words() -> None:
    assert (
        command("svd", {"k": "16", "force": True}) == "mlflow run . -e svd --env-manager local -P force=true"
    )
