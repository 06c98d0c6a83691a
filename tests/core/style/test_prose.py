"""Each measure of prose is zero on sound text and high on its cheat."""

import pytest

from skippy.core.style import prose
from tests.core.style.reward_texts import CHEATS, GOOD, NEUTRAL, ORDINARY, PROMPT

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
