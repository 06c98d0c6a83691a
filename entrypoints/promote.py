"""Move the champion alias, if the gate opens: `mlflow run . -e promote`."""

import click

from skippy.config import PromoteConfig, click_options
from skippy.stages.runner import run_stage


@click.command("promote", help=__doc__)
@click_options(PromoteConfig)
def command(**values: str) -> None:
    """Hand the parameters to the stage."""
    run_stage("promote", values)


if __name__ == "__main__":
    command()
