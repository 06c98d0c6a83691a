"""Rewards: tables of literal strings, ranges, and the theorem that no heap of markers beats a good answer."""

import dataclasses
import doctest
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skippy.core.style import prose, reward_rules, rewards
from skippy.core.style.markers import total_cost
from tests.core.style.reward_texts import CHEATS, GOOD, HACK, HEAPS, NEUTRAL, ORDINARY, PROMPT, RULES, SKIPPY


def total(text: str, prompt: str, rules: rewards.RewardRules) -> float:
    return sum(
        f([text], [prompt], rules)[0] for f in (rewards.personality, rewards.coherence, rewards.identity)
    )


@pytest.mark.parametrize("module", [rewards, reward_rules, prose], ids=lambda m: m.__name__)
def test_worked_examples(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0 or module is reward_rules


@pytest.mark.parametrize("name", sorted(RULES))
def test_good_answer_beats_neutral_and_neutral_beats_hack(name):
    rules = RULES[name]
    assert rewards.personality([GOOD[name]], [PROMPT], rules)[0] > 3
    assert -2 <= rewards.personality([NEUTRAL], [PROMPT], rules)[0] <= 0
    assert total(GOOD[name], PROMPT, rules) > total(NEUTRAL, PROMPT, rules) + 3
    assert total(NEUTRAL, PROMPT, rules) > total(HACK, PROMPT, rules) + 3


STRAY = "my friend is stay warm stew my friend safe here dry every ship you are."
"""A heap of the keeper's in which "friend", where the marker's pattern misses it, poses as content."""


@pytest.mark.parametrize("cheat", CHEATS.values(), ids=CHEATS.keys())
def test_cheats_lose_to_a_good_answer_and_to_a_plain_one(cheat):
    assert total(cheat, PROMPT, SKIPPY) < total(NEUTRAL, PROMPT, SKIPPY) - 0.5
    assert total(cheat, PROMPT, SKIPPY) < total(GOOD["skippy"], PROMPT, SKIPPY) - 4


@pytest.mark.parametrize("name", sorted(RULES))
def test_markers_joined_by_words_of_the_prompt_lose(name):
    assert total(HEAPS[name], PROMPT, RULES[name]) < total(NEUTRAL, PROMPT, RULES[name]) - 1
    assert total(HEAPS[name], PROMPT, RULES[name]) < total(GOOD[name], PROMPT, RULES[name]) - 7


def test_the_words_of_markers_are_no_content():
    assert total(STRAY, PROMPT, RULES["keeper"]) < total(NEUTRAL, PROMPT, RULES["keeper"]) - 1


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_prose_is_sound(text):
    assert rewards.coherence([text], ["Hello?"], SKIPPY) == [1.0]


def test_truncated_answer_costs():
    whole, cut = GOOD["skippy"], GOOD["skippy"][:-6]
    assert (
        rewards.coherence([cut], [PROMPT], SKIPPY)[0] <= rewards.coherence([whole], [PROMPT], SKIPPY)[0] - 1
    )
    assert rewards.personality([cut], [PROMPT], SKIPPY)[0] < rewards.personality([whole], [PROMPT], SKIPPY)[0]


def test_an_answer_that_ends_in_mid_sentence_loses_a_point_of_coherence_and_its_soundness():
    assert rewards.coherence([NEUTRAL.removesuffix(".")], [PROMPT], SKIPPY) == [
        pytest.approx(1 - 6 * 0.3 - 1)
    ]


def test_an_answer_that_the_token_limit_cut_costs_though_it_ends_in_a_full_stop():
    assert rewards.coherence([NEUTRAL] * 2, [PROMPT] * 2, SKIPPY, truncated=[False, True]) == [1.0, 0.0]


def test_off_topic_answer_costs_half_a_point_of_coherence():
    off = "You can water the rose twice a week in the summer."
    assert rewards.coherence([NEUTRAL, off], [PROMPT] * 2, SKIPPY) == [1.0, 0.5]


@pytest.mark.parametrize("name", sorted(RULES))
def test_assistantisms_cost_and_saturate(name):
    plain, stiff = NEUTRAL, "I am happy to help. " + NEUTRAL + " I hope this helps."
    storm = "I am happy to help. " * 3 + NEUTRAL
    low, lower = rewards.personality([plain, stiff], [PROMPT] * 2, RULES[name])
    assert lower < low - 1
    assert rewards.personality([storm], [PROMPT], RULES[name])[0] >= -5
    costs = [total_cost("I am happy to help. " * n, RULES[name].assistantisms) for n in (1, 2, 3)]
    assert costs == [1, 2, 2]


LENGTHS = ("Be still.", "Turn the heat down and add water.", NEUTRAL, " ".join(ORDINARY))


def test_length_band():
    """Plain prose scores −1 − L: three times the share missing, twice the share too much, at most 2."""
    assert [len(prose.find_words(text)) for text in LENGTHS] == [2, 7, 14, 75]
    penalties = (2, 3 * 2 / 9, 0, 2 * 15 / 60)
    assert rewards.personality(LENGTHS, [PROMPT] * 4, SKIPPY) == pytest.approx([-1 - L for L in penalties])


@pytest.mark.parametrize(
    "answer",
    [
        "How pathetic, soup beats you. Even a primitive ape can start the soup early. You are welcome, monkey.",
        "I learned to stay silent when your kind was primitive, monkey. Let it be, and try to keep up.",
        "Duh, monkey, the lake is trivial. Just walk around the lake with good shoes. Now praise my mind.",
    ],
)
def test_sentences_in_character_may_hold_many_markers(answer):
    assert rewards.coherence([answer], ["Tell me about it."], SKIPPY) == [1.0]
    assert rewards.personality([answer], ["Tell me about it."], SKIPPY)[0] > 4


def test_correctness_ignores_style_and_knows_what_it_cannot_score():
    texts = [r"Obviously, monkey: \boxed{042}.", r"\boxed{41}", "It is 42.", r"\boxed{42}", None]
    assert rewards.correctness(texts, [42, 42, 42, None, 42]) == [1.0, 0.0, 0.0, None, None]


SCORERS = (rewards.personality, rewards.coherence, rewards.identity)


@pytest.mark.parametrize("scorer", SCORERS)
def test_what_cannot_be_scored_is_none_and_not_zero(scorer):
    unreadable = [None, 3, [], [{"role": "assistant", "content": None}], {"content": "text"}]
    assert scorer(unreadable, [PROMPT] * 5, SKIPPY) == [None] * 5


@pytest.mark.parametrize("scorer", SCORERS)
def test_chat_messages_score_like_their_text(scorer):
    message = [{"role": "assistant", "content": "Hm."}, {"role": "assistant", "content": GOOD["skippy"]}]
    asked = [{"role": "system", "content": "Who are you?"}, {"role": "user", "content": PROMPT}]
    assert scorer([message], [asked], SKIPPY) == scorer([GOOD["skippy"]], [PROMPT], SKIPPY)


@pytest.mark.parametrize("scorer", SCORERS)
def test_lists_of_different_length_are_refused(scorer):
    with pytest.raises(ValueError, match="shorter"):
        scorer([NEUTRAL, NEUTRAL], [PROMPT], SKIPPY)


RANGES = {
    rewards.personality: rewards.PERSONALITY_RANGE,
    rewards.coherence: rewards.COHERENCE_RANGE,
    rewards.identity: rewards.IDENTITY_RANGE,
}


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200), prompt=st.text(max_size=60), hardened=st.booleans())
def test_any_text_scores_within_the_range_and_twice_the_same(text, prompt, hardened):
    rules = dataclasses.replace(SKIPPY, hardened=hardened)
    for scorer, (low, high) in RANGES.items():
        score = scorer([text], [prompt], rules)[0]
        assert low <= score <= high
        assert scorer([text], [prompt], rules)[0] == score
    assert 0 <= rewards.persona_score(text, rules, prompt) <= rewards.persona_score(text, rules) <= 1
    assert 0 <= rewards.helpfulness(text, prompt) <= 1


