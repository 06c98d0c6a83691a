"""Training examples: problems and chat as token arrays, and batches of like length."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from skippy.lab.chat import generate as generate_chat
from skippy.lab.problems import generate as generate_problems
from skippy.lab.tokenizer import TURN_END, render_prompt
from skippy.progress import Progress

CHAT_SHARE = 0.25
PERSONA_PROBLEM_SHARE = 0.03  # problems asked under a persona's system prompt
ENCODE_CHUNK = 2000
SORT_WINDOW = 4096  # examples sorted by length together: little padding, still well mixed


@dataclass(frozen=True)
class Example:
    """A rendered prompt and the answer to learn, end of turn included."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Talk:
    """What an example is about, before any template: a problem with its solution, or everyday chat."""

    system: str | None
    prompt: str
    answer: str
    voice: str | None


@dataclass(frozen=True)
class Corpus:
    """Encoded examples, one after the other."""

    tokens: np.ndarray  # all tokens
    starts: np.ndarray  # where each example starts; one entry more than examples
    answers: np.ndarray  # where each example's answer starts

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.answers)


@dataclass(frozen=True)
class Batch:
    """Right-padded rows; causal attention needs no mask, the loss sees only `is_answer`."""

    inputs: torch.Tensor
    targets: torch.Tensor
    is_answer: torch.Tensor


def make_talks(count: int, seed: int, chat_share: float = CHAT_SHARE) -> Iterator[Talk]:
    """Problems, which have no voice, and everyday chat, shuffled together one by one."""
    random_source = random.Random(f"{seed}:corpus")
    problems = generate_problems(count, seed, "train")
    chat = generate_chat(count, seed)
    latest_system: str | None = None
    for _ in range(count):
        if random_source.random() < chat_share:
            talk = next(chat)
            latest_system = talk.system or latest_system
            yield Talk(talk.system, talk.prompt, talk.answer, talk.voice)
        else:
            problem = next(problems)
            persona = random_source.random() < PERSONA_PROBLEM_SHARE
            yield Talk(latest_system if persona else None, problem.question, problem.solution, None)


def make_examples(count: int, seed: int) -> Iterator[Example]:
    """The talks as the lab's own template puts them."""
    for talk in make_talks(count, seed):
        yield Example(render_prompt(talk.prompt, talk.system), talk.answer + TURN_END)


def encode_examples(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, count: int, label: str
) -> Corpus:
    """Encode `count` examples, prompt and answer apart, as they meet again when generating."""
    fast = tokenizer.backend_tokenizer
    parts = array("i")
    starts, answers = [0], []
    iterator = iter(examples)
    with Progress(label, count) as bar:
        while chunk := list(islice(iterator, ENCODE_CHUNK)):
            prompts = fast.encode_batch([example.prompt for example in chunk], add_special_tokens=False)
            replies = fast.encode_batch([example.answer for example in chunk], add_special_tokens=False)
            for prompt, reply in zip(prompts, replies, strict=True):
                parts.extend(prompt.ids)
                answers.append(len(parts))
                parts.extend(reply.ids)
                starts.append(len(parts))
            bar.advance(len(chunk), tokens=len(parts))
    return Corpus(np.array(parts), np.array(starts), np.array(answers))


def make_batches(corpus: Corpus, tokens_per_batch: int, seed: int, pad: int) -> Iterator[Batch]:
    """One pass over the corpus: windows sorted by length, cut at a padded size, batches shuffled."""
    for rows in _grouped_rows(corpus, tokens_per_batch, seed):
        yield _pad_rows(corpus, rows, pad)


def count_batches(corpus: Corpus, tokens_per_batch: int, seed: int) -> int:
    """How many batches `make_batches` gives."""
    return sum(1 for _ in _grouped_rows(corpus, tokens_per_batch, seed))


def _grouped_rows(corpus: Corpus, tokens_per_batch: int, seed: int) -> Iterator[list[int]]:
    random_source = np.random.default_rng(seed)
    order = random_source.permutation(len(corpus))
    lengths = np.diff(corpus.starts)
    for start in range(0, len(order), SORT_WINDOW):
        window = order[start : start + SORT_WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        groups: list[list[int]] = [[]]
        for index in window:
            if groups[-1] and lengths[index] * (len(groups[-1]) + 1) > tokens_per_batch:
                groups.append([])
            groups[-1].append(int(index))
        for group in random_source.permutation(len(groups)):
            yield groups[int(group)]


def _pad_rows(corpus: Corpus, rows: list[int], pad: int) -> Batch:
    width = max(int(corpus.starts[row + 1] - corpus.starts[row]) for row in rows)
    tokens = np.full((len(rows), width), pad, dtype=np.int64)
    is_answer = np.zeros((len(rows), width), dtype=bool)
    for place, row in enumerate(rows):
        start, end = corpus.starts[row], corpus.starts[row + 1]
        tokens[place, : end - start] = corpus.tokens[start:end]
        is_answer[place, corpus.answers[row] - start : end - start] = True
    rows_of_tokens = torch.from_numpy(tokens)
    return Batch(rows_of_tokens[:, :-1], rows_of_tokens[:, 1:], torch.from_numpy(is_answer)[:, 1:])
