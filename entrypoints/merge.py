"""Base plus adapter as a registered checkpoint: `mlflow run . -e merge -P variant=v4`."""

import click

from skippy.config import MergeConfig, click_options
from skippy.stages.runner import run_stage


@click.command("merge", help=__doc__)
@click_options(MergeConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("merge", values)


if __name__ == "__main__":
    command()
