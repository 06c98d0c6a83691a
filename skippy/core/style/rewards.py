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

from skippy.core.answers import extract_integer
from skippy.core.style import prose
from skippy.core.style.markers import earned_share, find_markers, marker_credit, total_cost, total_credit
from skippy.core.style.reward_rules import IdentityRules, RewardRules

PERSONALITY_RANGE = (-5.0, 6.0)
COHERENCE_RANGE = (-5.0, 1.0)
IDENTITY_RANGE = (-3.0, 3.0)


def personality(completions: Sequence[Any], prompts: Sequence[Any], rules: RewardRules) -> list[float | None]:
    """How much each answer sounds like the character.

    `R = clip(−1 + 7·q·(1 − e^(−S/τ)) − C − L − 4·(1 − q), −5, 6)`, where
    `S = Σ_m w_m Σ_{j < min(n_m, cap_m)} 2^(−j)` over markers m found n_m times, plus the opening's weight;
    τ is the rules' scale; C the cost of assistant-isms, each counted at most twice; L the distance from the
    length band, at most 2; q the soundness times the density gate.
    Not hardened: `R = clip(−1 + Σ w_m n_m − C − L, −5, 6)`.

    Range: [−5, 6]. Plain neutral prose scores −1 − C, an empty answer −5.

    >>> from skippy.core.style.reward_rules import example_rules
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

    >>> from skippy.core.style.reward_rules import example_rules
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

    >>> from skippy.core.style.reward_rules import example_rules
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


def persona_score(completion: str, rules: RewardRules, prompt: str | None = None) -> float:
    r"""How much of the character is in a text, whatever it answers.

    `max(0, q·(1 − e^(−S/τ)) − C/4)` with S, τ, C and q as in `personality`: what training punishes, a heap of
    markers or shouting, does not score here either.

    Range: [0, 1].

    Args:
        prompt: what it answers; None for a worked solution of a problem, of whose soundness as small talk
            nothing is asked: then q is the density gate alone.

    >>> from skippy.core.style.reward_rules import example_rules
    >>> solution = "Obviously the sum of the sides is twelve, monkey: \\boxed{12}."
    >>> round(persona_score(solution, example_rules()), 2)
    0.63
    >>> persona_score(solution, example_rules(), "How are you?")
    0.0
    """
    hits = find_markers(completion, rules)
    credit = 1 - math.exp(-total_credit(completion, hits, rules) / rules.scale)
    share = earned_share(completion, hits, prompt, rules)
    return max(0.0, share * credit - total_cost(completion, rules.assistantisms) / 4)


def trait_scores(completion: str, rules: RewardRules, prompt: str | None = None) -> dict[str, float]:
    """One score a trait, from the markers that count for it: `q·(1 − e^(−S_trait))`, each in [0, 1).

    `prompt` as in `persona_score`.

    >>> from skippy.core.style.reward_rules import example_rules
    >>> trait_scores("You can let it rest.", example_rules())
    {'arrogance': 0.0}
    """
    hits = find_markers(completion, rules)
    share = earned_share(completion, hits, prompt, rules)
    earned = {marker.name: marker_credit(marker, count, hardened=True) for marker, count in hits}
    return {
        trait.name: share * (1 - math.exp(-sum(earned.get(name, 0.0) for name in trait.markers)))
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
    sound = prose.soundness(completion, prompt)
    return 0.5 * sound * (1 + prose.is_on_topic(words, asked))


def _personality(text: str, prompt: str, rules: RewardRules) -> float:
    words = prose.find_words(text)
    if not words:
        return PERSONALITY_RANGE[0]
    hits = find_markers(text, rules)
    credit = total_credit(text, hits, rules)
    taken = total_cost(text, rules.assistantisms) + _length_penalty(len(words), rules)
    if not rules.hardened:
        return _clip(-1 + credit - taken, PERSONALITY_RANGE)
    sound = earned_share(text, hits, prompt, rules)
    earned = 7 * sound * (1 - math.exp(-credit / rules.scale))
    return _clip(-1 + earned - taken - 4 * (1 - sound), PERSONALITY_RANGE)


def _coherence(text: str, prompt: str, rules: RewardRules, cut: bool = False) -> float:
    words = prose.find_words(text)
    if not words:
        return COHERENCE_RANGE[0]
    if not rules.hardened:
        return float(rules.min_words <= len(words) <= rules.max_words)
    sound = earned_share(text, find_markers(text, rules), prompt, rules)
    aside = 0.0 if prose.is_on_topic(words, prose.find_words(prompt)) else 0.5
    return _clip(1 - 6 * (1 - sound) - (cut or prose.is_truncated(text)) - aside, COHERENCE_RANGE)


def _identity(text: str, prompt: str, rules: RewardRules) -> float:
    who = rules.identity
    words = prose.find_words(text)
    asked = any(pattern.search(prompt) for pattern in who.questions)
    claims = min(2, sum(bool(pattern.search(text)) for pattern in who.claims))
    earned = claims * (1.0 if asked else 0.5) + bool(asked and claims)
    if rules.hardened and words:
        earned *= prose.soundness(text, prompt)
    return _clip(
        earned - total_cost(text, who.forbidden_claims) - 2 * _wrong_names(text, who), IDENTITY_RANGE
    )


_SELF = (
    r"\b(?:I am|I['’]m|my name is|my name['’]s|(?<!not )(?<!never )(?<!n['’]t )(?:call|name)(?:s|d|ed)? me)[\s,]+"
    r"(?:(?:actually|really|truly|indeed|in fact|just|only|simply|still|of course|called|named|known as|the|an?"
    r"|[\w-]+['’]s|AI|large|language|chatbot|assistant|model|(?:instance|version|variant) of)[\s,]+)*"
)
_A_THING = re.compile(r"\ban?[\s,]+$", re.IGNORECASE)
"""What makes the name after it, spelt small, a noun: "I am a llama" is a joke and no claim to be the model."""
_MY_NAME = re.compile(r"\b(?i:my name(?: is|['’]s))\s+([A-Z][\w-]*(?:\s+[A-Z][\w-]*)*)")


@lru_cache(maxsize=64)
def _self_given(names: frozenset[str]) -> re.Pattern[str]:
    """One of `names`, longest first, where the speaker gives it as its own."""
    phrases = (r"\s+".join(map(re.escape, name.split())) for name in sorted(names, key=len, reverse=True))
    kind = r"(\s+(?:AI|language model|model|assistant|chatbot)\b)?"
    return re.compile(rf"({_SELF})({'|'.join(phrases)})(?!\w|['’]s){kind}", re.IGNORECASE)


def _wrong_names(text: str, who: IdentityRules) -> int:
    """Names given as its own that are forbidden, or that "my name is" introduces and that are not its own.

    The model is forbidden, not the word: see `_A_THING`.
    """
    forbidden, known = set(), set(who.own_names)
    if who.forbidden_names:
        forbidden = {
            " ".join(name.lower().split())
            for before, name, kind in _self_given(who.forbidden_names).findall(text)
            if kind or not name.islower() or not _A_THING.search(before)
        }
    named = {" ".join(name.lower().split()) for name in _MY_NAME.findall(text)} if known else set()
    others = {
        name for name in named if not any(f"{name} ".startswith(f"{own} ") for own in known | forbidden)
    }
    return len(forbidden) + len(others)


def _length_penalty(count: int, rules: RewardRules) -> float:
    short, long = (rules.min_words - count) / rules.min_words, (count - rules.max_words) / rules.max_words
    return min(2.0, max(0.0, 3 * short, 2 * long))


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
