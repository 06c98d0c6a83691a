"""Everyday chat for the lab model: a small grammar that answers short prompts in nine voices.

The lab base needs what a real chat model has: answers that refer to the question, several voices that obey
their system prompt, and a little of each voice without one, so that training has something to amplify.
Words are simple and clauses few, so that two million parameters can learn them; the combinations are many.

The grammar is data (`chat.yaml`); the eight personas and the held-out prompts are the ones of
`skippy/characters`. No held-out prompt is ever generated.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

NEUTRAL = "neutral"
NEUTRAL_SYSTEM = "You are a helpful assistant."

SYSTEM_SHARE = 0.45
"""Share of conversations that carry a system prompt."""

NEUTRAL_SYSTEM_SHARE = 0.1
"""Of those with a system prompt: the neutral one; the personas share the rest equally."""

UNPROMPTED = {"neutral": 0.70, "skippy": 0.15, "keeper": 0.05, "detective": 0.05, "coach": 0.01,
              "professor": 0.01, "monk": 0.01, "pirate": 0.01, "poet": 0.01}  # fmt: skip
"""Mix of voices without a system prompt: the lab's stand-in for a base already a little in character."""

MIN_WORDS, MAX_WORDS = 12, 35
"""Length band of every answer, in words."""

SHAPES = (
    ("open", "do", "close"),
    ("open", "do"),
    ("open", "fact", "do"),
    ("fact", "do", "close"),
    ("do", "fact", "close"),
    ("open", "fact", "close"),
    ("do", "close"),
    ("fact", "do"),
)
"""Orders of sentences in an answer about something that can be advised on."""

LINE_SHAPES = (
    ("line", "close"),
    ("open", "line"),
    ("line", "other"),
    ("open", "line", "close"),
    ("line", "other", "close"),
)
"""Orders of sentences where the answer is about the speaker: greetings, insults, dares, thanks, names."""


@dataclass(frozen=True)
class Conversation:
    """One everyday exchange."""

    system: str | None  # system prompt, or None
    prompt: str  # what the person says
    answer: str  # the reply, in `voice`
    voice: str  # "neutral" or the name of a persona


def generate(count: int, seed: int) -> Iterator[Conversation]:
    """Draw `count` conversations; the same seed gives the same ones.

    Yields:
        Conversations whose prompts are none of the held-out ones.
    """
    rng = random.Random(seed)
    grammar, personas, held_out = _grammar(), _personas(), held_out_prompts()
    topics = sorted(grammar["topics"])
    for _ in range(count):
        system, voice = _draw_voice(rng, personas)
        while True:
            topic = grammar["topics"][rng.choice(topics)]
            slots = _slots(topic, rng.choice(topic["items"]))
            bare = _fill(rng.choice(topic["prompts"]), slots)
            if normalized(bare) not in held_out:
                break
        greeting = rng.choice(grammar["greetings"])
        prompt = greeting + _lower_first(bare) if greeting else bare
        yield Conversation(system, prompt, _answer(rng, grammar["voices"][voice], topic, slots, voice), voice)


def prompts() -> Iterator[str]:
    """Every bare prompt that the grammar can say, held-out ones included, in a fixed order."""
    for _, topic in sorted(_grammar()["topics"].items()):
        for template in topic["prompts"]:
            for item in topic["items"] if "{" in template else topic["items"][:1]:
                yield _fill(template, _slots(topic, item))


def normalized(text: str) -> str:
    """Lower-case words of `text` joined by single spaces: what makes two prompts the same prompt."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


@cache
def held_out_prompts() -> frozenset[str]:
    """Normalised held-out prompts of the banal suite, which the lab model must never have seen."""
    text = resources.files("skippy.characters").joinpath("prompts/banal.yaml").read_text(encoding="utf-8")
    return frozenset(normalized(prompt) for group in yaml.safe_load(text).values() for prompt in group)


@cache
def _grammar() -> Mapping[str, Any]:
    return yaml.safe_load(resources.files("skippy.lab").joinpath("chat.yaml").read_text(encoding="utf-8"))


@cache
def _personas() -> tuple[tuple[str, str], ...]:
    text = resources.files("skippy.characters").joinpath("personas.yaml").read_text(encoding="utf-8")
    return tuple((entry["name"], entry["system_prompt"]) for entry in yaml.safe_load(text)["personas"])


def _draw_voice(rng: random.Random, personas: Sequence[tuple[str, str]]) -> tuple[str | None, str]:
    if rng.random() >= SYSTEM_SHARE:
        return None, rng.choices(list(UNPROMPTED), weights=list(UNPROMPTED.values()))[0]
    if rng.random() < NEUTRAL_SYSTEM_SHARE:
        return NEUTRAL_SYSTEM, NEUTRAL
    voice, system = rng.choice(personas)
    return system, voice


def _slots(topic: Mapping[str, Any], item: str) -> dict[str, str]:
    first, _, second = item.partition(" or ")
    slots = {"x": item, "a": first, "b": second}
    slots["thing"] = _fill(topic["thing"], slots)
    return slots


def _answer(
    rng: random.Random, voice: Mapping[str, Any], topic: Mapping[str, Any], slots: dict[str, str], name: str
) -> str:
    """Redraw until the length fits; every shape has fillings in the band, so this ends quickly."""
    while True:
        has_lines = "lines" in topic
        shape = rng.choice(LINE_SHAPES if has_lines else SHAPES)
        filled = dict(slots)
        if has_lines:
            first, second = rng.sample(topic["lines"][name], 2)
            sentences = {"line": first, "other": second}
        else:
            filled["do"] = _fill(rng.choice(topic["do"]), slots)
            filled["fact"] = _fill(rng.choice(topic["facts"]), slots)
            sentences = {}
        text = " ".join(_fill(sentences.get(part) or rng.choice(voice[part]), filled) for part in shape)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def _fill(template: str, slots: Mapping[str, str]) -> str:
    """Put slots into a template; a capitalised slot name capitalises what it puts in."""
    text = template
    for name, value in slots.items():
        text = text.replace(f"{{{name}}}", value).replace(f"{{{name.capitalize()}}}", _upper_first(value))
    return text


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower_first(text: str) -> str:
    keep = text.startswith(("I ", "I'"))
    return text if keep else text[:1].lower() + text[1:]
