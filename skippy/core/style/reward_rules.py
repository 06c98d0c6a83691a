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
    """One sign of the character in the text.

    Attributes:
        name: how traits refer to it.
        pattern: what to search for.
        weight: what its first occurrence earns.
        cap: occurrences that earn; the j-th earns weight / 2^(j−1).
        example: a literal the pattern matches, checked when the file is loaded.
    """

    name: str
    pattern: re.Pattern[str]
    weight: float
    cap: int
    example: str


@dataclass(frozen=True)
class Cost:
    """One sign that the character was dropped: an assistant-ism, or a claim it must not make.

    Attributes:
        name: what it is called in messages.
        pattern: what to search for.
        cost: what each of at most two occurrences takes away.
        example: a literal the pattern matches, checked when the file is loaded.
    """

    name: str
    pattern: re.Pattern[str]
    cost: float
    example: str


@dataclass(frozen=True)
class IdentityRules:
    """Who the character says it is.

    Attributes:
        claims: statements about itself that earn one point, two when it was asked.
        forbidden_claims: statements about itself that cost.
        own_names: names it may give as its own, lower case; several words are one phrase.
        forbidden_names: names it must not use of itself, likewise.
        questions: prompts that ask who it is.
    """

    claims: tuple[re.Pattern[str], ...]
    forbidden_claims: tuple[Cost, ...]
    own_names: frozenset[str]
    forbidden_names: frozenset[str]
    questions: tuple[re.Pattern[str], ...]


@dataclass(frozen=True)
class RewardRules:
    """Everything the rewards need to know of a character.

    Attributes:
        markers: signs of the character.
        assistantisms: signs that it was dropped.
        openings: patterns matched at the very start; the first that fits earns `opening_weight`, once.
        opening_weight: what a fitting opening earns.
        scale: sum of weights at which 63 % of the credit is earned.
        min_words: shortest answer without a penalty.
        max_words: longest answer without a penalty.
        identity: who it says it is.
        traits: named traits.
        hardened: False switches caps, diminishing returns and soundness off.
    """

    markers: tuple[Marker, ...]
    assistantisms: tuple[Cost, ...]
    openings: tuple[re.Pattern[str], ...]
    opening_weight: float
    scale: float
    min_words: int
    max_words: int
    identity: IdentityRules
    traits: tuple[Trait, ...]
    hardened: bool = True

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
