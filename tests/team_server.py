"""A team's server as people start it: `skippy server` with its own PostgreSQL, artifacts in an S3-compatible store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from skippy.server.postgres import free_port
from skippy.tracking.connection import open_store
from skippy.tracking.members import add_member

ROOT = Path(__file__).parents[1]
START_SECONDS = 480
BUCKET = "team"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class Team:
    """A running server.

    Attributes:
        url: where it is.
        folder: what it keeps.
        process: leads the group of all its processes but PostgreSQL.
        s3: where its artifacts go; empty: to its folder.
        ada: who may write, name and password.
        bob: who may only read, name and password.
        admin: who may everything, name and password.
    """

    url: str
    folder: Path
    process: subprocess.Popen
    s3: str
    ada: tuple[str, str]
    bob: tuple[str, str]
    admin: tuple[str, str]

    def as_member(self, who: tuple[str, str]) -> dict[str, str]:
        """The environment in which `who` works."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "MLFLOW_TRACKING_USERNAME": who[0],
            "MLFLOW_TRACKING_PASSWORD": who[1],
            "MLFLOW_RUN_ID": "",
        }


@contextmanager
def bucket_server() -> Iterator[str]:
    """URL of an S3-compatible server in this process, with one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in KEYS.items():
                patch.setenv(name, value)
            boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def started(
    folder: Path, *words: str, environment: Mapping[str, str] = {}
) -> Iterator[tuple[str, subprocess.Popen]]:
    """`skippy server` on a free port until the block ends; its log is `log` beside the folder."""
    port = free_port()
    given = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "SKIPPY_"))}
    given |= {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "entrypoints", "server", "--folder", str(folder), "--port", str(port)]
    log_path = folder.with_suffix(".log")
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1", *words], env=given, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_told(url, process, folder, log_path)
        yield url, process
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_told(url: str, process: subprocess.Popen, folder: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if "stop it with Ctrl-C" in log.read_text():
            with urllib.request.urlopen(f"{url}/health", timeout=10):
                return
        time.sleep(0.3)
    pytest.fail(log.read_text())


@contextmanager
def team_server(*, on_disk: bool = False) -> Iterator[Team]:
    """A server with two members, its artifacts in S3 or on disk.

    Not in pytest's own folder: PostgreSQL of a root could not pass through it.
    """
    above = Path(tempfile.mkdtemp(prefix="skippy-team-"))
    above.chmod(0o711)
    folder = above / "server"
    try:
        with nullcontext("") if on_disk else bucket_server() as s3:
            words = () if on_disk else ("--artifacts", f"s3://{BUCKET}/kept")
            environment = {} if on_disk else {**KEYS, "MLFLOW_S3_ENDPOINT_URL": s3}
            with started(folder, *words, environment=environment) as (url, process):
                admin = ("admin", (folder / "admin-password").read_text())
                team = Team(url, folder, process, s3, ("", ""), ("", ""), admin)
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in team.as_member(admin).items():
                        patch.setenv(name, value)
                    store = open_store(ROOT)
                    ada = ("ada", add_member(store, "ada", may_write=True))
                    bob = ("bob", add_member(store, "bob", may_write=False))
                yield Team(url, folder, process, s3, ada, bob, admin)
    finally:
        shutil.rmtree(above, ignore_errors=True)
