"""A team's tracking server, in the foreground: its database, its passwords, `mlflow server`; all stopped together.

Nothing secret stands in a command line or a log: `mlflow server` gets everything by its environment, and by files
that only this user reads.
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from skippy.errors import ServerError
from skippy.server import bucket, postgres
from skippy.server.postgres import Database

logger = logging.getLogger(__name__)

ADMIN = "admin"
START_SECONDS = 300
STOP_SECONDS = 20
CLIENT_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_RUN_ID",
)
"""What points at another server: this one must not take it for its own."""
AUTHENTICATION = """[mlflow]
default_permission = READ
database_uri = {uri}
admin_username = {admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""
"""MLflow hashes a password for every request, which costs more than the request; hence the cache."""


@dataclass(frozen=True)
class ServerPlan:
    """What to serve."""

    folder: Path  # of everything that the server keeps; only its user reads it
    host: str = "127.0.0.1"  # address to listen on
    port: int = 5000  # port to listen on
    workers: int = 2  # processes that answer
    database: str = ""  # `postgresql://…` of a database elsewhere; empty: PostgreSQL under `folder`
    artifacts: str = ""  # a directory or `s3://bucket/prefix`; empty: a directory under `folder`

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"


def serve(plan: ServerPlan) -> None:
    """Run the server until it is asked to stop (Ctrl-C, SIGTERM).

    Raises:
        ServerError: something that it needs is missing, taken or refused; says what.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Root's PostgreSQL runs as another user, who has to pass through.
    plan.folder.mkdir(parents=True, exist_ok=True)
    plan.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    with _alone(plan.folder):
        _require_port(plan)
        artifacts = plan.artifacts or str(plan.folder / "artifacts")
        if artifacts.startswith("s3://"):
            bucket.require(artifacts)
        own = postgres.running(plan.folder) if not plan.database else nullcontext(Database(plan.database, {}))
        with own as database, _mlflow(plan, database, artifacts) as process:
            _wait_until_healthy(plan, process)
            _tell_admin_password(plan)
            logger.info("server: %s, artifacts in %s; stop it with Ctrl-C", plan.url, artifacts)
            code = process.wait()
            raise ServerError("The tracking server ended by itself.", found=f"exit code {code}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two servers on one folder would share its database's files."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ServerError(
            "Another server works in this folder.",
            where=str(folder),
            next_step="stop it, or choose another folder (--folder)",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _require_port(plan: ServerPlan) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plan.host, plan.port))
        except OSError as error:
            raise ServerError(
                "The server cannot listen there.",
                where=f"{plan.host}:{plan.port}",
                found=error.strerror or str(error),
                next_step="choose another port (--port)",
            ) from error


@contextmanager
def _mlflow(plan: ServerPlan, database: Database, artifacts: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {key: value for key, value in os.environ.items() if key not in CLIENT_VARIABLES}
    environment |= database.environment
    environment |= {
        "MLFLOW_BACKEND_STORE_URI": database.uri,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
        "MLFLOW_AUTH_CONFIG_PATH": str(_write_authentication(plan.folder, database)),
        "MLFLOW_AUTH_ADMIN_PASSWORD": _admin_password(plan.folder),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": _kept_secret(plan.folder / "session-key"),
        "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
        "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    options = {
        "host": plan.host,
        "port": plan.port,
        "workers": plan.workers,
        "app-name": "basic-auth",
        "uvicorn-opts": f"--timeout-graceful-shutdown {STOP_SECONDS // 4}",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    process = subprocess.Popen(command, env=environment, cwd=plan.folder)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        process.kill()
        process.wait()


def _write_authentication(folder: Path, database: Database) -> Path:
    path = folder / "basic-auth.ini"
    path.touch(mode=0o600)
    path.write_text(AUTHENTICATION.format(uri=database.uri.replace("%", "%%"), admin=ADMIN))
    return path


def _kept_secret(path: Path) -> str:
    """A random text that stays the same, in a file that only this user reads."""
    if not path.is_file() or not path.read_text():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()


def _password_file(folder: Path) -> Path:
    return folder / "admin-password"


def _admin_password(folder: Path) -> str:
    """The first password of the administrator; MLflow looks at it only while there is none."""
    return "" if (folder / "admin-told").exists() else _kept_secret(_password_file(folder))


def _wait_until_healthy(plan: ServerPlan, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{plan.url}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise ServerError(
        "The tracking server did not start.",
        where=plan.url,
        expected=f"an answer within {START_SECONDS} s",
        found="none"
        if process.poll() is None
        else f"mlflow server ended with exit code {process.returncode}",
        next_step="read its last words above; if they name the database, look whether it can be reached and written",
    )


def _tell_admin_password(plan: ServerPlan) -> None:
    """Say the administrator's first password once: on a terminal, else in a file; never in what may be a log."""
    path, told = _password_file(plan.folder), plan.folder / "admin-told"
    if told.exists():
        return
    if not _opens(plan.url, path.read_text()):
        logger.info("server: this database has its users; the password of %s is the one it had", ADMIN)
        path.unlink()
    elif sys.stdout.isatty():
        sys.stdout.write(
            f"\nadministrator: {ADMIN}\npassword:      {path.read_text()}\nIt is not shown again.\n\n"
        )
        path.unlink()
    else:
        logger.info("server: the password of %s is in %s; read it, then delete the file", ADMIN, path)
    told.touch()


def _opens(url: str, password: str) -> bool:
    token = base64.b64encode(f"{ADMIN}:{password}".encode()).decode()
    address = f"{url}/api/2.0/mlflow/users/get?username={ADMIN}"
    request = urllib.request.Request(address, headers={"Authorization": f"Basic {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            return True
    except urllib.error.HTTPError:
        return False


def require_no_password(uri: str) -> None:
    """Refuse a database's URI with a password where everybody on the machine can read it.

    Raises:
        ServerError: it has one.
    """
    if urlsplit(uri).password:
        raise ServerError(
            "A password in a command line can be read by everybody on this machine.",
            where="--database",
            next_step="export SKIPPY_DATABASE_URI=postgresql://… instead",
        )
