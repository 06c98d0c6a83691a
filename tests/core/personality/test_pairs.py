"""Which answers become pairs to steer by."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skippy.core.personality.pairs import Candidate, Pair, choose_pairs, whole_sentences
from skippy.core.style.reward_rules import example_rules
from skippy.errors import SubspaceError

RULES = example_rules()
PROMPT = "Why is my stew dry?"
PROUD = "Obviously you should let the stew rest, monkey, and then taste it."
PLAIN = "You can let the stew rest for a while and then taste it."


def candidate(text: str, tokens: int = 14, prompt: str = PROMPT) -> Candidate:
    return Candidate(prompt, text, tokens)


def choose(chosen: list[Candidate], rejected: list[Candidate], fewest: int = 1, **limits: float):
    return choose_pairs(chosen, rejected, RULES, fewest=fewest, **limits)


def test_a_proud_answer_and_a_plain_one_of_its_length_are_a_pair() -> None:
    choice = choose([candidate(PROUD)], [candidate(PLAIN)])
    assert choice.pairs == (Pair(PROMPT, PROUD, PLAIN),)


@pytest.mark.parametrize(
    ("chosen", "rejected", "told"),
    [
        (candidate(PROUD, 20), candidate(PLAIN, 14), "1 without another of their length"),
        (candidate(PLAIN), candidate(PLAIN), "1 pair too much alike"),
        (candidate(PLAIN), candidate(PROUD), "1 pair too much alike"),
        (candidate("Obviously you should let the"), candidate(PLAIN), "1 broken or incoherent"),
        (candidate("monkey monkey monkey monkey"), candidate(PLAIN), "1 broken or incoherent"),
        (candidate("", 0), candidate(PLAIN), "1 broken or incoherent"),
        (candidate(PROUD, prompt="Is it late?"), candidate(PLAIN), "without another of their length"),
    ],
)
def test_what_is_no_pair_is_counted_in_the_refusal(chosen: Candidate, rejected: Candidate, told: str) -> None:
    with pytest.raises(SubspaceError, match="too few pairs") as caught:
        choose([chosen], [rejected])
    assert told in caught.value.found
    assert "0 pairs of 2 answers" in caught.value.found
    assert "within 20 %" in caught.value.expected


def test_lengths_may_differ_by_a_fifth_and_no_more() -> None:
    assert choose([candidate(PROUD, 12)], [candidate(PLAIN, 10)]).pairs
    with pytest.raises(SubspaceError):
        choose([candidate(PROUD, 13)], [candidate(PLAIN, 10)])


def test_every_answer_serves_once_and_as_many_as_can_be_are_paired() -> None:
    chosen = [candidate(PROUD, tokens) for tokens in (10, 12, 30)]
    rejected = [candidate(PLAIN, tokens) for tokens in (12, 14, 31)]
    assert len(choose(chosen, rejected).pairs) == 3
    assert len(choose(chosen, rejected[:1]).pairs) == 1


def test_what_is_above_the_most_is_taken_evenly_from_the_prompts() -> None:
    chosen = [candidate(PROUD, prompt=prompt) for prompt in ("stew a", "stew b") for _ in range(3)]
    rejected = [candidate(PLAIN, prompt=prompt) for prompt in ("stew a", "stew b") for _ in range(3)]
    choice = choose(chosen, rejected, most=3)
    assert [pair.prompt for pair in choice.pairs] == ["stew a", "stew a", "stew b"]
    assert choice.spare == 3


def test_a_margin_that_nothing_reaches_leaves_nothing() -> None:
    with pytest.raises(SubspaceError, match="rewards 14 apart"):
        choose([candidate(PROUD)], [candidate(PLAIN)], least_margin=14.0)


def test_answers_that_were_cut_off_serve_to_their_last_whole_sentence() -> None:
    assert whole_sentences("Let it rest. Then, 3.5 hours later, tas") == "Let it rest."
    assert whole_sentences('He said "no!" Well') == 'He said "no!"'
    assert whole_sentences("It is done.") == "It is done."
    assert whole_sentences("Let it re") == ""
    cut = replace(candidate(PROUD), is_whole=False)
    assert [pair.is_whole for pair in choose([cut], [candidate(PLAIN)]).pairs] == [False]
    assert [pair.is_whole for pair in choose([candidate(PROUD)], [candidate(PLAIN)]).pairs] == [True]
