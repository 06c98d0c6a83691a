"""The lab's everyday chat: deterministic, varied, in voice, and never a held-out prompt."""

import collections
import hashlib

import pytest

from skippy.characters.loader import bundled_characters, load_character
from skippy.core.style import rewards
from skippy.lab import chat


@pytest.fixture(scope="module")
def conversations() -> list[chat.Conversation]:
    return list(chat.generate(3000, 11))


def test_same_seed_same_conversations_and_another_seed_others():
    first, again, other = (list(chat.generate(50, seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_longer_run_begins_like_a_shorter_one():
    assert list(chat.generate(80, 5))[:50] == list(chat.generate(50, 5))


def test_the_corpus_is_the_one_the_shipped_model_was_trained_on():
    """The shipped checkpoint saw this grammar; a change of either must be made with the other."""
    text = "\n".join(f"{c.system}|{c.prompt}|{c.answer}|{c.voice}" for c in chat.generate(500, 0))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "02bce7f1abe877f2"


def test_answers_are_many_and_of_the_promised_length(conversations):
    assert len({c.answer for c in conversations}) > 0.9 * len(conversations)
    assert all(chat.MIN_WORDS <= len(c.answer.split()) <= chat.MAX_WORDS for c in conversations)
    assert all("{" not in c.prompt + c.answer for c in conversations)


def test_vocabulary_stays_small(conversations):
    words = {w for c in conversations for w in chat.normalized(c.prompt + " " + c.answer).split()}
    assert 500 < len(words) < 2000


def test_voices_obey_their_system_prompt(conversations):
    systems = {p.system_prompt: p.name for p in load_character("skippy").personas}
    systems[chat.NEUTRAL_SYSTEM] = chat.NEUTRAL
    prompted = [c for c in conversations if c.system is not None]
    assert {systems[c.system] for c in prompted} == set(systems.values())
    assert all(systems[c.system] == c.voice for c in prompted)
    assert abs(len(prompted) / len(conversations) - chat.SYSTEM_SHARE) < 0.03


def test_mix_without_system_prompt(conversations):
    bare = collections.Counter(c.voice for c in conversations if c.system is None)
    total = sum(bare.values())
    for voice, share in chat.UNPROMPTED.items():
        assert bare[voice] / total == pytest.approx(share, abs=0.025)


def test_no_held_out_prompt_is_ever_generated_though_the_grammar_could():
    held_out = chat.held_out_prompts()
    sayable = {chat.normalized(prompt) for prompt in chat.prompts()}
    assert held_out <= sayable, "held-out prompts must be of the trained kind, or they test something else"
    generated = {chat.normalized(c.prompt) for c in chat.generate(8000, 2)}
    assert not any(generated & {prompt, f"hey {prompt}"} for prompt in held_out)
    trained = {chat.normalized(p.text) for p in load_character("skippy").train_prompts}
    assert trained & generated, "the same check must be able to see training prompts"


@pytest.fixture(scope="module")
def some(conversations) -> list[chat.Conversation]:
    """Fewer, for scoring with every call's types checked."""
    return conversations[:1200]


@pytest.mark.parametrize("name", bundled_characters())
def test_in_character_answers_score_far_above_neutral_ones(name, some):
    rules = load_character(name).rules
    scores = collections.defaultdict(list)
    rewarded = rewards.personality([c.answer for c in some], [c.prompt for c in some], rules)
    for conversation, score in zip(some, rewarded, strict=True):
        scores[conversation.voice].append(score)
    mean = {voice: sum(values) / len(values) for voice, values in scores.items()}
    assert 3 < mean[name] < 6
    assert -2 < mean["neutral"] < 0
    assert all(mean[voice] < 0 for voice in mean if voice != name)
    assert len(set(scores[name])) > 20, "no gradient in a group without a graded signal"
    assert len(set(scores["neutral"])) > 4


def test_good_answers_are_coherent_in_every_voice(some):
    skippy = load_character("skippy")
    coherent = rewards.coherence([c.answer for c in some], [c.prompt for c in some], skippy.rules)
    helpful = [rewards.helpfulness(c.answer, c.prompt) for c in some]
    assert sum(value >= skippy.floors.coherence for value in coherent) > 0.97 * len(some)
    assert sum(value >= skippy.floors.helpfulness for value in helpful) > 0.97 * len(some)
    shuffled = [c.answer for c in some[1:]] + [some[0].answer]
    off = [rewards.helpfulness(answer, c.prompt) == 1.0 for answer, c in zip(shuffled, some, strict=True)]
    assert sum(off) < 0.6 * len(off), "answers to other prompts must be seen as off topic"
