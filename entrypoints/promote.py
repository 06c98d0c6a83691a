"""Move the champion alias, if the gate opens: `mlflow run . -e promote`."""

from entrypoints.stage import stage_command

command = stage_command("promote", __doc__)

if __name__ == "__main__":
    command()
