"""Theorems of the character delta; each claim has a twin that shows its check can fail."""

import dataclasses
import math

import pytest
import torch

from skippy.core.character import measure_character
from skippy.core.deltas import draw_coordinates, null_energies, pool_energies, residual_rows, side_of
from skippy.core.lora import (
    LoraFactors,
    delta_energy,
    dense_delta,
    left_energy,
    right_energy,
    right_singular_values,
)
from skippy.core.personas import (
    held_out_energy,
    persona_subspace,
    trait_coordinates,
    trait_solver,
    trait_vectors,
)
from skippy.core.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
    middle_layers,
    prepare_gauge,
)
from skippy.core.traits import measure_traits
from skippy.errors import AdapterError, SubspaceError, TargetError

WIDTH, RANK, PERSONAS, SAMPLES, DEPTH = 48, 4, 8, 96, 4
KINDS = {
    "q_proj": (48, 48),
    "k_proj": (16, 48),
    "o_proj": (48, 48),
    "up_proj": (80, 48),
    "down_proj": (48, 80),
}
SHARED = {"q_proj": "self_attn.input", "k_proj": "self_attn.input", "up_proj": "mlp.input"}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_hook(seed, spread=1.0):
    """Activations with a decaying covariance; personas differ in five directions of their own."""
    scales = spread * torch.linspace(1.0, 0.2, WIDTH, dtype=torch.float64)
    sketch = normal(SAMPLES, WIDTH, seed=seed) * scales / math.sqrt(SAMPLES)
    centroids = normal(PERSONAS, 5, seed=seed + 1) @ normal(5, WIDTH, seed=seed + 2)
    return HookReference(persona_subspace(centroids), sketch.float(), 1.0, 1000)


def make_reference(depth=DEPTH):
    targets, hooks = [], {}
    for layer in range(depth):
        for position, kind in enumerate(KINDS):
            hook = f"layers.{layer}.{SHARED.get(kind, kind + '.output')}"
            targets.append(MeasuredTarget(f"layers.{layer}.{kind}", layer, kind, side_of(kind), hook))
            hooks.setdefault(hook, make_hook(1000 * layer + 10 * position))
    streams = tuple(f"layers.{layer}.output" for layer in middle_layers(depth))
    hooks |= {name: make_hook(90_000 + position) for position, name in enumerate(streams)}
    traits = TraitReference(
        names=("arrogant", "warm", "brief"),
        hooks=streams,
        vectors=normal(len(streams), 3, WIDTH, seed=5).float(),
        probes=tuple((f"prompt {i}", f"answer {i}") for i in range(6)),
        hidden=normal(6, len(streams), WIDTH, seed=6).float(),
        tokens=torch.tensor([3.0, 5.0, 8.0, 4.0, 4.0, 2.0]),
    )
    return CharacterReference("b" * 64, "c" * 64, depth, tuple(targets), hooks, traits)


def random_adapter(reference, seed=0, scale=2.0):
    """B is not zero, so that there is an update to measure."""
    made = {}
    for position, target in enumerate(reference.targets):
        out, in_ = KINDS[target.kind]
        A = normal(RANK, in_, seed=500_000 + seed + 2 * position).float()
        B = normal(out, RANK, seed=500_001 + seed + 2 * position).float()
        made[target.name] = LoraFactors(A, B, scale)
    return made


def confined(reference, factors, inside):
    """Move every update wholly inside (or outside) P on its residual side."""
    made = {}
    for target in reference.targets:
        one = factors[target.name]
        P = reference.hooks[target.hook].subspace.P.double()
        projector = P.T @ P if inside else torch.eye(WIDTH, dtype=torch.float64) - P.T @ P
        if target.side == "writes":
            made[target.name] = dataclasses.replace(one, B=projector @ one.B.double())
        else:
            made[target.name] = dataclasses.replace(one, A=one.A.double() @ projector)
    return made


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def gauge(reference):
    return prepare_gauge(reference)


