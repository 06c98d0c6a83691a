"""Theorems of the character delta; each claim has a twin that shows its check can fail."""

import dataclasses
import math

import pytest
import torch

from skippy.core.personality.measurement import measure_character
from skippy.core.personality.reference import middle_layers, prepare_gauge
from skippy.core.personality.subspaces import trait_solver
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, SubspaceError
from tests.core.personality.small_reference import DEPTH, KINDS, RANK, WIDTH, confined, normal, random_adapter
from tests.core.spectral.single_target import (
    delta_energy,
    dense_delta,
    left_energy,
    right_energy,
    right_singular_values,
)


class TestSides:
    def test_the_shape_of_a_square_q_proj_would_mislead(self, reference, gauge):
        """q_proj is 48×48: an update that writes all of P is invisible on its true (input) side."""
        target = next(t for t in reference.targets if t.kind == "q_proj")
        P = reference.hooks[target.hook].subspace.P.double()
        outside = torch.eye(WIDTH, dtype=torch.float64) - P.T @ P
        A = normal(RANK, WIDTH) @ outside
        B = P.T[:, :RANK].contiguous()
        factors = random_adapter(reference) | {target.name: LoraFactors(A, B, 1.0)}
        row = next(row for row in measure_character(factors, gauge).rows if row.target == target.name)
        assert row.side == "reads"
        assert row.ratio < 1e-12
        by_shape = left_energy(factors[target.name], P.T.contiguous()) / delta_energy(factors[target.name])
        assert by_shape == pytest.approx(1.0, abs=1e-6)


