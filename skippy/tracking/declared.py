"""Parameters that `mlflow run` logged as typed, secrets and all, before this process began."""

from __future__ import annotations

import logging

from mlflow.entities import Run
from mlflow.store.tracking.dbmodels.models import SqlParam
from sqlalchemy import text

from skippy.redaction import redact
from skippy.tracking.connection import SQLITE_SCHEME, Store

logger = logging.getLogger(__name__)


def forget_declared_secrets(store: Store, run: Run) -> None:
    """Overwrite the declared parameters of `run` that hold a secret.

    MLflow's own interface refuses to change a parameter, so this goes to the database; behind a server only a
    person can, and is told.
    """
    secret = {key: redact(value) for key, value in run.data.params.items() if redact(value) != value}
    if not secret:
        return
    if store.is_server:
        logger.warning(
            "tracking: mlflow run stored %s with its secret in run %s; remove that run (mlflow runs delete, "
            "mlflow gc), change the secret, and give it in an environment variable next time",
            *(", ".join(sorted(secret)), run.info.run_id),
        )
        return
    database = store.client._tracking_client.store
    with database.ManagedSessionMaker() as session:
        if store.uri.startswith(SQLITE_SCHEME):
            session.execute(text("PRAGMA secure_delete = ON"))  # else the old bytes stay in the file
        for key, value in secret.items():
            session.query(SqlParam).filter_by(run_uuid=run.info.run_id, key=key).update({"value": value})
    logger.info("tracking: %s is kept without its secret", ", ".join(sorted(secret)))
