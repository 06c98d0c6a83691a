"""What a character file tells the rewards: markers, costs, openings, length band, identity, traits, floors.

Frozen data, compiled patterns included. `characters/` makes it from a file; `core/rewards.py` reads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from skippy.core.persona import Trait
from skippy.core.style import prose


@dataclass(frozen=True)
class Marker:
    """One sign of the character in the text."""

    name: str  # how traits refer to it
    pattern: re.Pattern[str]  # what to search for
    weight: float  # what its first occurrence earns
    cap: int  # occurrences that earn; the j-th earns weight / 2^(j−1)
    example: str  # a literal the pattern matches, checked when the file is loaded


@dataclass(frozen=True)
class Cost:
    """One sign that the character was dropped: an assistant-ism, or a claim it must not make."""

    name: str  # what it is called in messages
    pattern: re.Pattern[str]  # what to search for
    cost: float  # what each of at most two occurrences takes away
    example: str  # a literal the pattern matches, checked when the file is loaded


@dataclass(frozen=True)
class IdentityRules:
    """Who the character says it is."""

    claims: tuple[re.Pattern[str], ...]  # statements about itself that earn one point, two when it was asked
    forbidden_claims: tuple[Cost, ...]  # statements about itself that cost
    own_names: frozenset[str]  # names it may give as its own, lower case; several words are one phrase
    forbidden_names: frozenset[str]  # names it must not use of itself, likewise
    questions: tuple[re.Pattern[str], ...]  # prompts that ask who it is


@dataclass(frozen=True)
class RewardRules:
    """Everything the rewards need to know of a character."""

    markers: tuple[Marker, ...]  # signs of the character
    assistantisms: tuple[Cost, ...]  # signs that it was dropped
    # patterns matched at the very start; the first that fits earns `opening_weight`, once
    openings: tuple[re.Pattern[str], ...]
    opening_weight: float  # what a fitting opening earns
    scale: float  # sum of weights at which 63 % of the credit is earned
    min_words: int  # shortest answer without a penalty
    max_words: int  # longest answer without a penalty
    identity: IdentityRules  # who it says it is
    traits: tuple[Trait, ...]  # named traits
    hardened: bool = True  # False switches caps, diminishing returns and soundness off

    @cached_property
    def marker_words(self) -> frozenset[str]:
        """The words of all markers' examples."""
        return frozenset(word for marker in self.markers for word in prose.find_words(marker.example))


def example_rules() -> RewardRules:
    """Small rules for the worked examples in the docstrings of `rewards`."""

    def find(pattern: str) -> re.Pattern[str]:
        return re.compile(pattern, re.IGNORECASE)

    return RewardRules(
        markers=(
            Marker("obviously", find(r"\bobviously\b"), 1.0, 1, "obviously"),
            Marker("monkey", find(r"\bmonkey\b"), 1.0, 1, "monkey"),
        ),
        assistantisms=(Cost("happy to help", find(r"\bhappy to help\b"), 1.0, "happy to help"),),
        openings=(),
        opening_weight=0.0,
        scale=2.0,
        min_words=6,
        max_words=60,
        identity=IdentityRules(
            claims=(find(r"\bI am Skippy\b"),),
            forbidden_claims=(Cost("assistant", find(r"\ban? (helpful )?assistant\b"), 1.5, "an assistant"),),
            own_names=frozenset({"skippy"}),
            forbidden_names=frozenset({"bob"}),
            questions=(find(r"\bname\b"),),
        ),
        traits=(Trait("arrogance", ("obviously",)),),
    )
