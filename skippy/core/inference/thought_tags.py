"""How models mark their thoughts: one table for every family, and a text without what they enclose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple


class ThoughtTag(NamedTuple):
    """A pair that encloses a thought, as it is written."""

    opening: str  # begins the thought; any case
    closing: str  # ends it; any case
    # whether a closing tag with none open before it ends a thought that the chat template opened in the prompt. False
    # where the same token also ends an ordinary turn.
    is_closing_alone: bool = True


_NAMES = """
    think thinking thought thoughts thinking_process thought_process think_fast think_faster
    reason reasoning reasoning_process reflection scratchpad analysis rationale cot chain_of_thought
    monologue inner_monologue internal_monologue inner_thoughts internal_thoughts contemplator contemplation
    brainstorm deliberation seed:think longcat_think mm:think
"""

THOUGHT_TAGS: tuple[ThoughtTag, ...] = (
    *(ThoughtTag(f"<{name}>", f"</{name}>") for name in _NAMES.split()),
    *(ThoughtTag(f"[{name}]", f"[/{name}]") for name in ("THINK", "THINKING", "REASONING", "THOUGHT")),
    *(
        ThoughtTag(f"<|begin_of_{name}|>", f"<|end_of_{name}|>")
        for name in ("thought", "thoughts", "thinking", "think", "reasoning")
    ),
    *(
        ThoughtTag(f"<|{name}_start|>", f"<|{name}_end|>")
        for name in ("thought", "thinking", "think", "reasoning")
    ),
    *(
        ThoughtTag(f"<|start_{name}|>", f"<|end_{name}|>")
        for name in ("thinking", "think", "thought", "reasoning")
    ),
    *(ThoughtTag(f"<|{name}|>", f"<|/{name}|>") for name in ("think", "thinking", "thought", "reasoning")),
    ThoughtTag("◁think▷", "◁/think▷"),
    ThoughtTag("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    ThoughtTag("<|inner_prefix|>", "<|inner_suffix|>"),
    ThoughtTag("<unused94>", "<unused95>"),
    ThoughtTag("<|channel>thought", "<channel|>"),
    ThoughtTag("<|channel|>analysis<|message|>", "<|end|>", is_closing_alone=False),
)
"""Every pair known; a family that brings another one adds a row."""

_ELEMENT = re.compile(r"[ \t]?/?[a-z_:]{2,24}[0-9]{0,3}[ \t]?>")
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}


def drop_thoughts(text: str, tags: Sequence[ThoughtTag] = THOUGHT_TAGS) -> str | None:
    """`text` without closed thoughts; None when the last one never closes.

    Thoughts do not nest, and only its own closing tag ends one. A closing tag with none open before it ends a
    thought that the chat template opened in the prompt. A tag between quotation marks or backticks is mentioned
    and not used.
    """
    patterns, by_text = _compile(tuple(tags))
    found = [
        match for pattern in patterns for match in pattern.finditer(text) if _plain(match.group()) in by_text
    ]
    if not found:
        return text
    if len(patterns) > 1:
        found.sort(key=re.Match.start)
    kept: list[str] = []
    position, open_tag, is_first = 0, None, True
    for match in found:
        tag, is_closing = by_text[_plain(match.group())]
        if _is_mentioned(text, match.start(), match.end()):
            continue
        if not is_closing:
            if open_tag is None:
                kept.append(text[position : match.start()])
                position, open_tag = match.end(), tag
        elif open_tag is not None:
            if tag.closing.lower() != open_tag.closing.lower():
                continue
            position, open_tag = match.end(), None
        elif tag.is_closing_alone:
            if not is_first:
                kept.append(text[position : match.start()])
            position = match.end()
        else:
            continue
        is_first = False
    if open_tag is not None:
        return None
    kept.append(text[position:])
    return " ".join(kept)


def opened_thought(prompt: str, tags: Sequence[ThoughtTag] = THOUGHT_TAGS) -> ThoughtTag | None:
    """The tag that a rendered prompt ends with: the answer then begins inside a thought."""
    ending = prompt.rstrip().lower()
    return next((tag for tag in tags if ending.endswith(tag.opening.lower())), None)


def is_thought_tag(token: str, tags: Sequence[ThoughtTag] = THOUGHT_TAGS) -> bool:
    """Whether a token opens or closes a thought."""
    return _plain(token) in _compile(tuple(tags))[1]


@cache
def _compile(
    tags: tuple[ThoughtTag, ...],
) -> tuple[list[re.Pattern[str]], dict[str, tuple[ThoughtTag, bool]]]:
    """One pattern for each first character, which makes it fast to search for, and what each tag is."""
    by_text: dict[str, tuple[ThoughtTag, bool]] = {}
    for tag in tags:
        by_text.setdefault(_plain(tag.opening), (tag, False))
        by_text.setdefault(_plain(tag.closing), (tag, True))
    names = sorted(by_text, key=len, reverse=True)
    patterns = []
    for first in dict.fromkeys(name[0] for name in names):
        rests = [name[1:] for name in names if name[0] == first]
        others = [re.escape(rest) for rest in rests if not _ELEMENT.fullmatch(rest)]
        seconds = "".join(sorted({re.escape(rest[0]) for rest in rests if not _ELEMENT.fullmatch(rest)}))
        forms = [f"(?=[{seconds}])(?:{'|'.join(others)})"] if others else []
        if len(others) < len(rests):
            forms.append(_ELEMENT.pattern)  # any element; what it is stands in the table
        # The first character stands outside of what ignores case, so that the search can skip to it.
        patterns.append(re.compile(f"{re.escape(first)}(?i:{'|'.join(forms)})"))
    return patterns, by_text


def _plain(tag: str) -> str:
    """Without case and spaces: `< Think >` is `<think>`."""
    return tag.lower().replace(" ", "").replace("\t", "")


def _is_mentioned(text: str, start: int, end: int) -> bool:
    """Whether the tag stands alone between quotation marks."""
    before = text[start - 1] if start else ""
    return before in _QUOTES and text[end : end + 1] == _QUOTES[before]
