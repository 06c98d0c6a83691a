"""The commands of a Markdown page: of indented blocks, of code between backticks, and what says that one is not run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MARK = re.compile(r"<!-- not walked: (?P<reason>[^>]+?) -->")
PROGRAMS = ("mlflow run .", "skippy ", "make ", "python -m skippy", "-e ", "-P ")
"""How code in a sentence begins that is, or belongs to, a command of ours."""


@dataclass(frozen=True)
class Command:
    """One command as a reader would type it.

    Attributes:
        line: of the page, from 1.
        text: without its comment.
        reason: why it is not run; empty: it is.
        is_inline: in a sentence or a table, where it is often a part of a command (`-e train -P beta=0`).
    """

    line: int
    text: str
    reason: str = ""
    is_inline: bool = False


def commands_of(page: str) -> Iterator[Command]:
    """Every command, in order. A mark on a line of its own holds for the block that follows."""
    reason = begun = ""
    for number, line in enumerate(page.splitlines(), start=1):
        if line.startswith("    "):
            text = begun + re.split(r"\s+#\s", line[4:])[0].strip()
            begun = text.removesuffix("\\") if text.endswith("\\") else ""
            if begun:
                continue
            if text and not text.startswith(("#", "{")):
                yield Command(number, text, reason)
            continue
        mark = MARK.fullmatch(line.strip())
        if mark or line.strip():
            reason = mark["reason"] if mark else ""
        for code in re.findall(r"`([^`]+)`", line):
            if code.startswith(PROGRAMS):
                yield Command(number, code, is_inline=True)
