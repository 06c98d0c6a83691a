"""The same stages as one console script: `skippy svd --k 16`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version

import click

from entrypoints.stage import HELP_WIDTH

SECTIONS: Mapping[str, Mapping[str, str]] = {
    "The experiment": {"main": "all stages in their order, from projectors to a champion"},
    "Stages, in the order of the story": {
        "svd": "certified top-k singular subspaces of every target of the base",
        "subspace": "personality subspaces, traits and their nulls on the base",
        "train": "GRPO with LoRA under one variant's constraint",
        "merge": "base plus adapter as a registered checkpoint",
        "eval": "problems and everyday prompts on one model",
        "compare": "verdicts and the report",
        "promote": "the champion alias, if the gate opens",
        "study": "arms at several doses and seeds, from a plan",
        "paper": "a study as LaTeX, and as PDF where a TeX is installed",
        "serve": "the champion behind an OpenAI-compatible server, until Ctrl-C",
    },
    "Talk": {
        "ask": "one question, every arm's answer side by side",
        "chat": "talk to the champion, or to any arm",
        "voice": "a speech endpoint of our own, for chat and serve",
    },
    "What there is": {
        "runs": "runs of every stage, newest first",
        "models": "registered versions, their aliases and verdicts",
        "show": "one run: what it was given, made and measured",
    },
    "Looking after the store": {
        "doctor": "what is wrong with it, and what to do; --fix mends what is safe",
        "disk": "where the gigabytes are",
        "gc": "what can go, how much, and what protects the rest",
        "export": "a model as a directory of its own, every byte checked",
    },
    "A team": {
        "server": "a tracking server on this machine: PostgreSQL, passwords, artifacts here or in S3",
        "member": "an account on it",
        "jobs": "job files for Slurm and Kubernetes",
        "join": "work on a study that another machine runs",
    },
}
"""Heading → command → its line of help, here so that `skippy --help` imports no command. A command is the module
of that name beside this one."""


class Story(click.Group):
    """Commands in the order of the story, each imported when it is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Every command, in the order of the help."""
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, None where there is none."""
        if name not in self.list_commands(context):
            return None
        return import_module(f"entrypoints.{name}").command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section a heading."""
        for heading, commands in SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))

    def shell_complete(
        self, context: click.Context, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete command names from the table, without importing them."""
        lines = {name: text for commands in SECTIONS.values() for name, text in commands.items()}
        return [
            click.shell_completion.CompletionItem(name, help=text)
            for name, text in lines.items()
            if name.startswith(incomplete)
        ]


@click.group(
    cls=Story,
    context_settings={"max_content_width": HELP_WIDTH},
    help="Train a character into a language model, and measure what it costs in mathematics.\n\n"
    "`skippy STAGE --help` lists every parameter of a stage, with its type, choices and default.",
)
@click.version_option(version("skippy"), prog_name="skippy")
def cli() -> None:
    """Gather the commands under one name."""


if __name__ == "__main__":
    cli(prog_name="skippy")
