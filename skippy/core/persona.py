"""The nouns *persona* and *trait*: an archetype, and a named dimension of a character."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Persona:
    """An archetype for the personality subspace: a name and its system prompt."""

    name: str
    system_prompt: str


@dataclass(frozen=True)
class ContrastPair:
    """Two system prompts that differ in one trait only, as far as words allow."""

    high: str
    low: str


@dataclass(frozen=True)
class Trait:
    """One named dimension of the character."""

    name: str  # used in metric names
    markers: tuple[str, ...]  # markers that count for it
    rubric: str = ""  # what a judge is asked, to be answered by one digit 0–9
    pairs: tuple[ContrastPair, ...] = ()  # contrastive system prompts that span its vector
