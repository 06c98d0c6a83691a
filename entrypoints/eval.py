"""Problems and everyday prompts on one model, samples kept: `mlflow run . -e eval -P model=v4`."""

from entrypoints.stage import stage_command

command = stage_command("eval", __doc__)

if __name__ == "__main__":
    command()
