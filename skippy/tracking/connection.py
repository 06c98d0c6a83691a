"""Open the tracking store: one SQLite file or server, one experiment, made once."""

from __future__ import annotations

import fcntl
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse, urlsplit, urlunsplit

import mlflow
import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from skippy.errors import TrackingError
from skippy.tracking.places import ARTIFACTS, location_of, take_home
from skippy.tracking.refusals import opening

logger = logging.getLogger(__name__)

EXPERIMENT = "skippy"
EXPERIMENT_TAGS = {
    "mlflow.note.content": "Does V4 keep more of AIME than V3 at equal personality? Start with the newest "
    "`main` run: it links its stages; its `compare` run holds the report."
}
LOCAL_UI = "http://127.0.0.1:5000"
"""Where `make ui` serves a store that has no server of its own."""
SQLITE_SCHEME = "sqlite:///"
SERVER_SCHEMES = ("http", "https")
HEALTH_TIMEOUT_SECONDS = 10.0
PROBE_TIMEOUT_SECONDS = 3.0
CLIENT_LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""How long mlflow's own client holds on to a dead server: its defaults are seven retries of two minutes each."""
PLAIN_CHARACTERS = "/ !$&'()*+,;=:@~"
"""Those that a path keeps in a database's URI; `%`, `?` and `#` mean something else there."""
TIMED_DATABASES = ("postgresql", "mysql")
"""Those whose drivers take a time limit for connecting."""
CHATTY_LOGGERS = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "mlflow.projects")


@dataclass(frozen=True)
class Store:
    """An opened tracking store."""

    uri: str  # tracking URI, absolute; that of a server holds no user and no password
    experiment_id: str  # id of the experiment `skippy` in it
    artifact_location: str  # where that experiment keeps artifacts
    root: Path  # the project's root, where children are started
    client: MlflowClient  # mlflow's client for `uri`

    @property
    def is_server(self) -> bool:
        """Whether a server stands between us and the database."""
        return urlparse(self.uri).scheme in SERVER_SCHEMES

    @property
    def page(self) -> str:
        """Where MLflow's UI shows the experiment's runs as training, not as agents."""
        host = self.uri.rstrip("/") if self.is_server else LOCAL_UI
        return f"{host}/#/experiments/{self.experiment_id}/runs?workflowType=machine_learning"

    @property
    def run_page(self) -> str:
        """Where MLflow's UI shows one run, as training as well, with `{run}` for its id."""
        return self.page.replace("/runs?", "/runs/{run}?")

    def version_page(self, name: str, version: int) -> str:
        """Where MLflow's UI shows a registered version."""
        return f"{self.page.partition('#')[0]}#/models/{quote(name)}/versions/{version}"

    @property
    def lock_path(self) -> Path | None:
        """A file to lock for changes that must not interleave; None where other machines may write too."""
        database = _sqlite_path(self.uri)
        return database.with_suffix(".db.lock") if database else None

    @property
    def unfinished(self) -> Path:
        """The directory for work that has not reached the store yet."""
        return self.root / ".skippy"

    def is_reachable(self) -> bool:
        """Whether a server answers within seconds; a database is always worth a try."""
        if not self.is_server:
            return True
        try:
            _ask_health(self.uri, PROBE_TIMEOUT_SECONDS)
        except OSError:
            return False
        return True


class StoreAccess:
    """Something that works on one opened store; the tracker is made of several of these."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def client(self) -> MlflowClient:
        """The client of mlflow itself, for what the tracker does not offer."""
        return self.store.client


def find_project_root() -> Path:
    """Directory that holds MLproject: above the package, else above the working directory, else the last."""
    package, here = Path(__file__).resolve().parents[2], Path.cwd()
    for candidate in (package, here, *here.parents):
        if (candidate / "MLproject").is_file():
            return candidate
    return here


def every(search: Callable[..., Any], *what: Any, **how: Any) -> Iterator[Any]:
    """Everything that one of mlflow's searches finds, page after page."""
    token = ""
    while True:
        page = search(*what, page_token=token or None, **how)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def file_lock(path: Path | None) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel lets go when the process dies. None locks nothing."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


@contextmanager
def alone_at(path: Path) -> Iterator[bool]:
    """Whether nobody else holds a directory or file; if so, others are told meanwhile, for as long as we live."""
    handle = os.open(path, os.O_RDONLY)
    try:
        is_alone = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_alone = False
        yield is_alone
    finally:
        os.close(handle)


def open_store(root: Path | None = None) -> Store:
    """Open, or make, the store that MLFLOW_TRACKING_URI names, else `mlflow.db` under `root`.

    Sets MLFLOW_TRACKING_URI for this process and its children, so that every stage of one pipeline and
    mlflow's own functions meet in the same store.

    Raises:
        TrackingError: the store cannot be reached, or is of a kind that loses data.
    """
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It prints a traceback for every try at a locked database, before the caller has decided what that means.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    root = (root or find_project_root()).resolve()
    uri = named_uri(root)
    is_server = urlparse(uri).scheme in SERVER_SCHEMES
    if is_server:
        uri = _take_credentials(uri)
    with opening(uri):
        require_usable(uri)
    mlflow.set_tracking_uri(uri)
    database = _sqlite_path(uri)
    if database and not database.exists():
        _require_quotable(database.parent, Path.cwd())
    lock = database.with_suffix(".db.lock") if database else None
    artifacts = None if is_server else location_of((database.parent if database else root) / ARTIFACTS)
    # Four processes on a fresh file would race to create its tables and the experiment.
    with opening(uri), file_lock(lock):
        client = _client(uri)
        experiment_id, location = _require_experiment(client, artifacts)
        if database is not None and artifacts is not None and take_home(database, location, artifacts):
            location = artifacts
    return Store(uri, experiment_id, location, root, client)


