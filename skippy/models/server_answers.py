"""One answer of an OpenAI-compatible server as a completion, or why it is none.

Servers depart from the protocol in what they send back: content as a list of parts, the thought in a field of its
own or left out of the tags that the template opened, no count of tokens, reasons to finish that nobody else has. All
of it is read here, so that one completion gets one verdict whatever sent it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from skippy.core.inference.thought_tags import THOUGHT_TAGS
from skippy.core.surrogates import join_surrogates

FINISH_REASONS: Mapping[str, Literal["stop", "length"]] = {"stop": "stop", "length": "length"}
CONTENT_FILTER = "content_filter"
CALLS = ("tool_calls", "function_call")
"""The model asked for a tool that nobody offered: its words, and no reason to lose the other samples."""
THINK, CLOSED_THINK = "<think>", "</think>"
THOUGHT_FIELDS = ("reasoning_content", "reasoning")
TEXT_PARTS = ("text", "output_text")
THOUGHT_PARTS = ("thinking", "reasoning")
SHOWN_CHARACTERS = 80


class Unreadable(Exception):
    """The answer lacks what a sample needs; the words say what was found."""


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    content: str  # outside the thought
    thought: str  # as the server parsed it out; empty where it did not
    tokens: int  # generated ones
    finish_reason: str  # stop, length, content_filter, or one of `CALLS`

    def text(self, opened: str = "") -> str:
        """The answer with its thinking: put back where it was parsed out, opened where the template opened it.

        A thought that ended by itself is closed, also where nothing follows; one that was cut off stays open, so that
        a guess inside it is no answer.

        Args:
            opened: tag with which the template left the answer to begin inside a thought; empty where it did not.
        """
        is_cut = self.finish_reason == "length"
        if self.thought:
            tail = "" if is_cut and not self.content else CLOSED_THINK + self.content
            return f"{THINK}{self.thought}{tail}"
        pair = next((tag for tag in THOUGHT_TAGS if tag.opening == (opened or THINK)), None)
        if pair is None or pair.opening in self.content.partition(pair.closing)[0]:
            return self.content
        # Without a sign of the end, an answer that ended by itself is taken as it is: its thought may be dropped.
        was_open = pair.closing in self.content or (bool(opened) and is_cut)
        return pair.opening + self.content if was_open else self.content


def read_answer(body: object) -> Answer:
    """Read the first choice of a chat completion, as it came: JSON that nobody checked.

    Raises:
        Unreadable: it is no chat completion, or lacks a choice, a known finish reason or the count of tokens.
    """
    choices = _field(body, "choices")
    if not isinstance(choices, list):
        raise Unreadable(f"no chat completion but {str(body)[:SHOWN_CHARACTERS]!r}")
    choice = choices[0] if choices else None
    message = _field(choice, "message")
    if message is None:
        raise Unreadable("no choice with a message")
    reason = str(_field(choice, "finish_reason"))
    count = _field(_field(body, "usage"), "completion_tokens")
    tokens = count if isinstance(count, int) and count >= 0 else None
    if reason in (CONTENT_FILTER, *CALLS):
        return Answer("", "", tokens or 0, reason)
    if reason not in FINISH_REASONS or tokens is None:
        raise Unreadable(f"finish_reason {reason!r}, usage {'missing' if tokens is None else 'given'}")
    thought, content = _parts(_field(message, "content"))
    for name in THOUGHT_FIELDS:
        thought = thought or "".join(_parts(_field(message, name)))
    return Answer(join_surrogates(content), join_surrogates(thought), tokens, reason)


def _field(body: object, name: str) -> Any:
    """A field of a JSON object; None where it is missing, or there is no object."""
    return body.get(name) if isinstance(body, dict) else None


def _parts(content: object) -> tuple[str, str]:
    """Thought and text of a content: none, a string, or a list of parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return "", content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence):
        raise Unreadable(f"content {content!r:.{SHOWN_CHARACTERS}}")
    thought, text = "", ""
    for part in content:
        if isinstance(part, str):
            text += part
        elif isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS:
            text += "".join(_parts(part.get("text")))
        elif isinstance(part, Mapping) and part.get("type") in THOUGHT_PARTS:
            inner: Any = part.get(part["type"], part.get("text"))
            thought += "".join(_parts(inner))
        else:
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise Unreadable(f"content with a part of type {kind!r}")
    return thought, text
