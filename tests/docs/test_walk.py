"""The guide from its first line to its last: each command runs, in order, on the lab, or its page says why it does not.

`SKIPPY_GUIDE=all` (make guide) runs those that only take minutes as well, as shell commands.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.projects._project_spec import load_project

from entrypoints.__main__ import cli
from skippy.config import CONFIGS
from skippy.errors import ConfigError
from skippy.options import parse_config
from skippy.tracking import connection
from skippy.tracking.store import open_tracker
from tests.conftest import ROOT, fresh_store
from tests.docs.commands import PROGRAMS, Command, commands_of

PAGES = ("docs/guide.md", "docs/server.md")
LOOK = re.compile(r"(`-P [^`]+`) to `(\w+)`")
"""The settings that the guide itself gives for a first look, and for which stage."""
STAND_INS = {"N": "2", "NAME": "name", "RUN_ID": "", "RUN": "", "…": "v4", "FILE": "lab"}
NEEDS_MORE = re.compile(r"…|RUN_ID|judge_url|cross_check|lm_eval|backend=|resume=|rollback=")
"""Of the guide's table: what takes a run id, a server, a package, a killed training or an earlier champion."""
ALL = os.environ.get("SKIPPY_GUIDE") == "all"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def entry_point(stage: str, given: dict[str, str]) -> list[str]:
    """The command line that MLproject makes of a stage and its parameters, as `mlflow run` does."""
    line = load_project(str(ROOT)).get_entry_point(stage).compute_command(given, None)
    return shlex.split(line)


def stage_of(words: list[str]) -> tuple[str, dict[str, str]]:
    """Stage and parameters of `mlflow run . [-e STAGE] [-P name=value]…`, or of a fragment of it."""
    stage, given = "main", {}
    for index, word in enumerate(words):
        if word == "-e":
            stage = words[index + 1]
        if word == "-P":
            name, _, value = words[index + 1].partition("=")
            given[name] = value
    return stage, given


def check(command: Command) -> None:
    """Refuse what is not there, or what no stage would take; nothing is run."""
    words = shlex.split(command.text)
    match words:
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", page("Makefile"), re.MULTILINE), command
        case ["skippy", name, *_] if name not in ("STAGE", "--help"):
            assert name in cli.list_commands(None), command
        case ["python", "-m", module, *_] if module.startswith("skippy"):
            assert find_spec(module), command
        case ["mlflow", "run", *_] | ["-e" | "-P", *_] if "STAGE" not in words:
            _check_parameters(command, words)


def _check_parameters(command: Command, words: list[str]) -> None:
    """Whether the stage, or for parameters alone some stage, takes them."""
    stage, given = stage_of(words)
    given = {name: STAND_INS.get(value, value) for name, value in given.items()}
    refusals = []
    for name in [stage] if words[0] != "-P" else list(CONFIGS):
        assert name in CONFIGS, command
        try:
            parse_config(CONFIGS[name], given)
            return
        except ConfigError as error:
            refusals.append(error)
    raise AssertionError(f"line {command.line}: {command.text}: {refusals[0]}")


class Walker:
    """Somebody who types what the page says, in one process, since each import of torch takes seconds."""

    def __init__(self, folder: Path, look: dict[str, dict[str, str]]) -> None:
        self.folder, self.look, self.walked = folder, look, []

    def walk(self, command: Command) -> None:
        words = [self._stand_in(word) for word in shlex.split(command.text)]
        if "models:/skippy@champion" in words:
            self._invoke(
                cli, ["promote", "--version", "1", "--override", "a champion to go on with"], command
            )
        match words:
            case ["mlflow", "run", ".", *rest]:
                stage, given = stage_of(rest)
                python, _, module, *options = entry_point(stage, {**self.look.get(stage, {}), **given})
                assert python == "python"
                self._invoke(import_module(module).command, options, command)
            case ["skippy", *rest]:
                self._invoke(cli, rest, command)
            case ["python", "-m", module, *rest]:
                self._run_module(module, rest)
            case _:
                pytest.fail(f"line {command.line} is neither run nor marked: {command.text}")
        self.walked.append(command)

    def _invoke(self, entry, words: list[str], command: Command) -> None:
        result = CliRunner().invoke(entry, words)
        assert result.exit_code == 0, (
            f"line {command.line}: {command.text}\n{result.output}\n{result.exception!r}"
        )

    def _run_module(self, module: str, words: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [module, *words])
            patch.delitem(sys.modules, module, raising=False)
            runpy.run_module(module, run_name="__main__", alter_sys=True)

    def _stand_in(self, word: str) -> str:
        name, equals, value = word.rpartition("=")
        if value == "RUN":
            runs = open_tracker(self.folder).runs
            stage = name or "svd"
            return name + equals + runs.find("study" if stage == "study" else "svd").run_id
        if word in ("OUT", "DIR"):
            return str(self.folder / word.lower())
        return word


