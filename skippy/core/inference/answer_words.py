"""What words do to the number beside them: allow-lists, so that a word nobody thought of chooses nothing.

Words are lower case; a plural stands for itself.
"""

from __future__ import annotations

from collections.abc import Sequence


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


UNITS = _set("""
    mm cm dm km nm um μm µm mi mile miles ft feet foot in inch inches yd yard yards meter meters metre metres
    centimeter centimeters centimetre centimetres millimeter millimeters millimetre millimetres
    kilometer kilometers kilometre kilometres micrometer micrometers nanometer nanometers
    mg kg lb lbs oz ounce ounces pound pounds gram grams gramme grammes kilogram kilograms milligram milligrams
    ton tons tonne tonnes ml cl dl liter liters litre litres milliliter milliliters gallon gallons cup cups
    pint pints quart quarts ms ns sec secs second seconds min mins minute minutes hr hrs hour hours day days
    week weeks month months year years yr yrs decade decades
    hz khz mhz ghz kw mw kwh kj mj cal kcal calorie calories joule joules watt watts volt volts amp amps ampere
    amperes ohm ohms newton newtons pascal pascals pa kpa atm bar mol mole moles kelvin hertz coulomb coulombs
    degree degrees deg degs radian radians rad rads celsius fahrenheit arcmin arcsec
    mph kmh kph mps knot knots fps
    acre acres hectare hectares ha bit bits byte bytes kb mb gb
    unit units sq cu
    dollar dollars usd euro euros eur cent cents pence penny pennies yen rupee rupees gbp yuan franc francs
    buck bucks peso pesos
    """)
"""Units of measure and of money."""

SINGLE_LETTER_UNITS = frozenset("mgshlLJNWVAKCFT")
"""Units of one letter: read in words only, since in mathematics the letter is a name."""

COUNTED = _set("""
    integer integers number numbers solution solutions pair pairs triple triples triplet triplets quadruple
    quadruples quadruplet quadruplets tuple tuples way ways value values root roots element elements subset
    subsets set sets point points term terms digit digits factor factors divisor divisors multiple multiples
    prime primes square squares cube cubes triangle triangles rectangle rectangles polygon polygons circle
    circles line lines segment segments edge edges vertex vertices side sides face faces diagonal diagonals
    region regions path paths step steps move moves sequence sequences permutation permutations combination
    combinations arrangement arrangements function functions polynomial polynomials outcome outcomes case cases
    coloring colorings colouring colourings tiling tilings configuration configurations partition partitions
    string strings word words letter letters game games turn turns round rounds coin coins card cards ball balls
    marble marbles people person persons student students man men woman women child children boy boys girl girls
    player players team teams member members item items object objects piece pieces tile tiles block blocks
    page pages book books row rows column columns cell cells box boxes stone stones time entry entries choice
    choices possibility possibilities candidate candidates matrix matrices string code codes handshake handshakes
    intersection intersections lattice position positions state states chord chords place places
    个 種 种 组 組 对 元 度 分 人 円 本 通り 米 厘米 平方厘米 平方米
    """)
"""What an answer counts."""

QUALIFIERS = _set("""
    square cubic sq such ordered unordered distinct different possible positive nonnegative non-negative real
    rational integral integer natural whole even odd valid total unique complex lattice good bad
    consecutive nonzero non-zero permissible admissible favorable favourable suitable unit nautical metric
    """)
"""What may stand between a number and the noun it counts."""

CLOSERS = _set("""
    in total altogether overall exactly precisely obviously clearly indeed only all them these those the of course long
    wide tall high old deep away each
    """)
"""What may follow a number or its noun and changes neither."""

OPENERS = _set("""
    so thus hence therefore then clearly obviously finally indeed and in conclusion the a an final correct answer
    result value solution total number integer sum is are be equals equal to it that this we get have obtain find
    area volume perimeter length product probability sum remainder
    exactly precisely just simply only there of all my our your i say its which gives must
    usd eur euro euros gbp answer's it's that's
    """)
"""What may lead to a number and says nothing about it."""

COPULAS = _set("""
    is are be equals equal was were gets get gives give yields has have obtain obtains find finds totals
    becomes makes it's that's
    """)
"""What ends a subject: "the smallest possible area is"."""

CONNECTIVES = _set("""
    or and nor ou oder und et bzw oder resp y o versus vs either neither
    """)
"""What puts a second candidate beside the first."""

NEGATIONS = _set("""
    not never isn't ain't aren't cannot can't couldn't wasn't doesn't don't without except but nicht pas
    """)

CLAUSES = _set("because since as where with for when while thanks")
"""What opens talk without a comma before it."""

RETRACTIONS = _set("or no wait actually hmm sorry correction oops scratch")
"""What, at the head of a next sentence with another number in it, takes the first number back."""

_ONES = "zero one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {
    **{word: value for value, word in enumerate(f"{_ONES} {_TEENS}".split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
}
CARDINALS = _set(f"{_ONES} {_TEENS} {_TENS} fourty")
MULTIPLIERS = _set("""
    dozen dozens hundred hundreds thousand thousands million millions billion billions trillion trillions
    quadrillion quadrillions quintillion quintillions sextillion septillion octillion zillion zillions gazillion
    googol googols myriad lakh lakhs crore crores mil mille millones milliard milliards millionen tausend hundert
    squared cubed factorial 万 亿 千 百 十 兆
    """)
SCALES = MULTIPLIERS | _set("""
    half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths eleventh elevenths twelfth twelfths hundredth hundredths thousandth
    thousandths millionth millionths percent percentage percents pct permille permil per-cent prozent
    score scores gross bn mn tens k fold times factorials radical 分之
    """)
"""What makes another number of the number before it; the multipliers also behind a comma."""

OPERATIONS = _set("""
    plus minus times twice thrice double triple over divided multiplied added subtracted squared cubed root sqrt
    power mod modulo base basis pi tau infinity infinite less more fewer greater than short off least most about
    approximately roughly nearly around almost approx negative log ln sin cos tan choose per point
    """)
"""What computes with the number, or compares with it."""

OTHER_BASES = _set("binary ternary quinary octal hex hexadecimal duodecimal mod modulo")
NUMBER_WORDS = CARDINALS | SCALES
_CHANGING = NUMBER_WORDS | OPERATIONS | OTHER_BASES
PLACEHOLDERS = _set("""
    answer answers your my the final here integer number result value solution an a n x put it this that goes
    insert final_answer youranswer finalanswer
    """)
"""What stands in a box that shows the form of an answer and gives none."""


def value_in_words(spoken: Sequence[str]) -> int | None:
    """`one hundred and thirteen` is 113; None for words that are no number below a thousand."""
    total = 0
    for word in (part for each in spoken for part in each.split("-")):
        if word == "hundred":
            total = 100 * max(total, 1)
        elif word in _VALUES:
            total += _VALUES[word]
        elif word not in ("and", "a"):
            return None
    return total


def is_plural(word: str) -> bool:
    """Whether a word has the form of an English plural noun, and is none of the words that change a number."""
    is_noun = (
        len(word) >= 4 and word.isalpha() and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    )
    return is_noun and not changes_number(word)


def changes_number(word: str) -> bool:
    """Whether the word, or a part of it between hyphens, makes or compares numbers."""
    return any(part in _CHANGING for part in (word, *word.split("-")))
