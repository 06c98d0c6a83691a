"""The same stages as one console script: `skippy svd --k 16`."""

import click

from entrypoints import compare, eval, main, merge, promote, study, subspace, svd, train


@click.group(help="Train a character into a language model, and measure what it costs in mathematics.")
def cli() -> None:
    """Gather the stages under one name."""


for stage in (main, svd, subspace, train, merge, eval, compare, promote, study):
    cli.add_command(stage.command)


if __name__ == "__main__":
    cli()
