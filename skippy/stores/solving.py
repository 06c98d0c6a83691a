"""Certified subspaces of a checkpoint's targets, read and solved in batches.

On a CPU memory is what counts, and reading is nothing beside solving: one target at a time. On a GPU equal shapes
are stacked, threads read the next batch while this one is solved, and the first batches are solved while the base is
still being hashed: reading the files is then nearly all there is to wait for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, groupby
from typing import Protocol

import torch

from skippy.core.spectral.bottom import bottom_singular_subspaces
from skippy.core.spectral.rank import BOTTOM, MAX_K, SubspaceTask
from skippy.core.spectral.subspaces import SingularSubspace, rank_for_energy, seed_of, top_singular_subspaces
from skippy.core.target import Target
from skippy.progress import Progress
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.projectors import ProjectorStore
from skippy.words import counted

logger = logging.getLogger(__name__)

GPU_BATCH_BYTES = 2 * 2**30
READERS = 8
"""Threads that read a GPU's next batch."""
WRITERS = 8  # each waits for its part to be safe on the disk
POLL_SECONDS = 0.5

Solved = list[tuple[Target, SingularSubspace, float, Mapping[str, float]]]
"""The targets of one batch, each with its subspace, the seconds it took, and what else was measured of it."""


class Solver:
    """The subspaces of `targets`, batch by batch.

    Args:
        targets: what to solve; batches are always those of this whole list, since another stack would end with
            other bits on a GPU.
    """

    def __init__(
        self, checkpoint: Checkpoint, targets: Sequence[Target], task: SubspaceTask, device: torch.device
    ) -> None:
        self._task, self._device = task, device
        self._finished: frozenset[str] = frozenset()
        self._solved: list[Solved] = []
        waiting = (
            batch
            for batch in batches(targets, device, one_by_one=not task.rule.k)
            if not self._finished.issuperset(target.name for target in batch)
        )
        self._loaded = _load(checkpoint, waiting, device)

    def work_while(self, is_waiting: Callable[[], bool]) -> None:
        """Solve ahead as long as `is_waiting` and keep it in memory; on a CPU there is nothing to gain."""
        while self._device.type != "cpu" and is_waiting():
            loaded = next(self._loaded, None)
            if loaded is None:
                return
            self._solved.append(self._solve(*loaded))

    def solve_rest(self, finished: frozenset[str]) -> Iterator[Solved]:
        """Every target that is not `finished`, in its batch; what was solved ahead comes first."""
        self._finished = finished
        for solved in chain(self._solved, (self._solve(*loaded) for loaded in self._loaded)):
            yield [one for one in solved if one[0].name not in finished]

    def _solve(self, batch: Sequence[Target], weights: torch.Tensor) -> Solved:
        started = time.monotonic()
        found = solve(batch, weights, self._task)
        seconds = (time.monotonic() - started) / len(batch)
        return [(target, subspace, seconds, {}) for target, subspace in zip(batch, found, strict=True)]


def solve(batch: Sequence[Target], weights: torch.Tensor, task: SubspaceTask) -> list[SingularSubspace]:
    """The subspaces of one stack of weights (targets, out, in), certified."""
    names = [target.name for target in batch]
    if task.basis == BOTTOM:
        return bottom_singular_subspaces(weights, task.rule.k, tolerance=task.tolerance, names=names)
    seeds = [seed_of(f"{task.seed}:{name}") for name in names]
    k = task.rule.k or _rank_for_share(weights, task, seeds, names)
    return top_singular_subspaces(weights, k, tolerance=task.tolerance, seeds=seeds, names=names)


