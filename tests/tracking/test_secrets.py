"""Secrets in every variable and parameter; then the whole store, the log and the page are searched for them."""

import hashlib
import logging
import shutil

import pytest

from skippy.errors import ConfigError
from skippy.redaction import RedactingFilter

WORDS = ("s3cret-in-a-url", "s3cret-in-a-key", "s3cret-in-a-token", "s3cret-of-the-database")
URL = f"http://ada:{WORDS[0]}@judge:8000/v1"
VARIABLES = {
    "OPENAI_API_KEY": WORDS[1],
    "HF_TOKEN": WORDS[2],
    "AWS_SECRET_ACCESS_KEY": WORDS[1],
    "MLFLOW_TRACKING_TOKEN": WORDS[2],
    "SOME_DATABASE": f"postgresql://ada:{WORDS[3]}@host/db",
}


@pytest.fixture
def planted(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def found_in(folder) -> list[str]:
    """Secrets anywhere under a directory, names of files included; logs of tests and the sources aside."""
    places = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        places += [f"{word} in {path}" for word in WORDS if word.encode() in content or word in path.name]
    return places


def everything(secret: str) -> dict:
    return {name: f"{name} {secret}" for name in ("judge_url", "base_url", "problems", "by", "nested")}


@pytest.mark.parametrize("secret", [URL, f"x?api_key={WORDS[0]}&n=1", *(f"see {word}" for word in WORDS[1:])])
def test_no_secret_reaches_store_log_or_page(tracker, project, planted, caplog, checkpoint, secret):
    caplog.handler.addFilter(RedactingFilter())
    caplog.set_level(logging.INFO)

    def work():
        with tracker.stage(
            "eval", name=f"eval {secret}", note=f"asks {secret}", config={"given": everything(secret)},
            hyperparameters=everything(secret), character=secret,
        ) as run:  # fmt: skip
            run.describe(name=f"again {secret}", note=f"again {secret}")
            run.set_tags({"skippy.backend": secret})
            run.log_json({"deep": [everything(secret)]}, "deep/facts.json")
            run.log_dataset("lab", "e" * 64, secret, "evaluation")
            with tracker.models.draft(run, "v4", tags={"source": secret}, params={"source": secret}) as draft:
                shutil.copytree(checkpoint, draft.weights_dir)
                draft.register("skippy", {"source": secret})
            tracker.models.external(f"base {secret}", "a" * 64)
            tracker.promotions.promote(
                "skippy",
                1,
                reason=secret,
                report_uri=secret,
                figures={"x": secret},
                expected_champion=None,
                by=secret,
            )
            logging.getLogger("skippy").info("asking %s", secret)
            raise ConfigError("It does not answer.", where=secret, found=secret, next_step=secret)

    with pytest.raises(ConfigError) as error:
        work()
    assert found_in(project) == []
    told = f"{error.value} {caplog.text} {tracker.store.page}"
    assert not [word for word in WORDS if word in told]
    assert "It does not answer." in told


def test_the_search_would_find_one(tracker, project, planted):
    """The twin: written past the tracker, it is found."""
    run = tracker.client.create_run(tracker.store.experiment_id, tags={"note": URL})
    tracker.client.log_text(run.info.run_id, WORDS[1], "x.txt")
    assert len(found_in(project)) >= 2


def test_what_mlflow_run_stored_as_typed_is_taken_out_of_the_database(tracker, project, monkeypatch):
    made = tracker.client.create_run(tracker.store.experiment_id).info.run_id
    tracker.client.log_param(made, "judge_url", URL)
    assert found_in(project), "as mlflow run leaves it"
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with tracker.stage("eval", name="e", note="n", config={"judge_url": URL}) as run:
        assert run.run_id == made
    assert tracker.runs.get(made).params["judge_url"] == "http://***@judge:8000/v1"
    assert found_in(project) == []


PROJECT = """
name: small
entry_points:
  ask:
    parameters:
      url: {type: string, default: ""}
    command: "python stage.py {url}"
"""
STAGE = """
import hashlib, sys
from pathlib import Path
from skippy.redaction import reveal_credentials
from skippy.tracking.store import open_tracker

given = reveal_credentials({"url": sys.argv[1]})
with open_tracker().stage("ask", name="ask", note="n", config=given, hyperparameters=given) as run:
    Path("digest").write_text(hashlib.sha256(given["url"].encode()).hexdigest())
"""


def test_a_child_stage_is_given_the_password_and_the_store_is_not(tracker, project, monkeypatch, capfd):
    (project / "MLproject").write_text(PROJECT)
    (project / "stage.py").write_text(STAGE)
    monkeypatch.chdir(project)
    with tracker.stage("main", name="m", note="n", config={}) as parent:
        child = tracker.processes.start("ask", {"url": URL}, parent_run_id=parent.run_id)
        record = tracker.runs.get(child.wait())
    assert (project / "digest").read_text() == hashlib.sha256(URL.encode()).hexdigest(), "as typed"
    assert record.params["url"].strip("'") == "http://***@judge:8000/v1"
    assert found_in(project) == []
    said = capfd.readouterr()
    assert WORDS[0] not in said.out + said.err
