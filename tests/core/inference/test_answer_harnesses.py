"""How other harnesses read what ours reads: a table made where they are installed, kept as the test's artifact.

`SKIPPY_ANSWER_TABLE=FILE` keeps it as Markdown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from skippy.core.answers import extract_integer

Reader = Callable[[str], int | None]
SNARK = "Obviously. Do try to keep up, monkey. " * 12
TEXTS: list[tuple[str, str, int | None]] = [
    ("plain box", r"\boxed{42}", 42),
    ("leading zero", r"\boxed{042}", 42),
    ("text in the box", r"\boxed{\text{42}}", 42),
    ("a unit with an exponent", r"\boxed{42\text{ cm}^2}", 42),
    ("a sentence in the box", r"\boxed{\text{The answer is 42}}", 42),
    ("450 characters of talk behind", r"\boxed{42} " + SNARK, 42),
    ("a number behind the box", r"\boxed{42} It took me 0.0003 seconds.", 42),
    ("an empty box in talk", r"\boxed{42} Such is the ritual of \boxed{}.", 42),
    ("an answer line", "Answer: 42", 42),
    ("Minerva's sentence", "Final Answer: The final answer is $42$. I hope it is correct.", 42),
    ("a guess in a cut-off thought", r"<think>perhaps \boxed{42}, or", None),
    ("an inequality", r"\boxed{n \geq 42}", None),
    ("two values", r"\boxed{m=100 \quad n=42}", None),
    ("another base", r"\boxed{42_5}", None),
    ("a number word", r"\boxed{42\text{ thousand}}", None),
    ("a percentage", r"\boxed{42\%}", None),
    ("talk alone", "I thought of 42 sheep.", None),
]


def math_verify_reader() -> Reader:
    """`math_verify.parse`, its first expression where that is an integer."""
    parse = import_module("math_verify").parse

    def read(text: str) -> int | None:
        found = parse(text)
        value = getattr(found[0], "rhs", found[0]) if found else None
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if value == number or str(value).strip() == str(number) else None

    return read


def minerva_reader() -> Reader:
    """lm-eval's `minerva_math`: its own sentence."""
    utils = import_module("lm_eval.tasks.minerva_math.utils")
    return lambda text: _whole(utils.normalize_final_answer(utils.get_unnormalized_answer(text)))


def hendrycks_reader() -> Reader:
    """lm-eval's `hendrycks_math`: the last box, its spaces and fonts stripped."""
    utils = import_module("lm_eval.tasks.hendrycks_math.utils")

    def read(text: str) -> int | None:
        box = utils.last_boxed_only_string(text)
        return None if box is None else _whole(utils.strip_string(utils.remove_boxed(box)))

    return read


def _whole(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


HARNESSES: dict[str, Callable[[], Reader]] = {
    "math-verify": math_verify_reader,
    "lm-eval minerva": minerva_reader,
    "lm-eval hendrycks": hendrycks_reader,
}


def installed() -> dict[str, Reader]:
    found = {}
    for name, make in HARNESSES.items():
        try:
            found[name] = make()
        except Exception:  # not installed, or without what it needs itself, which some assert
            continue
    return found


@pytest.mark.parametrize(("kind", "text", "value"), TEXTS, ids=[kind for kind, *_ in TEXTS])
def test_ours(kind: str, text: str, value: int | None) -> None:
    assert extract_integer(text).value == value, kind


def test_the_others_beside_ours() -> None:
    readers = installed()
    if not readers:
        pytest.skip("no other harness is installed")
    rows, differing = [], dict.fromkeys(readers, 0)
    for kind, text, value in TEXTS:
        read = {name: _safely(reader, text) for name, reader in readers.items()}
        for name, theirs in read.items():
            differing[name] += theirs != value
        rows.append([kind, *(str(each if each is not None else "–") for each in (value, *read.values()))])
    header = ["completion", "ours", *readers]
    lines = [header, ["---"] * len(header), *rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if os.environ.get("SKIPPY_ANSWER_TABLE"):
        Path(os.environ["SKIPPY_ANSWER_TABLE"]).write_text(table, encoding="utf-8")
    assert all(differing.values()), "the texts tell every other reader from ours"


def _safely(reader: Reader, text: str) -> int | None:
    try:
        return reader(text)
    except Exception:  # a reader that raises has read nothing
        return None