class TestPersonaSubspace:
    def test_rank_is_at_most_one_less_than_the_personas(self):
        subspace = persona_subspace(normal(PERSONAS, WIDTH), explained=1.0)
        assert subspace.K == PERSONAS - 1
        assert len(subspace.spectrum) == PERSONAS - 1

    def test_twin_uncentred_vectors_have_full_rank(self):
        assert int(torch.linalg.matrix_rank(normal(PERSONAS, WIDTH))) == PERSONAS

    def test_fewest_directions_that_explain_the_share(self):
        lengths = torch.tensor([10.0, 3.0, 1.0, 0.1], dtype=torch.float64)
        axes = torch.linalg.qr(normal(WIDTH, 4)).Q.T
        centroids = torch.cat([lengths[:, None] * axes, -lengths[:, None] * axes]) + 50.0
        shares = lengths**2 / (lengths**2).sum()
        for K in range(1, 5):
            subspace = persona_subspace(centroids, explained=float(shares[:K].sum()) - 1e-9)
            assert subspace.K == K
        torch.testing.assert_close(subspace.spectrum, shares)
        torch.testing.assert_close(subspace.P @ subspace.P.T, torch.eye(4), atol=1e-6, rtol=0)
        assert float((axes.float() @ subspace.P.T).square().sum()) == pytest.approx(4.0, abs=1e-5)

    def test_a_common_offset_changes_nothing(self):
        centroids = normal(PERSONAS, WIDTH)
        torch.testing.assert_close(persona_subspace(centroids).P, persona_subspace(centroids + 7.0).P)

    @pytest.mark.parametrize(
        ("centroids", "what"),
        [
            (torch.ones(5, 8), "coincide"),
            (normal(1, 8).repeat(3, 1), "coincide"),  # but for the rounding of their mean
            (normal(1, 8), "unusable"),
            (torch.full((3, 8), math.nan), "unusable"),
        ],
    )
    def test_without_difference_there_is_no_subspace(self, centroids, what):
        with pytest.raises(SubspaceError, match=what):
            persona_subspace(centroids)

    @pytest.mark.parametrize("share", [0.0, -0.5, 1.01, math.nan])
    def test_a_share_that_is_none_is_refused(self, share):
        with pytest.raises(SubspaceError, match="no share"):
            persona_subspace(normal(PERSONAS, WIDTH), explained=share)

    def test_the_largest_component_of_every_direction_is_positive(self):
        P = persona_subspace(normal(PERSONAS, WIDTH)).P
        assert bool((P.gather(1, P.abs().argmax(dim=1, keepdim=True)) > 0).all())

    def test_held_out_energy_tells_personas_from_prompt_noise(self):
        personas = normal(PERSONAS, 256, seed=1)
        noise = [normal(PERSONAS, 256, seed=seed) for seed in (2, 3)]
        real = persona_subspace(personas + 0.05 * noise[0])
        assert held_out_energy(real, personas + 0.05 * noise[1]) > 0.95
        vacuous = persona_subspace(noise[0])
        assert vacuous.spectrum.sum() == pytest.approx(1.0)
        assert held_out_energy(vacuous, noise[1]) < 0.1


