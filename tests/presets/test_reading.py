"""A preset is a YAML file: the shipped ones, a person's own, and what is refused by line and field."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from skippy.config import TrainConfig
from skippy.errors import ConfigError
from skippy.presets.reading import FOLDER, PRESETS, read_preset
from skippy.presets.settings import GrpoSettings
from skippy.resolve.files import check_files


def test_the_shipped_presets() -> None:
    assert set(PRESETS) == {"24gb", "lab", "recipe", "short"}
    assert PRESETS["recipe"] == GrpoSettings()
    with pytest.raises(KeyError):
        PRESETS["long"]


def test_the_recipe_spells_every_field_and_says_what_each_means() -> None:
    text = (FOLDER / "recipe.yaml").read_text()
    left_out = {"seed", "vllm"}
    assert set(yaml.safe_load(text)) == {item.name for item in fields(GrpoSettings)} - left_out
    assert all("  # " in line for line in text.splitlines()[1:])


def test_24gb_takes_the_same_completions_a_step_as_the_recipe() -> None:
    small, recipe = PRESETS["24gb"], PRESETS["recipe"]
    assert small.prompts_per_step(1) == recipe.prompts_per_step(1)
    same = replace(
        small,
        per_device_batch=recipe.per_device_batch,
        gradient_accumulation=recipe.gradient_accumulation,
        max_prompt_length=recipe.max_prompt_length,
    )
    assert same == recipe


def test_a_preset_of_ones_own_is_the_recipe_with_what_it_says(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        "# mine\nlearning_rate: 1e-4\nlora_r: 8\ntargets: attention\nbf16: no\n".replace("no", "false")
    )
    expected = replace(GrpoSettings(), learning_rate=1e-4, lora_r=8, targets="attention", bf16=False)
    assert read_preset(str(own)) == expected
    check_files(TrainConfig(preset=str(own)))


@pytest.mark.parametrize(
    ("text", "line", "field", "found"),
    [
        ("beta: 0.1\nlearning_rte: 1\n", 2, "learning_rte", "learning_rte"),
        ("beta: 0.1\nlora_r: 0\n", 2, "lora_r", "0"),
        ("lora_r: 1.5\n", 1, "lora_r", "1.5"),
        ("\n\nbeta: much\n", 3, "beta", "'much'"),
        ("bf16: perhaps\n", 1, "bf16", "'perhaps'"),
        ("targets: attn\n", 1, "targets", "'attn'"),
        ("num_generations: 1\n", 1, "num_generations", "1"),
        ("seed: 7\n", 1, "seed", "seed"),
        ("beta: 1\nbeta: 2\n", 2, "beta", "beta again"),
        ("- beta\n", 1, "top level", "a list"),
    ],
)
def test_a_broken_preset_is_refused_by_line_and_field(tmp_path, text, line, field, found) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(text)
    for read in (read_preset, lambda path: check_files(TrainConfig(preset=path))):
        with pytest.raises(ConfigError) as refusal:
            read(str(own))
        assert refusal.value.where == f"{own}, line {line}, field {field}"
        assert refusal.value.found == found


def test_an_unknown_field_is_told_its_neighbour(tmp_path) -> None:
    (tmp_path / "own.yaml").write_text("learning_rte: 1\n")
    with pytest.raises(ConfigError) as refusal:
        read_preset(str(tmp_path / "own.yaml"))
    assert refusal.value.next_step == "rename learning_rte to learning_rate"


def test_a_name_that_is_no_preset_is_told_its_neighbour() -> None:
    with pytest.raises(ConfigError, match="no such preset") as refusal:
        read_preset("recipes")
    assert refusal.value.next_step == "did you mean recipe?"
    assert "24gb, lab, recipe, short" in refusal.value.expected
