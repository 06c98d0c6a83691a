"""The tracker: what a stage writes to, and where it finds what earlier stages left; composed, one concern a part."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from skippy.errors import SkippyError
from skippy.tracking.artifacts import Artifacts
from skippy.tracking.claims import Claims
from skippy.tracking.connection import Store, StoreAccess
from skippy.tracking.lifecycle import log_params, stage_tags, supervised
from skippy.tracking.models import Models
from skippy.tracking.outbox import deliver_left_behind
from skippy.tracking.processes import Processes
from skippy.tracking.promotions import Promotions
from skippy.tracking.registry import Registry
from skippy.tracking.runs import CONFIG_FILE, NOTHING, Runs
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)


class Tracker(StoreAccess):
    """One opened store."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.artifacts = Artifacts(store)  # files of runs, as local paths
        self.runs = Runs(store, self.artifacts)  # earlier ones, by id or by kind
        self.registry = Registry(store)  # versions and aliases
        self.models = Models(store, self.registry)  # logged models, drafted and resolved
        self.promotions = Promotions(store, self.registry, self.models)
        self.processes = Processes(store)  # stages as child processes
        self.claims = Claims(store)  # which worker does which piece of work

    @contextmanager
    def stage(
        self,
        stage: str,
        *,
        name: str,
        note: str,
        config: Mapping[str, object],
        variant: str = "",
        base_digest: str = "",
        character: str = "",
        links: Mapping[str, str] = NOTHING,
        hyperparameters: Mapping[str, object] = NOTHING,
        parent: str | None = None,
    ) -> Iterator[StageRun]:
        """Run a stage: `with tracker.stage("svd", …) as run:`.

        Adopts the run that `mlflow run` made for this process, or starts one. Ends it FINISHED; FAILED with
        the message as tag `skippy.error` and in the note if the body raises; KILLED on Ctrl-C, SIGTERM or SIGHUP.
        First it delivers what dead processes kept in their outbox, and marks their runs.

        Args:
            links: stage → run id this one builds on; tags `skippy.<stage>_run`.
            parent: run id this one is nested under.
        """
        tags = stage_tags(stage, note, variant, base_digest, character, links, parent)
        with supervised(self.store, name, tags) as run:
            self._clear_up()
            log_params(self.store, run.run_id, hyperparameters)
            run.log_json(config, CONFIG_FILE)
            yield run

    def _clear_up(self) -> None:
        """Finish what dead processes left: deliver what they kept, then mark their runs."""
        try:
            deliver_left_behind(self.store)
            self.processes.reap()
        except SkippyError as error:
            logger.warning("tracking: what earlier processes left could not be cleared up. %s", error)
