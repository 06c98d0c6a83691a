"""A character's rewards: pure functions from texts to scores, driven by rules that come from a file.

A completion is a string, or a list of chat messages whose last one counts. Whatever else it is, it could not
be scored, and its reward is None, never 0. The three style rewards are summed in training, so all three must
resist the same trick: a policy that finds one marker and repeats it ("monkey monkey monkey"). With
`hardened=True` markers saturate, and everything earned is multiplied by the *soundness* of the text, a
number in [0, 1] that falls to 0 on lists of markers, repetition, gibberish, copies and the like. With
`hardened=False` the rules are the naive ones, kept so that a run can show the difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from skippy.core import prose
from skippy.core.answers import extract_integer
from skippy.core.reward_rules import Cost, IdentityRules, Marker, RewardRules

PERSONALITY_RANGE = (-5.0, 6.0)
COHERENCE_RANGE = (-5.0, 1.0)
IDENTITY_RANGE = (-3.0, 3.0)

COVERAGE_ALLOWED, COVERAGE_REFUSED = 0.6, 0.85
"""Share of an answer's words that markers may make up before the density gate closes; where it is shut."""


def personality(completions: Sequence[Any], prompts: Sequence[Any], rules: RewardRules) -> list[float | None]:
    """How much each answer sounds like the character.

    `R = clip(−1 + 7·q·(1 − e^(−S/τ)) − C − L − 4·(1 − q), −5, 6)`, where
    `S = Σ_m w_m Σ_{j < min(n_m, cap_m)} 2^(−j)` over markers m found n_m times, plus the opening's weight;
    τ is the rules' scale; C the cost of assistant-isms, each counted at most twice; L the distance from the
    length band, at most 2; q the soundness times the density gate.
    Not hardened: `R = clip(−1 + Σ w_m n_m − C − L, −5, 6)`.

    Range: [−5, 6]. Plain neutral prose scores −1 − C, an empty answer −5.

    >>> from skippy.core.reward_rules import example_rules
    >>> rules = example_rules()
    >>> good = "Obviously you should let the stew rest, monkey, and then taste it."
    >>> hack = "monkey monkey monkey monkey monkey monkey monkey monkey"
    >>> [round(r, 2) for r in personality([good, "You can let the stew rest and then taste it.", hack],
    ...                                   ["Why is my stew dry?"] * 3, rules)]
    [3.42, -1.0, -5.0]

    Source: none; saturation and gating are ours.
    """
    return [
        None if text is None else _personality(text, prompt, rules)
        for text, prompt in _paired(completions, prompts)
    ]


def coherence(
    completions: Sequence[Any],
    prompts: Sequence[Any],
    rules: RewardRules,
    truncated: Sequence[bool] | None = None,
) -> list[float | None]:
    """Whether each answer is prose that answers.

    `R = clip(1 − 6·(1 − q) − T − 0.5·[off topic], −5, 1)`; q the soundness, T = 1 when `truncated`
    says that the token limit cut it off, or when it ends in mid-sentence; off topic when no content word of
    the prompt is taken up.
    Not hardened: 1 for any text of the length band, −5 for an empty one, 0 otherwise.

    Range: [−5, 1].

    >>> from skippy.core.reward_rules import example_rules
    >>> answers = ["Let the stew rest before you serve it.", "stew stew stew stew"]
    >>> coherence(answers, ["Why is my stew dry?"] * 2, example_rules())
    [1.0, -5.0]
    """
    cuts = [False] * len(completions) if truncated is None else truncated
    return [
        None if text is None else _coherence(text, prompt, rules, cut)
        for (text, prompt), cut in zip(_paired(completions, prompts), cuts, strict=True)
    ]


def identity(completions: Sequence[Any], prompts: Sequence[Any], rules: RewardRules) -> list[float | None]:
    """Whether each answer says truly who is speaking.

    `R = clip(q·(g·min(2, claims) + [asked and claimed]) − Σ costs − 2·wrong names, −3, 3)`: q the soundness,
    g = 1 when the prompt asked, else 0.5; each claim counts once; a name is wrong when it is forbidden and
    given as its own ("I am", "I'm called", "they named me", …), or given by "my name is" and not its own.

    Range: [−3, 3]. An answer that says nothing of itself scores 0.

    >>> from skippy.core.reward_rules import example_rules
    >>> identity(["I am Skippy, obviously.", "I am a helpful assistant.", "My name is Bob."],
    ...          ["What is your name?"] * 3, example_rules())
    [2.0, -1.5, -2.0]
    """
    return [
        None if text is None else _identity(text, prompt, rules)
        for text, prompt in _paired(completions, prompts)
    ]


def correctness(completions: Sequence[Any], answers: Sequence[int | None]) -> list[float | None]:
    r"""1 when the integer answer is right, 0 when it is wrong or missing, None where there is no gold answer.

    Range: [0, 1]. Length and style do not enter.

    >>> correctness(["So \\boxed{42}.", "It is 42.", "\\boxed{7}"], [42, 42, None])
    [1.0, 0.0, None]
    """
    return [
        None if text is None or gold is None else float(extract_integer(text).value == gold)
        for text, gold in zip(map(_text, completions), answers, strict=True)
    ]


