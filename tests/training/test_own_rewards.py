"""A reward of a person's own: found, checked and tried before training, or refused with what would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from skippy.errors import ConfigError, RewardError
from skippy.training.own_rewards import load_own_rewards

SOURCE = """
def brief(completions):
    return [-len(text) / 10 for text in completions]

def polite(completions, prompts):
    return [1.0 if "please" in prompt else None for prompt in prompts]

def greedy(completions, weights):
    return weights

def broken(completions):
    return [1 / 0]

def short(completions):
    return [1.0]

CONSTANT = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request) -> str:
    """A module in the directory where skippy was started; named anew for each test, as imports are remembered."""
    name = f"mine_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_functions_are_found_by_module_and_name(here) -> None:
    brief, polite = load_own_rewards(f"{here}:brief, {here}:polite")
    assert (brief.name, polite.name) == ("brief", "polite")
    assert brief.function(["hello"]) == [-0.5]
    assert brief.digest != polite.digest
    assert load_own_rewards("") == ()


def test_another_source_has_another_digest(here, tmp_path) -> None:
    (before,) = load_own_rewards(f"{here}:brief")
    (tmp_path / f"{here}.py").write_text(SOURCE + "\n# changed\n")
    (after,) = load_own_rewards(f"{here}:brief")
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("spelling", "kind", "found"),
    [
        ("brief", ConfigError, "'brief'"),
        ("my file.py:brief", ConfigError, "my file.py:brief"),
        ("no_such_module_here:brief", ConfigError, "ModuleNotFoundError"),
        ("{here}:brevity", ConfigError, "brief, polite"),
        ("{here}:CONSTANT", ConfigError, "brief, polite"),
        ("{here}:greedy", RewardError, "weights"),
        ("{here}:broken", RewardError, "ZeroDivisionError"),
        ("{here}:short", RewardError, "1 values"),
        ("{here}:brief,{here}:brief", ConfigError, "brief"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_before_training(here, spelling, kind, found) -> None:
    with pytest.raises(kind) as refusal:
        load_own_rewards(spelling.format(here=here))
    assert found in refusal.value.found


def test_a_name_of_ours_is_taken(here) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as refusal:
        load_own_rewards(f"{here}:brief", taken=("brief",))
    assert "name of its own" in refusal.value.expected
