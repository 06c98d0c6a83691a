"""Job files for a cluster: `skippy jobs slurm --plan studies/lab.yaml --workers 4`, or a stage over several nodes."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

from skippy.config import CONFIGS
from skippy.errors import ConfigError, SkippyError, as_ours
from skippy.options import parse_config
from skippy.stages.runner import logger, speak


@click.command("jobs", help=__doc__)
@click.argument("system", type=click.Choice(["slurm", "kubernetes"]))
@click.option("--plan", type=click.Path(path_type=Path), help="plan of a study whose cells the workers share")
@click.option(
    "--workers", default=4, show_default=True, type=click.IntRange(1), help="tasks that share the study"
)
@click.option(
    "--stage", default="", help="in place of --plan: svd or train, over several nodes with torchrun"
)
@click.option("--parameter", "-P", multiple=True, help="with --stage: name=value, as often as needed")
@click.option(
    "--nodes", default=2, show_default=True, type=click.IntRange(1), help="with --stage: how many machines"
)
@click.option("--backend", is_flag=True, help="in place of --plan: write what `mlflow run --backend` reads")
@click.option(
    "--gpus", default=0, show_default=True, type=click.IntRange(0), help="GPUs of each task or node"
)
@click.option(
    "--image", default="skippy:latest", show_default=True, help="kubernetes: container with skippy in it"
)
@click.option("--volume", default="", help="kubernetes: claim of a volume that all pods share")
@click.option("--repository", default="", help="kubernetes, --backend: MLflow builds an image, pushed there")
@click.option("--option", "-O", multiple=True, help="slurm: name=value of sbatch, such as partition=gpu")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("jobs"),
    show_default=True,
    help="folder to write to",
)
def command(
    system: str,
    plan: Path | None,
    workers: int,
    stage: str,
    parameter: tuple[str, ...],
    nodes: int,
    backend: bool,
    gpus: int,
    image: str,
    volume: str,
    repository: str,
    option: tuple[str, ...],
    out: Path,
) -> None:
    """Write them, and say what to do with them."""
    speak()
    try:
        if sum((plan is not None, bool(stage), backend)) != 1:
            raise ConfigError(
                "Say what the jobs are for.", expected="one of --plan FILE, --stage svd|train, --backend",
                next_step="skippy jobs --help",
            )  # fmt: skip
        given = dict(_pair(text) for text in option)
        if backend:
            _write_backend(system, gpus, image, repository, given, out)
            return
        request = import_module("skippy.jobs.request")
        if plan is not None:
            name = import_module("skippy.studies.plan").read_plan(plan).name
            job, kind = request.StudyJob(plan, name, workers, gpus), "study"
        else:
            values = dict(_pair(text) for text in parameter)
            job, kind = request.StageJob(stage, values, nodes, gpus), "stage"
            parse_config(CONFIGS[stage], values)
            _keep_out_secrets(values)
            name = stage
        module = import_module(f"skippy.jobs.{system}")
        path = out / f"{request.label(name)}.{'sbatch' if system == 'slurm' else 'yaml'}"
        if system == "slurm":
            text = getattr(module, f"{kind}_script")(job, str(path), given)
        else:
            text = getattr(module, f"{kind}_manifest")(job, str(path), image, volume)
        _write(path, text)
        click.echo(f"sbatch {path}" if system == "slurm" else f"kubectl apply -f {path}")
    except (SkippyError, OSError) as error:
        logger.error("jobs failed. %s", as_ours(error))
        sys.exit(1)


def _write_backend(
    system: str, gpus: int, image: str, repository: str, options: dict[str, str], out: Path
) -> None:
    module = import_module(f"skippy.jobs.{system}")
    if system == "slurm":
        _write(out / "slurm.json", module.backend_config(gpus, options))
        click.echo(f"mlflow run . -e train --backend slurm --backend-config {out / 'slurm.json'}")
        return
    folder = out / "kubernetes"
    root = import_module("skippy.tracking.connection").find_project_root()
    for name, text in module.backend_files(root, image, repository, gpus, str(folder)).items():
        _write(folder / name, text)
    click.echo(
        f"KUBE_MLFLOW_TRACKING_URI='$({module.ADDRESS})' mlflow run {folder} -e train --backend kubernetes "
        f"--backend-config {folder / 'config.json'}{' --build-image' if repository else ''}"
    )


def _keep_out_secrets(values: dict[str, str]) -> None:
    redaction = import_module("skippy.redaction")
    for name, clean in redaction.hide_credentials(values)[0].items():
        if clean != values[name]:
            raise ConfigError(
                "A secret would stand in the job's file.",
                where=f"-P {name}",
                expected="a value without a password, key or token",
                found=clean,
                next_step=f"pass -P {name}={clean}, and give the tasks {redaction.CREDENTIALS_VARIABLE}="
                f"""'{{"{name}={clean}": "THE VALUE IN FULL"}}' in their environment""",
            )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError("An option has no value.", where=text, expected="name=value", found=repr(text))
    return name, value


if __name__ == "__main__":
    command()
