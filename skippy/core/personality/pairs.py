"""Pairs to steer by: an answer in character beside a plain one to the same prompt, of about the same length.

A pair teaches the character only where the two differ in character and in nothing else. So both are coherent, the
rewards tell them apart, and neither is much longer: a preference for short answers is learned as readily as one for
sarcasm. An answer that was cut off serves up to its last whole sentence. Within a prompt every answer serves once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from skippy.core.style import rewards
from skippy.core.style.reward_rules import RewardRules
from skippy.errors import SubspaceError
from skippy.words import counted

LEAST_MARGIN = 2.0
"""Summed rewards by which the answer in character must lead; about one clear marker."""
LONGEST_RATIO = 1.2
FEWEST, MOST = 200, 700


@dataclass(frozen=True)
class Candidate:
    """One answer of the base: whose prompt, how long in tokens, and whether it ended by itself or was cut off."""

    prompt: str
    text: str
    tokens: int
    is_whole: bool = True


@dataclass(frozen=True)
class Pair:
    """The answer in character and the plain one; `is_whole` where both ended by themselves."""

    prompt: str
    chosen: str
    rejected: str
    is_whole: bool = True


@dataclass(frozen=True)
class PairChoice:
    """The pairs, by prompt in the order given, and what became of the others."""

    pairs: tuple[Pair, ...]  # at most `most`
    answers: int  # in character and plain, as given
    broken: int  # incoherent answers, and those cut off in their first sentence
    alike: int  # pairs of fitting length that the rewards do not tell apart
    uneven: int  # answers in character without a plain one of about their length
    spare: int  # pairs above `most`

    def describe(self) -> str:
        """The counts in a line."""
        return (
            f"{len(self.pairs)} pairs of {self.answers} answers; {self.broken} broken or incoherent, "
            f"{self.uneven} without another of their length, {counted(self.alike, 'pair')} too much alike, "
            f"{self.spare} spare"
        )


def choose_pairs(
    in_character: Sequence[Candidate],
    plain: Sequence[Candidate],
    rules: RewardRules,
    *,
    least_margin: float = LEAST_MARGIN,
    fewest: int = FEWEST,
    most: int = MOST,
) -> PairChoice:
    """Pair off answers to the same prompts.

    Args:
        least_margin: by how much the summed rewards must differ.
        fewest: pairs below which nothing can be learned that is not the pairs themselves.
        most: pairs above which more are left aside, the same number from every prompt as far as that goes.

    Raises:
        SubspaceError: too few pairs are left; the message says where the others went.
    """
    sound, plain_sound = _coherent(in_character, rules), _coherent(plain, rules)
    alike = uneven = 0
    by_prompt: list[list[Pair]] = []
    for prompt in dict.fromkeys(each.prompt for each in in_character):
        couples, lonely = _couple(sound.get(prompt, []), plain_sound.get(prompt, []))
        told_apart = [pair for pair in couples if _margin(pair, rules) >= least_margin]
        alike, uneven = alike + len(couples) - len(told_apart), uneven + lonely
        by_prompt.append(told_apart)
    pairs = _evenly(by_prompt, most)
    given = len(in_character) + len(plain)
    choice = PairChoice(
        *(pairs, given, given - sum(map(len, sound.values())) - sum(map(len, plain_sound.values()))),
        *(alike, uneven, sum(map(len, by_prompt)) - len(pairs)),
    )
    if len(pairs) < fewest:
        raise SubspaceError(
            "There are too few pairs of answers to steer by.",
            where="answers of the subspace run",
            expected=f"at least {fewest} pairs: both coherent, rewards {least_margin:g} apart, "
            f"lengths within {round(100 * (LONGEST_RATIO - 1))} %",
            found=choice.describe(),
            next_step="run the subspace stage with more prompts or samples, or see whether the character's "
            "system prompt works on this base",
        )
    return choice


def whole_sentences(text: str) -> str:
    """The text up to its last whole sentence, for an answer that was cut off; empty without one."""
    ends = [match.end() for match in re.finditer(r"[.!?…][\"'”’)]*(?=\s)", text + " ")]
    return text[: ends[-1]].rstrip() if ends else ""


def _coherent(answers: Sequence[Candidate], rules: RewardRules) -> dict[str, list[Candidate]]:
    """By prompt, shortest first, those that cohere."""
    scores = rewards.coherence([each.text for each in answers], [each.prompt for each in answers], rules)
    kept = [each for each, score in zip(answers, scores, strict=True) if each.tokens and (score or 0.0) > 0]
    kept.sort(key=lambda each: (each.prompt, each.tokens))
    return {prompt: list(group) for prompt, group in groupby(kept, lambda each: each.prompt)}


def _couple(chosen: Sequence[Candidate], rejected: Sequence[Candidate]) -> tuple[list[Pair], int]:
    """Most pairs of fitting length, by merging two sorted lists; and how many of `chosen` stay alone."""
    pairs: list[Pair] = []
    i = j = 0
    while i < len(chosen) and j < len(rejected):
        long, short = chosen[i], rejected[j]
        if max(long.tokens, short.tokens) <= LONGEST_RATIO * min(long.tokens, short.tokens):
            pairs.append(Pair(long.prompt, long.text, short.text, long.is_whole and short.is_whole))
            i, j = i + 1, j + 1
        elif long.tokens < short.tokens:
            i += 1
        else:
            j += 1
    return pairs, len(chosen) - len(pairs)


def _margin(pair: Pair, rules: RewardRules) -> float:
    texts, prompts = [pair.chosen, pair.rejected], [pair.prompt] * 2
    scored = (
        function(texts, prompts, rules)
        for function in (rewards.personality, rewards.coherence, rewards.identity)
    )
    return sum((chosen or 0.0) - (rejected or 0.0) for chosen, rejected in scored)


def _evenly(by_prompt: Sequence[Sequence[Pair]], most: int) -> tuple[Pair, ...]:
    """The first pair of every prompt, then the second of every, until there are enough; in the prompts' order."""
    ranked = [(rank, place) for place, pairs in enumerate(by_prompt) for rank in range(len(pairs))]
    taken = sorted(sorted(ranked)[:most], key=lambda one: (one[1], one[0]))
    return tuple(by_prompt[place][rank] for rank, place in taken)