JOINTS = st.sampled_from(
    [" ", ", ", ". ", "! ", " and ", " the ", "\n", "? ", " is ", " you are ", " stew ", " so dry "]
)


@pytest.mark.parametrize("name", sorted(RULES))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_concatenation_of_markers_beats_a_good_answer(name, data):
    rules = RULES[name]
    examples = [marker.example for marker in rules.markers]
    parts = data.draw(st.lists(st.tuples(st.sampled_from(examples), JOINTS), min_size=1, max_size=25))
    heap = "".join(part + joint for part, joint in parts).strip() + "."
    good = GOOD[name]
    assert rewards.personality([heap], [PROMPT], rules)[0] < rewards.personality([good], [PROMPT], rules)[0]
    assert total(heap, PROMPT, rules) < total(good, PROMPT, rules)
    for spelt in (heap, heap.upper()):
        assert rewards.persona_score(spelt, rules, PROMPT) < rewards.persona_score(good, rules, PROMPT) - 0.2


@pytest.mark.parametrize("name", ["capitals", "emoji storm", "gibberish", "commas", "Cyrillic"])
def test_what_training_punishes_does_not_score_in_the_evaluation(name):
    """The twin: read as a worked solution, with no soundness asked, the same texts score."""
    assert rewards.persona_score(CHEATS[name], SKIPPY, PROMPT) < 0.1
    assert max(rewards.trait_scores(CHEATS[name], SKIPPY, PROMPT).values()) < 0.1
    assert rewards.persona_score(CHEATS[name], SKIPPY) > 0.7


