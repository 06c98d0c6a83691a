"""Render a chat template where it can do no harm: a process of its own, with little memory and little time.

A template is code from whoever made the checkpoint. The sandbox keeps it from files and from Python, but not from
looping for ever or filling the memory. Run as a program, this reads `{template, conversations, variables}` as JSON
and writes `[error or null, …]`, one a conversation. It imports nothing of skippy, so that it starts in a moment.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 5
MEMORY_BYTES = 1 << 30


class GenerationBlocks(Extension):
    """`{% generation %}` marks what an assistant says; to rendering it is nothing."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        """The body, as it stands."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> jinja2.Environment:
    """The environment in which transformers renders chat templates, less what tracks tokens."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _limit_self() -> None:
    try:
        import resource
    except ImportError:  # not on this system; the caller's patience is what is left
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main() -> None:
    """Render every conversation under the limits."""
    asked = json.load(sys.stdin)
    _limit_self()
    answers: list[str | None] = []
    for messages in asked["conversations"]:
        try:
            environment().from_string(asked["template"]).render(messages=messages, **asked["variables"])
            answers.append(None)
        except MemoryError:
            sys.exit("it fills the memory")
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
