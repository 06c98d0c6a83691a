"""Certified top-k singular subspaces of every target: `mlflow run . -e svd`."""

import click

from skippy.config import SvdConfig, click_options
from skippy.stages.runner import run_stage


@click.command("svd", help=__doc__)
@click_options(SvdConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("svd", values)


if __name__ == "__main__":
    command()
