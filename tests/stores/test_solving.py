"""Solving ahead of the digest: every target once, nothing twice, in whatever moment the digest arrives."""

from concurrent.futures import Future

import pytest
import torch

from skippy.core.spectral.rank import RankRule, SubspaceTask
from skippy.core.spectral.subspaces import seed_of
from skippy.models.profiles import PROFILES
from skippy.models.targets import find_targets
from skippy.resolve.bases import Base
from skippy.stores import solving
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.solving import Solver
from tests.stages.tiny_checkpoint import write_checkpoint

GPU = torch.device("cuda")


@pytest.fixture
def base(tmp_path) -> Base:
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "base"))
    return Base(
        "tiny", checkpoint, find_targets(checkpoint.config, checkpoint.shapes), Future(), PROFILES["llama"]
    )


@pytest.fixture
def solver(base, monkeypatch) -> Solver:
    """One that believes to be on a GPU; its weights stay on the CPU."""

    def load(checkpoint, waiting, _):
        for batch in waiting:
            yield batch, torch.stack([checkpoint.read(target.weight_key) for target in batch])

    monkeypatch.setattr(solving, "_load", load)
    return Solver(base.checkpoint, base.targets, SubspaceTask(RankRule(k=2)), GPU)


def names(solved) -> list[str]:
    return [target.name for batch in solved for target, *_ in batch]


@pytest.mark.parametrize("moments", [0, 1, 3, 99])
def test_every_target_is_solved_once_however_long_the_digest_takes(solver, base, moments):
    left = iter(range(moments))
    solver.work_while(lambda: next(left, None) is not None)
    assert sorted(names(solver.solve_rest(frozenset()))) == sorted(target.name for target in base.targets)


@pytest.mark.parametrize("moments", [0, 2])
def test_what_is_finished_is_not_handed_out_again(solver, base, moments):
    left = iter(range(moments))
    solver.work_while(lambda: next(left, None) is not None)
    finished = frozenset(target.name for target in base.targets[::2])
    found = names(solver.solve_rest(finished))
    assert sorted(found) == sorted(target.name for target in base.targets if target.name not in finished)


def test_finished_batches_are_not_even_solved(solver, base, monkeypatch):
    solved = []
    solve = solving.solve
    monkeypatch.setattr(
        solving, "solve", lambda batch, *rest: solved.extend(t.name for t in batch) or solve(batch, *rest)
    )
    batch = next(solving.batches(base.targets, GPU))
    list(solver.solve_rest(frozenset(target.name for target in batch)))
    assert not set(solved) & {target.name for target in batch}
    assert solved


def test_batches_are_of_one_shape_and_fit(base, monkeypatch):
    monkeypatch.setattr(solving, "GPU_BATCH_BYTES", 3 * 4 * 48 * 48)
    found = list(solving.batches(base.targets, GPU))
    assert all(len({(target.out, target.in_) for target in batch}) == 1 for batch in found)
    assert {(batch[0].out, batch[0].in_): len(batch) for batch in reversed(found)} == {
        (24, 48): 4,
        (48, 48): 3,
        (48, 80): 1,
        (80, 48): 1,
    }
    assert sorted(target.name for batch in found for target in batch) == sorted(t.name for t in base.targets)


def test_a_share_of_the_energy_is_each_targets_own(base, solver):
    """Equal shapes would be one stack of one k, that of its first member."""
    rule = RankRule(share=0.5)
    cpu, gpu = (
        Solver(base.checkpoint, base.targets, SubspaceTask(rule), device)
        for device in (torch.device("cpu"), GPU)
    )
    found = [
        {
            target.name: len(subspace.S)
            for batch in one.solve_rest(frozenset())
            for target, subspace, *_ in batch
        }
        for one in (cpu, gpu)
    ]
    assert found[0] == found[1]


def test_tolerance_and_seed_reach_the_solver(base, monkeypatch):
    given = {}
    monkeypatch.setattr(
        solving, "top_singular_subspaces", lambda weights, k, **others: given.update(others, k=k)
    )
    target = base.targets[0]
    for seed in (0, 1):
        solving.solve(
            [target],
            torch.zeros(1, 4, 4),
            SubspaceTask(RankRule(k=2), seed=seed, tolerance=2e-6),
        )
        assert given == {
            "k": 2,
            "tolerance": 2e-6,
            "seeds": [seed_of(f"{seed}:{target.name}")],
            "names": [target.name],
        }


def test_on_a_cpu_nothing_is_held_in_memory(base):
    solver = Solver(base.checkpoint, base.targets, SubspaceTask(RankRule(k=2)), torch.device("cpu"))
    solver.work_while(lambda: True)
    assert solver._solved == []


def test_a_base_waits_for_its_digest(base):
    assert not base.is_hashed
    base.hashing.set_result("f" * 64)
    assert base.is_hashed
    assert base.digest == "f" * 64
