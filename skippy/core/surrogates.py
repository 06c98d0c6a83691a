"""Text that can be written: halves of surrogate pairs joined, or replaced where the other half is missing."""

from __future__ import annotations


def join_surrogates(text: str) -> str:
    """The text with every surrogate pair as its character, and every lone half as U+FFFD.

    JSON may hold either; UTF-8 holds neither. Text without surrogates comes back as it is.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