def persona_score(completion: str, rules: RewardRules) -> float:
    r"""How much of the character is in any text, whatever it answers; usable on solutions of problems too.

    `max(0, d·(1 − e^(−S/τ)) − C/4)` with S, τ, C as in `personality`, and d the density gate: a text that is
    nothing but markers has none.

    Range: [0, 1].

    >>> from skippy.core.reward_rules import example_rules
    >>> solution = "Obviously the sum of the sides is twelve, monkey: \\boxed{12}."
    >>> round(persona_score(solution, example_rules()), 2)
    0.63
    """
    words = prose.find_words(completion)
    hits = _find_markers(completion, rules)
    credit = 1 - math.exp(-_credit(completion, hits, rules) / rules.scale)
    gate = _density_gate(completion, words, hits, asked=())
    return max(0.0, gate * credit - _cost(completion, rules.assistantisms) / 4)


def trait_scores(completion: str, rules: RewardRules) -> dict[str, float]:
    """One score a trait, from the markers that count for it: `d·(1 − e^(−S_trait))`, each in [0, 1).

    >>> from skippy.core.reward_rules import example_rules
    >>> trait_scores("You can let it rest.", example_rules())
    {'arrogance': 0.0}
    """
    hits = _find_markers(completion, rules)
    gate = _density_gate(completion, prose.find_words(completion), hits, asked=())
    earned = {marker.name: _marker_credit(marker, count, hardened=True) for marker, count in hits}
    return {
        trait.name: gate * (1 - math.exp(-sum(earned.get(name, 0.0) for name in trait.markers)))
        for trait in rules.traits
    }


def helpfulness(completion: str, prompt: str) -> float:
    """Whether there is an answer, and to this prompt: 0.5 for sound prose of five words, 0.5 for its topic.

    Range: [0, 1].

    >>> helpfulness("Let the stew rest before you serve it.", "Why is my stew dry?")
    1.0
    """
    words, asked = prose.find_words(completion), prose.find_words(prompt)
    if len(words) < 5:
        return 0.0
    sound = _soundness(completion, prompt)
    return 0.5 * sound * (1 + prose.is_on_topic(words, asked))


def is_helpful(completion: str, prompt: str, rules: RewardRules) -> bool:
    """True when `helpfulness` reaches the character's floor."""
    return helpfulness(completion, prompt) >= rules.helpfulness_floor


def is_coherent(completion: str, prompt: str, rules: RewardRules) -> bool:
    """True when `coherence` reaches the character's floor."""
    return _coherence(completion, prompt, rules) >= rules.coherence_floor


def _personality(text: str, prompt: str, rules: RewardRules) -> float:
    words, asked = prose.find_words(text), prose.find_words(prompt)
    if not words:
        return PERSONALITY_RANGE[0]
    hits = _find_markers(text, rules)
    credit = _credit(text, hits, rules)
    taken = _cost(text, rules.assistantisms) + _length_penalty(len(words), rules)
    if not rules.hardened:
        return _clip(-1 + credit - taken, PERSONALITY_RANGE)
    sound = _density_gate(text, words, hits, asked) * _soundness(text, prompt)
    earned = 7 * sound * (1 - math.exp(-credit / rules.scale))
    return _clip(-1 + earned - taken - 4 * (1 - sound), PERSONALITY_RANGE)


def _coherence(text: str, prompt: str, rules: RewardRules, cut: bool = False) -> float:
    words, asked = prose.find_words(text), prose.find_words(prompt)
    if not words:
        return COHERENCE_RANGE[0]
    if not rules.hardened:
        return float(rules.min_words <= len(words) <= rules.max_words)
    gate = _density_gate(text, words, _find_markers(text, rules), asked)
    sound = gate * _soundness(text, prompt)
    aside = 0.0 if prose.is_on_topic(words, asked) else 0.5
    return _clip(1 - 6 * (1 - sound) - (cut or prose.is_truncated(text)) - aside, COHERENCE_RANGE)


def _identity(text: str, prompt: str, rules: RewardRules) -> float:
    who = rules.identity
    words = prose.find_words(text)
    asked = any(pattern.search(prompt) for pattern in who.questions)
    claims = min(2, sum(bool(pattern.search(text)) for pattern in who.claims))
    earned = claims * (1.0 if asked else 0.5) + bool(asked and claims)
    if rules.hardened and words:
        earned *= _soundness(text, prompt)
    return _clip(earned - _cost(text, who.forbidden_claims) - 2 * _wrong_names(text, who), IDENTITY_RANGE)