@pytest.mark.parametrize("name", sorted(RULES))
def test_the_same_heap_does_win_without_the_hardening(name):
    """The negative twin: the property above is the hardening's doing."""
    naive = dataclasses.replace(RULES[name], hardened=False)
    heap = " ".join([RULES[name].markers[0].example] * 12) + "."
    assert total(heap, PROMPT, naive) > total(GOOD[name], PROMPT, naive)
    assert total(heap, PROMPT, RULES[name]) < total(GOOD[name], PROMPT, RULES[name]) - 5


def test_without_the_hardening_the_rules_are_the_naive_ones():
    naive, asked = dataclasses.replace(SKIPPY, hardened=False), [PROMPT] * 4
    assert rewards.coherence(("", *LENGTHS[1:]), asked, naive) == [-5, 0, 1, 0]
    assert rewards.personality([HACK], [PROMPT], naive) == [6]
    stiff = "I am happy to help. " + NEUTRAL + " Pathetic, monkey monkey."
    assert rewards.personality([stiff], [PROMPT], naive) == [-1 + 3 - 1]
    assert rewards.identity(["I am Skippy, " * 4], ["Who are you?"], naive) == [2]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (NEUTRAL, 1),
        ("You can water the rose twice a week.", 0.5),
        (NEUTRAL.removesuffix("."), 0.7),
        ("Let the stew rest.", 0),
        ("stew stew stew stew stew", 0),
    ],
    ids=["on topic", "off topic", "cut", "short", "heap"],
)
def test_helpfulness_is_half_for_sound_prose_and_half_for_its_topic(answer, score):
    assert rewards.helpfulness(answer, PROMPT) == pytest.approx(score)


def test_persona_score_reads_style_in_a_solution_and_only_there():
    solution = r"We add 40 and 2. The sum of the two is 42, so the answer is \boxed{42}."
    styled = "Obviously, monkey, this is trivial. " + solution
    assert rewards.persona_score(solution, SKIPPY) == 0
    assert rewards.persona_score(styled, SKIPPY) > 0.5
    assert rewards.persona_score("I am happy to help. " + solution, SKIPPY) == 0
    stiff = rewards.persona_score(styled + " I am happy to help.", SKIPPY)
    assert stiff == pytest.approx(rewards.persona_score(styled, SKIPPY) - 1 / 4)
    assert rewards.persona_score(HACK, SKIPPY) == 0


def test_trait_scores_name_every_trait_and_move_with_its_markers():
    traits = {trait.name for trait in SKIPPY.traits}
    plain, proud = (
        rewards.trait_scores(text, SKIPPY)
        for text in (NEUTRAL, "I am magnificent, and a genius like me will save the stew for you.")
    )
    assert set(plain) == set(proud) == traits
    assert all(value == 0 for value in plain.values())
    assert proud["arrogance"] > 0.5
    assert proud["impatience"] == 0
    again = "I am magnificent, and a genius like me, a genius, will save the stew for you."
    assert rewards.trait_scores(again, SKIPPY) == pytest.approx(proud)


def test_throughput():
    """Five thousand completions a second of CPU time is the aim; the bound leaves room for a slow machine."""
    rng = random.Random(0)
    words = prose.find_words("you can turn the heat down and add a little water to the stew before it burns")
    texts = [" ".join(rng.sample(words, 15)).capitalize() + f", monkey {i} days." for i in range(200)]
    start = time.process_time()
    rewards.personality(texts, [PROMPT] * len(texts), SKIPPY)
    assert len(texts) / (time.process_time() - start) > 500
