"""From a conversation to tokens: the one renderer, for training, measuring, evaluating, judging and serving.

Thinking is switched off wherever a template has a switch for it. A template without a system role gets the system
text before the user's.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from skippy.core import answers
from skippy.errors import CheckpointError
from skippy.models import template_probe
from skippy.models.profiles import THINKING_SWITCHES

logger = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, str]]
DEFAULT_TEMPLATE = "default"
PATIENCE_SECONDS = 30.0  # on a busy machine; the probe's own limit is processor time
_SYSTEM, _USER = "One system text.", "One user text."


def conversation(prompt: str, system: str | None = None) -> list[dict[str, str]]:
    """One user turn, under a system prompt if given."""
    opening = [] if system is None else [{"role": "system", "content": system}]
    return [*opening, {"role": "user", "content": prompt}]


def under_system(messages: Messages, system: str) -> list[dict[str, str]]:
    """The conversation under a system text, which comes before one that it has; empty changes nothing.

    Nor does one that is there: an evaluation puts it before its questions, the server it asks before every request.
    """
    listed = [dict(message) for message in messages]
    own = [message["content"] for message in listed if message["role"] == "system"]
    if not system or (own and own[0].startswith(system)):
        return listed
    rest = [message for message in listed if message["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join([system, *own])}, *rest]


def template_arguments(tokenizer: Any) -> dict[str, bool]:
    """Thinking off, for a chat template that knows one of the switches; what a server or trainer is told too."""
    known = _variables(str(tokenizer.chat_template))
    return {switch: False for switch in THINKING_SWITCHES if switch in known}


def template_without_thinking(tokenizer: Any) -> str:
    """The template with its switches set inside it, for a program that renders with nobody's arguments."""
    switches = (f"{{% set {switch} = false %}}" for switch in template_arguments(tokenizer))
    # The empty expression keeps a newline with which the template may begin.
    return "".join(switches) + "{{ '' }}" + str(tokenizer.chat_template)


def prepare_messages(tokenizer: Any, messages: Messages) -> list[dict[str, str]]:
    """The conversation as this template takes it: without a system role its text goes before the user's."""
    listed = [dict(message) for message in messages]
    if len(listed) < 2 or listed[0]["role"] != "system" or takes_system(tokenizer):
        return listed
    system, first, *rest = listed
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def render_prompt(tokenizer: Any, messages: Messages) -> str:
    """The conversation as the chat template puts it, up to where the answer begins.

    Raises:
        CheckpointError: the template refuses this conversation.
    """
    try:
        return _apply(tokenizer, prepare_messages(tokenizer, messages))
    except jinja2.TemplateError as error:
        raise _unusable(
            "The chat template refuses a conversation.",
            str(getattr(tokenizer, "name_or_path", "")),
            "a prompt for " + ", ".join(message["role"] for message in messages),
            error,
        ) from error


def encode_prompt(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a rendered prompt; the template wrote the special ones already."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_ids(tokenizer: Any, messages: Messages) -> tuple[int, ...]:
    """Token ids up to where the answer begins."""
    return encode_prompt(tokenizer, render_prompt(tokenizer, messages))


def opened_thought(prompt: str) -> str:
    """The tag with which the template left the answer to begin inside a thought; empty where it did not."""
    tag = answers.opened_thought(prompt)
    return tag.opening if tag else ""


def takes_system(tokenizer: Any) -> bool:
    """Whether the template has a system role; where it has not, that is said once."""
    return _takes_system(_ByTemplate(tokenizer))


def require_template(tokenizer: Any, where: str) -> None:
    """Check the chat template at loading: one template, that compiles, ends, and renders a user's turn.

    Raises:
        CheckpointError: it does not.
    """
    if isinstance(tokenizer.chat_template, Mapping):
        named = tokenizer.chat_template
        if DEFAULT_TEMPLATE not in named:
            raise CheckpointError(
                "The tokenizer has several chat templates and none is the default.",
                where=where,
                expected=f"one template, or one named {DEFAULT_TEMPLATE}",
                found=", ".join(sorted(named)),
                next_step="keep one of them as chat_template.jinja beside the weights",
            )
        tokenizer.chat_template = named[DEFAULT_TEMPLATE]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    fault = _probe(tokenizer.chat_template, json.dumps(special, sort_keys=True))
    if fault is None:
        try:
            _apply(tokenizer, conversation(_USER))
        except Exception as error:  # templates call methods of whatever they are given
            fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        raise _unusable(
            "The chat template cannot be used.", where, "a template that renders a user's turn", fault
        )


class _ByTemplate:
    """A tokenizer that is equal to every other one with its template, for the cache."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.template = tokenizer, str(tokenizer.chat_template)

    def __hash__(self) -> int:
        return hash(self.template)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByTemplate) and self.template == other.template


@lru_cache(maxsize=64)
def _takes_system(one: _ByTemplate) -> bool:
    try:
        rendered = _apply(one.tokenizer, conversation(_USER, _SYSTEM))
    except Exception:  # refused in whatever words the template has for it
        rendered = ""
    if _SYSTEM in rendered:
        return True
    logger.info("the chat template has no system role: the system text goes before the user's")
    return False


@lru_cache(maxsize=64)
def _variables(template: str) -> frozenset[str]:
    """Variables that a template is given from outside."""
    try:
        return frozenset(meta.find_undeclared_variables(template_probe.environment().parse(template)))
    except jinja2.TemplateSyntaxError as error:
        raise _unusable("The chat template cannot be used.", "chat_template", "a template", error) from error


@lru_cache(maxsize=64)
def _probe(template: str, special: str) -> str | None:
    """What is wrong with rendering a user's turn, also one under a system text, within the probe's limits."""
    variables = {**json.loads(special), "add_generation_prompt": True, "tools": None, "documents": None}
    variables |= dict.fromkeys(THINKING_SWITCHES, False)
    asked = {
        "template": template,
        "conversations": [conversation(_USER), conversation(_USER, _SYSTEM)],
        "variables": variables,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(Path(template_probe.__file__))],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it does not end within {PATIENCE_SECONDS:g} s"
    if done.returncode < 0:
        return f"it does not end within {template_probe.CPU_SECONDS} s of processor time"
    if done.returncode > 0:
        return (done.stderr.strip().splitlines() or ["it cannot be rendered"])[-1]
    return json.loads(done.stdout)[0]


def _apply(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **template_arguments(tokenizer)
        )
    )


def _unusable(what: str, where: str, expected: str, found: object) -> CheckpointError:
    shown = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else str(found)
    return CheckpointError(
        what,
        where=where,
        expected=expected,
        found=shown[:300],
        next_step="mend chat_template.jinja beside the weights, or take the one of the original model",
    )
