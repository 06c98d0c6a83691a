"""What an `adapter/` holds is what its maker wrote: `skippy.json` beside it has the sha256 of every file.

A bit that flipped on a disk leaves a whole safetensors file of finite numbers, which nothing else would notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skippy.errors import AdapterError
from skippy.stores.atomic import write_json
from skippy.stores.cards import CARD_FILE, hash_file
from skippy.stores.documents import parse_object

FILES = "files"


def write_seal(directory: Path, card: Mapping[str, Any]) -> None:
    """Write `skippy.json` last: the card, and the sha256 of every file that lies here."""
    names = sorted(file.name for file in directory.iterdir() if file.is_file() and file.name != CARD_FILE)
    write_json(directory / CARD_FILE, {**card, FILES: {name: hash_file(directory / name) for name in names}})


def require_sealed(path: str | Path) -> None:
    """Hash the files again; an adapter of others, or of an earlier version, says nothing of them.

    Raises:
        AdapterError: one is missing or is not what was written.
    """
    directory = Path(path)
    try:
        sealed = parse_object((directory / CARD_FILE).read_bytes()).get(FILES, {})
        wrong = [name for name, sha in sealed.items() if _hash(directory / name) != sha]
    except (OSError, ValueError, AttributeError):
        return  # its reader says what is wrong with the card, where it needs one
    if wrong:
        raise AdapterError(
            "The adapter is not what its training wrote.",
            where=str(directory),
            expected=f"the {len(sealed)} files of {CARD_FILE}, unaltered",
            found="missing or altered: " + ", ".join(wrong[:4]),
            next_step=f"restore the files or train again; remove {CARD_FILE} from a copy that you changed on purpose",
        )


def _hash(file: Path) -> str:
    return hash_file(file) if file.is_file() else ""
