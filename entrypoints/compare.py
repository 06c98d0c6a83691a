"""Verdicts and the AIME-preservation report: `mlflow run . -e compare`."""

from entrypoints.stage import stage_command

command = stage_command("compare", __doc__)

if __name__ == "__main__":
    command()
