"""GRPO with LoRA under one variant's constraint: `mlflow run . -e train -P variant=v4`."""

import click

from skippy.config import TrainConfig, click_options
from skippy.stages.runner import run_stage


@click.command("train", help=__doc__)
@click_options(TrainConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("train", values)


if __name__ == "__main__":
    command()
