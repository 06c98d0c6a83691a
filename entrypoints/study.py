"""Several arms at several doses and seeds, from a plan: `mlflow run . -e study -P plan=studies/lab.yaml`."""

from entrypoints.stage import stage_command

command = stage_command("study", __doc__)

if __name__ == "__main__":
    command()
