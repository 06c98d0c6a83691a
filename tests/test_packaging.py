"""pyproject, the lock, conda.yaml, MLproject and the command line say the same thing."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from entrypoints import stage as stage_module
from entrypoints.__main__ import cli
from skippy.config import CONFIGS, click_options
from skippy.core.spectral.rank import RankRule, parse_rank
from skippy.errors import ConfigError
from skippy.models.profiles import PROFILES
from skippy.options import default_text, parse_config
from skippy.parameters import MODEL_PROFILES
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
)
CONDA = yaml.safe_load((ROOT / "conda.yaml").read_text())
MLPROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_direct_dependency_is_pinned_and_locked() -> None:
    locked = {normal(name): version for name, version in LOCK.items()}
    for pin in [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["dev"],
        *PROJECT["optional-dependencies"]["server"],
    ]:
        name, version = pin.split("==")
        assert locked[normal(name)] == version, pin


def test_the_lock_holds_exact_public_versions_only() -> None:
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line) for line in lines)


def test_conda_lists_the_same_pins() -> None:
    pip = next(item["pip"] for item in CONDA["dependencies"] if isinstance(item, dict))
    assert pip[-1] == "-e ."
    assert sorted(pip[:-1]) == sorted(PROJECT["dependencies"])
    assert any(str(pin).startswith("mlflow==") for pin in pip)
    assert "python=3.11" in CONDA["dependencies"]


def test_mlproject_has_the_stages_and_no_others() -> None:
    assert set(MLPROJECT["entry_points"]) == set(CONFIGS)


@pytest.mark.parametrize("stage", CONFIGS)
def test_mlproject_and_config_have_the_same_parameters_and_defaults(stage: str) -> None:
    entry = MLPROJECT["entry_points"][stage]
    config = fields(CONFIGS[stage])
    assert list(entry["parameters"]) == [item.name for item in config]
    for item in config:
        text = str(entry["parameters"][item.name]["default"])
        assert parse_config(CONFIGS[stage], {item.name: text}) == CONFIGS[stage](), item.name
        assert f"--{item.name.replace('_', '-')} {{{item.name}}}" in entry["command"]
    assert f"python -m entrypoints.{stage} " in entry["command"]


@pytest.mark.parametrize("stage", CONFIGS)
def test_every_parameter_has_its_help_on_the_command_line(stage: str) -> None:
    shown = " ".join(CliRunner().invoke(cli, [stage, "--help"]).output.split())
    for item in fields(CONFIGS[stage]):
        assert f"--{item.name.replace('_', '-')}" in shown
        assert item.metadata["help"].split()[0] in shown


@pytest.mark.parametrize(
    ("stage", "name", "text", "expected"),
    [
        ("svd", "tolerance", "abc", "a value of type float"),
        ("svd", "tolerance", "nan", "a value of type float"),
        ("svd", "force", "maybe", "a value of type bool"),
        ("train", "variant", "v9", "one of v3, v4, v4-hooks, v4-random"),
        ("train", "steps", "1.5", "a value of type int"),
        ("train", "lora_r", "1.5", "a value of type int"),
        ("train", "beta", "much", "a value of type float"),
        ("train", "num_generations", "1", "at least 2"),
        ("train", "learning_rate", "0", "more than 0"),
        ("main", "targets", "attn", "attention"),
        ("train", "bf16", "maybe", "a value of type bool"),
        ("train", "math_mix", "1", "less than 1"),
        ("eval", "samples", "0", "at least 1"),
        ("eval", "suite", "math", "one of banal, aime, all"),
        ("compare", "margin", "5", "less than 1"),
        ("merge", "alpha", "0", "more than 0"),
    ],
)
def test_bad_values_are_refused_with_what_would_do(stage: str, name: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_config(CONFIGS[stage], {name: text})
    assert expected in refusal.value.expected
    assert name in refusal.value.where
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("stage", CONFIGS)
def test_every_command_runs_its_own_stage_with_what_it_was_given(stage: str, monkeypatch) -> None:
    ran: list[tuple[str, dict[str, str]]] = []
    monkeypatch.setattr(stage_module, "run_stage", lambda name, values: ran.append((name, values)))
    first = next(iter(fields(CONFIGS[stage]))).name
    result = CliRunner().invoke(cli, [stage, "--" + first.replace("_", "-"), "elsewhere"])
    assert result.exit_code == 0, result.output
    defaults = {item.name: default_text(item) for item in fields(CONFIGS[stage])}
    assert ran == [(stage, defaults | {first: "elsewhere"})]


@pytest.mark.parametrize(
    ("text", "rule"),
    [("1", RankRule(k=1)), ("128", RankRule(k=128)), ("energy:0.5", RankRule(share=0.5))],
)
def test_a_rank_is_a_number_or_a_share(text: str, rule: RankRule) -> None:
    assert parse_rank(text) == rule


@pytest.mark.parametrize(
    "text", ["0", "129", "-1", "16:2", "energy:0", "energy:1", "energy:nan", "energy", "half:0.5"]
)
def test_any_other_rank_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Parameter k cannot be") as refusal:
        parse_rank(text)
    assert refusal.value.found == repr(text)


@pytest.mark.parametrize(
    ("stage", "values", "clash"),
    [
        ("merge", {"adapter": "lab", "variant": "v3"}, "variant=v3"),
        ("merge", {"adapter": "lab", "train_run": "abcd", "step": "4"}, "train_run=abcd, step=4"),
        ("merge", {"match": "abcd,ef01", "step": "4"}, "step=4"),
        ("promote", {"rollback": "true", "compare_run": "abcd"}, "compare_run=abcd"),
    ],
)
def test_parameters_that_contradict_one_another_are_refused(
    stage: str, values: dict[str, str], clash: str
) -> None:
    with pytest.raises(ConfigError, match="contradict one another") as refusal:
        parse_config(CONFIGS[stage], values)
    assert clash in refusal.value.found
    assert "leave out" in refusal.value.next_step
    first = next(iter(values))
    assert parse_config(CONFIGS[stage], {first: values[first]}), "each alone is obeyed"


@pytest.mark.parametrize("values", [{"override": "because"}, {"version": "3"}])
def test_a_parameter_that_means_nothing_alone_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="means nothing without"):
        parse_config(CONFIGS["promote"], values)
    assert parse_config(CONFIGS["promote"], {"override": "because", "version": "3"}).version == 3


def test_what_a_parameter_excludes_is_a_parameter() -> None:
    for config in CONFIGS.values():
        names = {item.name for item in fields(config)}
        assert all(set(item.metadata["excludes"]) <= names for item in fields(config))
        assert all(item.metadata["needs"] in names | {""} for item in fields(config))


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such parameter"):
        parse_config(CONFIGS["svd"], {"rank": "16"})


def test_options_stay_text_until_they_are_typed_in_one_place() -> None:
    """Typing on the command line would end the program before MLflow hears of the mistake."""
    import click

    @click.command()
    @click_options(CONFIGS["svd"])
    def command(**values: str) -> None:
        assert all(isinstance(value, str) for value in values.values())
        assert values["tolerance"] == "abc"

    result = CliRunner().invoke(command, ["--tolerance", "abc"])
    assert result.exit_code == 0, result.output


def test_the_help_names_every_preset_and_profile() -> None:
    for item in fields(CONFIGS["train"]):
        if item.name == "preset":
            assert all(name in item.metadata["help"] for name in ("auto", *PRESETS))
    assert ("auto", *PROFILES) == MODEL_PROFILES


@pytest.mark.parametrize("stage", ["train", "main"])
def test_every_hyperparameter_is_a_parameter_with_the_limits_of_the_setting(stage: str) -> None:
    settings = {item.name: item for item in fields(GrpoSettings)}
    own = {item.name: item for item in fields(CONFIGS[stage])}
    assert settings.keys() - own.keys() == {"max_steps"}, "called steps"
    for name in settings.keys() - {"seed", "max_steps"}:
        assert default_text(own[name]) == ""
        for limit in ("minimum", "above", "below"):
            assert own[name].metadata[limit] == settings[name].metadata[limit], (name, limit)


def test_what_is_left_empty_is_not_turned() -> None:
    assert parse_config(CONFIGS["train"], {"beta": "", "targets": ""}).turned() == {}
    given = {"beta": "0", "lora_r": "8", "targets": "mlp", "bf16": "false", "learning_rate": "1e-4"}
    turned = {"beta": 0.0, "lora_r": 8, "targets": "mlp", "bf16": False, "learning_rate": 1e-4}
    assert parse_config(CONFIGS["train"], given).turned() == turned


def test_every_preset_is_packaged() -> None:
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "presets/*.yaml" in package_data["skippy"]


def test_every_template_is_packaged() -> None:
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = [path for path in (ROOT / "skippy/report/templates").rglob("*") if path.is_file()]
    packaged = {path for pattern in package_data["skippy"] for path in (ROOT / "skippy").glob(pattern)}
    assert set(files) <= packaged


def test_default_texts_round_trip() -> None:
    for config in CONFIGS.values():
        values = {item.name: default_text(item) for item in fields(config)}
        assert parse_config(config, values) == config()