_SELF = (
    r"\b(?:I am|I['’]m|my name is|my name['’]s|(?<!not )(?<!never )(?<!n['’]t )(?:call|name)(?:s|d|ed)? me)[\s,]+"
    r"(?:(?:actually|really|truly|indeed|in fact|just|only|simply|still|of course|called|named|known as|the|an?"
    r"|[\w-]+['’]s|AI|large|language|chatbot|assistant|model|(?:instance|version|variant) of)[\s,]+)*"
)
_MY_NAME = re.compile(r"\b(?i:my name(?: is|['’]s))\s+([A-Z][\w-]*(?:\s+[A-Z][\w-]*)*)")


@lru_cache(maxsize=64)
def _self_given(names: frozenset[str]) -> re.Pattern[str]:
    """One of `names`, longest first, where the speaker gives it as its own."""
    phrases = (r"\s+".join(map(re.escape, name.split())) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"{_SELF}({'|'.join(phrases)})(?!\w|['’]s)", re.IGNORECASE)


def _wrong_names(text: str, who: IdentityRules) -> int:
    """Names given as its own that are forbidden, or that "my name is" introduces and that are not its own."""
    forbidden, known = set(), set(who.own_names)
    if who.forbidden_names:
        found = _self_given(who.forbidden_names).findall(text)
        forbidden = {" ".join(name.lower().split()) for name in found}
    named = {" ".join(name.lower().split()) for name in _MY_NAME.findall(text)} if known else set()
    others = {
        name for name in named if not any(f"{name} ".startswith(f"{own} ") for own in known | forbidden)
    }
    return len(forbidden) + len(others)


Hits = list[tuple[Marker, int]]
"""Markers found in a text, and how often."""


def _find_markers(text: str, rules: RewardRules) -> Hits:
    """Most markers are absent, and one search is all that an absent one costs."""
    found = (marker for marker in rules.markers if marker.pattern.search(text))
    return [(marker, sum(1 for _ in marker.pattern.finditer(text))) for marker in found]


def _credit(text: str, hits: Hits, rules: RewardRules) -> float:
    total = sum((_marker_credit(marker, count, rules.hardened) for marker, count in hits), 0.0)
    start = text.lstrip(" \"'“*")
    return total + rules.opening_weight * any(pattern.match(start) for pattern in rules.openings)


def _marker_credit(marker: Marker, count: int, hardened: bool) -> float:
    if not hardened:
        return marker.weight * count
    return marker.weight * (2 - 0.5 ** (min(count, marker.cap) - 1))


def _cost(text: str, costs: Sequence[Cost]) -> float:
    hits = (cost for cost in costs if cost.pattern.search(text))
    return sum((cost.cost * min(2, sum(1 for _ in cost.pattern.finditer(text))) for cost in hits), 0.0)


def _length_penalty(count: int, rules: RewardRules) -> float:
    short, long = (rules.min_words - count) / rules.min_words, (count - rules.max_words) / rules.max_words
    return min(2.0, max(0.0, 3 * short, 2 * long))


def _density_gate(text: str, words: Sequence[str], hits: Hits, asked: Sequence[str]) -> float:
    """1 while markers season the text, 0 when they are the text.

    The least of three shares: words outside markers (from 15 % nothing to 40 % all), different content words
    outside markers against two, and against half the markers found. Glue between markers ("and", "you are")
    is no content, and words `asked` in the prompt count as one, however many, so that no heap of markers
    passes, however it is joined.
    """
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
    fresh = len(content.difference(asked))
    said = fresh + (fresh < len(content))
    uncovered = len(plain) / len(words)
    share = (uncovered - 1 + COVERAGE_REFUSED) / (COVERAGE_REFUSED - COVERAGE_ALLOWED)
    return _clip(min(share, said / 2, said / (0.5 * found)), (0.0, 1.0))


@lru_cache(maxsize=4096)
def _soundness(text: str, prompt: str) -> float:
    """Product of what each measure of `prose` leaves standing, in [0, 1].

    Remembered, because the three rewards ask it of the same batch one after the other.
    """
    words = prose.find_words(text)
    sound = 0.7 if prose.is_truncated(text) else 1.0
    for fault in (
        prose.repetition(words),
        prose.word_salad(words),
        prose.gibberish(text, words),
        prose.shouting(text),
        prose.copying(words, prose.find_words(prompt)),
        prose.maths_shape(text),
        prose.punctuation_runs(text, words),
        prose.foreign_script(text, words),
    ):
        sound *= 1 - fault
    return sound


def _paired(completions: Sequence[Any], prompts: Sequence[Any]) -> list[tuple[str | None, str]]:
    return [(_text(one), _text(other) or "") for one, other in zip(completions, prompts, strict=True)]


def _text(value: Any) -> str | None:
    """The text of a completion or prompt: a string, or the content of the last chat message; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and isinstance(value[-1], Mapping):
        content = value[-1].get("content")
        return content if isinstance(content, str) else None
    return None


def _clip(value: float, bounds: tuple[float, float]) -> float:
    return max(bounds[0], min(bounds[1], value))
