"""Job files: what they render is valid where it goes, runs our commands, and holds no secret."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from mlflow.projects import _parse_kubernetes_config
from mlflow.projects._project_spec import load_project
from mlflow.projects.kubernetes import _get_run_command

from entrypoints.__main__ import cli
from tests.jobs.kubernetes_cluster import Refused, check
from tests.jobs.kubernetes_pods import expand

PLAN = Path(__file__).parents[2] / "studies" / "lab.yaml"
SECRET = "s3cret-of-ada"


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """A person's environment, with secrets in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:{SECRET}@tracking:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)


def render(*words: str) -> str:
    result = CliRunner().invoke(cli, ["jobs", *words])
    assert result.exit_code == 0, result.output
    for path in Path("jobs").rglob("*"):
        assert path.is_dir() or SECRET not in path.read_text(), path
    for path in (*Path("jobs").glob("*.yaml"), *Path("jobs").glob("*/job.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            check(document)
    return result.output.strip().splitlines()[-1]


def play(script: Path, tmp_path: Path, **environment: str) -> list[str]:
    """Run a rendered script with stand-ins for all that it calls; the command lines that they were given."""
    stand_ins = tmp_path / "stand-ins"
    stand_ins.mkdir(exist_ok=True)
    for name in ("skippy", "srun", "scontrol"):
        path = stand_ins / name
        path.write_text(
            f'#!/bin/bash\necho "{name}|$(printf "%q " "$@")" >> "$CALLS"\necho node-1\necho node-2\n'
        )
        path.chmod(0o755)
    calls = tmp_path / "calls"
    calls.unlink(missing_ok=True)
    given = {
        "PATH": f"{stand_ins}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    subprocess.run(["bash", script], env=given | environment, check=True, capture_output=True)
    return calls.read_text().splitlines()


def test_slurm_shares_a_study_over_an_array(tmp_path) -> None:
    assert (
        render("slurm", "--plan", str(PLAN), "--workers", "3", "-O", "partition=cpu")
        == "sbatch jobs/lab.sbatch"
    )
    script = Path("jobs/lab.sbatch")
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    assert {"#SBATCH --array=0-2", "#SBATCH --partition=cpu", "#SBATCH --requeue"} <= set(lines)
    head = [index for index, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert all(line.startswith("#") for line in lines[: head[-1]]), (
        "sbatch reads options up to the first command"
    )
    uri = {"MLFLOW_TRACKING_URI": "http://tracking:5000"}
    assert play(script, tmp_path, SLURM_ARRAY_TASK_ID="0", **uri) == [
        f"skippy|study --plan {PLAN} --parallel 1 "
    ]
    assert play(script, tmp_path, SLURM_ARRAY_TASK_ID="2", **uri) == [f"skippy|join {PLAN} --parallel 1 "]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        play(script, tmp_path, SLURM_ARRAY_TASK_ID="2")
    assert b"export it before sbatch" in refused.value.stderr


@pytest.mark.parametrize("system", ["slurm", "kubernetes"])
def test_a_study_may_be_called_anything(tmp_path, system) -> None:
    plan = tmp_path / "my plan.yaml"
    plan.write_text(PLAN.read_text().replace("name: lab", r'name: "Two Arms;\nrm -rf é"'))
    said = shlex.split(render(system, "--plan", str(plan), "--workers", "2"))
    text = Path(said[-1]).read_text()
    assert Path(said[-1]).stem == "two-arms--rm--rf"
    assert "name=skippy-two-arms--rm--rf\n" in text or "name: skippy-two-arms--rm--rf\n" in text
    assert "\nrm" not in text, "a name is no command"
    if system == "slurm":
        assert shlex.quote(str(plan)) in text
    else:
        config = next(yaml.safe_load_all(text))
        assert list(config["data"]) == ["my-plan.yaml"], "a key of a config map has no space"
        assert "--plan /etc/skippy/my-plan.yaml" in text


def test_slurm_spreads_a_stage_over_nodes(tmp_path) -> None:
    render(
        "slurm",
        "--stage",
        "train",
        "-P",
        "variant=v4",
        "-P",
        "prompts=my file.txt",
        "--nodes",
        "2",
        "--gpus",
        "4",
    )
    script = Path("jobs/train.sbatch")
    subprocess.run(["bash", "-n", script], check=True)
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=1", "#SBATCH --gpus-per-node=4"} <= set(
        script.read_text().splitlines()
    )
    environment = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node-[1-2]"}
    names, launched = play(script, tmp_path, MLFLOW_TRACKING_URI="http://tracking:5000", **environment)
    assert names == "scontrol|show hostnames node-\\[1-2\\] "
    words = shlex.split(launched.partition("|")[2])
    assert words[:7] == ["torchrun", "--nproc-per-node", "4", "--nnodes", "2", "--rdzv-id", "77"]
    assert words[words.index("--rdzv-endpoint") + 1] == "node-1:29500"
    assert words[words.index("-m") :] == [
        "-m",
        "entrypoints.train",
        "--variant",
        "v4",
        "--prompts",
        "my file.txt",
    ]


def test_kubernetes_shares_a_study_over_an_indexed_job(tmp_path) -> None:
    render("kubernetes", "--plan", str(PLAN), "--workers", "3", "--gpus", "1", "--image", "ours:1")
    config, job = yaml.safe_load_all(Path("jobs/lab.yaml").read_text())
    assert config["data"]["lab.yaml"] == PLAN.read_text()
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (
        3,
        3,
        "Indexed",
    )
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "ours:1"
    assert container["envFrom"] == [{"secretRef": {"name": "skippy-tracking"}}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert pod["volumes"][0]["configMap"]["name"] == config["metadata"]["name"]
    mounted = f"{container['volumeMounts'][0]['mountPath']}/lab.yaml"
    script = tmp_path / "container.sh"
    script.write_text(container["command"][2])
    assert play(script, tmp_path, JOB_COMPLETION_INDEX="0") == [
        f"skippy|study --plan {mounted} --parallel 4 "
    ]
    assert play(script, tmp_path, JOB_COMPLETION_INDEX="1") == [f"skippy|join {mounted} --parallel 4 "]


def test_kubernetes_spreads_a_stage_over_pods_that_find_one_another() -> None:
    render("kubernetes", "--stage", "svd", "--nodes", "3", "--gpus", "2", "--volume", "data", "-P", "k=8")
    service, job = yaml.safe_load_all(Path("jobs/svd.yaml").read_text())
    name = job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"] == service["spec"]["selector"]["job-name"] == name
    assert service["spec"]["clusterIP"] == "None"
    words = shlex.split(pod["containers"][0]["command"][2])
    assert words[words.index("--node-rank") + 1] == "$JOB_COMPLETION_INDEX"
    assert words[words.index("--master-addr") + 1] == f"{name}-0.{name}"
    assert words[-4:] == ["-m", "entrypoints.svd", "--k", "8"]
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (3, 3)
    assert [each["mountPath"] for each in pod["containers"][0]["volumeMounts"]] == [
        "/dev/shm",
        "/opt/skippy/.skippy",
    ]


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (("backoffLimit: 6", "backofLimit: 6"), "'backofLimit' was unexpected"),
        (("completions: 2", "completions: two"), "is not of type 'integer'"),
        (("subdomain:", "subDomain:"), "'subDomain' was unexpected"),
        (("name: skippy-train", "name: Skippy-Train"), "Invalid value: 'Skippy-Train'"),
        (("name: skippy-train", f"name: {'a' * 62}"), "Invalid value: 'a"),
        (("OnFailure", "Always"), "Invalid value: 'Always'"),
    ],
)
def test_a_manifest_that_kubernetes_would_refuse_is_refused_here(spoilt, said) -> None:
    """The twin of what `render` checks of every manifest."""
    render("kubernetes", "--stage", "train")
    *_, job = yaml.safe_load_all(Path("jobs/train.yaml").read_text().replace(*spoilt))
    with pytest.raises(Refused, match=re.escape(said)):
        check(job)


def test_long_names_are_cut_and_stay_apart(tmp_path) -> None:
    said = set()
    for end in ("first", "second", "é"):
        plan = tmp_path / f"{'Ü' * 40}.yaml"
        plan.write_text(PLAN.read_text().replace("name: lab", f'name: "{"Long Study " * 8}{end}"'))
        said.add(render("kubernetes", "--plan", str(plan), "--workers", "100"))
    assert len(said) == 3
    plan.write_text(PLAN.read_text().replace("name: lab", 'name: "ÄÖ"'))
    assert re.fullmatch(r"kubectl apply -f jobs/[0-9a-f]{8}\.yaml", render("kubernetes", "--plan", str(plan)))


def test_kubernetes_hands_every_value_on_as_it_was_given() -> None:
    """It puts variables in for $(NAME) and reads $$ as $, wherever these stand in a command."""
    prompts = """it's "$(MLFLOW_TRACKING_PASSWORD)" $$(HOME) $ $$$ $(x ünd\n"""
    image = "registry.example:5000/team/skippy:1@sha256:" + "0a" * 32
    render("kubernetes", "--stage", "train", "--image", image, "-P", f"prompts={prompts}")
    *_, job = yaml.safe_load_all(Path("jobs/train.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    script = container["command"][2]
    variables = {"MLFLOW_TRACKING_PASSWORD": SECRET, "HOME": "/root", "JOB_COMPLETION_INDEX": "1"}
    words = shlex.split(expand(script, variables))
    assert words[words.index("--prompts") + 1] == prompts
    assert words[words.index("--node-rank") + 1] == "$JOB_COMPLETION_INDEX", "which the shell reads"
    assert SECRET in expand(f"echo {prompts}", variables), "the twin: as it stands, it would be read"


@pytest.mark.parametrize("system", ["slurm", "kubernetes"])
def test_a_secret_among_the_parameters_is_refused(system, caplog) -> None:
    words = ["jobs", system, "--stage", "train", "-P", "judge_url=http://ada:pass-of-judge@host:1"]
    assert CliRunner().invoke(cli, words).exit_code == 1
    assert "A secret would stand in the job's file" in caplog.text
    assert "pass-of-judge" not in caplog.text
    assert not Path("jobs").exists()
    render(system, "--stage", "train", "-P", "judge_url=http://***@host:1")


def test_mlflows_kubernetes_backend_reads_what_is_rendered() -> None:
    said = render("kubernetes", "--backend", "--image", "ours:1", "--repository", "registry/skippy")
    config = json.loads(Path("jobs/kubernetes/config.json").read_text())
    template = _parse_kubernetes_config(config)["kube-job-template"]
    assert template["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    assert template["metadata"]["namespace"] == "default"
    project = load_project("jobs/kubernetes")
    assert project.docker_env["image"] == "ours:1"
    assert (
        project.get_entry_point("train")
        .compute_command({"variant": "v4"}, None)
        .startswith("python -m skippy.jobs.words entrypoints.train --base-model lab ")
    )
    line = (
        "KUBE_MLFLOW_TRACKING_URI='$(SKIPPY_TRACKING_URI)' mlflow run jobs/kubernetes -e train "
        "--backend kubernetes --backend-config jobs/kubernetes/config.json"
    )
    assert said == f"{line} --build-image"
    assert render("kubernetes", "--backend") == line, "the image is taken as it is"


def test_a_container_gets_its_words_as_they_were_meant(tmp_path) -> None:
    """MLflow quotes each for a shell that never reads them: an empty one would arrive as two quotes."""
    render("kubernetes", "--backend")
    given = {"variant": "v4", "rewards": "", "prompts": """my "file" it's.txt"""}
    command = load_project("jobs/kubernetes").get_entry_point("train").compute_command(given, None)
    words = _get_run_command([command])
    assert words[words.index("--rewards") + 1] == "''", "the twin"
    (tmp_path / "show.py").write_text("import json, sys\njson.dump(sys.argv[1:], sys.stdout)")
    words[:4] = [sys.executable, "-m", "skippy.jobs.words", "show"]
    path = f"{tmp_path}:{PLAN.parents[1]}"
    said = subprocess.run(words, env={"PYTHONPATH": path}, capture_output=True, check=True).stdout
    assert json.loads(said) == shlex.split(command)[4:]
    assert {"", """my "file" it's.txt"""} <= set(json.loads(said))


def test_mlflows_slurm_backend_gets_no_nodes_which_would_break_empty_parameters() -> None:
    render("slurm", "--backend", "--gpus", "2", "-O", "partition=gpu", "-O", "nodes=4")
    config = json.loads(Path("jobs/slurm.json").read_text())
    assert config == {"gpus_per_node": 2, "partition": "gpu", "modules": [], "exports": []}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slurm"], "Say what the jobs are for"),
        (["slurm", "--stage", "eval"], "does not spread over nodes"),
        (["slurm", "--stage", "train", "-P", "variant=v9"], "variant cannot be 'v9'"),
        (["slurm", "--stage", "train", "-P", "variant"], "An option has no value"),
        (["slurm", "--plan", "nowhere.yaml"], "nowhere.yaml"),
        (["kubernetes", "--stage", "svd"], "pods share no disk"),
    ],
)
def test_what_cannot_run_is_refused_before_it_is_queued(words, said, caplog) -> None:
    result = CliRunner().invoke(cli, ["jobs", *words])
    assert result.exit_code == 1
    assert said in caplog.text
    assert not Path("jobs").exists()
