"""Generation backends: requests in, completions out as they finish, whatever the batch. No torch is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from skippy.core.sampling import Sampling

REFUSALS = ("content_filter", "refused")


@dataclass(frozen=True)
class Request:
    """One sample to make: chat messages, and the seed that decides its random choices.

    `model` names who answers, where a backend has several; empty is the one it was opened for.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    seed: int
    model: str = ""


@dataclass(frozen=True)
class Completion:
    """One sample made, or one of the `REFUSALS` to make it, which has no text.

    `tokens` counts the generated ones, with the one that stopped it.
    """

    id: str
    text: str
    tokens: int
    finish_reason: Literal["stop", "length", "content_filter", "refused"]


class Backend(Protocol):
    """What every backend offers."""

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion a request, in the order in which they finish."""

    def supports(self, sampling: Sampling) -> bool:
        """Whether every parameter of `sampling` is honoured as defined."""
