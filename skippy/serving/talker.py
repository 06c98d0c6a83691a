"""One model that answers many requests at once, token by token, exactly as an evaluation draws its samples.

The batches are those of the evaluation's own backend: a seed and a sampling give the same answer here and there,
whatever else is being answered.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.models.decoding import DecodingBatch, Row
from skippy.models.prompts import encode_prompt, opened_thought, render_prompt
from skippy.models.transformers_backend import context_length, decode_answer, stop_tokens

logger = logging.getLogger(__name__)

MOST_ROWS = 64
"""Answers in the making at once; more wait."""
UNFINISHED = "\ufffd"
"""Stands at the end of a text whose last character needs another token."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer."""

    text: str  # what is new; empty where a token ends nothing readable
    tokens: int  # generated so far
    finish_reason: str = ""  # `stop` or `length` with the last piece; `error` where the model failed


@dataclass
class Ticket:
    """One request in the making; `cancel` it when nobody waits any more."""

    row: Row
    sampling: Sampling
    opening: str
    put: Callable[[Piece], None]
    is_cancelled: bool = False
    _told: int = 0
    _begun: int = field(default=0)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.row.prompt)

    def cancel(self) -> None:
        """Let the model forget it at the next step."""
        self.is_cancelled = True

    def tell(self, tokenizer: Any, *, is_done: bool) -> None:
        """Hand on what the last token added: a window of tokens is decoded, so that the cost does not grow."""
        row = self.row
        kept = row.tokens[:-1] if row.is_stopped else row.tokens
        before = decode_answer(tokenizer, kept[self._begun : self._told])
        text = decode_answer(tokenizer, kept[self._begun :])
        new = text[len(before) :]
        if not is_done and (not new or text.endswith(UNFINISHED)):
            return
        self._begun, self._told = self._told, len(kept)
        opening, self.opening = self.opening, ""
        reason = ("stop" if row.is_stopped else "length") if is_done else ""
        self.put(Piece(opening + new, len(row.tokens), reason))


class Talker:
    """A model in this process, on a thread of its own."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._stop_tokens = stop_tokens(model, tokenizer)
        self._arriving: queue.Queue[Ticket] = queue.Queue()
        self._batches: dict[Sampling, DecodingBatch] = {}
        self._living: list[Ticket] = []
        threading.Thread(target=self._work, name="talker", daemon=True).start()

    def room_after(self, messages: Sequence[Mapping[str, str]]) -> int:
        """How many tokens an answer to this conversation may have."""
        prompt = encode_prompt(self._tokenizer, render_prompt(self._tokenizer, tuple(messages)))
        return max(0, context_length(self._model) - len(prompt))

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        sampling: Sampling,
        seed: int,
        put: Callable[[Piece], None],
    ) -> Ticket:
        """Begin an answer; its pieces go to `put`, from another thread.

        Raises:
            BackendError: prompt and answer do not fit into the model's context.
            CheckpointError: the chat template refuses the conversation.
        """
        text = render_prompt(self._tokenizer, tuple(messages))
        prompt = encode_prompt(self._tokenizer, text)
        needed, context = len(prompt) + sampling.max_tokens, context_length(self._model)
        if needed > context:
            raise BackendError(
                "The conversation and its answer do not fit into the model's context.",
                expected=f"at most {context} tokens",
                found=f"{len(prompt)} in the conversation, up to {sampling.max_tokens} in the answer",
                next_step="begin a new conversation, or ask for a smaller max_tokens",
            )
        ticket = Ticket(Row("", prompt, seed), sampling, opened_thought(text), put)
        self._arriving.put(ticket)
        return ticket

    def _work(self) -> None:
        """Admit, step every batch once, tell; for ever."""
        while True:
            try:
                self._admit()
                self._step()
            except Exception:
                logger.exception("serve: the model failed; the answers in the making end here")
                for ticket in self._living:
                    ticket.put(Piece("", len(ticket.row.tokens), "error"))
                self._living, self._batches = [], {}

    def _admit(self) -> None:
        """Take who waits; with nothing to do, wait for the first."""
        joining: dict[Sampling, list[Ticket]] = {}
        while len(self._living) < MOST_ROWS:
            try:
                ticket = self._arriving.get(block=not self._living)
            except queue.Empty:
                break
            self._living.append(ticket)
            joining.setdefault(ticket.sampling, []).append(ticket)
        for sampling, tickets in joining.items():
            if sampling not in self._batches:
                pad = self._tokenizer.pad_token_id or 0
                self._batches[sampling] = DecodingBatch(self._model, sampling, self._stop_tokens, pad)
            self._batches[sampling].join([ticket.row for ticket in tickets])

    def _step(self) -> None:
        for ticket in [one for one in self._living if one.is_cancelled]:
            self._batches[ticket.sampling].leave(ticket.row)
            self._living.remove(ticket)
        done: list[Row] = []
        for sampling, batch in list(self._batches.items()):
            if batch.rows:
                done += batch.step()
            if not batch.rows:
                del self._batches[sampling]
        finished = {id(row) for row in done}
        for ticket in list(self._living):
            ticket.tell(self._tokenizer, is_done=id(ticket.row) in finished)
            if id(ticket.row) in finished:
                self._living.remove(ticket)
