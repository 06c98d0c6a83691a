"""Lists as people type them, and numbers as people read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from skippy.errors import ConfigError

HEX = re.compile(r"\b[0-9a-f]{16,64}\b")


def split_list(
    text: str,
    where: str,
    read: Callable[[str], Any] = str,
    *,
    key: Callable[[Any], object] | None = lambda entry: entry,
) -> tuple[Any, ...]:
    """The entries of a comma-separated parameter, in its order; blank text has none.

    Args:
        text: what was typed.
        where: the parameter.
        read: makes of each entry what it means, or refuses it.
        key: what no two entries may share once they are read; None: any may be alike.

    Raises:
        ConfigError: an entry is blank, or there twice.
    """
    entries = [entry.strip() for entry in text.split(",")] if text.strip() else []
    found: list[Any] = []
    kept: list[str] = []
    fault = "" if all(entries) else "is blank"
    for entry in filter(None, entries):
        value = read(entry)
        if key is not None and key(value) in [key(other) for other in found]:
            fault = fault or "is there twice"
        else:
            found.append(value)
            kept.append(entry)
    if fault:
        raise ConfigError(
            f"An entry of the list {fault}.",
            where=where,
            expected="entries with commas between, each once",
            found=repr(text),
            next_step=f"pass {where}={','.join(kept)}" if kept else f"leave {where} out, or name one",
        )
    return tuple(found)


def shortened(text: str) -> str:
    """Ids and digests in a text by as few of their first digits, eight or more, as tell them apart."""
    whole = set(HEX.findall(text))
    digits = next(n for n in range(8, 65) if len({one[:n] for one in whole}) == len(whole))
    return HEX.sub(lambda found: found.group()[:digits], text)


def counted(number: int, one: str, many: str = "") -> str:
    """`1 problem`, `3 problems`, `1,200 runs`; `many` where the plural is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