def batches(
    targets: Sequence[Target], device: torch.device, *, one_by_one: bool = False
) -> Iterator[list[Target]]:
    """One target at a time on a CPU; on a GPU, equal shapes together up to `GPU_BATCH_BYTES` in float32."""
    if device.type == "cpu" or one_by_one:
        yield from ([target] for target in targets)
        return
    by_shape = sorted(targets, key=lambda target: (target.out, target.in_))
    for (out, in_), group in groupby(by_shape, key=lambda target: (target.out, target.in_)):
        members = list(group)
        size = max(1, GPU_BATCH_BYTES // (4 * out * in_))
        yield from (members[start : start + size] for start in range(0, len(members), size))


def _load(
    checkpoint: Checkpoint, waiting: Iterator[list[Target]], device: torch.device
) -> Iterator[tuple[list[Target], torch.Tensor]]:
    """Each batch with its weights on the device; for a GPU the next one is already being read."""
    if device.type == "cpu":
        for batch in waiting:
            (target,) = batch
            yield batch, checkpoint.read(target.weight_key)[None]
        return
    copying, solving = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def fetch(target: Target) -> torch.Tensor:
        with torch.cuda.stream(copying):  # not behind the kernels that solve
            weight = checkpoint.read(target.weight_key).to(device)
        weight.record_stream(solving)
        return weight

    with ThreadPoolExecutor(READERS) as pool:

        def begin() -> tuple[list[Target], list[Future[torch.Tensor]]]:
            batch = next(waiting, [])
            return batch, [pool.submit(fetch, target) for target in batch]

        batch, reading = begin()
        while batch:
            following = begin()
            yield batch, torch.stack([part.result() for part in reading])
            batch, reading = following


def _rank_for_share(weights: torch.Tensor, task: SubspaceTask, seeds: list[int], names: list[str]) -> int:
    """The fewest directions that hold the share asked of ‖W‖², up to `MAX_K`; one weight at a time."""
    limit = min(MAX_K, *weights.shape[1:])
    probe = top_singular_subspaces(weights, limit, tolerance=task.tolerance, seeds=seeds, names=names)[0]
    total = float(weights[0].double().square().sum())
    return rank_for_energy(probe.S, total, task.rule.share)


class SolvesRest(Protocol):
    """What solves a share: `Solver`, or that of activations."""

    def solve_rest(self, finished: frozenset[str]) -> Iterator[Solved]:
        """Every target that is not `finished`."""


def solve_share(solver: SolvesRest, store: ProjectorStore, share: Sequence[Target]) -> None:
    """Keep every target of the share as soon as it is solved, but for those that the store holds already."""

    def keep(solved: tuple[Target, SingularSubspace, float, Mapping[str, float]]) -> float:
        target, subspace, seconds, shares = solved
        facts = {**certificate(subspace, seconds), **shares}
        store.append(target.name, subspace.U, subspace.S, subspace.V, facts)
        return subspace.residual

    finished = store.finished()
    todo = sum(target.name not in finished for target in share)
    if todo < len(share):
        logger.info("svd: done already: %s", counted(len(share) - todo, "target"))
    worst = 0.0
    with Progress("svd", todo) as bar, ThreadPoolExecutor(WRITERS) as pool:
        for solved in solver.solve_rest(finished):
            worst = max([worst, *pool.map(keep, solved)])
            bar.advance(len(solved), worst_residual=f"{worst:.1e}")


def await_others(store: ProjectorStore, names: Sequence[str]) -> None:
    """Wait until every rank has finished its share; `torchrun` ends us all if one of them dies."""
    while not store.finished().issuperset(names):
        time.sleep(POLL_SECONDS)


def certificate(subspace: SingularSubspace, seconds: float) -> dict[str, float | str]:
    """What the manifest says of one target."""
    return {
        "residual": subspace.residual,
        "orthonormality": subspace.orthonormality,
        "completeness": subspace.completeness,
        "gap": subspace.gap,
        "sigma_1": float(subspace.S[0]),
        "sigma_k": float(subspace.S[-1]),
        "sigma_next": subspace.sigma_next,
        "wedin_bound": subspace.wedin_bound,
        "energy": float(subspace.S.double().square().sum()) / (subspace.frobenius_squared or 1.0),
        "method": subspace.method,
        "seconds": seconds,
    }
