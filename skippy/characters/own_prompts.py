"""Prompts of a person's own in place of a character's: to train on, and to ask in an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from skippy.characters.schema import Character, Prompt, parse_prompts, prompt_key, told_before
from skippy.errors import CharacterError
from skippy.yaml_nodes import read_nodes

YAML_SUFFIXES = (".yaml", ".yml")
FEWEST = 2
OWN_KIND = "own"
USES = ("train", "banal", "validation")
OF_CHARACTER = "character"
"""In place of a digest: the prompts are the character's, whose digest tells them."""


@dataclass(frozen=True)
class OwnPrompts:
    """Prompts of one file."""

    file: Path  # where they were read
    train: tuple[Prompt, ...]  # to train on; empty where the file gives none
    banal: tuple[Prompt, ...]  # held out, to be asked; empty where the file gives none
    validation: tuple[Prompt, ...]  # to search a matched dose on; empty where the file gives none
    digest: str  # of all of them

    def replace_in(self, character: Character) -> Character:
        """The character with these prompts in place of its own; who brings what is asked is asked nothing else.

        Raises:
            CharacterError: a prompt would be trained on and asked, or one of those to validate on be either.
        """
        train, banal = self.train or character.train_prompts, self.banal or character.banal_prompts
        self._require_new(train, banal, "A held-out prompt is also a training prompt")
        known = {prompt_key(prompt.text) for prompt in (*train, *banal)}
        self._require_new(
            (*train, *banal), self.validation, "A validation prompt is also trained on or tested"
        )
        validation = self.validation or tuple(
            prompt for prompt in character.validation_prompts if prompt_key(prompt.text) not in known
        )
        formats = tuple(
            prompt
            for prompt in character.format_prompts
            if not self.banal and prompt_key(prompt.text) not in known
        )
        return replace(
            character,
            train_prompts=train,
            banal_prompts=banal,
            validation_prompts=validation,
            format_prompts=formats,
        )

    def _require_new(self, known: Sequence[Prompt], prompts: Sequence[Prompt], what: str) -> None:
        for text in told_before(known, prompts):
            raise CharacterError(
                what,
                where=str(self.file),
                expected="no prompt in two of the lists",
                found=text,
                next_step="remove it from one of the two",
            )


def read_own_prompts(path: str | Path) -> OwnPrompts:
    """Read a file: YAML with `train`, `banal` and `validation`, each kinds with lists of prompts; else a prompt a line.

    Raises:
        CharacterError: no such file, no prompts, or one twice; file and line are named.
    """
    file = Path(path)
    if file.suffix.lower() in YAML_SUFFIXES:
        fields = read_nodes(file, "prompts").mapping((), USES)
        lists = tuple(parse_prompts(fields[name]) if name in fields else () for name in USES)
    else:
        lists = (_read_lines(file), (), ())
    words = [f"{use}\t{prompt.text}" for use, group in zip(USES, lists, strict=True) for prompt in group]
    train, banal, validation = lists
    return OwnPrompts(file, train, banal, validation, hashlib.sha256("\n".join(words).encode()).hexdigest())


def own_prompts(character: Character, path: str) -> tuple[Character, str]:
    """The character with the prompts of a file, and their digest; as it is, and `OF_CHARACTER`, without a file."""
    if not path:
        return character, OF_CHARACTER
    own = read_own_prompts(path)
    return own.replace_in(character), own.digest


def _read_lines(file: Path) -> tuple[Prompt, ...]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CharacterError(
            "A prompts file cannot be read",
            where=str(file),
            expected="a UTF-8 text file, one prompt a line, or YAML with train and banal",
            found=str(error),
            next_step="check the path and the encoding",
        ) from error
    found: dict[str, Prompt] = {}
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise CharacterError(
                "A prompts file holds bytes that are no text",
                where=f"{file}, line {number}",
                expected="a UTF-8 text file, one prompt a line",
                found="a NUL byte",
                next_step="save it as plain UTF-8 text",
            )
        key = prompt_key(line)
        if key and key in found:
            raise CharacterError(
                "A prompt is given twice",
                where=f"{file}, line {number}",
                expected="each prompt once",
                found=line.strip(),
                next_step=f"remove line {number}",
            )
        if key:
            found[key] = Prompt(line.strip(), OWN_KIND)
    if len(found) < FEWEST:
        raise CharacterError(
            "There are too few prompts to train on",
            where=str(file),
            expected=f"at least {FEWEST} lines with a prompt",
            found=str(len(found)),
            next_step="add prompts, one a line",
        )
    return tuple(found.values())
