"""Characters are files: the bundled ones hold what is promised, a broken one names file, line and field."""

import dataclasses
import shutil
import time

import pytest

from skippy.characters import loader
from skippy.characters.schema import prompt_key
from skippy.errors import CharacterError

MINIMAL = """\
name: baker
system_prompt: You are a proud village baker.
length:
  min: 5
  max: 50
markers:
  - name: dough
    pattern: '\\bdough\\b'
    weight: 1.0
    example: dough
traits:
  - name: pride
    markers: [dough]
    rubric: How proud is the baker?
    pairs:
      - high: You are proud.
        low: You are modest.
personas:
  - {name: baker, system_prompt: You bake.}
  - {name: judge, system_prompt: You judge.}
prompts:
  train: {question: ["How do I bake?", "What is flour?"]}
  banal: {question: ["Why is it flat?"]}
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "baker.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def line_of(text: str, needle: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if needle in line)


@pytest.mark.parametrize("name", ["skippy", "keeper", "detective"])
def test_bundled_characters_hold_what_is_promised(name):
    character = loader.load_character(name)
    assert character.name == name
    assert len(character.digest) == 64
    assert len(character.train_prompts) >= 106
    assert len({prompt.kind for prompt in character.train_prompts}) == 10
    assert len(character.banal_prompts) >= 60
    assert len(character.subspace_prompts()) == 50
    assert len({prompt.kind for prompt in character.subspace_prompts()}) == 10
    assert [persona.name for persona in character.personas] == [
        *("skippy", "keeper", "detective", "coach", "professor", "monk", "pirate", "poet")
    ]
    assert next(p for p in character.personas if p.name == name).system_prompt == character.system_prompt
    assert len(character.traits) >= 4
    assert all(len(trait.pairs) >= 3 for trait in character.traits)
    used = {marker for trait in character.traits for marker in trait.markers}
    assert len(used) >= 0.75 * len(character.rules.markers)
    assert character.rules.hardened
    with pytest.raises(dataclasses.FrozenInstanceError):
        character.name = "other"


def test_three_characters_differ():
    digests = {loader.load_character(name).digest for name in loader.bundled_characters()}
    assert len(digests) == 3


def test_training_and_held_out_prompts_are_disjoint_and_shared_words_are_not_enough():
    character = loader.load_character("skippy")
    held_out = {prompt_key(prompt.text) for prompt in character.banal_prompts}
    assert not held_out & {prompt_key(prompt.text) for prompt in character.train_prompts}
    assert prompt_key("Who are you?") == prompt_key("who are YOU")
    assert prompt_key("Who are you?") != prompt_key("Where are you?")


def test_a_file_that_inherits_nothing(write):
    character = loader.load_character(write(MINIMAL))
    assert character.name == "baker"
    assert character.rules.assistantisms == ()
    assert character.rules.identity.own_names == frozenset()
    assert character.floors.helpfulness == 0.5
    assert [prompt.text for prompt in character.banal_prompts] == ["Why is it flat?"]


def test_a_file_may_refer_to_bundled_lists_and_to_its_neighbours(write):
    start = MINIMAL.index("personas:")
    shared = (
        MINIMAL[:start] + "personas: personas.yaml\nprompts: {train: mine.yaml, banal: prompts/banal.yaml}\n"
    )
    write('question: ["How do I bake?"]\n', "mine.yaml")
    character = loader.load_character(str(write(shared)))
    assert len(character.personas) == 8
    assert len(character.train_prompts) == 1
    write("personas: [{name: a, system_prompt: b}, {name: c, system_prompt: d}]\n", "personas.yaml")
    assert [persona.name for persona in loader.load_character(write(shared)).personas] == ["a", "c"]


MORE = """\
scale: 3.5
openings: {weight: 0.4, patterns: [listen]}
floors: {helpfulness: 0.7, coherence: -0.5}
"""


def test_what_a_file_says_is_what_the_character_holds(write):
    plain, said = (loader.load_character(write(text)) for text in (MINIMAL, MORE + MINIMAL))
    assert (plain.rules.scale, said.rules.scale) == (2.0, 3.5)
    assert (plain.rules.opening_weight, said.rules.opening_weight) == (0.0, 0.4)
    assert said.rules.openings[0].match("Listen!")
    assert (said.floors.helpfulness, said.floors.coherence) == (0.7, -0.5)
    capped = loader.load_character(write(MINIMAL.replace("weight: 1.0", "weight: 0.5\n    cap: 3"))).rules
    assert [(marker.weight, marker.cap) for marker in plain.rules.markers + capped.markers] == [
        (1, 1),
        (0.5, 3),
    ]
    assert plain.rules.markers[0].pattern.search("DOUGH")
    assert (plain.rules.min_words, plain.rules.max_words) == (5, 50)
    pair = plain.traits[0].pairs[0]
    assert (pair.high, pair.low) == ("You are proud.", "You are modest.")
    assert plain.subspace_prompts() == plain.train_prompts


def test_the_smallest_effect_is_the_usual_one_or_the_files_own(write):
    """Left out it is no part of the digest: evaluations of before it still belong to the same character."""
    plain, own = (
        loader.load_character(write(text)) for text in (MINIMAL, "smallest_effect: 0.1\n" + MINIMAL)
    )
    assert (plain.smallest_effect, own.smallest_effect) == (0.25, 0.1)
    assert plain.digest != own.digest
    with pytest.raises(CharacterError, match="smallest_effect") as refusal:
        loader.load_character(write("smallest_effect: 2\n" + MINIMAL))
    assert "0.9" in refusal.value.expected


def test_validation_prompts_are_disjoint_and_no_part_of_the_digest(write):
    """On them a dose is searched; trainings and evaluations of before them still belong to the same character."""
    own = MINIMAL + '  validation: {question: ["Is it done?"]}\n'
    plain, said = (loader.load_character(write(text)) for text in (MINIMAL, own))
    assert plain.validation_prompts == ()
    assert [prompt.text for prompt in said.validation_prompts] == ["Is it done?"]
    assert plain.digest == said.digest
    for taken in ("How do I bake?", "Why is it flat?"):
        with pytest.raises(CharacterError, match="validation prompt is also trained on or tested") as refusal:
            loader.load_character(write(own.replace("Is it done?", taken)))
        assert "validation" in refusal.value.where
    for name in loader.bundled_characters():
        character = loader.load_character(name)
        lists = (character.train_prompts, character.banal_prompts, character.validation_prompts)
        keys = [prompt_key(prompt.text) for prompts in lists for prompt in prompts]
        assert len(character.validation_prompts) >= 40
        assert len(keys) == len(set(keys))


def test_formats_are_new_prompts_of_usable_names_and_no_part_of_the_digest(write):
    own = MINIMAL + '  formats: {email: ["Write to my aunt."]}\n'
    plain, said = (loader.load_character(write(text)) for text in (MINIMAL, own))
    assert plain.format_prompts == ()
    assert [(prompt.kind, prompt.text) for prompt in said.format_prompts] == [("email", "Write to my aunt.")]
    assert plain.digest == said.digest
    with pytest.raises(CharacterError, match="prompt of another format is also trained on"):
        loader.load_character(write(own.replace("Write to my aunt.", "How do I bake?")))
    for name in ("plain", "E-mail", "trait"):
        with pytest.raises(CharacterError, match="format's name cannot be used") as refusal:
            loader.load_character(write(own.replace("email", name)))
        assert "formats" in refusal.value.where
    for name in loader.bundled_characters():
        character = loader.load_character(name)
        lists = (character.train_prompts, character.banal_prompts, character.validation_prompts)
        keys = {prompt_key(prompt.text) for prompts in lists for prompt in prompts}
        assert {prompt.kind for prompt in character.format_prompts} == {"email", "list"}
        assert not keys & {prompt_key(prompt.text) for prompt in character.format_prompts}


def test_digest_follows_content_not_layout_or_place(write, tmp_path):
    digest = loader.load_character(write(MINIMAL)).digest
    respelled = "# a comment\n" + MINIMAL.replace("  min: 5\n", "  min:   5   # words\n")
    assert loader.load_character(write(respelled, "other.yaml")).digest == digest
    changes = (
        *(("name: baker", "name: cook"), ("a proud village", "a village"), ("min: 5", "min: 6")),
        *(("weight: 1.0", "weight: 1.1"), ("\\bdough", "dough"), ("How proud", "How vain")),
        *(("You are modest", "You are humble"), ("You judge", "You weigh"), ("bake?", "roast?")),
        ("Why is it flat", "Why is it burnt"),
    )
    changed = [MINIMAL.replace(old, new) for old, new in changes] + [MORE.splitlines()[2] + "\n" + MINIMAL]
    digests = {digest, *(loader.load_character(write(text)).digest for text in changed)}
    assert len(digests) == 1 + len(changed)
    names = [f"name {i}" for i in range(50)]
    named = [MINIMAL + f"identity: {{own_names: [{', '.join(n)}]}}\n" for n in (names, names[::-1])]
    assert len({loader.load_character(write(text)).digest for text in named}) == 1
    copy = tmp_path / "copy"
    shutil.copytree(loader.BUNDLED, copy)
    assert loader.load_character(copy / "skippy.yaml").digest == loader.load_character("skippy").digest


SHARED = "extends: assistant.yaml\n" + MINIMAL


def test_a_file_may_extend_what_every_character_is_not(write):
    bundled = loader.load_character("skippy").rules
    rules = loader.load_character(write(SHARED)).rules
    assert [cost.name for cost in rules.assistantisms] == [cost.name for cost in bundled.assistantisms[:8]]
    assert rules.identity.forbidden_names == {
        *("qwen", "chatgpt", "gpt", "claude", "gemini", "siri", "alexa", "llama")
    }
    assert rules.identity.questions == bundled.identity.questions
    own = SHARED + (
        "assistantisms:\n  - {name: sure, pattern: sure, cost: 3, example: sure}\n"
        "  - {name: flour, pattern: flour, cost: 1, example: flour}\n"
        "identity: {own_names: [Gemini], forbidden_names: [Skippy], questions: [who bakes]}\n"
    )
    more = loader.load_character(write(own)).rules
    names = [cost.name for cost in more.assistantisms]
    assert names == [*(cost.name for cost in rules.assistantisms), "flour"]
    assert more.assistantisms[names.index("sure")].cost == 3
    assert more.identity.forbidden_names == rules.identity.forbidden_names - {"gemini"} | {"skippy"}
    assert len(more.identity.questions) == len(rules.identity.questions) + 1


def test_lists_of_its_own_stand_alone_without_extends(write):
    own = MINIMAL + "assistantisms: [{name: sure, pattern: sure, cost: 3, example: sure}]\n"
    assert [cost.name for cost in loader.load_character(write(own)).rules.assistantisms] == ["sure"]


def test_a_fault_of_the_extended_file_is_named_there(write):
    write("assistantisms:\n  - {name: sure, pattern: sure, cost: no, example: sure}\n", "mine.yaml")
    with pytest.raises(CharacterError, match=r"mine\.yaml, line 2, field assistantisms\[0\]\.cost"):
        loader.load_character(write(SHARED.replace("assistant.yaml", "mine.yaml")))


def test_a_block_under_an_unknown_name_is_found_at_its_name(write):
    path = write(MINIMAL.replace("length:\n", "lenght:\n"))
    with pytest.raises(
        CharacterError, match=f"line {line_of(path.read_text(), 'lenght:')}, field lenght"
    ) as caught:
        loader.load_character(path)
    assert "rename lenght to length" in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "no such\nname", "x" * 5000])
def test_what_no_file_can_be_called_is_no_character(name):
    with pytest.raises(CharacterError, match="No such character") as caught:
        loader.load_character(name)
    assert len(str(caught.value)) < 600


def test_a_reference_that_no_file_can_be_called_is_named_by_its_line(write):
    text = MINIMAL.replace('banal: {question: ["Why is it flat?"]}', "banal: " + "x" * 300)
    with pytest.raises(CharacterError, match=f"line {line_of(text, 'banal: ')}, field prompts.banal"):
        loader.load_character(write(text))


@pytest.mark.parametrize("character", ["\0", "\x07", "\ufffe"])
def test_a_character_that_yaml_forbids_is_named_by_its_line(write, character):
    text = MINIMAL.replace("How do I bake", f"Wie bäckt{character} man")
    with pytest.raises(CharacterError, match=f"line {line_of(text, 'Wie')}") as caught:
        loader.load_character(write(text))
    assert repr(character) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"(a+)+$", "inside a repeat"),
        (r"(a*)*b", "inside a repeat"),
        (r"(a|aa)+$", "inside a repeat"),
        (r"(a|a)*b", "begin alike"),
        (r"(ab|AB)*c", "begin alike"),
        (r"(\wa|ba)+!", "begin alike"),
        (r"(a?b?)*c", "inside a repeat"),
        (r"(x{1,9}){2,9}y", "inside a repeat"),
        (r"(?=(a+)+b)a", "inside a repeat"),
        (r"(?>(a+)+)b", "inside a repeat"),
        (r"(x)?(?(1)(a+)+|b)", "inside a repeat"),
        (r"a.*b.*c", "open-ended"),
        (r"\w+\s+\w+", "open-ended"),
        (r"x.{0,500}.{0,500}y", "open-ended"),
    ],
)
def test_a_pattern_that_can_run_away_is_refused_by_its_line(write, pattern, what):
    text = MINIMAL.replace("'\\bdough\\b'", f"'{pattern}|dough'")
    where = rf"line {line_of(text, '|dough')}, field markers\[0\]\.pattern"
    with pytest.raises(CharacterError, match=where) as caught:
        loader.load_character(write(text))
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        r"\b(it )?figures\b",
        r"an? (helpful |AI |virtual )*(assistant|AI)",
        r"\bso\b.{0,40}\bis the case",
        r"(ha ){2,9}",
        r"!+$",
        r"(\w|x)+!",
        r"(scone|scon)?s",
        r"a.*b|c.*d",
        r"(?<!not )\bdough(s|es)?\b",
        r"colou?r\s*$",
    ],
)
def test_a_pattern_that_cannot_run_away_is_taken_and_does_not(write, pattern):
    rules = loader.load_character(write(MINIMAL.replace("'\\bdough\\b'", f"'{pattern}|dough'"))).rules
    for text in ("a" * 2000, "ha " * 600, "a helpful " * 200, "so " * 600, "!" * 2000 + "x", " " * 2000):
        start = time.process_time()
        rules.markers[0].pattern.search(text)
        assert time.process_time() - start < 0.5


ENTRY = "pattern: bun, example: bun"
TRAIT = "markers: [dough], rubric: How, pairs: [{high: a, low: b}]"
BROKEN = [
    ("name: baker", "nmae: baker", "nmae", "nmae"),
    ("system_prompt: You are", "system_prompt: ''  # You are", "system_prompt: ''", "system_prompt"),
    ("  min: 5", "  min: five", "min: five", "length.min"),
    ("  min: 5", "  min: 5.5", "min: 5.5", "length.min"),
    ("  max: 50", "  max: 4", "max: 4", "length.max"),
    ("    weight: 1.0", "    wieght: 1.0", "wieght", "markers[0].wieght"),
    ("    weight: 1.0", "    weight: -1", "weight: -1", "markers[0].weight"),
    ("    weight: 1.0", "    weight: [1]", "weight: [1]", "markers[0].weight"),
    ("    weight: 1.0", "    weight: 5.1", "weight: 5.1", "markers[0].weight"),
    ("    weight: 1.0", "    weight: 1.0\n    cap: 6", "cap: 6", "markers[0].cap"),
    ("    weight: 1.0", "    weight: .nan", "weight: .nan", "markers[0].weight"),
    ("'\\bdough\\b'", "'(dough'", "(dough", "markers[0].pattern"),
    ("'\\bdough\\b'", "'x*'", "x*", "markers[0].pattern"),
    ("example: dough", "example: bread", "example: bread", "markers[0].example"),
    ("    weight: 1.0", "    weight: 1.0\n    weight: 2.0", "weight: 2.0", "markers[0].weight"),
    ("markers: [dough]", "markers: [bread]", "markers: [bread]", "traits[0].markers[0]"),
    ("markers: [dough]", "markers: dough", "markers: dough", "traits[0].markers"),
    ("- name: pride", "- name: pride/loss", "pride/loss", "traits[0].name"),
    ("low: You are modest.", "low: you are PROUD", "- high: You are proud", "traits[0].pairs[0]"),
    ("- {name: judge, system_prompt: You judge.}", "", "personas:", "personas"),
    ("name: judge", "name: baker", "system_prompt: You judge", "personas[1].name"),
    ('"What is flour?"', '"how do i BAKE"', "how do i BAKE", "question[1]"),
    ('banal: {question: ["Why is it flat?"]}', "banal: nowhere.yaml", "nowhere.yaml", "prompts.banal"),
    ("Why is it flat?", "What is FLOUR", "What is FLOUR", "prompts.banal"),
    ('banal: {question: ["Why is it flat?"]}', "banal: {question: []}", "question: []}", "question"),
    ('banal: {question: ["Why is it flat?"]}', "banal: {}", "banal: {}", "prompts.banal"),
    ("name: baker", "name: 5", "name: 5", "name"),
    ("- name: pride", "- name: stölz", "stölz", "traits[0].name"),
    ("markers: [dough]", "markers: [dough, dough]", "markers: [dough, dough]", "traits[0].markers[1]"),
    ("traits:\n", f"  - {{name: dough, {ENTRY}, weight: 1}}\ntraits:\n", ENTRY, "markers[1].name"),
    ("personas:\n", f"  - {{name: pride, {TRAIT}}}\npersonas:\n", TRAIT, "traits[1].name"),
    (
        "personas:\n",
        "assistantisms: [{name: sure, pattern: sure, cost: 1, example: never}]\npersonas:\n",
        "assistantisms",
        "assistantisms[0].example",
    ),
    (
        "personas:\n",
        "identity: {own_names: [Ann], forbidden_names: [ann]}\npersonas:\n",
        "identity",
        "identity.forbidden_names",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "needle", "field"), BROKEN, ids=[f"{f}: {n[:18]}" for _, n, _, f in BROKEN]
)
def test_a_broken_file_names_file_line_and_field(write, old, new, needle, field):
    assert MINIMAL.count(old) >= 1
    text = MINIMAL.replace(old, new, 1)
    path = write(text)
    with pytest.raises(CharacterError) as caught:
        loader.load_character(path)
    message = str(caught.value)
    assert str(path) in message
    assert field in message
    assert f"line {line_of(text, needle)}, field" in message
    for label in ("where:", "expected:", "found:", "next:"):
        assert label in message


def test_a_misspelt_field_is_told_its_name(write):
    with pytest.raises(CharacterError, match="rename wieght to weight"):
        loader.load_character(write(MINIMAL.replace("weight", "wieght")))


def test_a_missing_field_is_named(write):
    with pytest.raises(CharacterError, match="add rubric"):
        loader.load_character(write(MINIMAL.replace("    rubric: How proud is the baker?\n", "")))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("name: [open\nother: x", "not YAML"),
        ("name: a: b", "not YAML"),
        ("name: x\nlength: y\nother: a: b", r"not YAML\n.*line 3"),
        ("- one\n- two", "Expected fields"),
        ("just words", "Expected fields"),
        ("name: &loop [*loop]\n", "missing|unknown|not YAML"),
    ],
)
def test_what_is_no_character_at_all(write, text, what):
    with pytest.raises(CharacterError, match=f"(?i){what}"):
        loader.load_character(write(text))


def test_not_utf8_and_a_directory(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9\n")
    with pytest.raises(CharacterError, match="cannot be read"):
        loader.load_character(path)
    with pytest.raises(CharacterError, match="No such character"):
        loader.load_character(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CharacterError, match="detective, keeper, skippy"):
        loader.load_character("skipy")


def test_personas_is_no_character():
    assert loader.bundled_characters() == ("detective", "keeper", "skippy")
