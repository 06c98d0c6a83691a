"""Logged models that stand for weights outside the store, so that their figures have a place among the others."""

from __future__ import annotations

import re

import mlflow

from skippy.redaction import redact
from skippy.tracking.connection import Store
from skippy.tracking.exclusion import exclusive
from skippy.tracking.refusals import translated_errors
from skippy.tracking.tags import Tag

_ILLEGAL = re.compile(r"""[/:.%"']""")


def external_model(store: Store, name: str, digest: str) -> str:
    """The id of the logged model that stands for the weights with this digest; made where there is none."""
    with translated_errors(f"logged model {name!r}"), exclusive(store, f"model {digest[:16]}"):
        found = _ready(store, digest)
        if not found:
            mlflow.create_external_model(
                name=_ILLEGAL.sub("_", redact(name)),
                tags={Tag.MODEL_DIGEST: digest},
                model_type="checkpoint",
                experiment_id=store.experiment_id,
            )
            found = _ready(store, digest)
        return found[0]


def _ready(store: Store, digest: str) -> list[str]:
    """Ids of the finished ones, oldest first."""
    found = store.client.search_logged_models(
        [store.experiment_id], f"tags.`{Tag.MODEL_DIGEST}` = '{digest}'"
    )
    ready = [model for model in found if str(model.status) == "READY"]
    return [model.model_id for model in sorted(ready, key=lambda m: (m.creation_timestamp, m.model_id))]
