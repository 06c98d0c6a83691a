"""Problems and everyday prompts on one model, samples kept: `mlflow run . -e eval -P model=v4`."""

import click

from skippy.config import EvalConfig, click_options
from skippy.stages.runner import run_stage


@click.command("eval", help=__doc__)
@click_options(EvalConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("eval", values)


if __name__ == "__main__":
    command()
