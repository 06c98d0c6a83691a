"""Directions of what the weights read while the model does mathematics, for a one-sided constraint.

Worked solutions are read teacher-forced under the model's chat template; V holds the top-k eigenvectors of
E[x xᵀ] over the solution's tokens, x being the input of the weight. ΔW V = 0 then means ΔW x = 0 for every x in
their span. How much of the activations of *other* solutions lies in that span is measured beside it.

Source: LoRA-Null, arXiv 2503.02659, which initialises LoRA in the null space of activations. Departure: the update is
kept out of the leading directions at every step, instead of being started outside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skippy.core.problem import Problem
from skippy.core.spectral.subspaces import SingularSubspace, seed_of, top_singular_subspace
from skippy.core.target import READS, Target
from skippy.models.answering import pad_id
from skippy.models.hooks import Hook, Reading, read_moments, reading_of
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import conversation

FIT, FRESH = 0, 1
BATCH = 32
MOMENT_BYTES = 8 * 2**30
"""Second moments held at a time; a model with more is read in several passes."""


class ActivationSolver:
    """The subspaces of `targets`, those that share an input together, as `stores.solving.Solver` gives its own.

    Args:
        problems: with worked solutions; every third is kept for the fresh share.
        style: what the evaluation appends to a question.
    """

    def __init__(
        self,
        path: Path,
        targets: Sequence[Target],
        problems: Callable[[], Sequence[Problem]],
        device: torch.device,
        *,
        style: str,
        k: int,
        tolerance: float,
        seed: int,
    ) -> None:
        self._path, self._targets, self._device = path, targets, device
        self._problems, self._style = problems, style
        self._k, self._tolerance, self._seed = k, tolerance, seed

    def solve_rest(
        self, finished: frozenset[str]
    ) -> Iterator[list[tuple[Target, SingularSubspace, float, Mapping[str, float]]]]:
        """Every target that is not `finished`, with seconds and the shares of E‖x‖² that its span holds.

        S are the largest eigenvalues of E[x xᵀ], against which the certificate was made; U has no columns.

        Raises:
            SubspaceError: k does not fit an input, or nothing could be certified.
        """
        todo = [target for target in self._targets if target.name not in finished]
        if not todo:
            return
        model, tokenizer = load_model(self._path, device=self._device), load_tokenizer(self._path)
        readings = [
            reading_of(
                tokenizer,
                conversation(one.question + self._style),
                one.solution,
                FRESH if i % 3 == 2 else FIT,
            )
            for i, one in enumerate(self._problems())
        ]
        started = time.monotonic()
        for targets, squares in _second_moments(model, readings, todo, pad_id(tokenizer)):
            name = _input_of(targets[0])
            found = top_singular_subspace(
                squares[FIT],
                self._k,
                tolerance=self._tolerance,
                seed=seed_of(f"{self._seed}:{name}"),
                name=name,
            )
            shares = dict(
                zip(("energy", "energy_fresh"), (held_share(part, found.V) for part in squares), strict=True)
            )
            seconds = (time.monotonic() - started) / len(targets)
            yield [
                (target, replace(found, U=found.U.new_zeros(target.out, 0)), seconds, shares)
                for target in targets
            ]
            started = time.monotonic()


def _second_moments(
    model: nn.Module, readings: Sequence[Reading], targets: Sequence[Target], fill: int
) -> Iterator[tuple[list[Target], Float[Tensor, "2 d d"]]]:
    """E[x xᵀ] of every input on the solutions that are fitted and on the fresh ones, with the targets that read it."""
    sharing: dict[str, list[Target]] = {}
    for target in targets:
        sharing.setdefault(_input_of(target), []).append(target)
    for names in _passes(sharing):
        moments = read_moments(
            model,
            readings,
            [Hook(name, sharing[name][0].name, READS) for name in names],
            groups=2,
            pad_id=fill,
            batch_size=BATCH,
            label="activations",
            with_squares=True,
        )
        for name in names:
            squares = moments.pop(name).squares
            assert squares is not None
            yield sharing[name], squares


def held_share(squares: Float[Tensor, "d d"], V: Float[Tensor, "d k"]) -> float:
    """tr(VᵀMV) / tr M: the share of E‖x‖² that lies in span(V); chance is k/d for activations without a shape."""
    basis = V.to(squares)
    return float((basis * (squares @ basis)).sum() / squares.trace())


def _input_of(target: Target) -> str:
    """Projections that read the stream share their input; one that writes it has an input of its own."""
    return f"{target.name.rsplit('.', 1)[0] if target.side == READS else target.name}.input"


def _passes(sharing: dict[str, list[Target]]) -> Iterator[list[str]]:
    """Names of inputs whose moments fit into memory together, deepest last, so that a pass ends early."""
    names: list[str] = []
    room = MOMENT_BYTES
    for name, members in sharing.items():
        size = 2 * 8 * members[0].in_ ** 2
        if names and size > room:
            yield names
            names, room = [], MOMENT_BYTES
        names.append(name)
        room -= size
    if names:
        yield names
