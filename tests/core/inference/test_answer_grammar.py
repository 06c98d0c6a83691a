r"""What stands in a box or behind `Answer:`, kind by kind: decorations that leave a number what it is, and words and
signs that make another of it. Every text of the first table says 113, none of the second says anything.
"""

from __future__ import annotations

import re
from itertools import product

import pytest

from skippy.core.answers import extract_integer
from skippy.core.inference import answer_words as words
from skippy.core.inference.answer_symbols import DECORATIONS, ENVIRONMENTS

READ: dict[str, list[str]] = {
    "fonts": [
        *(
            r"{\bf 113}",
            r"\rm 113",
            r"\textbf{113}",
            r"\mathbf{113}",
            r"\bm{113}",
            r"\emph{113}",
            r"\mathsf{113}",
        ),
        *(
            r"\underline{113}",
            r"\underline{\textbf{113}}",
            r"\fbox{113}",
            r"\displaystyle 113",
            r"\Large 113",
        ),
        *(r"{\Large 113}", r"\large{113}", r"\bigl(113\bigr)", r"\operatorname{113}"),
    ],
    "colours": [
        *(r"\color{red}{113}", r"\color{blue}113", r"\textcolor{red}{113}", r"\colorbox{yellow}{113}"),
        r"\mathbf{\color{red} 113}",
    ],
    "delimiters": ["113$", "$113$", r"\(113\)", r"\left(113\right)", "{113}", "(113)"],
    "ornaments": [r"113 \blacksquare", r"113~\square", "113 ∎", r"113 \qed", "113 ✅", r"113 \checkmark"],
    "spaces": [r"113\qquad", r"\,113\;", "\u00a0113", "~113", "&nbsp;113"],
    "invisible characters": [
        *("\u200b113", "113\u2060", "\ufeff113", "113\u200e", "\u2066113\u2069", "1\u200b13"),
        "\u00ad113",
    ],
    "environments": [
        r"\begin{aligned} m+n &= 113 \end{aligned}",
        r"\begin{aligned} m+n &= 100+13 \\ &= 113 \end{aligned}",
        r"\begin{align*} 113 \end{align*}",
    ],
    "equations": [
        r"|A \cap B| = 113",
        *("113 = m+n", "|S| = 113", r"\angle ABC = 113^\circ", r"\frac{a}{b} = 113", r"\text{Area} = 113"),
        *("AB^2 = 113", "100 + 13 = 113", r"x^2 = 12769, x > 0 \implies x = 113", r"\therefore 113"),
    ],
    "units": [
        *("113 cm", r"113\text{ cm}^2", r"113~\mathrm{cm}^{2}", r"113\,\mathrm{m/s}", r"113\ \text{m/s}"),
        *(r"113\,\mathrm{m}\,\mathrm{s}^{-1}", r"113\,\frac{\text{km}}{\text{h}}", r"113\text{ units}^2"),
        *(
            r"113\text{ sq. units}",
            r"113\text{ square units}",
            r"113\text{ m}",
            r"113\,\text{m}^2",
            "113^\\circ C",
        ),
        *(r"113\text{ miles per hour}", r"113^{\circ}\text{C}", "113°"),
    ],
    "money": [r"\$113", r"113\text{ dollars}", "€113", r"113\,€", r"\text{USD } 113"],
    "counted nouns": [
        *(r"113\text{ ordered pairs}", r"113\text{ apples}", r"113\text{ red marbles}", r"113\text{ people}"),
        r"113\text{ ways to tile it}",
    ],
    "ordinals": [
        r"113^{\text{th}}",
        "113th",
        r"113\text{th}",
        "113^{th}",
        r"113^\text{th}",
        r"113\text{-th}",
    ],
    "base ten": ["113_{10}", "(113)_{10}", r"113_{\text{ten}}"],
    "whole decimals": ["113.0", "113.00"],
    "sentences in a box": [r"\text{The answer is 113}", r"\text{The answer is }113", r"\text{Answer: }113"],
    "talk in a box": [
        *(
            r"113 \text{ (obviously)}",
            r"113\;(\text{obviously})",
            r"113 \quad \text{QED}",
            "113, and you knew it",
        ),
        *("113 (three seconds of work)", "113, a million times faster than you", "113, versus your nothing"),
    ],
    "boxes without content": [
        r"\boxed{113} Now the ritual of \boxed{} is done.",
        r"\boxed{113} and \boxed{\text{answer}} is how it is done",
        r"\boxed{113}. I always use \boxed{...}",
        r"It is \boxed{113}. Such is the ritual of \boxed{\ldots}.",
        "Answer: 113. Kneel before \\boxed{}.",
    ],
    "sentences": [
        "Final Answer: The final answer is $113$. I hope it is correct.",
        "The final answer is $113$. I hope it is correct.",
        *("Answer: There are 113 such integers.", "Answer: The number of ways is 113.", "Answer: So, 113."),
        "Answer: The smallest possible value of x is 113.",
        "Answer: I am a genius, and the answer is 113",
        "Answer: There are 113 ordered pairs (a, b).",
        "Answer: Triangle ABC has area 113.",
        "Answer: 113 (one hundred and thirteen).",
        "Answer: n = 113 where n is the number of ways",
        "Answer: There are exactly 113 positive integers",
        *(
            "Answer: 113 integers that satisfy the condition",
            "Answer: $m + n = 113$.",
            "Answer: 113 because I said so",
        ),
    ],
    "units on a line": [
        *(
            "Answer: 113 square units.",
            "Answer: 113 cm²",
            "Answer: $113$ cm",
            "Answer: 113 cm^2",
            "Answer: $113",
        ),
        *(
            "Answer: \\$113",
            "Answer: 113 km/h",
            "Answer: 113 dollars",
            "Answer: 113 degrees",
            "Answer: 113 m",
        ),
    ],
    "blocks": [
        *(
            "Answer:\n```\n113\n```",
            "Answer:\n```text\n113\n```\n",
            "Answer:\n$$\n113\n$$",
            "Answer: $$\n113\n$$",
        ),
        *("Answer:\n\\[\n113\n\\]", "Answer:\n\\begin{align*}\nx &= 113\n\\end{align*}", "Answer: $$113$$"),
    ],
    "tags and tokens": [
        *("Answer: 113<|im_end|>", "<answer>Answer: 113</answer>", "Answer: <b>113</b>", "Answer: 113</s>"),
        *("<answer>113</answer>", "Answer: 113<end_of_turn>", "Answer: 113<｜end▁of▁sentence｜>"),
    ],
    "marks": [
        *(
            "### Final Answer: 113",
            "**Final Answer:** $\\mathbf{113}$",
            "Answer：113",
            "Answer: 113。",
            "Answer: `113`",
        ),
        "Answer: 113\n\nWhy am I so sure of my answer: genius.",
        *("Answer: 113... obviously", "Answer: 113...", "Answer:\n113. Obviously, monkey."),
    ],
}
NOT_READ: dict[str, list[str]] = {
    "relation": [
        *(
            "n >= 113",
            "n != 113",
            "x ~= 113",
            r"n \geq 113",
            "n ≥ 113",
            "113 < x",
            "> 113",
            r"\ge 113",
            r"\approx 113",
        ),
        *(r"x \in \{113\}", r"N \equiv 113 \pmod{1000}", r"x=3 \vee x=113", "n => 113", "n > 100 = 113"),
    ],
    "several values": [
        *(
            r"m=100 \quad n=13",
            r"m=100 \\ n=13",
            r"m=100,\; n=13",
            r"m=100\ n=13",
            "m=100; n=13",
            "m = 100 n = 13",
        ),
        *(
            r"m=100\text{ and }n=13",
            r"x=3 \text{ ou } x=5",
            r"x=3\ \text{oder}\ x=5",
            "113 = x = 114",
            "(113, 114)",
        ),
        *(r"\begin{aligned} m &= 100 \\ n &= 13 \end{aligned}", r"113 \text{ and } 114", "113, forty-three"),
    ],
    "number words": [
        *(
            r"3\text{ trillion}",
            r"3\text{ quarters}",
            r"3\text{ halves}",
            r"3\text{ dozen}",
            r"3\text{ score}",
        ),
        *(
            r"113\text{ pi}",
            r"113\text{ plus one}",
            r"113\text{ (base five)}",
            r"113\text{ per cent}",
            "113 per cent",
        ),
        *(
            r"3\text{ lakh}",
            r"3\text{ gross}",
            r"3\text{ squared}",
            "113 (thousand)",
            "113, minus one",
            "113 (hex)",
        ),
        *("113 (in base five)", "113 (mod seven)", r"113\text{ more than }n"),
    ],
    "expression": [
        *("113x", "113i", r"113\pi", r"113\sqrt{2}", "113^2", "100+13", r"113\pm 1", "113'", "113m", "113 m"),
        *(
            r"\cancel{113}",
            r"\overline{113}",
            r"\sqrt{113}",
            r"\pm 113",
            "4\u20622",
            "\u202e311",
            r"113\text{ zillion}",
        ),
        *(r"\begin{cases} 113 & x>0 \\ 2 & x<0\end{cases}", "[113]", r"1.13 \times 10^2", "113e0", "113½"),
    ],
    "another base": ["113_5", "113_{5}", r"113_{\text{five}}", r"113_{b}"],
    "percentage": [r"113\%", "113 %", "113‰"],
    "decimals": ["113...", r"113\ldots", "113.5", r"113.\overline{3}", "113..."],
    "lists": [
        *("**Answer:**\n1. Let $x$ be the side. Then the area is 113.", "Answer:\n1. Let x be 3\n2. So 113"),
        *("Answer:\n\n1) First we find 113.", "Answer:\n(1) First we find it.", "Answer:\nStep 1: find 113"),
    ],
    "sentences": [
        *(
            "Answer: There are 113 thousand such integers.",
            "Answer: n is at least 113",
            "Answer: It is not 113",
        ),
        *("Answer: about 113", "Answer: more than 113", "Answer: either 113 or 114", "Answer: half of 113"),
        *(
            "Answer: between 100 and 113",
            "Answer: 113 or so",
            "Answer: 113 and a half",
            "Answer: 113 plus one",
        ),
        *(
            "Answer: Half of the answer is 113",
            "Answer: 2 hours and 3 minutes",
            "Answer: 113 to 114",
            "Answer: 10 - 13",
        ),
        *(
            "Answer: 113. No, wait: 112.",
            "Answer: ~~112~~ 113",
            "Answer: $113...$",
            "Answer: n is a multiple of 113",
        ),
        *(
            "Answer: 113<sup>2</sup>",
            "Answer: 113, or not.",
            "Answer: 41\nAnswer: unknown",
            "Answer: $5!$ of 113",
        ),
    ],
}


