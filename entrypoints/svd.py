"""Certified top-k singular subspaces of every target: `mlflow run . -e svd`."""

from entrypoints.stage import stage_command

command = stage_command("svd", __doc__)

if __name__ == "__main__":
    command()
