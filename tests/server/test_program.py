"""What a server needs is looked for first, and what is missing is told; PostgreSQL of either kind starts and stops."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from filelock import FileLock

from entrypoints.server import command
from skippy.errors import ServerError
from skippy.server import bucket, postgres
from skippy.server.program import ServerPlan, serve


@pytest.fixture
def open_folder():
    """A directory that PostgreSQL of a root can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="skippy-postgres-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def packaged(monkeypatch, tmp_path):
    """A machine with neither PostgreSQL on PATH nor Debian's."""
    monkeypatch.setattr(postgres, "DEBIAN", tmp_path / "nothing")
    monkeypatch.setattr(shutil, "which", lambda name: None)


def connect(database: postgres.Database, **given: str):
    return psycopg.connect(database.uri.replace("+psycopg", ""), **given)


def test_the_packaged_postgresql_keeps_its_data_and_opens_for_its_password_alone(
    packaged, open_folder, monkeypatch
) -> None:
    with postgres.running(open_folder) as database:
        monkeypatch.setenv("PGPASSFILE", database.environment["PGPASSFILE"])
        with connect(database) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        with pytest.raises(psycopg.OperationalError, match="password"):
            connect(database, password="another")
        again = postgres._running_port(postgres.choose(open_folder / "postgres"), open_folder / "postgres")
        assert f":{again}/" in database.uri, "a server that was killed is taken over"
    with pytest.raises(psycopg.OperationalError):
        connect(database)
    with postgres.running(open_folder) as database, connect(database) as connection:
        assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)
    assert not (open_folder / "first-password").exists()
    assert (open_folder / "pgpass").stat().st_mode & 0o077 == 0


def test_data_of_another_version_is_not_opened(open_folder) -> None:
    (open_folder / "postgres").mkdir()
    (open_folder / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerError, match="PostgreSQL 9 is not installed") as refusal:
        postgres.choose(open_folder / "postgres")
    assert "apt-get install postgresql-9" in refusal.value.next_step
    assert "version" in refusal.value.found


def test_a_machine_without_postgresql_is_told_three_ways(packaged, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(postgres, "find_spec", lambda name: None)
    with pytest.raises(ServerError, match="PostgreSQL is not installed") as refusal:
        postgres.choose(tmp_path / "postgres")
    for way in ("apt-get install postgresql", "pip install pgserver", "SKIPPY_DATABASE_URI"):
        assert way in refusal.value.next_step


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as somebody else")
def test_a_folder_that_postgresql_cannot_reach_is_told(tmp_path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ServerError, match="PostgreSQL's initdb failed") as refusal:
        serve(ServerPlan(tmp_path / "server", port=postgres.free_port()))
    assert "Permission denied" in refusal.value.found
    assert "--folder" in refusal.value.next_step
    assert not (tmp_path / "server" / "postgres").exists()


def test_a_taken_port_and_a_taken_folder_are_refused_before_anything_starts(tmp_path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ServerError, match="cannot listen there"),
    ):
        serve(ServerPlan(tmp_path / "server", port=taken.getsockname()[1]))
    with FileLock(tmp_path / "server" / "lock"), pytest.raises(ServerError, match="Another server works"):
        serve(ServerPlan(tmp_path / "server", port=postgres.free_port()))
    assert sorted(path.name for path in (tmp_path / "server").iterdir()) == ["lock"]


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-cloud")
    monkeypatch.setenv(bucket.ENDPOINT_VARIABLE, f"http://127.0.0.1:{postgres.free_port()}")
    with pytest.raises(ServerError, match="bucket for artifacts cannot be used") as refusal:
        bucket.require("s3://nowhere/prefix")
    assert "a-secret-of-the-cloud" not in str(refusal.value)
    monkeypatch.setattr(
        bucket, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name))
    )
    with pytest.raises(ServerError) as refusal:
        bucket.require("s3://nowhere/prefix")
    assert refusal.value.expected == "boto3"


def test_a_password_in_the_command_line_is_refused_and_in_the_environment_is_not(
    tmp_path, monkeypatch
) -> None:
    uri = "postgresql://ada:s3cretly@127.0.0.1:9/skippy"
    served: list[ServerPlan] = []
    monkeypatch.setattr("skippy.server.program.serve", served.append)
    refused = CliRunner().invoke(command, ["--database", uri, "--folder", str(tmp_path)])
    assert refused.exit_code == 1
    assert served == []
    taken = CliRunner().invoke(command, ["--folder", str(tmp_path)], env={"SKIPPY_DATABASE_URI": uri})
    assert taken.exit_code == 0
    assert served[0].database == uri


def test_the_programs_run_as_this_user_or_as_one_who_is_not_root() -> None:
    identity = postgres._identity()
    assert bool(identity) == (os.geteuid() == 0)
    who = subprocess.run(["id", "-u"], capture_output=True, text=True, check=True, **identity).stdout
    assert int(who) != 0
