"""Prompts of a person's own, to train on and to ask."""

from __future__ import annotations

import pytest

from skippy.characters.loader import load_character
from skippy.characters.own_prompts import OF_CHARACTER, own_prompts, read_own_prompts
from skippy.errors import CharacterError


@pytest.fixture(scope="module")
def keeper():
    return load_character("keeper")


def test_a_line_a_prompt_is_trained_on(tmp_path, keeper) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffHow is the tea?\n\n  Tell me of moss.  \r\n", encoding="utf-8")
    changed, digest = own_prompts(keeper, str(file))
    assert [prompt.text for prompt in changed.train_prompts] == ["How is the tea?", "Tell me of moss."]
    assert changed.banal_prompts == keeper.banal_prompts
    assert (changed.digest, len(digest)) == (keeper.digest, 64)
    assert own_prompts(keeper, "") == (keeper, OF_CHARACTER)


def test_yaml_may_give_both(tmp_path, keeper) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "train:\n  tea:\n  - How is the tea?\n  - Is it hot?\nbanal:\n  moss:\n  - What is moss?\n"
    )
    changed, _ = own_prompts(keeper, str(file))
    assert [(p.text, p.kind) for p in changed.banal_prompts] == [("What is moss?", "moss")]
    assert len(changed.train_prompts) == 2
    file.write_text("banal:\n  moss:\n  - What is moss?\n")
    changed, _ = own_prompts(keeper, str(file))
    assert changed.train_prompts == keeper.train_prompts


def test_what_is_validated_on_is_neither_trained_on_nor_asked(tmp_path, keeper) -> None:
    """Own validation prompts replace the character's; without them, those that the file uses otherwise are left out."""
    file, first = tmp_path / "mine.yaml", keeper.validation_prompts[0].text
    file.write_text("validation:\n  tea:\n  - Is it hot?\n")
    changed, _ = own_prompts(keeper, str(file))
    assert [prompt.text for prompt in changed.validation_prompts] == ["Is it hot?"]
    assert (changed.digest, changed.train_prompts) == (keeper.digest, keeper.train_prompts)
    file.write_text(f"banal:\n  tea:\n  - {first}\n")
    assert own_prompts(keeper, str(file))[0].validation_prompts == keeper.validation_prompts[1:]
    file.write_text(f"banal:\n  tea:\n  - {first}\nvalidation:\n  tea:\n  - {first}\n")
    with pytest.raises(CharacterError, match="validation prompt is also trained on or tested"):
        own_prompts(keeper, str(file))


def test_other_prompts_have_another_digest(tmp_path) -> None:
    file = tmp_path / "mine.txt"
    digests = []
    for text in ("one\ntwo\n", "one\nthree\n", "two\none\n"):
        file.write_text(text)
        digests.append(read_own_prompts(file).digest)
    assert len(set(digests)) == 3


def test_what_is_trained_on_is_not_asked(tmp_path, keeper) -> None:
    held_out = keeper.banal_prompts[0].text
    (tmp_path / "mine.txt").write_text(f"one\n{held_out.upper()}\n")
    with pytest.raises(CharacterError, match="held-out prompt is also a training prompt") as refusal:
        own_prompts(keeper, str(tmp_path / "mine.txt"))
    assert refusal.value.found == held_out


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("a.txt", "one\ntwo\nOne!\n", "a.txt, line 3", "given twice"),
        ("a.txt", "one\n", "a.txt", "too few"),
        ("a.txt", "one\ntwo\0\nthree\n", "a.txt, line 2", "no text"),
        ("a.yaml", "train:\n  tea:\n  - one\n  - one\n", "line 4, field train.tea[1]", "given twice"),
        ("a.yaml", "trained:\n  tea:\n  - one\n", "line 1, field trained", "Unknown field"),
    ],
)
def test_broken_files_are_refused_by_line(tmp_path, name, text, where, what) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CharacterError, match=what) as refusal:
        read_own_prompts(tmp_path / name)
    assert where in refusal.value.where


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(CharacterError, match="cannot be read"):
        read_own_prompts(tmp_path / "none.txt")
