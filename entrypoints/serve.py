"""The champion behind an OpenAI-compatible server: `mlflow run . -e serve`."""

from entrypoints.stage import stage_command

command = stage_command("serve", __doc__)

if __name__ == "__main__":
    command()
