"""The door to reading answers: what other programs import stays at this name."""

from __future__ import annotations

from skippy.core.inference.answer_gold import parse_gold
from skippy.core.inference.answer_reading import (
    LARGEST_ANSWER,
    Extraction,
    Status,
    extract_integer,
    extract_integer_lenient,
)
from skippy.core.inference.answer_reasons import Reason
from skippy.core.inference.thought_tags import THOUGHT_TAGS, ThoughtTag, is_thought_tag, opened_thought

__all__ = [
    "LARGEST_ANSWER",
    "THOUGHT_TAGS",
    "Extraction",
    "Reason",
    "Status",
    "ThoughtTag",
    "extract_integer",
    "extract_integer_lenient",
    "is_thought_tag",
    "opened_thought",
    "parse_gold",
]