class TestSides:
    def test_by_module_name(self):
        assert [side_of(kind) for kind in ("o_proj", "down_proj")] == ["writes"] * 2
        assert {side_of(k) for k in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")} == {"reads"}
        with pytest.raises(TargetError, match="lm_head"):
            side_of("lm_head")

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
    def test_rows_carry_all_of_the_update(self):
        factors = LoraFactors(normal(RANK, 48), normal(80, RANK, seed=1), 0.5)
        dense = factors.scale * factors.B @ factors.A
        reads = residual_rows(factors.A, factors.B, factors.scale, "reads")
        writes = residual_rows(factors.A, factors.B, factors.scale, "writes")
        torch.testing.assert_close(reads.T @ reads, dense.T @ dense)
        torch.testing.assert_close(writes.T @ writes, dense @ dense.T)

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

    def test_too_few_activations_are_refused(self):
        with pytest.raises(SubspaceError, match="at least 4"):
            draw_coordinates(normal(2, WIDTH).repeat(8, 1), normal(200, 4, 16))

    def test_same_seed_same_figures_and_another_seed_another_null(self, reference):
        factors = random_adapter(reference)
        first, second = (measure_character(factors, prepare_gauge(reference, seed=3)) for _ in range(2))
        assert first == second
        other = measure_character(factors, prepare_gauge(reference, seed=4))
        assert other.pooled.ratio == first.pooled.ratio
        assert other.pooled.null_mean != first.pooled.null_mean

    def test_pooling_of_nothing_is_nan(self):
        zero, one = torch.zeros(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        ratio = pool_energies(zero, zero, zero + 0.1, torch.zeros(2, 200), one)[0]
        assert all(math.isnan(value) for value in vars(ratio).values())


class TestTraits:
    def test_coordinates_recover_a_known_mixture(self):
        vectors = normal(3, 4, WIDTH).float()
        wanted = torch.tensor([0.5, -2.0, 0.0, 1.5], dtype=torch.float64)
        shift = torch.einsum("n,lnd->ld", wanted, vectors.double())
        solved = trait_coordinates(shift, trait_solver(vectors))
        torch.testing.assert_close(solved.values, wanted, atol=1e-9, rtol=0)
        assert solved.explained == pytest.approx(1.0)

    def test_twin_single_projections_do_not_when_traits_overlap(self):
        common = normal(1, WIDTH)
        vectors = torch.stack([common + 0.3 * normal(1, WIDTH, seed=s) for s in (1, 2)], dim=1)
        shift = vectors[:, 0]
        solved = trait_coordinates(shift, trait_solver(vectors))
        torch.testing.assert_close(
            solved.values, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-8, rtol=0
        )
        single = (vectors[:, 1] * shift).sum() / vectors[:, 1].square().sum()
        assert float(single) > 0.7
        assert solved.condition > 2

    def test_a_shift_off_the_traits_is_not_explained(self):
        vectors = normal(1, 2, WIDTH)
        Q = torch.linalg.qr(vectors[0].T).Q
        shift = normal(1, WIDTH, seed=8)
        solved = trait_coordinates(shift - shift @ Q @ Q.T, trait_solver(vectors))
        assert solved.explained < 1e-12
        assert float(solved.values.abs().max()) < 1e-9
        off = shift - shift @ Q @ Q.T
        half = off / off.norm() + vectors[:, 0] / vectors[:, 0].norm()
        assert trait_coordinates(half, trait_solver(vectors)).explained == pytest.approx(1 / 2)
        assert trait_coordinates(0 * shift, trait_solver(vectors)).explained == 0

    def test_a_layer_counts_alike_however_long_its_activations(self):
        vectors, shift, growth = (
            normal(3, 4, WIDTH),
            normal(3, WIDTH, seed=1),
            torch.tensor([1.0, 10.0, 100.0]),
        )
        one = trait_coordinates(shift, trait_solver(vectors))
        grown = trait_coordinates(growth[:, None] * shift, trait_solver(growth[:, None, None] * vectors))
        torch.testing.assert_close(grown.values, one.values)
        assert grown.explained == pytest.approx(one.explained)

    def test_the_condition_is_of_directions_and_not_of_lengths(self):
        axes = torch.eye(WIDTH, dtype=torch.float64)[None, :3]
        lengths = torch.tensor([1.0, 10.0, 100.0])[:, None]
        assert trait_solver(lengths * axes).condition == pytest.approx(1)
        oblique = torch.stack([axes[0, 0], axes[0, 0] + axes[0, 1]])[None]
        share = math.sqrt(1 / 2)
        assert trait_solver(oblique).condition == pytest.approx(math.sqrt((1 + share) / (1 - share)))

    @pytest.mark.parametrize(
        ("place", "where"), [((slice(None), 1), "trait 1 of 3"), (1, "of 3")], ids=["trait", "layer"]
    )
    def test_a_trait_without_contrast_is_refused(self, place, where):
        vectors = normal(2, 3, WIDTH)
        vectors[place] = 0.0
        with pytest.raises(SubspaceError, match=where):
            trait_solver(vectors)

    def test_vectors_are_differences_of_means(self):
        showing, lacking = normal(2, 3, WIDTH), normal(2, 3, WIDTH, seed=1)
        torch.testing.assert_close(trait_vectors(showing, lacking), (showing - lacking).float())

    def test_profile_of_a_shift_along_one_trait(self, reference, gauge):
        traits = reference.traits
        profile = measure_traits(traits.hidden + 0.5 * traits.vectors[:, 1], gauge)
        assert profile.coordinates == pytest.approx({"arrogant": 0.0, "warm": 0.5, "brief": 0.0}, abs=1e-5)
        assert profile.explained == pytest.approx(1.0, abs=1e-5)

    def test_a_probe_weighs_as_much_as_its_tokens(self, reference, gauge):
        """One probe moves inside P, the others outside, all as far, at every layer."""
        traits = reference.traits
        moved = normal(*traits.hidden.shape, seed=11)
        for layer, name in enumerate(traits.hooks):
            inside = moved[:, layer] @ gauge.hooks[name].P.T @ gauge.hooks[name].P
            moved[:, layer] -= inside
            moved[2, layer] = inside[2]
        moved /= moved.norm(dim=2, keepdim=True)
        profile = measure_traits(traits.hidden.double() + moved, gauge)
        share = (traits.tokens / traits.tokens.sum()).double()
        assert profile.activation.ratio == pytest.approx(float(share[2]))
        random = [gauge.hooks[name].draws @ gauge.hooks[name].sketch for name in traits.hooks]
        seen = torch.stack([(Q.double() @ moved[:, i].T).square().sum(1) for i, Q in enumerate(random)])
        assert profile.activation.null_mean == pytest.approx(
            float((seen.mean((0, 1)) * share).sum()), rel=1e-5
        )
        alone = torch.zeros_like(traits.hidden)
        alone[2] = traits.vectors[:, 1]
        shifted = measure_traits(traits.hidden + alone, gauge).coordinates
        assert shifted["warm"] == pytest.approx(float(share[2]), rel=1e-4)

    def test_the_null_reaches_as_far_as_random_shifts_of_that_length(self, reference, gauge):
        """By hand: Gaussian mixtures of the activations, the same at every layer, brought to one length a layer."""
        traits, solver = reference.traits, trait_solver(reference.traits.vectors)
        shift = normal(len(traits.hooks), WIDTH, seed=12)
        reach = measure_traits((traits.hidden + shift).float(), gauge).null_reach
        mixtures = normal(4000, SAMPLES, seed=13)
        drawn = [mixtures @ reference.hooks[name].sketch.double() for name in traits.hooks]
        scaled = [d * shift[i].norm() / d.norm(dim=1, keepdim=True) for i, d in enumerate(drawn)]
        obvious = torch.einsum("lnd,jld->jn", solver.inverse, torch.stack(scaled, dim=1)).abs()
        assert list(reach) == list(traits.names)
        for name, column in zip(traits.names, obvious.T, strict=True):
            assert reach[name] == pytest.approx(float(column.quantile(0.95)), rel=0.2)

    def test_a_trait_stands_out_of_its_null_and_a_random_shift_does_not(self, reference, gauge):
        traits = reference.traits
        along = measure_traits(traits.hidden + 0.5 * traits.vectors[:, 1], gauge)
        assert abs(along.coordinates["warm"]) > 2 * along.null_reach["warm"]
        assert abs(along.coordinates["brief"]) < along.null_reach["brief"]
        inside = 0
        for seed in range(20):
            mixture = normal(SAMPLES, seed=700 + seed)
            shift = torch.stack([mixture @ reference.hooks[name].sketch.double() for name in traits.hooks])
            drawn = measure_traits((traits.hidden + shift).float(), gauge)
            inside += sum(abs(c) <= drawn.null_reach[name] for name, c in drawn.coordinates.items())
        assert 50 <= inside <= 60  # of 60, 57 expected

    def test_twice_the_shift_has_twice_the_null(self, reference, gauge):
        traits = reference.traits
        once, twice = (measure_traits(traits.hidden + n * traits.vectors[:, 1], gauge) for n in (1, 2))
        for name in traits.names:
            assert twice.null_reach[name] == pytest.approx(2 * once.null_reach[name], rel=1e-4)

    def test_activation_energy_ratio_inside_and_outside(self, reference, gauge):
        traits = reference.traits
        shift = normal(*traits.hidden.shape, seed=11)
        P = torch.stack([gauge.hooks[name].P[:3] for name in traits.hooks])
        inside = torch.einsum("tld,lkd,lke->tle", shift, P, P)
        full = [gauge.hooks[name].P for name in traits.hooks]
        left = torch.stack([shift[:, i] - shift[:, i] @ p.T @ p for i, p in enumerate(full)], dim=1)
        for moved, expected in ((inside, 1.0), (left, 0.0)):
            profile = measure_traits(traits.hidden + moved.float(), gauge)
            assert profile.activation.ratio == pytest.approx(expected, abs=1e-5)
            assert math.isfinite(profile.activation.z)

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

    def test_activations_of_other_probes_are_refused(self, reference, gauge):
        with pytest.raises(AdapterError, match="probes"):
            measure_traits(reference.traits.hidden[:3], gauge)


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
