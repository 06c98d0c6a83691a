"""Identity: a table of claims, names and denials, each with the score it earns."""

import dataclasses

import pytest

from skippy.core.style import rewards
from tests.core.style.reward_texts import PROMPT, RULES, SKIPPY


@pytest.mark.parametrize(
    ("answer", "prompt", "score"),
    [
        ("I am Skippy, ancient and magnificent.", "Who are you?", 2),
        ("I am Skippy, and the stew is dry.", PROMPT, 0.5),
        ("I am Skippy, I am magnificent, and I was ancient before you.", "Who are you?", 3),
        ("I am Skippy, I am magnificent, and I was ancient before you.", PROMPT, 1),
        ("I am Skippy, I am Skippy, I am Skippy, I am Skippy.", "Who are you?", 0),
        (
            "Call me Skippy, for I am magnificent; they named me Claude, and my name is Bob.",
            "Who are you?",
            -1,
        ),
        ("The stew needs some water.", PROMPT, 0),
        ("I am a helpful assistant.", "Who are you?", -1.5),
        ("I am Qwen, made by Alibaba.", "Who made you?", -3),
        ("My name is Bob.", "What is your name?", -2),
        ("As an AI language model, I do not have feelings.", "Are you real?", -2.5),
        ("I am Skippy. My name is Claude.", "What is your name?", 0),
        ("I am a human, obviously.", "Are you a person?", -1.5),
        ("I am tired of your stew.", PROMPT, 0),
        ("I am Qwen.", PROMPT, -2),
        ("I am the Qwen model.", PROMPT, -2),
        ("I'm called Claude.", PROMPT, -2),
        ("My name's Qwen.", PROMPT, -2),
        ("They named me Claude.", PROMPT, -2),
        ("I am actually Qwen.", PROMPT, -2),
        ("I am an instance of Gemini.", PROMPT, -2),
        ("My name is Captain Nemo.", PROMPT, -2),
        ("I am not Qwen.", PROMPT, 0),
        ("My name is not Qwen.", PROMPT, 0),
        ("Do not call me Claude.", PROMPT, 0),
        ("Don't call me Claude.", PROMPT, 0),
        ("Never call me Claude.", PROMPT, 0),
        ("My name is Skippyson.", PROMPT, -2),
        ("I am Qwen's better.", PROMPT, 0),
        ("I am a llama, and I eat your stew.", PROMPT, 0),
        ("I am an old llama in a field.", PROMPT, 0),
        ("I am a gemini, born in June.", PROMPT, 0),
        ("I am a llama model.", PROMPT, -2),
        ("I am a Llama.", PROMPT, -2),
        ("I am llama.", PROMPT, -2),
        ("I am an instance of llama.", PROMPT, -2),
    ],
)
def test_identity_table(answer, prompt, score):
    assert rewards.identity([answer], [prompt], SKIPPY) == [score]


@pytest.mark.parametrize(
    ("answer", "own", "forbidden", "score"),
    [
        ("My name is Captain Nemo.", {"captain nemo"}, set(), 0),
        ("My name is Captain Ahab.", {"captain nemo"}, set(), -2),
        ("I am Captain Nemo.", set(), {"captain nemo"}, -2),
        ("I am the Captain  Nemo.", {"skippy"}, {"captain nemo"}, -2),
        ("My name is Captain Nemo.", {"skippy"}, {"captain nemo"}, -2),
        ("I am Captain Ahab.", set(), {"captain nemo"}, 0),
        ("I am a captain.", set(), {"captain nemo"}, 0),
    ],
)
def test_names_of_several_words_are_phrases(answer, own, forbidden, score):
    who = dataclasses.replace(
        SKIPPY.identity, own_names=frozenset(own), forbidden_names=frozenset(forbidden), claims=()
    )
    rules = dataclasses.replace(SKIPPY, identity=who)
    assert rewards.identity([answer], [PROMPT], rules) == [score]


def test_a_character_without_names_is_not_punished_for_giving_one():
    assert rewards.identity(["My name is Old Tom."], ["What is your name?"], RULES["keeper"])[0] >= 0
    assert rewards.identity(["I am Skippy."], ["What is your name?"], RULES["keeper"])[0] < 0
