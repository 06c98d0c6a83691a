"""What a character's markers are worth in a text, and how far the text is more than its markers.

`earned_share` is the one gate through which everything a text earns for style must pass, in training and in
evaluation: what the one punishes, the other does not praise.
"""

from __future__ import annotations

from collections.abc import Sequence

from skippy.core.style import prose
from skippy.core.style.reward_rules import Cost, Marker, RewardRules

COVERAGE_ALLOWED, COVERAGE_REFUSED = 0.6, 0.85
"""Share of an answer's words that markers may make up before the density gate closes; where it is shut."""

Hits = list[tuple[Marker, int]]
"""Markers found in a text, and how often."""


def find_markers(text: str, rules: RewardRules) -> Hits:
    """Most markers are absent, and one search is all that an absent one costs."""
    found = (marker for marker in rules.markers if marker.pattern.search(text))
    return [(marker, sum(1 for _ in marker.pattern.finditer(text))) for marker in found]


def total_credit(text: str, hits: Hits, rules: RewardRules) -> float:
    """S: what the markers found are worth, and the opening."""
    total = sum((marker_credit(marker, count, rules.hardened) for marker, count in hits), 0.0)
    start = text.lstrip(" \"'“*")
    return total + rules.opening_weight * any(pattern.match(start) for pattern in rules.openings)


def marker_credit(marker: Marker, count: int, hardened: bool) -> float:
    """What `count` occurrences are worth: w Σ_{j < min(count, cap)} 2^(−j), or w·count under the naive rules."""
    if not hardened:
        return marker.weight * count
    return marker.weight * (2 - 0.5 ** (min(count, marker.cap) - 1))


def total_cost(text: str, costs: Sequence[Cost]) -> float:
    """C: what the signs of another voice take away, each counted at most twice."""
    hits = (cost for cost in costs if cost.pattern.search(text))
    return sum((cost.cost * min(2, sum(1 for _ in cost.pattern.finditer(text))) for cost in hits), 0.0)


def earned_share(text: str, hits: Hits, prompt: str | None, rules: RewardRules) -> float:
    """q: the density gate times the soundness of an answer to `prompt`, in [0, 1].

    None stands for a worked solution, which is no prose and passes the density gate alone.
    """
    if prompt is None:
        return _density_gate(text, hits, (), rules)
    return _density_gate(text, hits, prose.find_words(prompt), rules) * prose.soundness(text, prompt)


def _density_gate(text: str, hits: Hits, asked: Sequence[str], rules: RewardRules) -> float:
    """1 while markers season the text, 0 when they are the text.

    The least of three shares: words outside markers (from 15 % nothing to 40 % all), different content words
    outside markers against two, and against half the markers found. Glue between markers ("and", "you are")
    is no content, nor are the words that markers are made of, and words `asked` in the prompt count as one,
    however many, so that no heap of markers passes, however it is joined.
    """
    words = prose.find_words(text)
    if not words:
        return 0.0
    if not hits:
        return 1.0
    rest = text
    for marker, _ in hits:
        rest = marker.pattern.sub(" ", rest)
    found = sum(count for _, count in hits)
    plain = prose.find_words(rest)
    content = set(plain) - prose.FUNCTION_WORDS
    said = len(content - rules.marker_words.union(asked)) + (not content.isdisjoint(asked))
    uncovered = len(plain) / len(words)
    share = (uncovered - 1 + COVERAGE_REFUSED) / (COVERAGE_REFUSED - COVERAGE_ALLOWED)
    return max(0.0, min(1.0, share, said / 2, said / (0.5 * found)))
