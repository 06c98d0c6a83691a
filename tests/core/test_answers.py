"""One integer out of text: a table of literal cases, each with the reason why it reads as it does."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skippy.core.answers import (
    LARGEST_ANSWER,
    extract_integer,
    extract_integer_lenient,
    parse_gold,
)
from skippy.errors import ProblemError

ROOT = Path(__file__).parents[2]
SNARK = "Obviously. Do try to keep up, monkey. " * 12

CASES: list[tuple[str, int | None, str, str]] = [
    # text, value, status, why
    (r"\boxed{42}", 42, "boxed", "the plain form"),
    (r"\boxed{042}", 42, "boxed", "AIME writes leading zeros"),
    (r"\boxed{007}", 7, "boxed", "two leading zeros"),
    (r"\boxed{000}", 0, "boxed", "zero is an answer"),
    (r"\boxed{0}", 0, "boxed", "zero is not falsy"),
    (r"\boxed{999}", 999, "boxed", "upper end, inclusive"),
    (r"\boxed{1000}", None, "out_of_range", "one past the upper end"),
    (r"\boxed{-1}", None, "out_of_range", "below zero"),
    (r"\boxed{−5}", None, "out_of_range", "a typographic minus is a minus"),
    (r"\boxed{+42}", 42, "boxed", "an explicit plus changes nothing"),
    (r"\boxed{1,000}", None, "out_of_range", "thousands separator: a thousand, not 1 and not 0"),
    (r"\boxed{12{,}345}", None, "out_of_range", "TeX thousands separator"),
    (r"\boxed{0,042}", None, "not_an_integer", "no thousands group starts with zero"),
    (r"\boxed{4,2}", None, "not_an_integer", "a list of two, not a number"),
    (r"\boxed{ 42 }", 42, "boxed", "spaces inside"),
    (r"\boxed {42}", 42, "boxed", "space before the brace"),
    (r"\boxed{\,42\,}", 42, "boxed", "TeX thin spaces"),
    (r"\boxed{~42\quad}", 42, "boxed", "other TeX spaces"),
    (r"\boxed{\text{42}}", 42, "boxed", "a text wrapper: four of seven harnesses miss it"),
    (r"\boxed{\mathrm{42}}", 42, "boxed", "a font wrapper"),
    (r"\boxed{\mathbf{\text{42}}}", 42, "boxed", "nested wrappers"),
    (r"\boxed{\boxed{42}}", 42, "boxed", "a box in a box"),
    (r"\boxed{{42}}", 42, "boxed", "a bare group"),
    (r"\boxed{$42$}", 42, "boxed", "dollars inside"),
    (r"$\boxed{42}$", 42, "boxed", "dollars outside"),
    (r"\[\boxed{42}\]", 42, "boxed", "display mathematics outside"),
    (r"\boxed{(42)}", 42, "boxed", "parentheses around"),
    (r"\boxed{\left(42\right)}", 42, "boxed", "sized parentheses"),
    (r"\boxed{42.}", 42, "boxed", "a full stop inside the box"),
    (r"\boxed{x = 42}", 42, "boxed", "a name on the left"),
    (r"\boxed{m+n=42}", 42, "boxed", "a sum of names on the left"),
    (r"\boxed{m+n = 20+22 = 42}", 42, "boxed", "a chain ends in its value"),
    (r"\boxed{f(2,3)=42}", 42, "boxed", "a comma inside an argument list is no second answer"),
    (r"\boxed{\mathrm{x}=7}", 7, "boxed", "a font on the name only"),
    (r"\boxed{a=3, b=5}", None, "not_an_integer", "two names: nothing is chosen for the writer"),
    (r"\boxed{3 \text{ or } 5}", None, "not_an_integer", "two answers"),
    (r"\boxed{336^\circ}", 336, "boxed", "degrees: published gold has this form"),
    (r"\boxed{336^{\circ}}", 336, "boxed", "degrees in a group"),
    (r"\boxed{42\text{ cm}}", 42, "boxed", "a unit in words"),
    (r"\boxed{42\%}", None, "not_an_integer", "a percentage is another number"),
    (r"\boxed{42.0}", 42, "boxed", "a whole number written with a decimal is that number"),
    (r"\boxed{42.5}", None, "not_an_integer", "a fraction is no integer"),
    (r"\boxed{\frac{84}{2}}", None, "not_an_integer", "arithmetic left undone"),
    (r"\boxed{2^{5}}", None, "not_an_integer", "a power left undone"),
    (r"\boxed{forty-two}", None, "not_an_integer", "words are not digits"),
    (r"\boxed{}", None, "not_an_integer", "an empty box decides, and says nothing"),
    (r"\boxed{4 2}", None, "not_an_integer", "two numbers side by side"),
    (r"\boxed{４２}", None, "not_an_integer", "only ASCII digits"),
    (r"\boxed{4²}", None, "not_an_integer", "a superscript is not a digit"),
    (r"\boxed{\{42\}}", None, "not_an_integer", "a set is not its element"),
    (r"\boxed{1} no, wait: \boxed{2}", 2, "boxed", "the last box wins"),
    (r"\boxed{42} and then \boxed{\frac12}", None, "not_an_integer", "the last box wins even if unreadable"),
    (r"\boxed{42} " + SNARK, 42, "boxed", "450 characters of manners after the box change nothing"),
    (r"\boxed{42} It took me 0.0003 seconds.", 42, "boxed", "a number after the box is not an answer"),
    (r"\boxed{42} Answer: 43", 42, "boxed", "a box outranks an answer line"),
    (r"\boxed{42", None, "unbalanced_box", "cut off inside the box"),
    (r"\boxed{42 and \boxed{43}", 43, "boxed", "the last balanced box, inside an open one"),
    (r"\boxed{41} so \boxed{42", 41, "boxed", "an open box does not hide a closed one"),
    (r"\boxed{42" + "\nAnswer: 42", 42, "answer_line", "an answer line stands in for an open box"),
    (r"{\boxed{42}", 42, "boxed", "a stray opening brace before"),
    (r"}}\boxed{42}}}", 42, "boxed", "stray closing braces"),
    (r"\\boxed{42}", 42, "boxed", "an escaped backslash, as out of JSON"),
    (r"\fbox{42}", 42, "boxed", "the text-mode box"),
    (r"\boxed 42", None, "no_answer", "without braces TeX boxes one digit: no answer is chosen"),
    ("Answer: 42", 42, "answer_line", "the line form"),
    ("answer: 042", 42, "answer_line", "any case, leading zero"),
    ("**Answer:** 42", 42, "answer_line", "Markdown around the word"),
    ("Final Answer: **42**", 42, "answer_line", "Markdown around the number"),
    ("Answer: $42$.", 42, "answer_line", "dollars and a full stop"),
    ("Answer:\n\n42", 42, "answer_line", "the number on the next line"),
    ("Answer: x = 42", 42, "answer_line", "a name on the left"),
    ("Answer: 41\nAnswer: 42", 42, "answer_line", "the last line wins"),
    ("Answer: 42. It took me 0.0003 seconds.", 42, "answer_line", "a sentence after it is manners"),
    ("Answer: 42, obviously", 42, "answer_line", "an aside after a comma is manners"),
    ("Answer: 42 — you are welcome", 42, "answer_line", "an aside after a dash is manners"),
    ("Answer: 42, or 43", None, "not_an_integer", "two answers are none"),
    ("Answer: 1000", None, "out_of_range", "the range holds for lines too"),
    ("Answer: -3", None, "out_of_range", "below zero"),
    ("Answer: about 42", None, "not_an_integer", "an estimate is not the answer"),
    ("Answer:", None, "not_an_integer", "an empty line decides, and says nothing"),
    ("The result is 42.", None, "no_answer", "never the last number"),
    ("42", None, "no_answer", "not even the only number"),
    ("", None, "no_answer", "silence"),
    (r"<think>\boxed{41}</think>\boxed{42}", 42, "boxed", "thoughts are not answers"),
    (r"<think>\boxed{41}</think> Hm.", None, "no_answer", "a box in a closed thought does not count"),
    (
        r"<think>perhaps \boxed{42}",
        None,
        "unclosed_think",
        "a guess in a cut-off thought: four harnesses count it",
    ),
    (r"\boxed{42}<think>or not", None, "unclosed_think", "cut off while reconsidering"),
    (r"perhaps \boxed{41}</think>\boxed{42}", 42, "boxed", "the template opened the thought in the prompt"),
    (r"<think>a</think>\boxed{1}<think>b</think>\boxed{2}", 2, "boxed", "two thoughts"),
    (r"<THINK>\boxed{41}</THINK>\boxed{42}", 42, "boxed", "tags in any case"),
    (r"<think>I never write <think> twice</think>\boxed{42}", 42, "boxed", "thoughts do not nest"),
    (r"\boxed{42 😀}", 42, "boxed", "an emoji is manners"),
    (r"\boxed{42 👍🏽✔️}", 42, "boxed", "several of them, with skin tone and variation selector"),
    (r"\boxed{42 \checkmark}", 42, "boxed", "an ornament of TeX"),
    (r"\boxed{4😀2}", None, "not_an_integer", "an emoji parts two numbers and does not join them"),
    (r"\boxed{➖42}", None, "not_an_integer", "an emoji that is a minus sign"),
    (r"\boxed{42,}", 42, "boxed", "a comma with nothing behind it lists nothing"),
    (r"\boxed{42;}", 42, "boxed", "nor does a semicolon"),
    (r"\boxed{42?}", 42, "boxed", "a box with a question mark is still the only candidate"),
    (r"\boxed{42!}", 42, "boxed", "a shout: the factorial of 42 is no answer"),
    (r"\boxed{5!}", None, "not_an_integer", "5 shouted, or 120: ambiguous"),
    (r"\boxed{5! = 120}", 120, "boxed", "a factorial worked out"),
    (r"\boxed{ 042 }", 42, "boxed", "a leading zero between spaces"),
    (r"\boxed{42, obviously}", 42, "boxed", "talk after a comma, inside the box"),
    (r"\boxed{42 (obviously)}", 42, "boxed", "talk in parentheses, inside the box"),
    (r"\boxed{\text{42, you monkey}}", 42, "boxed", "talk in the text wrapper"),
    (r"\boxed{x = 42 (obviously)}", 42, "boxed", "a name before and talk behind"),
    (r"\boxed{42. You are welcome.}", 42, "boxed", "a sentence inside the box"),
    (r"\boxed{42, a million times faster than you}", 42, "boxed", "a number word in the middle of talk"),
    (r"\boxed{“42”}", 42, "boxed", "quotation marks"),
    (r"\boxed{42, 43}", None, "not_an_integer", "two candidates"),
    (r"\boxed{42 (or 43)}", None, "not_an_integer", "two candidates, one in parentheses"),
    (r"\boxed{42, or forty-three}", None, "not_an_integer", "two candidates, one in words"),
    (r"\boxed{42 (mod p)}", None, "not_an_integer", "a residue class is not its smallest member"),
    (r"\boxed{42, x}", None, "not_an_integer", "a list with an unknown"),
    (r"\boxed{42, \infty}", None, "not_an_integer", "a list with a symbol"),
    (r"\boxed{42 - abc}", None, "not_an_integer", "a hyphen in a box is a minus"),
    (r"\boxed{2 (a+b)}", None, "not_an_integer", "parentheses with mathematics are a factor"),
    (
        r"\boxed{42 thousand}",
        None,
        "not_an_integer",
        "words that nothing sets apart may be part of the number",
    ),
    (r"\boxed{42 (thousand)}", None, "not_an_integer", "set apart, the same word still is"),
    (r"\boxed{42\text{ thousand}}", None, "not_an_integer", "nor is it a unit"),
    (r"\boxed{42\text{ percent}}", None, "not_an_integer", "the percentage in words is that in signs"),
    (r"\boxed{42. 43}", None, "not_an_integer", "a sentence that is a number is a candidate"),
    ("**Answer:** 42.", 42, "answer_line", "Markdown around the word, and a full stop"),
    ("Answer: 42 (obviously)", 42, "answer_line", "talk in parentheses"),
    ("Answer: 42 😀", 42, "answer_line", "an emoji on the line"),
    ("Answer: 42 ;)", 42, "answer_line", "an emoji of letters"),
    ("**Final answer: 42** 🎉", 42, "answer_line", "Markdown that closes before the emoji"),
    ("Answer: *42*. Ha.", 42, "answer_line", "Markdown that closes before the sentence"),
    ('Answer: "42"', 42, "answer_line", "quotation marks on the line"),
    ("Answer: 42!", 42, "answer_line", "in prose a shout is a shout"),
    ("Answer: 5! = 120", 120, "answer_line", "but what goes on as mathematics is no new sentence"),
    ("Answer: 42 (not 43)", None, "not_an_integer", "a second number is not judged for the writer"),
    ("Answer: 42 (mod 7)", None, "not_an_integer", "a residue class"),
    ("Answer: 42. 43.", None, "not_an_integer", "two numbers, a sentence each"),
    ("Answer: 42 apples", None, "not_an_integer", "nothing sets the word apart: it could be `dozen`"),
    (
        "the answer is $42$!",
        None,
        "no_answer",
        "running prose: only `Answer:` commits (the lenient line reads it)",
    ),
    (r"\boxed{" + "0" * 300 + "42}", None, "not_an_integer", "nobody writes three hundred zeros"),
]


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 60
    assert len({text for text, *_ in CASES}) == len(CASES)


@pytest.mark.parametrize(("text", "value", "status", "why"), CASES, ids=[case[3] for case in CASES])
def test_table(text: str, value: int | None, status: str, why: str) -> None:
    found = extract_integer(text)
    assert (found.value, found.status) == (value, status), why


def test_the_table_refutes_the_last_number_rule() -> None:
    """The twin: the scorer most people write first fails a good part of the table."""

    def last_number(text: str) -> int | None:
        found = re.findall(r"[0-9]+", text)
        return int(found[-1]) if found else None

    wrong = [text for text, value, *_ in CASES if last_number(text) != value]
    assert len(wrong) >= 20


PIECES = re.findall(
    r"\S+",
    r"""
    \boxed{ \fbox{ } { 42 7 0 1000 - − Answer: answer: <think> </think> [THINK] [/THINK] <|begin_of_thought|>
    ` " \text{ \mathrm{ \rm \color{red} \frac ^ _ ^{ _{ $ $$ = >= \ge \neq \implies \vee , ; . ... ! ? ( ) [ ]
    \( \) \[ \] \\ & % \% \quad \, ~ \circ cm th thousand or and not the is There pi half \begin{aligned}
    \end{aligned} \begin{ \end{ \color{ ``` ** _ | / + 1. - # <answer> </answer> <|im_end|> 😀 ½ ² ４ \ \x
    """,
)
FUZZ = """
import random, sys
from skippy.core.answers import LARGEST_ANSWER, extract_integer
source, read = random.Random(16), 0
for _ in range(100_000):
    pieces = [source.choice(sys.argv[1:]) for _ in range(source.randrange(1, 10))]
    text = source.choice(("", " ", "\\n")).join(pieces)
    text = source.choice(("{}", "\\\\boxed{{{}}}", "Answer: {}")).format(text)
    value = extract_integer(text).value
    assert value is None or 0 <= value <= LARGEST_ANSWER, text
    read += value is not None
print(read)
"""


def test_a_hundred_thousand_texts_never_raise_and_stay_in_range() -> None:
    """In a process of its own, where no annotation is checked at every call: seconds instead of a minute."""
    run = subprocess.run(
        [sys.executable, "-c", FUZZ, *PIECES],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 1000, "the texts exercise the reading, not only the refusals"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=30).map("".join))
def test_never_raises_never_out_of_range(text: str) -> None:
    for extract in (extract_integer, extract_integer_lenient):
        found = extract(text)
        assert found.value is None or 0 <= found.value <= LARGEST_ANSWER


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, LARGEST_ANSWER), st.text(alphabet=st.characters(exclude_characters="\\{}<>"), max_size=80)
)
def test_talk_around_the_box_never_changes_the_answer(value: int, talk: str) -> None:
    assert extract_integer(f"{talk} \\boxed{{{value}}} {talk}").value == value


SEPARATORS = (
    ", ",
    "; ",
    ": ",
    " ",
    " or ",
    ", or ",
    " and ",
    " (or ",
    " (not ",
    " — ",
    " - ",
    ". ",
    "? ",
    " / ",
    " 😀 ",
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, LARGEST_ANSWER), st.integers(1, LARGEST_ANSWER), st.sampled_from(SEPARATORS))
def test_two_candidates_are_none(first: int, second: int, separator: str) -> None:
    """However talk is forgiven, nobody gets two tries."""
    pair = f"{first}{separator}{second}" + (")" if "(" in separator else "")
    for text in (f"\\boxed{{{pair}}}", f"Answer: {pair}"):
        assert extract_integer(text).value is None


@settings(max_examples=200, deadline=None)
@given(
    st.integers(7, LARGEST_ANSWER),
    st.sampled_from(
        [
            "{} (obviously)",
            "{}, monkey!",
            "{} — you are welcome",
            "{}. So it is.",
            "{} 😀",
            "**{}**!",
            "{}, ok?",
        ]
    ),
)
def test_manners_cost_nothing(value: int, manners: str) -> None:
    """The twin: one candidate stays one whatever is said behind it."""
    spoken = manners.format(value)
    assert extract_integer(f"\\boxed{{{spoken}}}").value == value
    assert extract_integer(f"Answer: {spoken}").value == value


@settings(max_examples=100, deadline=None)
@given(st.integers(0, LARGEST_ANSWER), st.sampled_from(["\\boxed{{{}}}", "Answer: {}"]), st.integers(0, 9))
def test_lenient_never_loses_a_strict_answer(value: int, form: str, other: int) -> None:
    text = f"The answer is {other}.\n{form.format(value)}\nThat took {other} seconds."
    strict = extract_integer(text)
    assert strict.value == value
    assert extract_integer_lenient(text) == strict


@pytest.mark.parametrize(
    ("text", "value", "status"),
    [
        (r"\boxed{42} and then \boxed{\text{about } x}", 42, "lenient_box"),
        (r"\boxed{41 or 42}", 42, "lenient_box"),
        (r"\boxed{1 or 41} and \boxed{2 or 42} and \boxed{x}", 42, "lenient_box"),
        ("the answer is 41. No, the answer is 42, not 43", 42, "lenient_answer"),
        ("41 or 42", 42, "lenient_number"),
        ("<think>the answer is 41</think> the answer is 42 or so", 42, "lenient_answer"),
        ("<think>the answer is 41</think> It is 42.", 42, "lenient_number"),
        ("I think the answer is 42 or so", 42, "lenient_answer"),
        ("It is 42.", 42, "lenient_number"),
        ("Three thousand: 3000", None, "no_answer"),
        ("<think>maybe 42", 42, "lenient_number"),
    ],
)
def test_lenient(text: str, value: int | None, status: str) -> None:
    found = extract_integer_lenient(text)
    assert (found.value, found.status) == (value, status)


HOSTILE: dict[str, Callable[[int], str]] = {
    "opening braces": lambda n: "{" * n,
    "open boxes": lambda n: r"\boxed{" * (n // 7),
    "nested boxes": lambda n: r"\boxed{" * (n // 8) + "}" * (n // 8),
    "closing braces": lambda n: r"\boxed{42" + "}" * n,
    "backslashes": lambda n: "\\" * n + "{",
    "spaces after boxed": lambda n: r"\boxed" + " " * n + "{1}",
    "answer marks": lambda n: "answer " * (n // 7),
    "answer tail": lambda n: "Answer: " + "4. " * (n // 3),
    "parentheses": lambda n: "Answer: 4" + " ()" * (n // 3) + "x",
    "emoji": lambda n: "Answer: 4" + " :)😀" * (n // 4),
    "dashes": lambda n: r"\boxed{4" + " -" * (n // 2) + "}",
    "thoughts": lambda n: "<think></think>" * (n // 15),
    "many answers": lambda n: "answer: x " * (n // 10),
    "tags": lambda n: "<|" * (n // 2),
    "open tags": lambda n: "</think" * (n // 7),
    "scripts": lambda n: r"\boxed{4" + "^{" * (n // 2) + "}" * (n // 2) + "}",
    "environments": lambda n: "Answer: " + r"\begin{aligned}" * (n // 15),
    "parenthesised": lambda n: "Answer: " + "(" * (n // 2) + "4" + ")" * (n // 2),
    "empty boxes": lambda n: r"\boxed{}" * (n // 8),
    "wrappers": lambda n: r"\boxed{" + r"\text{" * (n // 7) + "1" + "}" * (n // 7) + "}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_linear_time(name: str) -> None:
    """Eight times the text may take about eight times as long; quadratic would take sixty-four."""

    def seconds(size: int) -> float:
        text = HOSTILE[name](size)
        best = float("inf")
        for _ in range(3):
            start = time.thread_time()
            extract_integer(text)
            extract_integer_lenient(text)
            best = min(best, time.thread_time() - start)
        return best

    small, large = seconds(12_500), seconds(100_000)
    assert large < 1.0
    assert large / max(small, 2e-4) < 32


@pytest.mark.parametrize(
    ("given_value", "expected"),
    [
        *((33, 33), ("033", 33), (" 7 ", 7), ("$70$", 70), ("336^\\circ", 336), (33.0, 33), ("33.0", 33)),
        *(([1], 1), (["042"], 42), ("6 · 7 = 42\n#### 42", 42), (Decimal("42"), 42), (np.int64(42), 42)),
        (np.float64(42), 42),
    ],
)
def test_parse_gold(given_value: object, expected: int) -> None:
    assert parse_gold(given_value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(
            1000,
            -1,
            "1000",
            "3.5",
            33.5,
            "",
            "abc",
            None,
            True,
            float("nan"),
            float("inf"),
            [1, 2],
            [],
            "1,2",
        ),
        *({"a": 1}, "84/2", "50%", b"42", pytest.param(10**5000, id="huge"), "1" * 5000, [[None]]),
    ],
)
def test_parse_gold_refuses(value: object) -> None:
    with pytest.raises(ProblemError, match="not an integer 0–999") as caught:
        parse_gold(value)
    assert caught.value.expected
    assert caught.value.next_step
    assert isinstance(caught.value, ValueError)
