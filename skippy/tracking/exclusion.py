"""One holder at a time, on a laptop's file and on a team's server alike."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow.exceptions import MlflowException

from skippy.errors import TrackingError
from skippy.tracking.connection import Store, file_lock
from skippy.tracking.refusals import translated_errors
from skippy.tracking.signals import is_process_gone, process_tag
from skippy.tracking.tags import CLAIM_PREFIX

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
STALE_SECONDS = 20.0
"""A claim that did not change for so long belongs to a process of another machine that died; moves take about one."""
PATIENCE_SECONDS = 60.0


@contextmanager
def exclusive(store: Store, name: str) -> Iterator[None]:
    """Hold `name` alone.

    A local store has a file lock, which the kernel gives back when its holder dies. A server offers no
    compare-and-set, but tags of the experiment are registers that each contender writes and all read: Lamport's
    bakery (Lamport 1974, "A new solution of Dijkstra's concurrent programming problem") makes of those a lock.
    Departure: a contender whose process is gone, or that stood still for `STALE_SECONDS`, is passed over.

    Raises:
        TrackingError: another holds it for longer than `PATIENCE_SECONDS`.
    """
    if store.lock_path is not None:
        with file_lock(store.lock_path):
            yield
        return
    key = f"{CLAIM_PREFIX}{name}.{uuid.uuid4().hex[:12]}"
    try:
        _write(store, key, 0)  # choosing
        number = 1 + max((one["number"] for one in _claims(store, name).values()), default=0)
        _write(store, key, number)
        _await_turn(store, name, key, number)
        yield
    finally:
        with suppress(MlflowException):
            store.client.delete_experiment_tag(store.experiment_id, key)


def stale_claims(store: Store) -> dict[str, str]:
    """Claims on a server whose process, of this machine, is gone: key → process."""
    tags = store.client.get_experiment(store.experiment_id).tags
    claims = {key: json.loads(text)["process"] for key, text in tags.items() if key.startswith(CLAIM_PREFIX)}
    return {key: process for key, process in claims.items() if is_process_gone(process)}


def drop_claim(store: Store, key: str) -> None:
    """Take a stale claim away."""
    store.client.delete_experiment_tag(store.experiment_id, key)


def _await_turn(store: Store, name: str, key: str, number: int) -> None:
    """Wait until nobody is choosing and nobody with a smaller number, or the same and a smaller key, is left."""
    seen: dict[str, tuple[int, float]] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        ahead = []
        for other, claim in _claims(store, name).items():
            theirs = (claim["number"], other)
            if other == key or (claim["number"] and theirs > (number, key)):
                continue
            since = seen.get(other, (-1, 0.0))
            if since[0] != claim["number"]:
                since = seen[other] = (claim["number"], time.monotonic())
            if is_process_gone(claim["process"]) or time.monotonic() - since[1] > STALE_SECONDS:
                logger.warning(
                    "tracking: the claim of %s on %s is passed over: it is gone", claim["process"], name
                )
                with suppress(MlflowException):
                    store.client.delete_experiment_tag(store.experiment_id, other)
            else:
                ahead.append(claim["process"])
        if not ahead:
            return
        if time.monotonic() > deadline:
            raise TrackingError(
                "Another process is at it.",
                where=name,
                expected="to be alone",
                found=f"process {ahead[0]}",
                next_step="try again when it is done",
            )
        time.sleep(POLL_SECONDS)


def _claims(store: Store, name: str) -> dict[str, dict]:
    """Every contender for `name`: key → number (0 while it chooses) and process."""
    with translated_errors(name):
        tags = store.client.get_experiment(store.experiment_id).tags
    return {key: json.loads(text) for key, text in tags.items() if key.startswith(f"{CLAIM_PREFIX}{name}.")}


def _write(store: Store, key: str, number: int) -> None:
    claim = json.dumps({"number": number, "process": process_tag()})
    with translated_errors(key.removeprefix(CLAIM_PREFIX).rpartition(".")[0]):
        store.client.set_experiment_tag(store.experiment_id, key, claim)
