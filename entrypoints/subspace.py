"""Personality subspaces, traits and their nulls on the base: `mlflow run . -e subspace`."""

from entrypoints.stage import stage_command

command = stage_command("subspace", __doc__)

if __name__ == "__main__":
    command()
