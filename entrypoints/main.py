"""The whole experiment, from projectors to a champion: `mlflow run .`."""

from entrypoints.stage import stage_command

command = stage_command("main", __doc__)

if __name__ == "__main__":
    command()
