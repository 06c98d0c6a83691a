"""PostgreSQL in a directory of its own: found among what is installed, on loopback, on a free port, with a password.

PostgreSQL refuses to run as root. Started by root, it runs as the system's `postgres`, else as `nobody`.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skippy.errors import ServerError

DEBIAN = Path("/usr/lib/postgresql")
WHEEL = "pgserver"
"""A package of PyPI that carries PostgreSQL's programs, for machines without Debian's."""
PROGRAMS = ("initdb", "pg_ctl", "postgres", "createdb")
ROLE = DATABASE = "skippy"
START_SECONDS = 120
OWN_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True)
class Database:
    """A database that can be connected to."""

    uri: str  # for SQLAlchemy; without a password where `environment` leads to one
    environment: dict[str, str]  # variables that its clients need


@dataclass(frozen=True)
class Installation:
    """PostgreSQL's programs, and their major version: it alone can read its data."""

    folder: Path
    major: int


@contextmanager
def running(folder: Path) -> Iterator[Database]:
    """PostgreSQL with its data under `folder`, made at the first start; stopped at the end.

    One that a killed server left running is taken over.

    Raises:
        ServerError: it is not installed, of another version than the data, or refuses to start.
    """
    data = folder / "postgres"
    installation = choose(data)
    if not (data / "PG_VERSION").is_file():
        _make(installation, data, folder / "pgpass")
    port = _running_port(installation, data) or _start(installation, data)
    environment = {"PGPASSFILE": str(folder / "pgpass")}
    server = ("-h", "127.0.0.1", "-p", str(port), "-U", ROLE)
    try:
        _run(installation, "createdb", *server, DATABASE, environment=environment, tolerate="already exists")
        yield Database(f"postgresql+psycopg://{ROLE}@127.0.0.1:{port}/{DATABASE}", environment)
    finally:
        _run(installation, "pg_ctl", "stop", "-D", str(data), "-m", "fast", "-w", identity=_identity())


def choose(data: Path) -> Installation:
    """The installation that can read `data`, the newest where there is none yet.

    Raises:
        ServerError: there is none, or none of the data's version.
    """
    found = installations()
    version = data / "PG_VERSION"
    wanted = int(version.read_text().strip()) if version.is_file() else None
    fitting = [one for one in found if wanted in (None, one.major)]
    if not fitting:
        raise ServerError(
            "PostgreSQL is not installed." if wanted is None else f"PostgreSQL {wanted} is not installed.",
            where="PATH, " + str(DEBIAN),
            expected=f"the programs {', '.join(PROGRAMS)}"
            + (f" of version {wanted}, which wrote {data}" if wanted else ""),
            found=", ".join(f"version {one.major} in {one.folder}" for one in found) or "none",
            next_step=f"apt-get install postgresql{'-' + str(wanted) if wanted else ''}, or "
            f"pip install {WHEEL}, or name a database: SKIPPY_DATABASE_URI=postgresql://…",
        )
    return fitting[0]


def installations() -> list[Installation]:
    """Every installation on this machine: of PATH first, then Debian's from the newest, then the package's."""
    on_path = shutil.which("pg_ctl")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda path: -float(path.parent.name))
    package = find_spec(WHEEL)
    if package is not None and package.origin:
        folders.append(Path(package.origin).parent / "pginstall" / "bin")
    found = {}
    for folder in folders:
        if folder not in found and all(os.access(folder / name, os.X_OK) for name in PROGRAMS):
            said = subprocess.run(
                [folder / "postgres", "--version"], capture_output=True, text=True, check=False
            )
            number = re.search(r"(\d+)", said.stdout)
            if number:
                found[folder] = Installation(folder, int(number[1]))
    return list(found.values())


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _identity() -> dict[str, Any]:
    """Who PostgreSQL runs as, in the words of `subprocess`: this user, or for root one of the system's own."""
    if os.geteuid() != 0:
        return {}
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = next((accounts[name] for name in OWN_ACCOUNTS if name in accounts), None)
    if account is None:
        raise ServerError(
            "PostgreSQL does not run as root, and there is no other account for it.",
            expected=f"an account {' or '.join(OWN_ACCOUNTS)}",
            next_step="start the server as an ordinary user, or name a database of your own",
        )
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _make(installation: Installation, data: Path, password_file: Path) -> None:
    """A new cluster whose only account has a password; it stands under its name when it is whole."""
    identity = _identity()
    partial = data.with_name("postgres.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    password = secrets.token_urlsafe(24)
    password_file.touch(mode=0o600)
    password_file.write_text(f"127.0.0.1:*:*:{ROLE}:{password}\n")
    once = data.parent / "first-password"
    once.touch(mode=0o600)
    once.write_text(password)
    try:
        if identity:
            for path in (partial, once):
                os.chown(path, identity["user"], identity["group"])
        settings = ("-U", ROLE, "--auth=scram-sha-256", f"--pwfile={once}", "--encoding=UTF8", "--no-locale")
        _run(installation, "initdb", "-D", str(partial), *settings, identity=identity)
    finally:
        once.unlink()
    partial.rename(data)


def _running_port(installation: Installation, data: Path) -> int:
    """The port that a PostgreSQL of this data listens on already, 0 where none does."""
    status = [str(installation.folder / "pg_ctl"), "status", "-D", str(data)]
    if subprocess.run(status, capture_output=True, check=False, cwd="/", **_identity()).returncode != 0:
        return 0
    return int((data / "postmaster.pid").read_text().splitlines()[3])


def _start(installation: Installation, data: Path) -> int:
    port = free_port()
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    words = ("start", "-D", str(data), "-w", "-t", str(START_SECONDS), "-l", str(data / "log"), "-o", options)
    _run(installation, "pg_ctl", *words, identity=_identity(), log=data / "log")
    return port


def _run(
    installation: Installation,
    program: str,
    *words: str,
    identity: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    tolerate: str = "",
    log: Path | None = None,
) -> None:
    """One of PostgreSQL's programs, to its end.

    Raises:
        ServerError: it failed otherwise than by saying what `tolerate` names; says its last words.
    """
    command: Sequence[str] = [str(installation.folder / program), *words]
    # PostgreSQL itself inherits these and stays: a pipe would never be at its end.
    with tempfile.TemporaryFile("w+") as errors:
        result = subprocess.run(
            command, env={**os.environ, "LC_ALL": "C", **(environment or {})}, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=errors, check=False, **(identity or {}),
        )  # fmt: skip
        errors.seek(0)
        said = errors.read().strip()
    if result.returncode == 0 or (tolerate and tolerate in said):
        return
    if log is not None and log.is_file():
        said = log.read_text(errors="replace").strip()
    raise ServerError(
        f"PostgreSQL's {program} failed.",
        where=" ".join(words),
        found=said.splitlines()[-1] if said else f"exit code {result.returncode}",
        next_step="mend what it says; as root, its data must lie where the account "
        f"{' or '.join(OWN_ACCOUNTS)} can reach it (--folder /var/lib/skippy)",
    )
