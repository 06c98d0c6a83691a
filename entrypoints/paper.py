"""A study as a paper that compiles: `mlflow run . -e paper -P study=RUN`."""

from entrypoints.stage import stage_command

command = stage_command("paper", __doc__)

if __name__ == "__main__":
    command()