def named_uri(root: Path | None = None) -> str:
    """The store that MLFLOW_TRACKING_URI names, else `mlflow.db` under `root`; absolute.

    Raises:
        TrackingError: it is a plain directory.
    """
    root = (root or find_project_root()).resolve()
    return _absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(root / "mlflow.db"))


def require_usable(uri: str) -> None:
    """Refuse a store of a kind that skippy does not use, or one that does not answer, at the first try.

    Raises:
        TrackingError: a directory, or a server that does not answer.
        SQLAlchemyError: a database does not let us in; `opening` says it in our words.
    """
    scheme = urlparse(_absolute_uri(uri)).scheme
    if scheme.startswith(TIMED_DATABASES):
        # MLflow itself would try ten times, for two minutes.
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": int(HEALTH_TIMEOUT_SECONDS)})
        with engine.connect():
            pass
        engine.dispose()
    if scheme in SERVER_SCHEMES:
        for variable, limit in CLIENT_LIMITS.items():
            os.environ.setdefault(variable, limit)
        _require_healthy(uri)


def _require_quotable(*folders: Path) -> None:
    """Refuse what MLflow cannot write into a new SQLite file: it quotes paths as Python does, not as SQL does."""
    for folder in folders:
        if {"'", '"'} <= set(str(folder)):
            raise TrackingError(
                "MLflow cannot keep a store below a directory with both kinds of quotes in its path.",
                where=str(folder),
                expected="a path without ' or without \"",
                found="both",
                next_step="rename the directory, or point MLFLOW_TRACKING_URI elsewhere and start there",
            )


def _require_experiment(client: MlflowClient, artifacts: str | None) -> tuple[str, str]:
    """Id and artifact location of the experiment, made if it is not there."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=EXPERIMENT_TAGS)
        except MlflowException as error:
            # On a server, another client may have been faster; that is as good.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"The experiment {EXPERIMENT!r} is deleted.",
            expected="an active experiment",
            next_step=f"mlflow experiments search --view all, then mlflow experiments restore -x "
            f"{experiment.experiment_id if experiment else 'ID'}",
        )
    return experiment.experiment_id, experiment.artifact_location


def _absolute_uri(uri: str) -> str:
    """`uri` with a relative SQLite path made absolute: children start in another directory."""
    scheme = urlparse(uri).scheme
    if scheme in ("", "file"):
        raise TrackingError(
            "A plain directory is not a tracking store that skippy can use.",
            where=uri,
            expected="sqlite:///…/mlflow.db or http://host:port",
            next_step="unset MLFLOW_TRACKING_URI, or point it at a database or a server",
        )
    database = _sqlite_path(uri)
    return uri if database is None else _sqlite_uri(database)


def _client(uri: str) -> MlflowClient:
    """A client; without the empty directory that mlflow makes where it takes an encoded path for a plain one."""
    stray = Path(uri.removeprefix(SQLITE_SCHEME)).parent
    was_there = not uri.startswith(SQLITE_SCHEME) or stray.exists()
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    if not was_there:
        with suppress(OSError):
            stray.rmdir()
    return client


def _sqlite_path(uri: str) -> Path | None:
    if not uri.startswith(SQLITE_SCHEME):
        return None
    return Path(unquote(uri.removeprefix(SQLITE_SCHEME).partition("?")[0])).absolute()


def _sqlite_uri(path: Path) -> str:
    return SQLITE_SCHEME + quote(str(path), safe=PLAIN_CHARACTERS)


def _take_credentials(uri: str) -> str:
    """Move user and password from a server's URI into the variables that mlflow's client reads."""
    parts = urlsplit(uri)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return uri
    user, _, password = userinfo.partition(":")
    os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = (
        unquote(user), unquote(password)
    )  # fmt: skip
    return urlunsplit(parts._replace(netloc=host))


def _require_healthy(uri: str) -> None:
    """Ask the server once: mlflow's own client would retry for minutes before it says so."""
    try:
        _ask_health(uri, HEALTH_TIMEOUT_SECONDS)
    except OSError as error:
        raise TrackingError(
            "The tracking server does not answer.",
            where=uri,
            found=str(error),
            next_step="start it (mlflow server --host 127.0.0.1 --port 5000), or unset MLFLOW_TRACKING_URI",
        ) from error


def _ask_health(uri: str, timeout_seconds: float) -> None:
    """`/health` needs no password, also where the server asks for one; raises OSError."""
    with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout_seconds):
        return
