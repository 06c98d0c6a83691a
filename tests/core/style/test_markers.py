"""Markers earn less the oftener they come, an opening once, and only as far as they season a text."""

import re

import pytest

from skippy.core.style import prose, reward_rules
from skippy.core.style.markers import earned_share, find_markers, marker_credit, total_credit
from tests.core.style.reward_texts import PROMPT, SKIPPY


@pytest.mark.parametrize(("count", "credit"), [(1, 2.0), (2, 3.0), (3, 3.5), (4, 3.5), (9, 3.5)])
def test_markers_diminish_and_stop_at_their_cap(count, credit):
    marker = reward_rules.Marker("word", re.compile("word"), weight=2.0, cap=3, example="word")
    assert marker_credit(marker, count, hardened=True) == credit
    assert marker_credit(marker, count, hardened=False) == 2.0 * count


@pytest.mark.parametrize(
    ("text", "times"),
    [("Listen, ape.", 1), ('"Listen."', 1), ("  *Listen*", 1), ("Oh, listen.", 1), ("I listen.", 0)],
)
def test_an_opening_earns_once_and_at_the_start_alone(text, times):
    assert total_credit(text, [], SKIPPY) == SKIPPY.opening_weight * times


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("stew rest", 1),
        ("obviously monkey obviously monkey obviously monkey stew rest", (2 / 8 - 0.15) / 0.25),
        ("monkey stew", 1 / 2),
        ("monkey monkey monkey monkey monkey monkey and the stew is of the pan", 2 / 3),
        ("monkey monkey monkey monkey monkey monkey rest", 0),
        ("", 0),
    ],
    ids=[
        "no markers",
        "few words beside them",
        "one word beside it",
        "fewer words than half",
        "heap",
        "empty",
    ],
)
def test_markers_must_season_the_text(text, share):
    rules = reward_rules.example_rules()
    assert earned_share(text, find_markers(text, rules), None, rules) == pytest.approx(share)


def test_words_of_the_prompt_count_as_one_beside_the_markers():
    rules, text = reward_rules.example_rules(), "Monkey, the stew is dry."
    assert prose.soundness(text, PROMPT) == 1
    assert earned_share(text, find_markers(text, rules), PROMPT, rules) == 1 / 2
