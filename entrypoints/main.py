"""The whole experiment, from projectors to a champion: `mlflow run .`."""

import click

from skippy.config import MainConfig, click_options
from skippy.stages.runner import run_stage


@click.command("main", help=__doc__)
@click_options(MainConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("main", values)


if __name__ == "__main__":
    command()
