"""Thoughts are dropped whoever marks them; one completion gets one verdict whatever came between model and reader."""

from __future__ import annotations

import pytest

from skippy.core.answers import THOUGHT_TAGS, ThoughtTag, extract_integer, opened_thought

TAGS = pytest.mark.parametrize("tag", THOUGHT_TAGS, ids=[tag.opening for tag in THOUGHT_TAGS])
ANSWERS = [r"So \boxed{42}.", "Answer: 42", "I give up.", r"\boxed{1 or 2}", ""]


@TAGS
def test_a_guess_in_a_thought_that_never_ends_is_no_answer(tag: ThoughtTag) -> None:
    found = extract_integer(rf"{tag.opening}maybe \boxed{{41}}, let me see")
    assert (found.value, found.status) == (None, "unclosed_think")


@TAGS
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_parser_that_strips_the_thought_changes_nothing(tag: ThoughtTag, answer: str) -> None:
    thought = r"perhaps \boxed{41} or Answer: 7"
    whole = f"{tag.opening}{thought}{tag.closing}{answer}"
    assert extract_integer(whole) == extract_integer(answer)
    assert extract_integer(whole.replace(tag.opening, tag.opening.upper())) == extract_integer(answer)
    if tag.is_closing_alone:  # the template opened it in the prompt
        assert extract_integer(f"{thought}{tag.closing}{answer}") == extract_integer(answer)


@TAGS
def test_a_tag_that_is_quoted_is_mentioned_and_not_used(tag: ThoughtTag) -> None:
    for left, right in ("``", '""', "“”"):
        mentioned = f"I never use {left}{tag.opening}{right} nor {left}{tag.closing}{right}."
        assert extract_integer(rf"{mentioned} \boxed{{113}}").value == 113
    assert extract_integer(rf"I never use {tag.opening} tags. \boxed{{113}}").value is None, "the twin"


@TAGS
def test_only_its_own_tag_closes_a_thought(tag: ThoughtTag) -> None:
    other = "</thinking>" if tag.closing != "</thinking>" else "</reasoning>"
    assert extract_integer(rf"{tag.opening}maybe{other}\boxed{{41}}").status == "unclosed_think"


@TAGS
def test_a_prompt_tells_which_tag_it_left_open(tag: ThoughtTag) -> None:
    opened = opened_thought(f"<|assistant|>{tag.opening}\n")
    assert opened is not None
    assert opened.opening.lower() == tag.opening.lower()
    assert opened_thought(f"{tag.opening}\n\n{tag.closing}\n\n") is None


def test_a_family_brings_its_own_tags() -> None:
    own = (ThoughtTag("«hm»", "«so»"),)
    text = r"«hm»\boxed{41}«so»\boxed{42}"
    assert extract_integer(text, thought_tags=own).value == 42
    assert extract_integer(r"«hm»\boxed{41}", thought_tags=own).status == "unclosed_think"
    assert extract_integer(r"«hm»\boxed{41}").value == 41, "the twin: a tag on no list is text"
    assert extract_integer(r"<think>\boxed{41}", thought_tags=own).value == 41


def test_the_end_of_an_ordinary_turn_ends_no_thought() -> None:
    assert extract_integer(r"\boxed{42}<|end|>").value == 42
    channels = r"<|channel|>analysis<|message|>\boxed{41}<|end|><|start|>assistant<|channel|>final<|message|>"
    assert extract_integer(channels + r"\boxed{42}<|return|>").value == 42
