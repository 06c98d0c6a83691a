"""Base plus adapter as a registered checkpoint: `mlflow run . -e merge -P variant=v4`."""

from entrypoints.stage import stage_command

command = stage_command("merge", __doc__)

if __name__ == "__main__":
    command()