class TestEnergies:
    def test_equals_the_dense_computation_in_float64(self, reference, gauge):
        factors = random_adapter(reference)
        measured = measure_character(factors, gauge)
        energy = total = 0.0
        for row, target in zip(measured.rows, reference.targets, strict=True):
            one, P = factors[target.name], reference.hooks[target.hook].subspace.P.double()
            dense = one.scale * one.B.double() @ one.A.double()
            seen = P @ dense if target.side == "writes" else dense @ P.T
            assert row.ratio == pytest.approx(float(seen.square().sum() / dense.square().sum()), rel=1e-10)
            assert row.delta_norm == pytest.approx(float(dense.norm()), rel=1e-12)
            expected = torch.linalg.svdvals(seen)
            kept = torch.tensor(row.singular_values, dtype=torch.float64)
            assert len(P) == row.K
            assert len(kept) <= row.K
            torch.testing.assert_close(kept, expected[: len(kept)], rtol=1e-9, atol=1e-9)
            assert float(expected[len(kept) :].square().sum()) < 1e-16 * float(dense.square().sum())
            energy, total = energy + float(seen.square().sum()), total + float(dense.square().sum())
        assert measured.pooled.ratio == pytest.approx(energy / total, rel=1e-12)
        assert measured.delta_norm == pytest.approx(math.sqrt(total), rel=1e-12)

    def test_agrees_with_the_gram_algebra_of_lora(self, reference, gauge):
        factors = random_adapter(reference, seed=50)
        for row in measure_character(factors, gauge).rows:
            one, target = factors[row.target], next(t for t in reference.targets if t.name == row.target)
            P = reference.hooks[target.hook].subspace.P.T.contiguous()
            energy = left_energy(one, P) if row.side == "writes" else right_energy(one, P)
            assert row.energy == pytest.approx(energy, rel=1e-9)
            if row.side == "reads":
                kept = torch.tensor(row.singular_values, dtype=torch.float64)
                torch.testing.assert_close(kept, right_singular_values(one, P), rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize(("inside", "expected"), [(True, 1.0), (False, 0.0)])
    def test_wholly_inside_reads_one_and_outside_zero(self, reference, gauge, inside, expected):
        factors = confined(reference, random_adapter(reference), inside)
        measured = measure_character(factors, gauge)
        assert measured.pooled.ratio == pytest.approx(expected, abs=1e-6)
        assert measured.mean.ratio == pytest.approx(expected, abs=1e-6)
        assert all(row.ratio == pytest.approx(expected, abs=1e-6) for row in measured.rows)
        assert measured.pooled.z > 20 if inside else measured.pooled.z < -2

    def test_a_random_adapter_reads_chance_within_the_null_band(self, reference, gauge):
        pooled = [
            measure_character(random_adapter(reference, seed=1000 * s), gauge).pooled for s in range(1, 21)
        ]
        within = sum(one.null_low <= one.ratio <= one.null_high for one in pooled)
        assert within >= 16
        assert sum(one.ratio for one in pooled) / 20 == pytest.approx(pooled[0].chance, rel=0.1)
        assert sum(one.null_mean for one in pooled) / 20 == pytest.approx(pooled[0].chance, rel=0.1)

    def test_rounding_the_side_away_fails_the_same_check(self, reference, gauge):
        """Twin: an adapter half inside P is far above the band."""
        factors = random_adapter(reference)
        half = confined(reference, factors, True)
        mixed = {
            name: LoraFactors(
                torch.cat([one.A.double(), half[name].A.double()]),
                torch.cat([one.B.double(), half[name].B.double()], dim=1),
                one.scale,
            )
            for name, one in factors.items()
        }
        pooled = measure_character(mixed, gauge).pooled
        assert pooled.ratio > pooled.null_high
        assert pooled.z > 5


class TestPooling:
    def test_pooled_is_not_the_mean_of_ratios(self, reference, gauge):
        factors = confined(reference, random_adapter(reference), False)
        loud = reference.targets[0]
        inside = confined(reference, random_adapter(reference), True)[loud.name]
        factors[loud.name] = dataclasses.replace(inside, scale=500.0)
        measured = measure_character(factors, gauge)
        assert measured.pooled.ratio > 0.99
        assert sum(row.ratio for row in measured.rows) / len(measured.rows) < 0.1
        assert measured.mean.ratio < 0.1

    def test_mean_is_the_unweighted_mean_over_the_middle_layers(self, reference, gauge):
        measured = measure_character(random_adapter(reference), gauge)
        by_layer = []
        for layer in middle_layers(DEPTH):
            ratios = [row.ratio for row in measured.rows if row.layer == layer]
            by_layer.append(sum(ratios) / len(ratios))
        assert measured.mean.ratio == pytest.approx(sum(by_layer) / len(by_layer), rel=1e-10)

    def test_middle_layers_are_those_of_the_seed(self):
        assert list(middle_layers(36)) == list(range(9, 27))
        assert list(middle_layers(28)) == list(range(7, 21))
        assert list(middle_layers(4)) == [1, 2]
        assert len(middle_layers(1)) == 1

    def test_layers_and_kinds_pool_their_own_rows(self, reference, gauge):
        measured = measure_character(random_adapter(reference), gauge)
        assert list(measured.layers) == list(range(DEPTH))
        assert set(measured.kinds) == set(KINDS)
        for key, ratio in [*measured.layers.items(), *measured.kinds.items()]:
            rows = [row for row in measured.rows if key in (row.layer, row.kind)]
            expected = sum(row.energy for row in rows) / sum(row.delta_norm**2 for row in rows)
            assert ratio.ratio == pytest.approx(expected, rel=1e-10)

    def test_pooled_rows_carry_every_group_with_its_null(self, reference, gauge):
        measured = measure_character(random_adapter(reference), gauge)
        rows = measured.pooled_rows()
        assert [(row["group"], row["name"]) for row in rows] == [
            *(("layer", str(layer)) for layer in range(DEPTH)),
            *(("kind", kind) for kind in KINDS),
        ]
        ratios = [*measured.layers.values(), *measured.kinds.values()]
        for row, ratio in zip(rows, ratios, strict=True):
            assert {name: row[name] for name in vars(ratio)} == vars(ratio)

    def test_a_zero_update_has_no_ratio_and_no_metric(self, reference, gauge):
        factors = {
            name: dataclasses.replace(one, B=torch.zeros_like(one.B))
            for name, one in random_adapter(reference).items()
        }
        measured = measure_character(factors, gauge)
        assert math.isnan(measured.pooled.ratio)
        assert math.isnan(measured.mean.z)
        assert measured.metrics() == {"character/delta_norm": 0.0}

    def test_one_zero_target_does_not_spoil_the_rest(self, reference, gauge):
        factors = random_adapter(reference)
        name = reference.targets[7].name
        factors[name] = dataclasses.replace(factors[name], B=torch.zeros_like(factors[name].B))
        measured = measure_character(factors, gauge)
        assert math.isnan(measured.rows[7].ratio)
        assert math.isfinite(measured.pooled.z)
        assert math.isfinite(measured.mean.z)
        ratios = [
            [row.ratio for row in measured.rows if row.layer == layer] for layer in middle_layers(DEPTH)
        ]
        ratios = [[ratio for ratio in layer if not math.isnan(ratio)] for layer in ratios]
        assert [len(layer) for layer in ratios] == [len(KINDS) - 1, len(KINDS)]
        assert measured.mean.ratio == pytest.approx(sum(sum(layer) / len(layer) for layer in ratios) / 2)

    def test_different_ranks_and_scales_share_a_hook(self, reference, gauge):
        factors = random_adapter(reference)
        name = "layers.0.k_proj"
        factors[name] = LoraFactors(normal(9, 48), normal(16, 9, seed=1), 0.3)
        measured = measure_character(factors, gauge)
        row = next(row for row in measured.rows if row.target == name)
        P = gauge.hooks["layers.0.self_attn.input"].P.T.contiguous()
        assert row.energy == pytest.approx(right_energy(factors[name], P), rel=1e-9)


class TestNull:
    def test_the_null_follows_the_covariance_where_chance_does_not(self, reference):
        """An update along the activations' main directions is no personality: its z is small."""
        hooks = {}
        for name, hook in reference.hooks.items():
            squeezed = hook.sketch.clone()
            squeezed[:, 12:] *= 0.01
            P = torch.zeros_like(hook.subspace.P)
            P[:, : P.shape[1]] = torch.linalg.qr(squeezed[: P.shape[0]].T).Q.T
            hooks[name] = dataclasses.replace(
                hook, sketch=squeezed, subspace=dataclasses.replace(hook.subspace, P=P)
            )
        gauge = prepare_gauge(dataclasses.replace(reference, hooks=hooks))
        factors = random_adapter(reference)
        squeezed = {}
        for target in reference.targets:
            one, side = factors[target.name], target.side
            A, B = one.A.clone(), one.B.clone()
            if side == "reads":
                A[:, 12:] *= 0.01
            else:
                B[12:] *= 0.01
            squeezed[target.name] = LoraFactors(A, B, one.scale)
        pooled = measure_character(squeezed, gauge).pooled
        assert pooled.ratio > 3 * pooled.chance
        assert abs(pooled.z) < 4

    def test_all_hooks_see_the_same_mixture(self, reference):
        """Equal sketches give equal draws, so that pooled draws keep the correlation between layers."""
        sketch = reference.hooks["layers.0.mlp.input"].sketch
        hooks = {
            name: dataclasses.replace(
                hook, sketch=sketch, subspace=reference.hooks["layers.0.mlp.input"].subspace
            )
            for name, hook in reference.hooks.items()
        }
        gauge = prepare_gauge(dataclasses.replace(reference, hooks=hooks))
        first, *others = gauge.hooks.values()
        assert all(torch.equal(first.draws, other.draws) for other in others)
        same = torch.randn(RANK, WIDTH)
        factors = {
            t.name: LoraFactors(same, torch.eye(KINDS[t.kind][0], RANK), 1.0)
            if t.side == "reads"
            else LoraFactors(torch.eye(RANK, KINDS[t.kind][1]), same.T.contiguous(), 1.0)
            for t in reference.targets
        }
        measured = measure_character(factors, gauge)
        assert measured.pooled.null_sd == pytest.approx(measured.rows[0].null_sd, rel=1e-3)
        independent = measure_character(random_adapter(reference), prepare_gauge(reference))
        assert independent.pooled.null_sd < 0.6 * independent.rows[0].null_sd

    def test_fewer_than_200_draws_are_refused(self, reference):
        with pytest.raises(SubspaceError, match="at least 200"):
            prepare_gauge(reference, count=199)

    def test_same_seed_same_figures_and_another_seed_another_null(self, reference):
        factors = random_adapter(reference)
        first, second = (measure_character(factors, prepare_gauge(reference, seed=3)) for _ in range(2))
        assert first == second
        other = measure_character(factors, prepare_gauge(reference, seed=4))
        assert other.pooled.ratio == first.pooled.ratio
        assert other.pooled.null_mean != first.pooled.null_mean


class TestTraits:
    def test_every_metric_is_the_number_that_its_name_says(self, reference, gauge):
        measured = measure_character(random_adapter(reference), gauge, reference.traits.hidden + 0.1)
        profile, pooled = measured.traits, measured.pooled
        assert measured.metrics() == {
            "character/personality_energy_ratio": pooled.ratio,
            "character/chance": pooled.chance,
            "character/null_mean": pooled.null_mean,
            "character/null_low": pooled.null_low,
            "character/null_high": pooled.null_high,
            "character/null_z": pooled.z,
            "character/mean_personality_energy_ratio": measured.mean.ratio,
            "character/mean_null_z": measured.mean.z,
            "character/delta_norm": measured.delta_norm,
            **{f"character/trait/{name}": profile.coordinates[name] for name in reference.traits.names},
            **{f"character/trait_null/{name}": profile.null_reach[name] for name in reference.traits.names},
            "character/trait_explained": profile.explained,
            "character/trait_condition": trait_solver(reference.traits.vectors).condition,
            "character/activation_energy_ratio": profile.activation.ratio,
            "character/activation_null_z": profile.activation.z,
        }

    def test_trait_rows_carry_every_trait_with_its_null(self, reference, gauge):
        measured = measure_character(random_adapter(reference), gauge, reference.traits.hidden + 0.1)
        profile = measured.traits
        assert measured.trait_rows() == [
            {"trait": name, "value": profile.coordinates[name], "null_reach": profile.null_reach[name]}
            for name in reference.traits.names
        ]
        assert measure_character(random_adapter(reference), gauge).trait_rows() == []


class TestBadAdapters:
    def test_missing_and_unknown_targets(self, reference, gauge):
        factors = random_adapter(reference)
        one = factors.pop("layers.0.q_proj")
        with pytest.raises(AdapterError, match="1 missing"):
            measure_character(factors, gauge)
        with pytest.raises(AdapterError, match=r"vision\.q_proj"):
            measure_character(factors | {"layers.0.q_proj": one, "vision.q_proj": one}, gauge)

    def test_another_width(self, reference, gauge):
        factors = random_adapter(reference) | {
            "layers.0.q_proj": LoraFactors(normal(4, 50), normal(48, 4), 1.0)
        }
        with pytest.raises(AdapterError, match="another width"):
            measure_character(factors, gauge)

    @pytest.mark.parametrize("factor", ["A", "B"])
    def test_not_finite(self, reference, gauge, factor):
        factors = random_adapter(reference)
        getattr(factors["layers.0.q_proj"], factor)[0, 0] = math.nan
        with pytest.raises(AdapterError, match="not finite"):
            measure_character(factors, gauge)


def test_delta_of_two_steps_is_what_dense_says(reference):
    """The reference stays read-only: measuring twice, before and after, leaves factors untouched."""
    factors = random_adapter(reference)
    before = {name: dense_delta(one) for name, one in factors.items()}
    measure_character(factors, prepare_gauge(reference))
    assert all(torch.equal(before[name], dense_delta(one)) for name, one in factors.items())
