"""The personas' subspace and the traits' coordinates; each claim has a twin that shows its check can fail."""

import math

import pytest
import torch

from skippy.core.personality.subspaces import (
    held_out_energy,
    persona_subspace,
    trait_coordinates,
    trait_solver,
    trait_vectors,
)
from skippy.errors import SubspaceError
from tests.core.personality.small_reference import PERSONAS, WIDTH, normal


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
