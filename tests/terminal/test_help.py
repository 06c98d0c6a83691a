"""Help of every command, as a person reads it: nothing without a word, nothing said twice."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from entrypoints.__main__ import SECTIONS, cli

COMMANDS = [name for commands in SECTIONS.values() for name in commands]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_once(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for option in (each for each in command.params if isinstance(each, click.Option)):
        assert option.help, option.name
        assert option.help.count("empty: ") + option.help.count("left out: ") <= 1, option.help
    shown = " ".join(CliRunner().invoke(cli, [name, "--help"], prog_name="skippy").output.split())
    assert shown.startswith(f"Usage: skippy {name} ")
    assert "[|" not in shown, "an empty choice"
    assert '[default: ""]' not in shown


def test_what_is_left_out_and_what_belongs_to_another_parameter_is_said() -> None:
    def told(name: str) -> str:
        said = CliRunner().invoke(cli, [name, "--help"], prog_name="skippy", terminal_width=300).output
        return " ".join(said.split())

    assert "at a server (server); empty: as the preset says [default: (empty)]" in told("main")
    assert "with basis=activations, of the mathematics: lab, a local file" in told("svd")
    assert "energy:0.5 for a share of ‖W‖²; picks the svd run [default: 16]" in told("train")
    assert told("runs").startswith("Usage: skippy runs [OPTIONS] [STAGE] ")
    assert "--device [auto|cpu|cuda]" in told("join")
