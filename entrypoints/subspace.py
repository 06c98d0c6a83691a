"""Personality subspaces, traits and their nulls on the base: `mlflow run . -e subspace`."""

import click

from skippy.config import SubspaceConfig, click_options
from skippy.stages.runner import run_stage


@click.command("subspace", help=__doc__)
@click_options(SubspaceConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("subspace", values)


if __name__ == "__main__":
    command()
