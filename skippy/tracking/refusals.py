"""What a store, its database or its driver refused, in our words, with what a person can do about it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from skippy.errors import SkippyError, TrackingError, as_ours

DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Module that a database's URI asks for → the package that has it."""
STORE_ERRORS = (MlflowException, SQLAlchemyError, RequestException)
"""The last is an OSError too, and MLflow lets it through where files travel."""
PERSON_STATUS = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
DRIVERS_LINE = re.compile(r"\((?!raised|Background)[\w.]+\) ")
REMEDIES = (
    ("is full|No space left", "free some space where the store lies; then run the same command again"),
    ("authentication failed|Access denied", "correct the user and the password in MLFLOW_TRACKING_URI"),
    (
        "database .* does not exist|Unknown database",
        "make the database (createdb NAME), or name one that exists",
    ),
    (
        "read-only|permission denied|readonly",
        "give this user the right to write there, or name another store",
    ),
    (
        "refused|timeout|timed out|resolve|No route",
        "start the database, or correct host and port in MLFLOW_TRACKING_URI",
    ),
)
"""What a database says, as a pattern → what helps."""


@contextmanager
def opening(uri: str) -> Iterator[None]:
    """Turn whatever opening a store may raise into one of our messages.

    Raises:
        TrackingError: its driver is missing, it is not there, not writable or not a store.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = DRIVERS.get(error.name or "", error.name)
        raise TrackingError(
            "The driver of the tracking database is not installed.",
            where=uri,
            expected=f"the package {package}",
            found="no such package",
            next_step=f"pip install {shlex.quote(str(package))}",
        ) from error
    except SkippyError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise (refused_person(error, uri) or TrackingError(
            "The tracking store cannot be opened.",
            where=uri,
            expected="a database or server that can be read and written",
            found=_first_line(error),
            next_step=_remedy(error)
            or "set MLFLOW_TRACKING_URI to a store that exists, or unset it to use mlflow.db here",
        )) from error  # fmt: skip


def translate(error: BaseException) -> SkippyError | None:
    """An error of the store, its database, a driver or the operating system in our words; None for anything else."""
    if isinstance(error, STORE_ERRORS):
        return refused(error)
    return as_ours(error)


def refused(error: Exception, where: str = "") -> TrackingError:
    """What a store refused while it was used, in our words."""
    return refused_person(error, where) or TrackingError(
        "The tracking store refused.",
        where=where,
        found=_first_line(error),
        next_step=_remedy(error)
        or "look whether the store can be reached and written; then run the same command again",
    )


def refused_person(error: Exception, where: str) -> TrackingError | None:
    """That a server does not know this person, or does not let them; None where it refused something else."""
    answer = getattr(error, "response", None)
    code = getattr(error, "error_code", "") or PERSON_STATUS.get(getattr(answer, "status_code", 0), "")
    person = os.environ.get("MLFLOW_TRACKING_USERNAME") or "nobody: MLFLOW_TRACKING_USERNAME is not set"
    if code == "UNAUTHENTICATED":
        return TrackingError(
            "The tracking server does not know this user, or not this password.",
            where=where,
            found=person,
            next_step="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write both into "
            "MLFLOW_TRACKING_URI=http://user:password@host",
        )
    if code == "PERMISSION_DENIED":
        return TrackingError(
            "The tracking server does not permit this to this user.",
            where=where,
            expected="EDIT on the experiment, and on the registered model to register or promote",
            found=person,
            next_step="ask the server's administrator for EDIT, or use an account that has it: "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return None


def _first_line(error: Exception) -> str:
    """The driver's own line where there is one, `(psycopg.errors.…) …`; SQLAlchemy may put advice before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if DRIVERS_LINE.match(line)), lines[0])


def _remedy(error: Exception) -> str:
    """What helps with what a database said; empty where it said something else."""
    said = str(error)
    return next((step for pattern, step in REMEDIES if re.search(pattern, said)), "")


@contextmanager
def translated_errors(where: str) -> Iterator[None]:
    """Turn mlflow's refusals into ours."""
    try:
        yield
    except STORE_ERRORS as error:
        raise refused(error, where) from error
