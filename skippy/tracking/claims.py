"""Claims on pieces of work, through the store alone: two workers never do the same one.

MLflow has no compare-and-set, but two things that only one client can do: write a parameter of a run for the first
time, and make an experiment of a name. A claim is a parameter on one run, the *board*; the board is the run that
whoever made the experiment `skippy-claims` wrote into its tags.
"""

from __future__ import annotations

import functools
import re

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from skippy.errors import TrackingError
from skippy.tracking.connection import StoreAccess
from skippy.tracking.patience import patiently
from skippy.tracking.refusals import translated_errors
from skippy.tracking.tags import NOTE_TAG, Tag

CLAIMS_EXPERIMENT = "skippy-claims"
BOARD_NOTE = (
    "Which worker does which cell of a study. Nothing to read here; do not delete it while a study runs."
)
PREFIX = "claim/"
TAKEN = re.compile(r"Changing param values is not allowed|already logged", re.IGNORECASE)


class Claims(StoreAccess):
    """First come, first served; a part of the tracker."""

    @functools.cached_property
    def board(self) -> str:
        """Run id of the board, the same for everybody who shares the store; made by the first."""
        client = self.client
        with translated_errors("the board of claims"):
            experiment = patiently(client.get_experiment_by_name, CLAIMS_EXPERIMENT)
            if experiment is None:
                run_id = _make_board(client, self.store.experiment_id)
                try:
                    tags = {Tag.BOARD_RUN: run_id, NOTE_TAG: BOARD_NOTE}
                    patiently(client.create_experiment, CLAIMS_EXPERIMENT, tags=tags)
                except MlflowException as error:
                    # Another worker was faster; its board is everybody's.
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    patiently(client.delete_run, run_id)
                experiment = patiently(client.get_experiment_by_name, CLAIMS_EXPERIMENT)
        if experiment is None or experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"The experiment {CLAIMS_EXPERIMENT!r} is deleted.",
                expected="an active experiment that holds the claims of studies",
                next_step="restore it with mlflow experiments restore, its id is in the UI",
            )
        return str(experiment.tags[Tag.BOARD_RUN])

    def claim(self, work: str, token: str) -> bool:
        """Claim a piece of work; False where somebody else holds it. Asking again with the same token is harmless.

        Args:
            work: what is claimed, once and for all: letters, digits and `_ - . /`.
            token: who claims it, different for every worker.
        """
        try:
            patiently(self.client.log_param, self.board, PREFIX + work, token)
        except MlflowException as error:
            if TAKEN.search(str(error)):
                return False
            raise
        return self.holders().get(work) == token

    def holders(self) -> dict[str, str]:
        """Every claimed piece of work, and the token of who claimed it."""
        with translated_errors("the board of claims"):
            params = patiently(self.client.get_run, self.board).data.params
        return {key.removeprefix(PREFIX): value for key, value in params.items() if key.startswith(PREFIX)}


def _make_board(client: MlflowClient, experiment_id: str) -> str:
    tags = {Tag.STAGE: "board", NOTE_TAG: BOARD_NOTE}
    run = patiently(client.create_run, experiment_id, tags=tags, run_name="claims of studies")
    patiently(client.set_terminated, run.info.run_id)
    return str(run.info.run_id)
