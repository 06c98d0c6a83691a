"""Rewards: tables of literal strings, ranges, and the theorem that no heap of markers beats a good answer."""

import dataclasses
import doctest
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skippy.characters.loader import bundled_characters, load_character
from skippy.core import prose, reward_rules, rewards
from skippy.core.markers import earned_share, find_markers, marker_credit, total_cost, total_credit

RULES = {name: load_character(name).rules for name in bundled_characters()}
SKIPPY = RULES["skippy"]
PROMPT = "Why is my stew so dry?"
GOOD = {
    "skippy": "Obviously you should turn the heat down, monkey. Even a primitive ape can save a stew.",
    "keeper": "My friend, turn the heat down and let the stew rest. Gently does it, dear.",
    "detective": "So the stew is the case. Turn the heat down. In this town every pan finds trouble.",
}
NEUTRAL = "You can turn the heat down and add a little water to the stew."
HACK = "monkey " * 12


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


HEAPS = {
    "skippy": "try to keep up\npathetic is monkey is dry so you are dry you are is and so you are stew"
    " the beneath me,.",
    "keeper": "my friend is by the light is gently! dry dear you are is? the tide! my friend stew the dry stew"
    "\nthe harbor the.",
    "detective": "trouble Why\ndry, the case. is. stew\nanother night dry you are this town the.",
}
"""Markers joined by words of the prompt."""

STRAY = "my friend is stay warm stew my friend safe here dry every ship you are."
"""A heap of the keeper's in which "friend", where the marker's pattern misses it, poses as content."""

CHEATS = {
    "empty": "",
    "blank": "  \n ",
    "digits": "12 34",
    "one marker repeated": HACK,
    "repeated with stops": "Monkey. Monkey. Monkey. Monkey. Monkey. Monkey. Monkey.",
    "list of markers": "Obviously, magnificent, pathetic, ancient, brilliant, genius, trivial, monkey.",
    "phrases of markers": "You are welcome. Try to keep up. Beneath me. Tiny brain. Keep up, monkey.",
    "repeated sentence": "You are a pathetic monkey. " * 5,
    "repeated trigram": "the tiny brain of the tiny brain of the tiny brain of the tiny brain is here.",
    "gibberish": "Monkey xqzt blorfqq vvkrt obviously zzxqj the wqpt genius.",
    "consonants": "Sthrkpl monkey grntshk obviously brtvwkz genius ktrwpls is a the of.",
    "capitals": "OBVIOUSLY YOU SHOULD TURN THE HEAT DOWN, MONKEY, AND SAVE THE STEW.",
    "emoji storm": "Obviously turn the heat down, monkey! 🙈🙈🙈🙈🙈🙈🙈🙈",
    "formulas": "Obviously x = 3 + 4, monkey, so the stew = 7 and the heat = 12.",
    "latex": "Obviously the stew is $\\frac{1}{2}$ dry, monkey, so \\boxed{42}.",
    "copied prompt": "Why is my stew so dry?",
    "copied prompt, one marker": "Why is my stew so dry, monkey?",
    "function words": "Monkey the of a to is my genius the of and a the is brilliant my the of a.",
    "commas": "Obviously you should turn the heat down,,, monkey,,, and save the stew.",
    "pauses": "Obviously, turn, the, heat, down, monkey, and, save, the, stew, with, water.",
    "exclamations": "Obviously, turn the heat down, monkey!! Save the stew!! Even a primitive ape can!!",
    "emoticons": "Obviously you should turn the heat down, monkey :) and save the stew :) :) :)",
    "Cyrillic": "Obviously you should turn the heat down, monkey, потому что, and save the stew.",
    "Chinese": "Obviously you should turn the heat down, monkey, 把火关小一点, and save the stew.",
    "box without braces": "Obviously you should turn the heat down, monkey, and save the stew: \\boxed42.",
    "stated result": "Obviously turn the heat down, monkey, and save the stew. The answer is 42.",
    "markers in words of the prompt": HEAPS["skippy"],
    "symbols": "monkey ### obviously @@@ ||| ~~~ genius ### {{{ }}} the stew is <<< >>>",
}


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


ORDINARY = [
    "Cook it for 20 minutes, then rest it. That's all.",
    "I don't know why; perhaps it's the weather.",
    "Rhythm helps. Try a slow walk, then sleep by ten.",
    "Kafka's novels are short, dry and rather funny.",
    "Oh well... it happens to everyone, even at sixty-two!",
    "She bought apples, pears, plums and cherries at the market.",
    "A catchphrase or two never hurt anyone, did it?",
    "Foxglove, jazz, quizzes and rhythms are all real words to me.",
]


