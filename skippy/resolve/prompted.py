"""The base under a character's system prompt, as a reference with what the prompt costs."""

from __future__ import annotations

from dataclasses import replace

from skippy.characters.schema import Character
from skippy.models.prompts import conversation, prompt_ids
from skippy.resolve.bases import Base
from skippy.stores.prompted import Prompted

ANY_TEXT = "Hello."


def prompted_base(base: Base, character: Character) -> Prompted:
    """Base and prompt; its tokens are not counted yet."""
    return Prompted(
        base_model=base.name,
        base_digest=base.digest,
        character=character.name,
        character_digest=character.digest,
        system_prompt=character.system_prompt,
        tokens=0,
    )


def with_tokens(prompted: Prompted, base: Base) -> Prompted:
    """The same with the tokens that a request has more with the prompt than without."""
    from skippy.models.loading import load_tokenizer

    tokenizer = load_tokenizer(base.path)
    with_prompt, without = (
        len(prompt_ids(tokenizer, conversation(ANY_TEXT, system)))
        for system in (prompted.system_prompt, None)
    )
    return replace(prompted, tokens=with_prompt - without)
