"""The base under a character's system prompt, as a reference with what the prompt costs."""

from __future__ import annotations

from skippy.characters.schema import Character
from skippy.models.loading import load_tokenizer
from skippy.models.prompts import conversation, prompt_ids
from skippy.resolve.bases import Base
from skippy.stores.prompted import Prompted

ANY_TEXT = "Hello."


def prompted_base(base: Base, character: Character) -> Prompted:
    """Base and prompt; the tokens are those that a request has more with the prompt than without."""
    tokenizer = load_tokenizer(base.path)
    with_prompt, without = (
        len(prompt_ids(tokenizer, conversation(ANY_TEXT, system)))
        for system in (character.system_prompt, None)
    )
    return Prompted(
        base_model=base.name,
        base_digest=base.digest,
        character=character.name,
        character_digest=character.digest,
        system_prompt=character.system_prompt,
        tokens=with_prompt - without,
    )