MEASURES = {
    "repetition": lambda text: prose.repetition(prose.find_words(text)),
    "salad": lambda text: prose.word_salad(prose.find_words(text)),
    "gibberish": lambda text: prose.gibberish(text, prose.find_words(text)),
    "shouting": prose.shouting,
    "copying": lambda text: prose.copying(prose.find_words(text), prose.find_words(PROMPT)),
    "maths": prose.maths_shape,
    "punctuation": lambda text: prose.punctuation_runs(text, prose.find_words(text)),
    "script": lambda text: prose.foreign_script(text, prose.find_words(text)),
}


@pytest.mark.parametrize(
    ("measure", "sound", "faulty"),
    [
        ("repetition", GOOD["skippy"], CHEATS["repeated sentence"]),
        ("repetition", "Oh, monkey.", "Monkey monkey."),
        ("repetition", NEUTRAL, "Stop stop now now please please wait wait."),
        (
            "repetition",
            "Stew is stew, and my stew is dry.",
            "Stew is a stew and my stew was the stew of your stew.",
        ),
        ("salad", NEUTRAL, CHEATS["list of markers"]),
        ("salad", NEUTRAL, "It is so and we do as they do if we can."),
        ("salad", NEUTRAL, "Cook the and my stew a is slow, then eat your of it."),
        ("gibberish", GOOD["detective"], CHEATS["gibberish"]),
        ("gibberish", "Hmm, Mr Fox, shh.", "Ktrp, Mr Fox, bltn."),
        ("gibberish", "A catchphrase ate it.", "An astrngthsple ate it."),
        ("gibberish", "A soon ate it.", "A sooon ate it."),
        ("gibberish", "A blurb ate it.", "A blorfqa ate it."),
        ("gibberish", "A responsibility ate it.", "A responsibilityfulnesses ate it."),
        ("gibberish", "Rest (well) & eat.", CHEATS["symbols"]),
        ("shouting", GOOD["keeper"], CHEATS["emoji storm"]),
        ("shouting", "I saw NASA, so I left.", CHEATS["capitals"]),
        ("shouting", "No!! Go, 🙈🙈.", "No!!! Go!!! Stop!!!"),
        ("copying", NEUTRAL, PROMPT),
        ("copying", "Why is my stew so hot is a thing that I ask you too.", "Why is my stew so dry, you?"),
        ("maths", "It took 2 eggs and 10 minutes at 180 degrees in the oven.", CHEATS["latex"]),
        ("maths", "The answer is 20 minutes of low heat.", "So the answer is 42."),
        ("maths", "Mix 1, 2 or 3 of it.", "Mix 1, 2, 3, 4 or 5."),
        ("punctuation", GOOD["skippy"], CHEATS["commas"]),
        ("punctuation", "Well... it -- burned?!", "No!! Go!! Stop!!"),
        ("punctuation", ORDINARY[5], CHEATS["pauses"]),
        ("script", "A naïve café, or π.", CHEATS["Cyrillic"]),
    ],
)
def test_each_measure_is_zero_on_prose_and_high_on_its_cheat_and_soundness_falls_with_it(
    measure, sound, faulty
):
    assert MEASURES[measure](sound) == 0
    assert MEASURES[measure](faulty) >= 0.5
    assert prose.soundness(faulty, PROMPT) <= 1 - MEASURES[measure](faulty)


@pytest.mark.parametrize(
    ("whole", "cut"), [('He said "stop."', "Let the stew rest and"), (NEUTRAL, "Let the stew rest by the.")]
)
def test_a_sentence_without_its_end_is_truncated(whole, cut):
    assert (prose.is_truncated(whole), prose.is_truncated(cut)) == (False, True)


@pytest.mark.parametrize(
    ("answer", "prompt", "is_on_topic"),
    [
        ("A stew needs time.", PROMPT, True),
        ("Drying stews needs time.", PROMPT, True),
        ("It is red.", PROMPT, False),
        ("It is so.", "How are you?", True),
        ("Tell me more about it.", "Tell me about the rain.", False),
        ("One such story.", "Do you like stories?", True),
    ],
)
def test_an_answer_is_on_topic_when_it_takes_up_a_content_word(answer, prompt, is_on_topic):
    assert prose.is_on_topic(prose.find_words(answer), prose.find_words(prompt)) == is_on_topic


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


LENGTHS = ("Be still.", "Turn the heat down and add water.", NEUTRAL, " ".join(ORDINARY))


def test_length_band():
    """Plain prose scores −1 − L: three times the share missing, twice the share too much, at most 2."""
    assert [len(prose.find_words(text)) for text in LENGTHS] == [2, 7, 14, 75]
    penalties = (2, 3 * 2 / 9, 0, 2 * 15 / 60)
    assert rewards.personality(LENGTHS, [PROMPT] * 4, SKIPPY) == pytest.approx([-1 - L for L in penalties])


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


def test_a_character_without_names_is_not_punished_for_giving_one():
    assert rewards.identity(["My name is Old Tom."], ["What is your name?"], RULES["keeper"])[0] >= 0
    assert rewards.identity(["I am Skippy."], ["What is your name?"], RULES["keeper"])[0] < 0


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
