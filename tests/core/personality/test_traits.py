"""A trait profile weighs probes by their tokens and stands beside the null of random shifts."""

import math

import pytest
import torch

from skippy.core.personality.subspaces import trait_solver
from skippy.core.personality.traits import measure_traits
from skippy.errors import AdapterError
from tests.core.personality.small_reference import SAMPLES, WIDTH, normal


class TestTraits:
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

    def test_activations_of_other_probes_are_refused(self, reference, gauge):
        with pytest.raises(AdapterError, match="probes"):
            measure_traits(reference.traits.hidden[:3], gauge)
