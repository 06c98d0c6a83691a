"""Waiting for a store that is busy: thirty workers on one SQLite file meet a locked database now and then."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

Found = TypeVar("Found")
BUSY = ("database is locked", "TEMPORARILY_UNAVAILABLE", "Connection refused", "Max retries exceeded")
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 8.0
PATIENCE_SECONDS = 180.0
PATIENT = ("create_run", "get_run", "search_runs", "log_batch", "set_tag", "update_run", "set_terminated")
"""The calls of `PatientClient` that wait."""


def patiently(call: Callable[..., Found], *args: Any, **kwargs: Any) -> Found:
    """Call, and call again where the store says that it is busy; any other refusal is the caller's."""
    wait, began = FIRST_WAIT_SECONDS, time.monotonic()
    while True:
        try:
            return call(*args, **kwargs)
        except MlflowException as error:
            is_busy = any(word in str(error) or word == error.error_code for word in BUSY)
            if not is_busy or time.monotonic() - began > PATIENCE_SECONDS:
                raise
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)


class PatientClient(MlflowClient):
    """mlflow's client for many workers at once: what a run writes and reads waits for a busy store."""


def _made_patient(call: Callable[..., Found]) -> Callable[..., Found]:
    return functools.wraps(call)(lambda *args, **kwargs: patiently(call, *args, **kwargs))


for name in PATIENT:
    setattr(PatientClient, name, _made_patient(getattr(MlflowClient, name)))
