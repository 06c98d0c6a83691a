"""What is read or drawn can be seen: WCAG 2.2's contrast, from the style sheets' own colours, by day and by night."""

from __future__ import annotations

import re

import pytest

from skippy.core.variants import VARIANTS
from skippy.report.palette import BASE_COLOURS, read_template

TEXT, MARK = 4.5, 3.0
"""Least contrast of text that is not large, and of marks (WCAG 2.2, 1.4.3 and 1.4.11)."""
PAPERS = ("page", "card", "wash")
WORDS = ("ink", "soft", "faint", "good", "bad", "open")


def themes(sheet: str) -> tuple[dict[str, str], dict[str, str]]:
    """Variable → colour, on light and on dark paper."""
    light, dark = (
        dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})\b", block))
        for block in re.findall(r":root\{([^}]*)\}", sheet)
    )
    return light, {**light, **dark}


def luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """(L₁ + 0.05)/(L₂ + 0.05) of the lighter over the darker.

    Source: WCAG 2.2, definition of contrast ratio. Departure: none.
    """
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def faults(sheet: str) -> list[str]:
    """What cannot be seen well enough: words on every paper, the arms' names and marks where they stand."""
    found = []
    arms = {name: row.colours for name, row in VARIANTS.items()} | {"base": BASE_COLOURS}
    for place, theme in enumerate(themes(sheet)):
        pairs = [(word, theme[word], paper, TEXT) for word in WORDS for paper in PAPERS]
        pairs += [(arm, pair[place], paper, TEXT) for arm, pair in arms.items() for paper in ("page", "card")]
        pairs += [(arm, pair[place], "bad-wash", MARK) for arm, pair in arms.items()]
        pairs += [("heat", theme["heat"], "card", MARK)]
        for name, colour, paper, least in pairs:
            if contrast(colour, theme[paper]) < least:
                found.append(
                    f"{name} on {('light', 'dark')[place]} {paper}: {contrast(colour, theme[paper]):.2f}"
                )
    return found


def test_everything_can_be_read() -> None:
    assert faults(read_template("figures.css")) == []


@pytest.mark.parametrize(
    ("good", "pale"), [("--faint:#646e7e", "--faint:#8b94a3"), ("--bad:#ff8a80", "--bad:#7a2b25")]
)
def test_a_pale_word_is_found(good: str, pale: str) -> None:
    """The twin: the grey that notes had, and a red that is too dark for dark paper."""
    sheet = read_template("figures.css")
    assert good in sheet
    word = good[2:].partition(":")[0]
    assert [line.split()[0] for line in faults(sheet.replace(good, pale))] == [word] * 3


def test_the_ratio_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
