"""What a person meets before anything runs: help, completion and refusals, without MLflow or torch being imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "mlflow", "transformers", "pandas", "numpy", "sklearn", "datasets")
PROBE = (
    "import runpy, sys, json\n"
    "sys.argv = ['skippy', *sys.argv[1:]]\n"
    "try:\n"
    "    runpy.run_module('entrypoints', run_name='__main__', alter_sys=False)\n"
    "except SystemExit as ended:\n"
    "    print('EXIT', ended.code)\n"
    f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])\n"
)


def skippy(*words: str, **environment: str) -> tuple[str, list[str]]:
    """What `skippy WORDS` says, and which heavy packages it had imported at the end."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *words], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **environment},
    )  # fmt: skip
    said, _, heavy = result.stdout.rpartition("HEAVY")
    return said + result.stderr, heavy.split()


def test_help_tells_the_stages_in_the_order_of_the_story_and_imports_nothing_heavy() -> None:
    said, heavy = skippy("--help")
    stages = ["main", "svd", "subspace", "train", "merge", "eval", "compare", "promote"]
    places = [said.index(f"\n  {name} ") for name in stages]
    assert places == sorted(places)
    assert heavy == []


def test_help_of_a_stage_shows_types_choices_limits_and_defaults() -> None:
    said, heavy = skippy("train", "--help")
    said = " ".join(said.split())
    assert "--variant [v3|v4" in said
    assert "--steps INTEGER" in said
    assert "--math-mix NUMBER" in said
    assert "at least 0 and less than 1" in said
    assert "--resume [false|true|auto|discard]" in said
    assert "[default: false]" in said
    assert heavy == []


def test_the_version_is_told() -> None:
    said, heavy = skippy("--version")
    assert said.startswith("skippy, version ")
    assert heavy == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("skippy tr", "train"),
        ("skippy train --var", "--variant"),
        ("skippy train --variant v4-r", "v4-random"),
        ("skippy eval --model che", "checkpoints"),
        ("skippy svd --force t", "true"),
    ],
)
def test_tab_offers_commands_options_and_values(typed: str, offered: str) -> None:
    words = len(typed.split()) - 1
    said, heavy = skippy(_SKIPPY_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=str(words))
    assert f"plain,{offered}" in said
    assert heavy == []


REFUSED = {
    "a bad value": (("svd", "--tolerance", "abc"), "cannot be 'abc'", []),
    "a near miss": (("train", "--variant", "V3"), "pass variant=v3", []),
    "a path": (("svd", "--base-model", "./nowhere"), "The checkpoint does not exist.", ["numpy"]),
    "no checkpoint": (("svd", "--base-model", "docs"), "config.json is missing", ["numpy"]),
    "a file of problems": (("eval", "--problems", "nowhere.jsonl"), "problem file does not exist", ["numpy"]),
    "a character": (("train", "--character", "nobody"), "No such character", ["numpy"]),
    "an adapter": (("merge", "--adapter", "nowhere"), "There is no adapter here.", ["numpy"]),
    "a model": (("eval", "--model", "V4"), "pass model=v4", ["numpy"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_parameter_or_file_is_refused_before_mlflow_and_torch_are_imported(
    case: str, tmp_path: Path
) -> None:
    words, message, allowed = REFUSED[case]
    store = tmp_path / "mlflow.db"
    said, heavy = skippy(*words, MLFLOW_TRACKING_URI=f"sqlite:///{store}")
    assert message in said
    assert "EXIT 1" in said
    assert set(heavy) <= set(allowed), "pyarrow may look for numpy; nothing else is needed to look at a file"
    assert not store.exists(), "no store, no run"


def test_the_probe_sees_a_heavy_import() -> None:
    """The twin: a stage that begins has imported both, so that the lists above could have been other than empty."""
    said, heavy = skippy("promote", MLFLOW_TRACKING_URI="file:/tmp/nowhere")
    assert "not a tracking store" in said
    assert "mlflow" in heavy
