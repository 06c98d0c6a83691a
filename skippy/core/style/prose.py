"""How far a short text is from plain English prose: one measure a function, each in [0, 1], 0 is flawless.

The measures exist to make a reward hard to game, not to grade style. They look at characters, words and
their order only; no lexicon, no model, no language but English. Each is zero on ordinary short answers and
rises on one known way to cheat. `soundness` is what they leave together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_EMOJI = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff]")
_END = re.compile(r"[.!?…][\"'”’)\]*_]*\s*(?:[\U0001f000-\U0001faff\u2600-\u27bf]\s*)*$")
_HANGING = re.compile(r"\b(?:an?|the|my|your|our|their|every)\W*$", re.IGNORECASE)
_LATEX = re.compile(
    r"\\(?:boxed|frac|sqrt|times|cdot|begin|text)(?![A-Za-z])|\\[(\[]|\$[^$\n]*[\d\\=^][^$\n]*\$"
)
_EQUATION = re.compile(
    r"[\dA-Za-z)]\s*[=+*/^<>]\s*-?[\dA-Za-z(]|\b(?:answer|result)\s*[:=]\s*-?\d"
    r"|\b(?:answer|result) is:?\s+-?\d+(?=\s*$|\s+(?:and|but|so)\b|[.,;:!?](?!\d))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+")
_ODD = re.compile(r"[^\w\s.,;:!?'\"“”‘’()\-–—…/&%°*\U0001f000-\U0001faff\u2600-\u27bf]|_")
_RUN = re.compile(r"[,;:.!?…](?: *[,;:.!?…])+|[-–—](?: *[-–—])+|[:;]-?[)(DPO]+(?!\w)|<3+")
_FOREIGN = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")
_VOWEL = re.compile("[aeiouy]")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxz]{7,}|(.)\1\1")
_NEVER = re.compile(
    r"b[xqz]|c[jvxgw]|d[xq]|f[qxvzj]|g[qxvz]|h[xzq]|j[bcdfghjklmnpqrstvwxyz]|k[qxz]|m[xqz]|p[xzvqj]"
    r"|q[abcdefghjklmnopqrstvwxyz]|s[xz]|t[xq]|v[bcdfghjklmnpqtwxz]|w[xqvj]|x[djkrvxz]|z[bcdfgjmnpqrstvwx]"
)


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VOWELLESS = _word_set("hm hmm shh psst mr mrs dr st vs tv th nd rd pc cd dj ok brr pfft tsk zzz")

FUNCTION_WORDS = _word_set(
    """
    a an the this that these those my your his her its our their some any each every no all both i me
    you he him she it we us they them who what which whose myself yourself itself am is are was were be
    been being do does did have has had will would can could shall should may might must and or but nor
    so if then than as because while until before after when where why how though of to in on at by for
    with from into onto over under about out off up down through between against near not just only even
    also too very more most much many few still again never always now here there i'm you're it's he's
    she's we're they're don't can't won't isn't doesn't didn't that's there's let's
    """
)
"""Closed-class words: the mortar of English. Text without them is a list."""

_DETERMINERS = frozenset(("a", "an", "the", "my", "your", "our", "their", "every"))
_NO_NOUN = _DETERMINERS | _word_set(
    "is are was were am be been of and or i me you he she we they it can will"
)
_VAGUE = _word_set(
    """
    tell make made makes give get got good better best nice bad want need like help helps feel say said
    know think thing things today tomorrow tonight day really please thank thanks hello hey let going
    take name question quick something anything nobody anyone people person listen talk show stop ever
    old real live mind come look
    """
)
_SUFFIX = re.compile(r"(?:ies|ing|ed|es|s|y|e)$")


def find_words(text: str) -> list[str]:
    """Lower-case words of `text`; digits and punctuation are not words."""
    return _WORD.findall(text.lower())


@lru_cache(maxsize=4096)
def soundness(text: str, prompt: str) -> float:
    """Product of what each measure here leaves standing of an answer to `prompt`, in [0, 1].

    Remembered, because several rewards ask it of the same batch one after the other.
    """
    words = find_words(text)
    sound = 0.7 if is_truncated(text) else 1.0
    for fault in (
        repetition(words),
        word_salad(words),
        gibberish(text, words),
        shouting(text),
        copying(words, find_words(prompt)),
        maths_shape(text),
        punctuation_runs(text, words),
        foreign_script(text, words),
    ):
        sound *= 1 - fault
    return sound


def repetition(words: Sequence[str]) -> float:
    """How much of the text says itself again.

    The largest of: adjacent equal words beyond 18 % (a cheer, "go go go", passes); trigrams seen before
    beyond 10 %; and the commonest content word beyond one fifth of the text. Below four words only adjacency
    counts.

    >>> repetition("monkey monkey monkey monkey".split())
    1.0
    >>> repetition("start early and let the stew rest before you serve it".split())
    0.0
    """
    count = len(words)
    if count < 2:
        return 0.0
    adjacent = sum(a == b for a, b in pairwise(words)) / (count - 1)
    if count < 4:
        return adjacent
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    seen_before = 1 - len(set(trigrams)) / len(trigrams)
    content = Counter(word for word in words if word not in FUNCTION_WORDS)
    commonest = max(content.values(), default=0)
    crowding = commonest / count - 0.2 if commonest > 3 else 0.0
    return _unit(max(3 * (adjacent - 0.18), 3 * (seen_before - 0.1), 4 * crowding))


def gibberish(text: str, words: Sequence[str]) -> float:
    """Share of words that English spelling cannot make, or of characters that prose does not use.

    A non-word has no vowel, seven consonants or three equal letters in a row, a pair of letters that English
    never joins, or more than twenty letters. Three times the share, so a third of such words is the worst.

    >>> gibberish("xqzt blorf", ["xqzt", "blorf"])
    1.0
    """
    if not words:
        return 1.0
    broken = sum(map(_is_nonword, words)) / len(words)
    odd = len(_ODD.findall(text)) / len(text)
    return _unit(max(3 * broken, 5 * (odd - 0.02)))


def word_salad(words: Sequence[str]) -> float:
    """How far the words are from clauses: too few function words, or determiners that determine nothing.

    >>> word_salad("monkey ancient brilliant pathetic genius trivial".split())
    1.0
    """
    if not words:
        return 1.0
    mortar = sum(word in FUNCTION_WORDS for word in words) / len(words)
    pairs = pairwise(words)
    dangling = sum(a in _DETERMINERS and b in _NO_NOUN for a, b in pairs) / len(words)
    listed = (0.2 - mortar) / 0.15 if len(words) >= 5 else 0.0
    heaped = (mortar - 0.8) / 0.15 if len(words) >= 8 else 0.0
    return _unit(max(listed, heaped, 8 * dangling))


def shouting(text: str) -> float:
    """Share of words in capitals above one tenth, and emoji beyond two, each a quarter.

    >>> shouting("BOW TO ME NOW")
    1.0
    """
    words = _WORD.findall(text)
    emoji = len(_EMOJI.findall(text))
    if not words:
        return _unit(emoji / 4)
    capitals = sum(len(word) > 1 and word.isupper() for word in words)
    loud = 2 * (capitals / len(words) - 0.1) if capitals > 1 else 0.0
    return _unit(max(loud, (emoji - 2) / 4, text.count("!!!") / 4))


def punctuation_runs(text: str, words: Sequence[str]) -> float:
    """Marks that follow a mark, and emoticons, beyond one: a third each; or more pauses than a third of the words.

    Three dots are one mark, and so are two hyphens. Pauses are commas, semicolons and colons.

    >>> punctuation_runs("Low heat,,, then rest!! Taste it!!", ["low", "heat", "then", "rest", "taste", "it"])
    1.0
    >>> punctuation_runs("Well... it burned?! So it goes.", ["well", "it", "burned", "so", "it", "goes"])
    0.0
    """
    plain = text.replace("...", "…").replace("--", "—")
    surplus = sum(len(run.replace(" ", "")) - 1 for run in _RUN.findall(plain))
    pauses = sum(map(text.count, ",;:")) / len(words) if len(words) >= 8 else 0.0
    return _unit(max((surplus - 1) / 3, 3 * (pauses - 0.35)))


def foreign_script(text: str, words: Sequence[str]) -> float:
    """Share of letters of another script than the Latin one, beyond a single letter; a tenth is the worst.

    >>> foreign_script("Turn the heat down, 把火关小一点.", ["turn", "the", "heat", "down", "把火关小一点"])
    1.0
    """
    return _unit(10 * (len(_FOREIGN.findall(text)) - 1) / max(1, sum(map(len, words))))


def copying(words: Sequence[str], prompt_words: Sequence[str]) -> float:
    """Share of the answer's words that lie in runs of four also found in the prompt, beyond 40 %.

    >>> copying("how do i make soup".split(), "how do i make soup".split())
    1.0
    """
    size = min(4, len(prompt_words))
    if size < 2 or len(words) < size:
        return 0.0
    runs = {tuple(prompt_words[i : i + size]) for i in range(len(prompt_words) - size + 1)}
    covered: set[int] = set()
    for i in range(len(words) - size + 1):
        if tuple(words[i : i + size]) in runs:
            covered.update(range(i, i + size))
    return _unit((len(covered) / len(words) - 0.4) / 0.3)


def maths_shape(text: str) -> float:
    """Whether small talk was answered in formulas: LaTeX, equations, or numbers beyond a quarter.

    >>> maths_shape("So x = 3 + 4 and the answer: 7")
    1.0
    """
    if _LATEX.search(text):
        return 1.0
    numbers = len(_NUMBER.findall(text))
    equations = len(_EQUATION.findall(text)) if numbers else 0
    tokens = numbers + len(_WORD.findall(text))
    crowded = 3 * (numbers / tokens - 0.25) if numbers > 3 else 0.0
    return _unit(max(equations / 2, crowded))


def is_truncated(text: str) -> bool:
    """True when the text does not end as a sentence does: no stop, or one after "the" or "my".

    >>> is_truncated("Let the stew rest and"), is_truncated("Let the stew rest by the.")
    (True, True)
    """
    return _END.search(text) is None or _HANGING.search(text) is not None


def is_on_topic(words: Sequence[str], prompt_words: Sequence[str]) -> bool:
    """True when the answer takes up a content word of the prompt, or the prompt has none.

    >>> is_on_topic(["stews", "need", "time"], ["why", "is", "my", "stew", "dry"])
    True
    """
    topics = {_stem(word) for word in prompt_words if word not in FUNCTION_WORDS and word not in _VAGUE}
    return not topics or any(_stem(word) in topics for word in words)


@lru_cache(maxsize=65536)
def _is_nonword(word: str) -> bool:
    if not word.isascii() or "'" in word:
        return False
    if not _VOWEL.search(word):
        return len(word) > 1 and word not in _VOWELLESS
    return len(word) > 20 or bool(_CONSONANTS.search(word)) or bool(_NEVER.search(word))


def _stem(word: str) -> str:
    return _SUFFIX.sub("", word) if len(word) > 4 else word.removesuffix("s")


def _unit(value: float) -> float:
    return 0.0 if value <= 0 else min(1.0, value)
