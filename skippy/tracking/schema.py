"""Which mlflow a store was written by: its schema against the one that the installed mlflow knows."""

from __future__ import annotations

import re
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse, urlsplit

import mlflow
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from mlflow.store.db.utils import _get_alembic_config, _get_schema_version
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from skippy.tracking.connection import SERVER_SCHEMES, _sqlite_path

ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class OtherMlflow:
    """A store that another mlflow than the installed one wrote."""

    found: str  # what the store says of itself
    expected: str  # what the installed mlflow says
    next_step: str  # what to do about it
    is_fault: bool  # whether this mlflow cannot use it


def other_mlflow(uri: str) -> OtherMlflow | None:
    """Compare a store with the installed mlflow, without opening it as one; None where they agree.

    A database that is not there, not mlflow's, or out of reach agrees: opening it says what is wrong.
    """
    here = f"mlflow {mlflow.__version__}"
    if urlparse(uri).scheme in SERVER_SCHEMES:
        parts = urlsplit(uri)
        uri = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        with (
            suppress(OSError, HTTPException),
            urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=ANSWER_SECONDS) as answer,
        ):
            there = answer.read().decode(errors="replace").strip()
            if there != mlflow.__version__:
                return OtherMlflow(
                    f"a server of mlflow {there}",
                    here,
                    f"pip install mlflow=={there}, or update the server",
                    False,
                )
        return None
    database = _sqlite_path(uri)
    if database is not None and not database.is_file():
        return None
    try:
        engine = create_engine(uri)
        revision = _get_schema_version(engine)
        engine.dispose()
    except (SQLAlchemyError, ImportError):
        return None
    script = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    head = script.get_current_head()
    if revision in (None, head):
        return None
    maker = _maker_of_models(database) if database else ""
    try:
        script.get_revision(revision)
    except CommandError:
        return OtherMlflow(
            f"schema {revision}, which {here} does not know: a newer mlflow wrote it{maker}",
            f"schema {head} of {here}",
            "install that mlflow again, or restore a copy of the database from before",
            True,
        )
    return OtherMlflow(
        f"schema {revision}, that of an older mlflow{maker}",
        f"schema {head} of {here}",
        f"copy the database, then mlflow db upgrade {uri}; the older mlflow refuses it afterwards",
        True,
    )


def _maker_of_models(database: Path) -> str:
    """Which mlflow made the newest model beside a database, in brackets; a schema itself names no version."""
    models = list(database.parent.glob("mlartifacts/models/*/artifacts/MLmodel"))
    if not models:
        return ""
    newest = max(models, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8")
    found = re.search(r"^mlflow_version: *(\S+)", newest, re.MULTILINE)
    return f" (its newest model was made by mlflow {found.group(1)})" if found else ""
