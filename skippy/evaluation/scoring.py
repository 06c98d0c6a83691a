"""How one answer to a problem is scored, by the kind of its reference answer. Where it stands is one rule for all."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from skippy.core.inference.answer_gold import Scored, score_number
from skippy.core.inference.answer_marks import find_mark
from skippy.core.inference.thought_tags import drop_thoughts
from skippy.core.problem import AIME_RULE, AnswerRule, Gold
from skippy.extras import import_extra, missing_extra

_IN_DOLLARS = re.compile(r"\$+([^$]+)\$+")


def require_reader(rule: AnswerRule) -> None:
    """Refuse before anything is generated what could not be scored.

    Raises:
        ConfigError: answers=math without the package that reads expressions.
    """
    if rule.kind == "math":
        _math_verify()


def score_answer(text: str, gold: Gold | None, rule: AnswerRule = AIME_RULE) -> Scored:
    """Score a completion against the reference answer of its problem."""
    return _score_expression(text, gold) if rule.kind == "math" else score_number(text, gold, rule)


def _score_expression(text: str, gold: Gold | None) -> Scored:
    """Right where math-verify finds the marked expression equivalent to the reference."""
    spoken = drop_thoughts(text)
    if spoken is None:
        return Scored(None, "unclosed_think", False)
    marked = find_mark(spoken)
    if marked.place is None:
        return Scored(None, "unbalanced_box" if marked.is_box_open else "no_answer", False)
    content = marked.content.strip()
    if marked.place == "answer_line":
        formulas = _IN_DOLLARS.findall(content)
        content = (formulas[-1] if formulas else content).strip().rstrip(".!")
    if not content:
        return Scored(None, "not_mathematics", False)
    is_right = gold is not None and (
        _squeezed(content) == _squeezed(str(gold)) or _are_equivalent(content, str(gold))
    )
    return Scored(gold if is_right else content, marked.place, is_right)


def _squeezed(expression: str) -> str:
    return "".join(expression.split())


def _are_equivalent(answer: str, gold: str) -> bool:
    library = _math_verify()
    parse: Callable[..., list[Any]] = library.parse
    # The library's time limits are signals, which only the main thread may set.
    is_main = threading.current_thread() is threading.main_thread()
    parsing: dict[str, Any] = {} if is_main else {"parsing_timeout": None}
    comparing: dict[str, Any] = {} if is_main else {"timeout_seconds": None}
    wanted, found = (parse(rf"\boxed{{{each}}}", **parsing) for each in (gold, answer))
    return bool(wanted and found and library.verify(wanted, found, **comparing))


@cache
def _math_verify() -> Any:
    library = import_extra("math_verify", extra="verify", parameter="answers=math")
    try:
        library.parse(r"\boxed{1}")  # its grammar's runtime is looked for only here
    except ImportError as error:
        raise missing_extra(error, "math_verify", extra="verify", parameter="answers=math") from error
    return library
