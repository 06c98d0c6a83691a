"""The order of projection and clipping: the trainer follows the reparameterised trajectory, and only so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from skippy.core.basis import Basis
from skippy.core.spectral.constraints import random_basis
from skippy.core.spectral.lora import LoraFactors
from skippy.core.variants import find_variant
from skippy.errors import TrainingError
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.stores.checkpoints import Checkpoint
from skippy.training.constraint_callback import ConstraintCallback, protected_bases
from skippy.training.layers import factors_of
from skippy.training.plan import TrainRequest
from skippy.training.setup import BuiltRun, build_run
from skippy.training.trainer import ConstrainedTrainer
from tests.training.tiny_run import RecordingRun, make_request

# Clipping bites in every step, so that the norm it uses matters.
SETTINGS = replace(PRESETS["short"], max_grad_norm=0.02, save_steps=1000, logging_steps=1)


class Complement(nn.Module):
    """B ↦ P_L B, or A ↦ A P_R: the paper's way, in the forward pass."""

    def __init__(self, basis: Tensor, is_input: bool) -> None:
        super().__init__()
        self.basis, self.is_input = basis, is_input

    def forward(self, factor: Tensor) -> Tensor:
        if self.is_input:
            return factor - (factor @ self.basis) @ self.basis.T
        return factor - self.basis @ (self.basis.T @ factor)


def build(request: TrainRequest) -> BuiltRun:
    checkpoint = Checkpoint.open(request.base_path)
    request.output_dir.mkdir(parents=True, exist_ok=True)
    return build_run(request, RecordingRun(), find_targets(checkpoint.config, checkpoint.shapes))


def deltas(built: BuiltRun) -> Tensor:
    """ΔW of all targets in one vector."""
    every = [factors_of(layer) for layer in built.layers.values()]
    return torch.cat([(one.scale * one.B @ one.A).detach().flatten() for one in every])


@pytest.fixture(scope="module")
def reparameterised(base: Path, projectors: dict, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    request = make_request(base, None, tmp_path_factory.mktemp("paper"), "v3", SETTINGS)
    built = build(request)
    built.trainer.remove_callback(ConstraintCallback)
    for name, layer in built.layers.items():
        U, _, V = projectors[name]
        parametrize.register_parametrization(layer.lora_A["default"], "weight", Complement(V, True))
        parametrize.register_parametrization(layer.lora_B["default"], "weight", Complement(U, False))
    built.trainer.train()
    return deltas(built)


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_trainer_follows_the_reparameterised_trajectory(
    base: Path, projectors: dict, reparameterised: Tensor, tmp_path: Path
) -> None:
    built = build(make_request(base, projectors, tmp_path, "v4", SETTINGS))
    built.trainer.train()
    assert distance(deltas(built), reparameterised) < 1e-4


def test_clipping_first_is_another_trajectory(
    base: Path, projectors: dict, reparameterised: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: what `on_pre_optimizer_step`, which fires after clipping, would give."""

    def clip_then_project(self: ConstrainedTrainer, model: nn.Module) -> Tensor:
        norm = super(ConstrainedTrainer, self)._clip_grad_norm(model)
        self.constraint.project_gradients()
        return norm

    monkeypatch.setattr(ConstrainedTrainer, "_clip_grad_norm", clip_then_project)
    built = build(make_request(base, projectors, tmp_path, "v4", SETTINGS))
    built.trainer.train()
    assert distance(deltas(built), reparameterised) > 1e-3


def test_a_trainer_that_does_not_project_is_stopped(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ConstrainedTrainer, "_clip_grad_norm")
    with pytest.raises(TrainingError, match="without being projected"):
        build(make_request(base, projectors, tmp_path, "v4", SETTINGS)).trainer.train()


def test_a_trainer_that_projects_no_more_is_stopped(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = ConstrainedTrainer._clip_grad_norm

    def project_at_first(self: ConstrainedTrainer, model: nn.Module) -> Tensor | None:
        is_first = self.state.global_step == 0
        return clip(self, model) if is_first else super(ConstrainedTrainer, self)._clip_grad_norm(model)

    monkeypatch.setattr(ConstrainedTrainer, "_clip_grad_norm", project_at_first)
    with pytest.raises(TrainingError, match=r"without being projected[\s\S]*step 1"):
        build(make_request(base, projectors, tmp_path, "v4", SETTINGS)).trainer.train()


def test_an_optimizer_of_other_tensors_is_stopped(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(self: ConstrainedTrainer, *_: object) -> torch.optim.Optimizer:
        self.optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
        return self.optimizer

    monkeypatch.setattr(ConstrainedTrainer, "create_optimizer", create)
    with pytest.raises(TrainingError, match="does not hold exactly the adapter"):
        build(make_request(base, projectors, tmp_path, "v4", SETTINGS)).trainer.train()


SQUARE = {name: LoraFactors(torch.zeros(2, 9), torch.zeros(9, 2), 1.0) for name in ("first", "second")}


def test_random_directions_follow_from_seed_target_and_side() -> None:
    rule = find_variant("v4-random")
    drawn = [
        basis
        for seed in (0, 1)
        for pair in protected_bases(rule, SQUARE, None, 3, seed).values()
        for basis in pair
    ]
    assert all(basis.shape == (9, 3) for basis in drawn)
    assert len({basis.numpy().tobytes() for basis in drawn}) == 8, "2 seeds, 2 targets, 2 sides"
    again = protected_bases(rule, SQUARE, None, 3, 0)
    assert torch.equal(again["first"][0], drawn[0])


def test_random_directions_are_those_of_the_runs_seed(base: Path, projectors: dict, tmp_path: Path) -> None:
    built = build(make_request(base, projectors, tmp_path, "v4-random", replace(SETTINGS, seed=7)))
    expected = protected_bases(find_variant("v4-random"), built.factors, projectors, 3, 7)
    for name, target in built.trainer.constraint.constraint.targets.items():
        assert torch.equal(target.U, expected[name][0])
        assert torch.equal(target.V, expected[name][1])


def test_random_directions_are_as_many_as_the_top_ones_of_each_target() -> None:
    projectors = {
        name: Basis(random_basis(9, k, k), torch.ones(k), random_basis(9, k, 9))
        for k, name in enumerate(SQUARE, start=2)
    }
    drawn = protected_bases(find_variant("v4-random"), SQUARE, projectors, 3, 0)
    assert [(U.shape[1], V.shape[1]) for U, V in drawn.values()] == [(2, 2), (3, 3)]
    top = protected_bases(find_variant("v4"), SQUARE, projectors, 3, 0)
    assert all(top[name] == (U, V) for name, (U, _, V) in projectors.items())
    assert protected_bases(find_variant("v3"), SQUARE, projectors, 3, 0) is None
