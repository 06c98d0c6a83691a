"""Answers to one question, good, plain and cheating, and the bundled characters' rules that score them."""

from skippy.characters.loader import bundled_characters, load_character

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

HEAPS = {
    "skippy": "try to keep up\npathetic is monkey is dry so you are dry you are is and so you are stew"
    " the beneath me,.",
    "keeper": "my friend is by the light is gently! dry dear you are is? the tide! my friend stew the dry stew"
    "\nthe harbor the.",
    "detective": "trouble Why\ndry, the case. is. stew\nanother night dry you are this town the.",
}
"""Markers joined by words of the prompt."""

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
