"""GRPO with LoRA under one variant's constraint: `mlflow run . -e train -P variant=v4`."""

from entrypoints.stage import stage_command

command = stage_command("train", __doc__)

if __name__ == "__main__":
    command()
