"""An arm that is the base under a system prompt: a reference to both in the place of weights.

The directory holds what the base has beside its weights, `prompt.json`, and a card by which it is verified like any
merged checkpoint. No weight is copied: whoever loads it loads the base and puts the prompt before every request.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skippy.errors import CheckpointError
from skippy.stores.atomic import new_directory, write_json
from skippy.stores.cards import MergeAccount, write_card
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.documents import parse_object

PROMPT_FILE = "prompt.json"


@dataclass(frozen=True)
class Prompted:
    """A base and what is put before every request to it."""

    base_model: str  # what people call the base: `lab`, a directory, an id, or a models:/ URI
    base_digest: str  # of its tensors
    character: str  # name of the character
    character_digest: str  # of its content
    system_prompt: str  # the character's
    tokens: int  # that the prompt adds to every request

    @property
    def digest(self) -> str:
        """In the place of a digest of tensors: base and prompt decide what this model says."""
        return hashlib.sha256(f"{self.base_digest}\n{self.system_prompt}".encode()).hexdigest()


def write_prompted(
    base: Checkpoint, prompted: Prompted, destination: Path, lineage: str = ""
) -> MergeAccount:
    """Write the reference, whole or not at all."""
    account = MergeAccount(
        path=destination,
        alpha=0.0,
        targets=0,
        dtype="same",
        rounding="nearest",
        delta_error=0.0,
        delta_cosine=1.0,
        leakage=None,
        base_digest=prompted.base_digest,
        adapter_digest=prompted.digest,
        digest=prompted.digest,
        notes=("no weights of its own: the base under the character's system prompt",),
    )
    with new_directory(destination) as directory:
        base.copy_companions(directory)
        write_json(directory / PROMPT_FILE, asdict(prompted))
        write_card(directory, account, {}, lineage)
    return account


def read_prompted(folder: Path) -> Prompted | None:
    """The reference in a directory; None where it holds weights.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / PROMPT_FILE
    if not path.is_file():
        return None
    try:
        entry: dict[str, Any] = parse_object(path.read_bytes())
        return Prompted(**entry)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            "The reference to a prompted base cannot be read.",
            where=str(path),
            expected="base, character and system prompt as a JSON object",
            found=str(error),
            next_step="register it again: mlflow run . -e merge --env-manager local -P variant=prompt",
        ) from error
