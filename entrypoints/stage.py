"""One stage as a command: options from its config, a refusal in one voice, then the stage."""

from __future__ import annotations

from typing import Any

import click

from skippy.config import CONFIGS, click_options
from skippy.errors import ConfigError
from skippy.stages.runner import refuse, run_stage

HELP_WIDTH = 110


class StageCommand(click.Command):
    """A command whose wrong options also end the run that `mlflow run` made for it, with the message."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Read the options; `mlflow run` hands over unknown parameters as options that there are not."""
        try:
            return super().parse_args(context, arguments)
        except click.UsageError as error:
            wrong = ConfigError(
                "The command line cannot be used.",
                where=" ".join(arguments),
                expected=f"parameters of {self.name}; skippy {self.name} --help lists them",
                found=error.format_message(),
            )
            refuse(str(self.name), {}, wrong)
            raise


def stage_command(name: str, text: str | None) -> click.Command:
    """The command of stage `name`, with `text` as its help."""

    @click.command(name, cls=StageCommand, help=text, context_settings={"max_content_width": HELP_WIDTH})
    @click_options(CONFIGS[name])
    def command(**values: Any) -> None:
        run_stage(name, values)

    return command
