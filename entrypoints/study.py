"""Several arms at several doses and seeds, from a plan: `mlflow run . -e study -P plan=studies/lab.yaml`."""

import click

from skippy.config import StudyConfig, click_options
from skippy.stages.runner import run_stage


@click.command("study", help=__doc__)
@click_options(StudyConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("study", values)


if __name__ == "__main__":
    command()
