"""Verdicts and the AIME-preservation report: `mlflow run . -e compare`."""

import click

from skippy.config import CompareConfig, click_options
from skippy.stages.runner import run_stage


@click.command("compare", help=__doc__)
@click_options(CompareConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("compare", values)


if __name__ == "__main__":
    command()
