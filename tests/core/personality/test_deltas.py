"""Energies on a module's residual side, their pooling, and a null that follows the activations' covariance."""

import math

import pytest
import torch

from skippy.core.personality.deltas import draw_coordinates, null_energies, pool_energies, residual_rows
from skippy.core.spectral.lora import LoraFactors
from skippy.core.target import side_of
from skippy.errors import SubspaceError, TargetError
from tests.core.personality.small_reference import RANK, WIDTH, normal


class TestSides:
    def test_by_module_name(self):
        assert [side_of(kind) for kind in ("o_proj", "down_proj")] == ["writes"] * 2
        assert {side_of(k) for k in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")} == {"reads"}
        with pytest.raises(TargetError, match="lm_head"):
            side_of("lm_head")


class TestEnergies:
    def test_rows_carry_all_of_the_update(self):
        factors = LoraFactors(normal(RANK, 48), normal(80, RANK, seed=1), 0.5)
        dense = factors.scale * factors.B @ factors.A
        reads = residual_rows(factors.A, factors.B, factors.scale, "reads")
        writes = residual_rows(factors.A, factors.B, factors.scale, "writes")
        torch.testing.assert_close(reads.T @ reads, dense.T @ dense)
        torch.testing.assert_close(writes.T @ writes, dense @ dense.T)


class TestPooling:
    def test_a_group_pools_its_targets_and_its_null_draw_by_draw(self):
        energies, totals = torch.tensor([[3.0, 1.0], [4.0, 12.0]], dtype=torch.float64)
        chances, nulls = torch.tensor([0.5, 0.1], dtype=torch.float64), normal(2, 200).square()
        ratio = pool_energies(energies, totals, chances, nulls, torch.ones(1, 2, dtype=torch.float64))[0]
        null = nulls.sum(0) / 16
        assert vars(ratio) == pytest.approx(
            {
                "ratio": 4 / 16,
                "chance": (0.5 * 4 + 0.1 * 12) / 16,
                "null_mean": float(null.mean()),
                "null_sd": float(null.std()),
                "null_low": float(null.quantile(0.025)),
                "null_high": float(null.quantile(0.975)),
                "z": float((4 / 16 - null.mean()) / null.std()),
            }
        )


class TestNull:
    def test_draws_are_orthonormal(self):
        sketch = normal(64, WIDTH).float()
        draws = draw_coordinates(sketch, normal(200, 7, 64, seed=1))
        Q = draws.double() @ sketch.double()
        torch.testing.assert_close(
            Q @ Q.mT, torch.eye(7, dtype=torch.float64).expand(200, 7, 7), atol=1e-4, rtol=0
        )

    def test_null_energy_is_that_of_explicit_subspaces(self):
        sketch, rows = normal(64, WIDTH).float(), normal(5, WIDTH, seed=2)
        draws = draw_coordinates(sketch, normal(20, 3, 64, seed=1))
        Q = draws.double() @ sketch.double()
        expected = (Q @ rows.T).square().sum(1)
        torch.testing.assert_close(
            null_energies(rows, sketch, draws).double(), expected, rtol=1e-4, atol=1e-5
        )

    def test_matches_draws_with_the_full_covariance(self):
        """Mean and spread agree with K-subspaces of N(0, Σ) drawn the obvious way; isotropic ones do not."""
        scales = torch.logspace(0, -2, 64, dtype=torch.float64)
        rows = normal(4, 64, seed=3) * scales
        obvious, isotropic = (
            torch.stack([self.share(rows, normal(4, 64, seed=s) * weights) for s in range(2000)])
            for weights in (scales, torch.ones(64, dtype=torch.float64))
        )
        sketch = (normal(512, 64, seed=9) * scales / math.sqrt(512)).float()
        draws = draw_coordinates(sketch, normal(2000, 4, 512, seed=4))
        ours = null_energies(rows, sketch, draws).sum(1).double() / rows.square().sum()
        assert float(ours.mean()) == pytest.approx(float(obvious.mean()), rel=0.03)
        assert float(ours.std()) == pytest.approx(float(obvious.std()), rel=0.15)
        assert float(isotropic.mean()) < 0.5 * float(obvious.mean())

    @staticmethod
    def share(rows, samples):
        Q = torch.linalg.qr(samples.T).Q
        return (rows @ Q).square().sum() / rows.square().sum()

    def test_too_few_activations_are_refused(self):
        with pytest.raises(SubspaceError, match="at least 4"):
            draw_coordinates(normal(2, WIDTH).repeat(8, 1), normal(200, 4, 16))

    def test_pooling_of_nothing_is_nan(self):
        zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        ratio = pool_energies(zero, zero, zero + 0.1, torch.zeros(2, 200), one)[0]
        assert all(math.isnan(value) for value in vars(ratio).values())