def completions(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    """(kind, completion): what has no mark of its own is put into a box."""
    return [
        (
            kind,
            text
            if re.search(r"\\boxed|[Aa]nswer[>:：]|answer is \$", text) and "text{" not in text[:6]
            else rf"\boxed{{{text}}}",
        )
        for kind, texts in table.items()
        for text in texts
    ]


@pytest.mark.parametrize(("kind", "text"), completions(READ))
def test_what_decorates_a_number_leaves_it_alone(kind: str, text: str) -> None:
    found = extract_integer(text)
    assert found.value == 113, f"{kind}: {found.status}, {found.reason}"
    assert found.reason == ""


@pytest.mark.parametrize(("kind", "text"), completions(NOT_READ))
def test_what_makes_another_number_chooses_nothing(kind: str, text: str) -> None:
    found = extract_integer(text)
    assert found.value is None, kind
    assert found.status == "not_an_integer"
    assert found.reason


def test_a_reader_of_first_integers_fails_the_second_table() -> None:
    """The twin: the tables tell readers apart."""

    def first_integer(text: str) -> int | None:
        found = re.search(r"[0-9]+", text)
        return int(found.group()) if found else None

    fooled = [text for _, text in completions(NOT_READ) if first_integer(text) is not None]
    assert len(fooled) > 60
    missed = [text for _, text in completions(READ) if first_integer(text) != 113]
    assert len(missed) >= 3


@pytest.mark.parametrize(
    "word", sorted(words.MULTIPLIERS | words.SCALES | words.CARDINALS | words.OTHER_BASES)
)
def test_every_number_word_makes_another_number(word: str) -> None:
    for form in (rf"\boxed{{3\text{{ {word}}}}}", f"Answer: 3 {word}", rf"\boxed{{3 \mathrm{{{word}}}}}"):
        assert extract_integer(form).value is None, form


@pytest.mark.parametrize("word", ["florble", "zog", "wug", "xyzzy"])
def test_a_word_on_no_list_chooses_nothing(word: str) -> None:
    """The twin of every list of words: what nobody thought of is not read."""
    for form in (rf"\boxed{{113\text{{ {word}}}}}", f"Answer: 113 {word}", f"Answer: {word} 113"):
        assert extract_integer(form).value is None, form


@pytest.mark.parametrize(
    "command", [r"\unknown", r"\frac", r"\sin", r"\phi", r"\widehat", r"\xcancel", r"\sout"]
)
def test_a_command_on_no_list_is_mathematics(command: str) -> None:
    assert extract_integer(rf"\boxed{{{command}{{113}}}}").value is None


WRAPPERS = [
    "{}",
    "${}$",
    r"\text{{{}}}",
    r"\mathbf{{{}}}",
    "({})",
    r"\color{{red}}{{{}}}",
    " {} ",
    r"\,{}",
    "\u200b{}",
    "**{}**",
]


@pytest.mark.parametrize(("outer", "inner"), list(product(WRAPPERS, WRAPPERS)))
def test_decorations_nest_and_twice_is_once(outer: str, inner: str) -> None:
    once = inner.format(113)
    both = outer.format(once)
    for content in (once, both, inner.format(both)):
        assert extract_integer(rf"\boxed{{{content}}}").value == 113, content


@pytest.mark.parametrize("name", sorted(DECORATIONS))
def test_every_decoration_on_the_list_is_one(name: str) -> None:
    assert extract_integer(rf"\boxed{{\{name} 113}}").value == 113


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_every_environment_on_the_list_shows_its_content(name: str) -> None:
    assert extract_integer(rf"\boxed{{\begin{{{name}}} 113 \end{{{name}}}}}").value == 113
