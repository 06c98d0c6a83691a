"""vLLM draws seeded requests all at once, with our own noise: a plugin that every process of its server loads.

vLLM 0.22.0 chooses the token argmax_v p_v / e_v, with e_v exponential. A request with a seed has a generator of its
own, which fills its row of e by itself: a launch a row and step. Here the noise of every row and token is a function
of (seed, tokens drawn so far, token), `sampling.gumbel_noise`, computed for all rows in one pass; since −log e is
Gumbel noise, argmax (log p + g) is the same draw. Penalties, temperature, top-k and top-p are vLLM's, and come before.

Seeds and noise are those of an evaluation in this process, so a sample through vLLM is the sample of
`backend=transformers` but for rounding; and arms with the same seed share their noise, whatever else is in the batch.

The plugin (entry point `vllm.general_plugins`) does nothing unless NOISE_VARIABLE, which `vllm_server` sets for the
servers it starts, says so; and nothing with a vLLM that it does not know.

Source: `models/sampling.py` names those of the identity and of the noise.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Generator, Tensor

from skippy.models.sampling import gumbel_noise, row_keys

logger = logging.getLogger("vllm.skippy")  # vLLM shows what is said below its own name

NOISE_VARIABLE = "SKIPPY_VLLM_NOISE"
COUNTER = "counter"
KNOWN_VERSIONS = ("0.22.0",)
KNOWN_ARGUMENTS = ["probs", "generators"]
SAMPLER = "vllm.v1.sample.ops.topk_topp_sampler"
IN_EFFECT = "skippy draws the tokens of seeded requests"
"""Said once by each process that does it; vLLM draws once before it says that it is healthy."""
OFFSET = 4
"""By which a draw moves a generator of CUDA; vLLM takes this back where it throws a token away."""
PROBE, ROUNDING = 512, 0.01
"""Rows and tokens of the trial of a compiled draw, and the share of them that rounding may decide."""
PIECE = 1 << 22
"""Probabilities whose noise is in memory at once where nothing is compiled."""


RandomSample = Callable[[Tensor, Mapping[int, Generator]], Tensor]
Draw = Callable[[Tensor, Tensor, Tensor], Tensor]


def register() -> None:
    """Put our draw in the place of vLLM's; called by vLLM in each of its processes."""
    if os.environ.get(NOISE_VARIABLE) != COUNTER:
        return
    version = str(import_module("vllm").__version__)
    sampler: Any = import_module(SAMPLER)
    found = list(inspect.signature(sampler.random_sample).parameters)
    if not is_known(version) or found != KNOWN_ARGUMENTS:
        logger.warning(
            "skippy leaves seeded requests to vLLM %s, random_sample(%s): it knows %s",
            *(version, ", ".join(found), ", ".join(KNOWN_VERSIONS)),
        )
    elif not isinstance(sampler.random_sample, SeededDraw):
        sampler.random_sample = SeededDraw(sampler.random_sample)


def is_known(version: str) -> bool:
    """Whether this is a vLLM whose sampler was read, with whatever CUDA it was built for."""
    return version.partition("+")[0] in KNOWN_VERSIONS


class SeededDraw:
    """Stands for vLLM's `random_sample`.

    Args:
        unseeded: vLLM's own, for a batch in which nobody has a seed.
    """

    def __init__(self, unseeded: RandomSample) -> None:
        self._unseeded = unseeded
        self._compile: Callable[[torch.device], Draw] | None = compiled_draw
        self._has_spoken = False

    def __call__(self, probs: Tensor, generators: Mapping[int, Generator]) -> Tensor:
        """One token a row of `probs`, (rows, vocabulary); `generators` has those of the rows with a seed."""
        if not generators:
            return self._unseeded(probs, generators)
        if not self._has_spoken:
            self._has_spoken = True
            logger.info("%s, all rows at once", IN_EFFECT)
        keys = next_keys(probs, generators)
        # Made out here: from a range of its own a compiled draw makes noise of 32 bits, and not-a-numbers.
        tokens = torch.arange(probs.shape[1], device=probs.device)[None]
        if probs.is_cuda and self._compile is not None:
            try:
                return self._compile(probs.device)(probs, keys, tokens)
            except Exception as error:  # a compiler's errors are of many kinds; the draw below does the same
                self._compile = None
                logger.warning("the draw is not compiled: %s: %s", type(error).__name__, str(error)[:300])
        rows = max(1, PIECE // probs.shape[1])
        pieces = zip(probs.split(rows), keys.split(rows), strict=True)
        return torch.cat([draw(some, of_these, tokens) for some, of_these in pieces])


@cache
def compiled_draw(device: torch.device, *, backend: str = "inductor") -> Draw:
    """`draw` in one kernel, whatever the rows; tried out first, since a compiler can be wrong without a word.

    Raises:
        RuntimeError: it draws other tokens than `draw`.
    """
    compiled: Draw = torch.compile(draw, dynamic=True, backend=backend)
    probs = torch.linspace(-4, 4, PROBE, device=device).expand(PROBE, -1).softmax(-1)
    numbers = torch.arange(PROBE, device=device)
    given = (probs, row_keys(range(PROBE), [1] * PROBE).to(device), numbers[None])
    alike = float((compiled(*given) == draw(*given)).float().mean())
    if alike < 1 - ROUNDING:
        raise RuntimeError(f"{alike:.3f} of its tokens are those that are drawn without it")
    return compiled


def draw(probs: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """One token a row, (rows,) int64: argmax of log p + g, the noise g decided by the row's key and the token.

    Args:
        probs: (rows, vocabulary).
        keys: (rows,) int64.
        tokens: (1, vocabulary), 0, 1, 2, …
    """
    return (probs.log().double() + gumbel_noise(keys, tokens)).argmax(-1)


def next_keys(probs: Tensor, generators: Mapping[int, Generator]) -> Tensor:
    """The keys of this draw, (rows,) int64 on the device of `probs`; every generator moves on by one draw."""
    offsets = [generator.get_offset() for generator in generators.values()]
    for generator, offset in zip(generators.values(), offsets, strict=True):
        generator.set_offset(offset + OFFSET)
    seeds = [generator.initial_seed() for generator in generators.values()]
    seeded = row_keys(seeds, [offset // OFFSET for offset in offsets])
    rows = torch.tensor(list(generators))
    keys = torch.empty(len(probs), dtype=torch.long, device=probs.device)
    if len(generators) < len(probs):
        keys.random_()  # those without a seed
    return keys.index_put_((rows.to(probs.device),), seeded.to(probs.device))