@pytest.fixture(scope="module")
def walker(tmp_path_factory, template):
    """On a store and in a folder of its own."""
    with (
        fresh_store(tmp_path_factory.mktemp("walk"), template) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in ("studies", "MLproject"):
            (folder / name).symlink_to(ROOT / name)
        patch.chdir(folder)
        patch.setattr(connection, "find_project_root", lambda: folder)
        look = {
            stage: stage_of(shlex.split(text.strip("`")))[1]
            for text, stage in LOOK.findall(page("docs/guide.md"))
        }
        assert set(look) == {"train", "eval"}
        yield Walker(folder, look)


def test_every_command_of_the_guide_runs_in_its_order(walker) -> None:
    for name in PAGES:
        for command in commands_of(page(name)):
            if command.reason or command.is_inline:
                check(command)
            else:
                walker.walk(command)
    assert len(walker.walked) > 20
    versions = {
        version.tags["variant"] for version in open_tracker(walker.folder).registry.versions("skippy")
    }
    assert versions == {"v3", "v4"}


AGAIN = (
    ("svd", {}),
    ("subspace", {}),
    ("train", {"variant": "v3", "reuse": "true"}),
    ("eval", {"model": "base", "reuse": "true"}),
    ("merge", {"variant": "v3", "reuse": "true"}),
)
"""Stages that the walk has run, and what makes them look for the work they did."""
ENGINE_ROOMS = ("torch", "transformers", "trl", "peft", "openai", "accelerate", "datasets", "sklearn")
PROBE = f"""
import json, sys
from skippy.stages.runner import run_stage
for stage, given in json.loads(sys.argv[1]):
    run_stage(stage, given)
    print(stage, *(name for name in {ENGINE_ROOMS!r} if name in sys.modules), sep=",")
"""


def imported_by(walker: Walker, stages: Sequence[tuple[str, dict[str, str]]]) -> list[str]:
    """What a program of its own had imported after each stage; and that each found its work done."""
    given = [(stage, {**walker.look.get(stage, {}), **more}) for stage, more in stages]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(given)], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{walker.folder}/mlflow.db"},
    )  # fmt: skip
    walker.said = done.stderr
    return done.stdout.splitlines()


def test_work_that_is_done_is_found_so_without_an_engine_room(walker) -> None:
    """Three seconds to find out that there is nothing to do are too many; the imports alone took ten."""
    assert imported_by(walker, AGAIN) == [stage for stage, _ in AGAIN]
    assert walker.said.count("already") == len(AGAIN)
    (twin,) = imported_by(walker, [("svd", {"k": "1"})])
    assert twin == "svd,torch", "what is to be done imports what does it"


@pytest.mark.parametrize(
    "text",
    [
        "    skippy frobnicate\n",
        "    mlflow run . -e svd --env-manager local -P kk=16\n",
        "    mlflow run . -e sdv --env-manager local\n",
        "    skippy show 0000000\n",
        "    make nonsense\n",
        "    ./an-unknown-program\n",
    ],
)
def test_a_command_that_is_not_true_is_found(walker, text) -> None:
    """The twin: the walk can fail."""
    (command,) = commands_of(text)
    with pytest.raises(BaseException) as found:  # noqa: PT011
        walker.walk(command)
    assert not isinstance(found.value, KeyboardInterrupt)
    assert command not in walker.walked


@pytest.mark.parametrize(
    "text", ["`-e train -P betta=0`", "`-P sampling=greedily`", "| x | `-e eval -P limit=-1` |"]
)
def test_parameters_that_no_stage_takes_are_found(text) -> None:
    (command,) = commands_of(text)
    assert command.is_inline
    with pytest.raises(AssertionError, match="line 1"):
        check(command)


def test_a_mark_holds_for_its_block_and_no_further() -> None:
    text = (
        "<!-- not walked: a GPU -->\n\n    make demo\n\n    make ui   # there\n\nand\n\n    skippy runs\n"
        "| a | `mlflow run . -P seeds=3` |\n"
    )
    found = [(command.text, command.reason) for command in commands_of(text)]
    assert found == [
        ("make demo", "a GPU"), ("make ui", "a GPU"), ("skippy runs", ""), ("mlflow run . -P seeds=3", ""),
    ]  # fmt: skip


def test_every_command_of_the_readme_is_one_that_there_is() -> None:
    """It shows the demo and the stages, which the guide walks; here each has to be true."""
    checked = [command for command in commands_of(page("README.md")) if command.text.startswith(PROGRAMS)]
    for command in checked:
        check(command)
    assert len(checked) > 5


@pytest.mark.skipif(not ALL, reason="minutes to hours; make guide runs it")
@pytest.mark.timeout(7200)
def test_what_only_takes_minutes_runs_too(tmp_path) -> None:
    """The demo and every row of the table that needs nothing else, one after the other, as shell commands."""
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
    }
    lines = ["mlflow run . --env-manager local"]
    for command in commands_of(page("docs/guide.md")):
        if command.is_inline and command.text.startswith("-e ") and not NEEDS_MORE.search(command.text):
            lines.append(f"mlflow run . --env-manager local {command.text}")
    for line in lines:
        subprocess.run(["bash", "-ec", line], cwd=ROOT, env=environment, check=True, stdin=subprocess.DEVNULL)
