"""Where everybody enters: `open_tracker`. Run as a program, it only makes the store if there is none."""

from __future__ import annotations

from pathlib import Path

from skippy.tracking.connection import open_store
from skippy.tracking.lifecycle import claim_adopted_run
from skippy.tracking.tracker import Tracker


def open_tracker(root: Path | None = None) -> Tracker:
    """Open the tracking store and make it this process's, and its children's, only one.

    The store is the one MLFLOW_TRACKING_URI names, else `mlflow.db` and `mlartifacts/` under `root`
    (default: the project's root). Side effect: MLFLOW_TRACKING_URI is set.

    Raises:
        TrackingError: the store cannot be reached or used.
    """
    store = open_store(root)
    claim_adopted_run(store)
    return Tracker(store)


if __name__ == "__main__":
    open_tracker()
