"""Talk behind an answer: what punctuation sets apart and what neither offers nor makes another number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from skippy.core.inference import answer_words as words
from skippy.core.inference.answer_tokens import Token

Tokens = Sequence[Token]
_MATHEMATICS = frozenset(
    ("number", "equals", "relation", "implies", "operator", "percent", "currency", "script", "degree")
)
_CHOICES = frozenset(("or", "nor", "ou", "oder", "bzw", "resp"))
_JOINTS = words.CONNECTIVES - _CHOICES
_ARTICLES = ("a", "A", "I")
_STARTS_MATHEMATICS = _MATHEMATICS | {"minus"}


def cut_talk(tokens: Tokens, *, is_prose: bool) -> Tokens:
    """`tokens` up to the first mark behind a number that has nothing but talk, or a next sentence, behind it."""
    suffix_is_clean = _clean_suffixes(tokens)
    depth, has_number = 0, False
    value: Fraction | None = None
    for index, token in enumerate(tokens):
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        has_number = has_number or token.kind == "number"
        value = token.value if token.kind == "number" else value
        is_bracket = token.kind == "open" and depth == 1 and _is_apart(tokens, index)
        if not has_number or (depth > 0 and not is_bracket):
            continue
        if is_bracket and not _closes_at_end(tokens, index):
            continue
        if not is_bracket and not _is_mark(tokens, index, is_prose=is_prose):
            continue
        rest = tokens[index:] if token.kind == "word" else tokens[index + 1 :]
        is_factorial = token.text == "!" and token.mode == "math"
        if is_prose and token.kind in ("stop", "ellipsis") and not is_factorial and _is_next_sentence(rest):
            return tokens[:index]
        if suffix_is_clean[index + (token.kind != "word")] and _is_talk(rest, value):
            return tokens[:index]
    return tokens


def _clean_suffixes(tokens: Tokens) -> list[bool]:
    """For each place, whether no mathematics follows."""
    clean = [True] * (len(tokens) + 1)
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        is_command = token.kind == "name" and not token.text[0].isalpha()
        clean[index] = clean[index + 1] and token.kind not in _MATHEMATICS and not is_command
    return clean


def _is_mark(tokens: Tokens, index: int, *, is_prose: bool) -> bool:
    """Whether this token sets apart what follows: punctuation before a space, a dash, a line, or "because"."""
    token = tokens[index]
    following = tokens[index + 1] if index + 1 < len(tokens) else None
    is_before_space = following is None or following.kind in ("space", "break", "stop")
    if token.kind in ("stop", "comma"):
        return is_before_space or not token.text.isascii()
    if token.kind == "ellipsis":
        return following is not None and (is_before_space or following.kind == "comma")
    if token.kind == "word":
        return token.text in words.CLAUSES and (is_prose or token.mode == "text")
    if token.text == "–":
        return _is_apart(tokens, index) and is_before_space
    return token.kind in ("dash", "break")


def _is_apart(tokens: Tokens, index: int) -> bool:
    return index > 0 and tokens[index - 1].kind in ("space", "break")


def _closes_at_end(tokens: Tokens, index: int) -> bool:
    """Whether the parenthesis opened here is the last thing said."""
    depth = 0
    for place in range(index, len(tokens)):
        depth += {"open": 1, "close": -1}.get(tokens[place].kind, 0)
        if depth == 0:
            return all(token.kind in ("space", "stop", "break", "unknown") for token in tokens[place + 1 :])
    return False


def _is_next_sentence(rest: Tokens) -> bool:
    """Whether a new sentence of prose begins: it may hold any number, unless it takes the first one back."""
    first = next((token for token in rest if token.kind not in ("space", "stop")), None)
    if first is None:
        return True
    if first.kind in _STARTS_MATHEMATICS or (first.kind == "name" and not first.text[0].isalpha()):
        return False
    has_number = any(token.kind == "number" or token.text in words.CARDINALS for token in rest)
    return not (first.text in words.RETRACTIONS and has_number)


def _is_talk(rest: Tokens, value: Fraction | None) -> bool:
    """Whether words without mathematics offer no number; punctuation with nothing behind it is talk too."""
    spoken = [token.text.lower() for token in rest if token.kind == "word" or token.text in _ARTICLES]
    if not spoken:
        return not any(token.kind == "name" for token in rest)
    if not any(len(word) > 1 for word in spoken):
        return False
    if words.value_in_words(spoken) == value:
        return True  # "113 (one hundred and thirteen)" says it twice
    has_candidate = any(map(_is_number_word, spoken)) or any(
        token.kind == "name" and token.text not in _ARTICLES for token in rest
    )
    if any(word in _CHOICES or (word in _JOINTS and has_candidate) for word in spoken):
        return False
    return not _makes_number(spoken, has_candidate=has_candidate)


def _is_number_word(word: str) -> bool:
    return word != "one" and all(part in words.NUMBER_WORDS for part in word.split("-"))


def _makes_number(spoken: Sequence[str], *, has_candidate: bool) -> bool:
    """Whether talk computes: it starts with a scale, is a number itself, or applies an operation to one."""
    head = spoken[1] if spoken[0] == "in" and len(spoken) > 1 else spoken[0]
    if head in words.MULTIPLIERS or (head in ("plus", "minus") and has_candidate):
        return True
    if any(word in words.OTHER_BASES or word.startswith(("percent", "per-cent")) for word in spoken):
        return True
    pairs = list(pairwise(spoken))
    if ("per", "cent") in pairs:
        return True
    if any(
        first in words.OPERATIONS and (second == "one" or _is_number_word(second)) for first, second in pairs
    ):
        return True
    return all(word == "one" or _is_number_word(word) or word in words.CONNECTIVES for word in spoken)
