"""Certified subspaces: every claim is recomputed here by numpy in float64, and damaged claims must fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from skippy.core.spectral import certificate, claims, krylov
from skippy.core.spectral import subspaces as subspace
from skippy.core.spectral.certificate import MAX_GAP, Certificate, certify_stack
from skippy.core.spectral.operators import ThinSide
from skippy.core.spectral.subspaces import (
    SingularSubspace,
    rank_for_energy,
    seed_of,
    top_singular_subspace,
    top_singular_subspaces,
)
from skippy.errors import SubspaceError

OUT, IN, K = 340, 300, 8


def with_spectrum(values: Tensor, out: int = OUT, in_: int = IN, seed: int = 0) -> Tensor:
    """A float64 weight with these singular values and random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    r = len(values)
    left = torch.linalg.qr(torch.randn(out, r, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(in_, r, generator=generator, dtype=torch.float64)).Q
    return (left * values.double()) @ right.T


def gaussian(out: int = OUT, in_: int = IN, seed: int = 0) -> Tensor:
    return torch.randn(out, in_, generator=torch.Generator().manual_seed(seed))


def with_one_huge_entry(size: float) -> Tensor:
    weight = gaussian()
    weight[3, 7] = size
    return weight


def bulk(*head: float) -> Tensor:
    return torch.cat(
        [torch.tensor(head, dtype=torch.float64), torch.linspace(0.5, 0.01, IN - len(head)).double()]
    )


RANDOM = torch.Generator().manual_seed(9)
HOSTILE = {
    "head-heavy": with_spectrum(bulk(9, 7, 5, 4, 3, 2.5, 2, 1.5, 1.2, 1)).float(),
    "flat": gaussian(),
    "power law": with_spectrum(torch.arange(1, IN + 1).double() ** -1.0).float(),
    "clustered at k": with_spectrum(
        bulk(5, 4, 3, *(1 + 1e-5 * torch.rand(20, generator=RANDOM)).sort(descending=True).values.tolist())
    ).float(),
    "cluster wider than the block": with_spectrum(
        (1 + 1e-4 * torch.rand(200, generator=RANDOM)).sort(descending=True).values
    ).float(),
    "repeated": with_spectrum(bulk(*[3.0] * 40)).float(),
    "all equal": torch.eye(IN),
    "diagonal": torch.diag(torch.linspace(1, 0, IN)),
    "rank below k": with_spectrum(torch.linspace(3, 1, 5)).float(),
    "rank below k, diagonal": torch.diag(torch.cat([torch.ones(5), torch.zeros(IN - 5)])),
    "rank k": with_spectrum(torch.linspace(3, 1, K)).float(),
    "rank one": torch.ones(OUT, IN),
    "zero": torch.zeros(OUT, IN),
    "one huge entry": with_one_huge_entry(1e6),
    "one absurd entry": with_one_huge_entry(1e10),
    "graded over 12 orders": with_spectrum(10.0 ** torch.linspace(0, -12, IN).double()),
    "graded within k": with_spectrum(10.0 ** torch.linspace(0, -12, 2 * K).double()),
    "one row": gaussian(1, 500),
    "one column": gaussian(500, 1),
    "one entry": torch.tensor([[-2.0]]),
    "k is the shorter side": gaussian(K, 400),
    "wide": gaussian(IN, OUT),
    "bfloat16": with_spectrum(bulk(9, 7, 5, 4, 3, 2.5, 2, 1.5)).bfloat16(),
    "float16": gaussian().half(),
    "float64": gaussian().double(),
    "tiny": gaussian() * 1e-30,
    "large": gaussian() * 1e30,
    "beyond what float32 squares twice": gaussian() * 1e7,
    "not contiguous": gaussian(IN, OUT).T,
}


# Where float32 products say nothing about σ_k.
STEEP = {
    *("rank below k", "rank below k, diagonal", "rank one", "graded within k"),
    *("one huge entry", "one absurd entry"),
}


@dataclass
class Independent:
    """The certificate once more, by numpy in float64, sharing no code with the package."""

    true: np.ndarray
    residual: float
    orthonormality: float
    deflated: float
    subtracted: float

    @classmethod
    def of(cls, weight: Tensor, found: SingularSubspace) -> Independent:
        W, U, S, V = (x.double().numpy() for x in (weight, found.U, found.S, found.V))
        true = np.linalg.svd(W, compute_uv=False)
        one = np.linalg.norm(W @ V - U * S, axis=0).max()
        other = np.linalg.norm(W.T @ U - V * S, axis=0).max()
        eye = np.eye(U.shape[1])
        left, right = np.linalg.qr(U)[0], np.linalg.qr(V)[0]
        rest = W - left @ (left.T @ W)
        rest = rest - (rest @ right) @ right.T
        return cls(
            true,
            max(one, other) / max(true[0], 1e-300),
            max(np.abs(U.T @ U - eye).max(), np.abs(V.T @ V - eye).max()),
            np.linalg.norm(rest, 2),
            np.linalg.norm(W - (U * S) @ V.T, 2),
        )


def assert_certified(weight: Tensor, found: SingularSubspace, k: int) -> None:
    check = Independent.of(weight, found)
    largest, last = check.true[0], float(found.S[-1])
    assert check.residual <= 1e-5
    assert check.orthonormality <= 1e-6
    assert check.deflated <= last * (1 + 1e-3) + 1e-10 * largest
    assert check.subtracted <= last * (1 + 1e-3) + 1e-6 * largest
    np.testing.assert_allclose(found.S.numpy(), check.true[:k], rtol=1e-5, atol=2e-6 * largest)
    assert found.residual == pytest.approx(check.residual, rel=1e-3, abs=1e-9)
    assert found.orthonormality == pytest.approx(check.orthonormality, abs=1e-9)
    following = check.true[k] if k < len(check.true) else 0.0
    assert found.sigma_next == pytest.approx(following, rel=2e-3, abs=1e-9 * largest)
    assert found.completeness == pytest.approx(check.deflated, rel=1e-2, abs=1e-9 * largest)
    assert 0.0 < found.gap <= MAX_GAP
    distance = last - found.sigma_next
    bound = found.residual * float(found.S[0]) / distance if distance > 0 else 1.0
    assert found.wedin_bound == pytest.approx(min(1.0, bound), rel=1e-6)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_spectra_are_certified_by_the_first_method_that_can(name, monkeypatch):
    monkeypatch.setattr(krylov, "GRAM_ROWS", 64)
    weight = HOSTILE[name]
    k = min(K, *weight.shape)
    before = weight.clone()
    found = top_singular_subspace(weight, k, seed=seed_of(name), name=name)
    assert_certified(weight, found, k)
    is_short = min(weight.shape) < IN
    assert found.method == ("full" if is_short else "krylov-deep" if name in STEEP else "krylov")
    assert torch.equal(weight, before)
    assert found.U.shape == (weight.shape[0], k)
    assert found.V.shape == (weight.shape[1], k)
    assert {found.U.dtype, found.S.dtype, found.V.dtype} == {torch.float32}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_small_weight_agrees_with_numpy(out, in_, data):
    k = data.draw(st.integers(1, min(out, in_)))
    weight = gaussian(out, in_, data.draw(st.integers(0, 999)))
    assert_certified(weight, top_singular_subspace(weight, k), k)


@settings(max_examples=8, deadline=None)
@given(
    st.integers(265, 330),
    st.integers(265, 330),
    st.integers(1, 16),
    st.floats(0.0, 3.0),
    st.integers(0, 999),
)
def test_any_power_law_agrees_with_numpy(out, in_, k, exponent, seed):
    values = torch.arange(1, min(out, in_) + 1).double() ** -exponent
    weight = with_spectrum(values, out, in_, seed).bfloat16()
    assert_certified(weight, top_singular_subspace(weight, k, seed=seed), k)


def test_the_angle_to_the_true_subspace_is_within_the_wedin_bound():
    weight = HOSTILE["head-heavy"]
    found = top_singular_subspace(weight, K)
    U, _, Vh = np.linalg.svd(weight.double().numpy())
    for claimed, true in ((found.U, U[:, :K]), (found.V, Vh[:K].T)):
        basis = np.linalg.qr(claimed.double().numpy())[0]
        sine = np.linalg.norm(basis - true @ (true.T @ basis), 2)
        assert sine <= found.wedin_bound + 1e-7
    assert found.wedin_bound < 1e-4


def test_the_gap_says_where_k_is_arbitrary():
    gaps = {
        name: top_singular_subspace(HOSTILE[name], K).gap for name in ("head-heavy", "repeated", "rank k")
    }
    assert gaps["head-heavy"] == pytest.approx(1.5 / 1.2, rel=1e-3)
    assert gaps["repeated"] == pytest.approx(1.0, abs=1e-5)
    assert gaps["rank k"] == MAX_GAP
    assert top_singular_subspace(HOSTILE["zero"], K).gap == 1.0
    assert top_singular_subspace(HOSTILE["rank below k, diagonal"], K).gap == 1.0


# Claims that a certificate must refuse. Each differs from the truth in one respect only.


def true_triples(weight: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return U[:, :k], S[:k], Vh[:k].T


def certify(weight: Tensor, U: Tensor, S: Tensor, V: Tensor, *, sigma_next_seen: float = 0.0) -> Certificate:
    """The certificate of one weight."""
    one = (weight[None], U[None], S[None], V[None])
    return certify_stack(*one, seeds=[0], sigma_next_seen=[sigma_next_seen])[0]


def failures_of(weight: Tensor, U: Tensor, S: Tensor, V: Tensor) -> str:
    return ", ".join(certify(weight, U.float(), S.float(), V.float()).failures(1e-5))


@pytest.mark.parametrize("name", ["head-heavy", "flat", "bfloat16"])
def test_the_truth_passes(name):
    assert failures_of(HOSTILE[name], *true_triples(HOSTILE[name], K)) == ""


@pytest.mark.parametrize("missing", [0, 3, K - 1])
def test_a_missing_triple_is_incomplete(missing):
    weight = HOSTILE["head-heavy"]
    kept = [index for index in range(K + 1) if index != missing]
    U, S, V = true_triples(weight, K + 1)
    assert failures_of(weight, U[:, kept], S[kept], V[:, kept]).startswith("completeness")


def test_a_missing_triple_of_a_flat_weight_is_incomplete():
    U, S, V = true_triples(HOSTILE["flat"], K + 1)
    assert failures_of(HOSTILE["flat"], U[:, 1:], S[1:], V[:, 1:]).startswith("completeness")


def off_by_a_thousandth(basis: Tensor) -> Tensor:
    return torch.linalg.qr(basis + 1e-3 * torch.randn(basis.shape, generator=RANDOM).double()).Q


def test_one_side_alone_proves_nothing():
    """Rayleigh–Ritz on a wrong V makes W v − σu vanish by construction; only the other side sees it."""
    weight = HOSTILE["head-heavy"].double()
    V = off_by_a_thousandth(true_triples(weight, K)[2])
    U, S, inner = torch.linalg.svd(weight @ V, full_matrices=False)
    V = V @ inner.T
    one_side = (weight @ V - U * S).norm(dim=0).max() / S[0]
    assert float(one_side) < 1e-12
    assert failures_of(weight, U, S, V).startswith("residual")


def test_nor_does_the_other_side():
    weight = HOSTILE["head-heavy"].double()
    U = off_by_a_thousandth(true_triples(weight, K)[0])
    inner, S, Vh = torch.linalg.svd(U.T @ weight, full_matrices=False)
    U, V = U @ inner, Vh.T
    other_side = (weight.T @ U - V * S).norm(dim=0).max() / S[0]
    assert float(other_side) < 1e-12
    assert failures_of(weight, U, S, V).startswith("residual")


@pytest.mark.parametrize(
    ("head", "is_complete"),
    [((1 + 3e-4, 1.0), True), ((1 + 3e-3, 1.0), False), ((1e-6, 1e-7), False)],
)
def test_a_triple_may_be_missed_by_a_thousandth_at_most(head, is_complete):
    """However small the last one is: what was missed is compared with σ_k, not with σ_1."""
    spectrum = torch.tensor([9, 7, 5, 4, 3, 2.5, 2, *head, 1e-8], dtype=torch.float64)
    weight = with_spectrum(spectrum)
    kept = [*range(K - 1), K]
    U, S, V = true_triples(weight, K + 1)
    found = failures_of(weight, U[:, kept], S[kept], V[:, kept])
    assert found == "" if is_complete else found.startswith("completeness")


def test_the_following_value_is_the_larger_of_what_both_iterations_saw():
    weight = HOSTILE["head-heavy"]
    triples = [part.float() for part in true_triples(weight, K)]
    for seen, expected in ((0.0, 1.2), (1.1, 1.2), (1.3, 1.3)):
        assert certify(weight, *triples, sigma_next_seen=seen).sigma_next == pytest.approx(expected, rel=1e-3)


def test_a_claim_knows_what_follows_unless_it_is_noise():
    def following(weight: Tensor) -> tuple[float, float]:
        base = ThinSide.copied(weight[None], torch.float32)
        iterated = claims.claim_by_krylov(base, K, tolerance=1e-5, seeds=[0], depth=8, restarts=6)
        return iterated.following(K)[0], claims.claim_by_full_svd(weight[None], K).following(K)[0]

    exact = float(torch.linalg.svdvals(HOSTILE["flat"].double())[K])
    assert following(HOSTILE["flat"]) == (pytest.approx(exact, rel=1e-3), pytest.approx(exact))
    assert following(HOSTILE["rank k"])[0] == 0.0


def test_the_certificate_starts_from_noise_of_its_own(monkeypatch):
    drawn = {claims: [], certificate: []}
    for module, seeds in drawn.items():
        blocks = module.RandomBlocks
        monkeypatch.setattr(
            module,
            "RandomBlocks",
            lambda given, *rest, seeds=seeds, blocks=blocks: seeds.extend(given) or blocks(given, *rest),
        )
    top_singular_subspace(HOSTILE["flat"], K, seed=5)
    assert drawn[claims] == [5]
    assert len(drawn[certificate]) == 1
    assert drawn[certificate] != [5]


def test_wrong_values_and_skewed_vectors_are_refused():
    weight = HOSTILE["head-heavy"]
    U, S, V = true_triples(weight, K)
    assert failures_of(weight, U, S * (1 + 1e-4), V).startswith("residual")
    assert "orthonormality" in failures_of(weight, U * (1 + 1e-5), S, V)
    assert "orthonormality" in failures_of(weight, U, S, V * (1 + 1e-5))
    assert "residual" in failures_of(weight, U, S, V * torch.nan)


def test_the_cheap_randomised_svd_is_refused():
    weight = gaussian(400, 300)
    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(weight, q=K + 16, niter=4)
    assert failures_of(weight, U[:, :K], S[:K], V[:, :K]).startswith("residual")


class Coarse(ThinSide):
    """Products with ten bits of mantissa, as TF32 has."""

    def multiply_both(self, block: Tensor) -> tuple[Tensor, Tensor]:
        image, back = super().multiply_both(block)
        return rounded(image), rounded(back)


def rounded(block: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(block)
    return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


def test_coarse_products_are_never_certified(monkeypatch):
    """With the precision of TF32 both iterations stall, and the ladder ends at the full SVD."""
    monkeypatch.setattr(subspace, "ThinSide", Coarse)
    monkeypatch.setattr("skippy.core.spectral.subspaces.DEEP_RESTARTS", 2)
    found = top_singular_subspace(HOSTILE["head-heavy"], K)
    assert found.method == "full"
    assert_certified(HOSTILE["head-heavy"], found, K)


def test_what_cannot_be_certified_raises():
    with pytest.raises(
        SubspaceError, match=r"layers\.3[\s\S]*residual ≤ 1e-12[\s\S]*full: residual"
    ) as caught:
        top_singular_subspace(gaussian(30, 20), 4, tolerance=1e-12, name="layers.3")
    assert isinstance(caught.value, ArithmeticError)
    stack = torch.stack([torch.zeros(30, 20), gaussian(30, 20)])
    with pytest.raises(SubspaceError, match="second"):
        top_singular_subspaces(stack, 4, tolerance=1e-12, seeds=[0, 1], names=["first", "second"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_entries_that_are_not_finite_name_the_tensor(bad):
    weight = gaussian(30, 20)
    weight[2, 3] = bad
    with pytest.raises(SubspaceError, match=r"layers\.3\.q_proj\.weight[\s\S]*1 of 600 entries"):
        top_singular_subspace(weight, 4, name="layers.3.q_proj.weight")
    with pytest.raises(SubspaceError, match="second"):
        top_singular_subspaces(
            torch.stack([gaussian(30, 20), weight]), 4, seeds=[0, 1], names=["first", "second"]
        )


@pytest.mark.parametrize("k", [0, -1, 21])
def test_a_k_that_does_not_fit_is_refused(k):
    with pytest.raises(SubspaceError, match=rf"q_proj[\s\S]*1 ≤ k ≤ 20[\s\S]*k = {k}"):
        top_singular_subspace(gaussian(30, 20), k, name="q_proj")


def test_a_stack_needs_its_seeds():
    with pytest.raises(SubspaceError, match="1 seeds"):
        top_singular_subspaces(torch.stack([gaussian(30, 20)] * 2), 4, seeds=[0])


def test_same_seed_same_bits():
    one, two = (top_singular_subspace(HOSTILE["flat"], K, seed=5) for _ in range(2))
    assert torch.equal(one.U, two.U)
    assert torch.equal(one.S, two.S)
    assert torch.equal(one.V, two.V)


def test_another_seed_finds_the_same_subspace_with_the_same_signs():
    one, two = (top_singular_subspace(HOSTILE["head-heavy"], K, seed=seed) for seed in (1, 2))
    assert not torch.equal(one.V, two.V)
    torch.testing.assert_close(one.V, two.V, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.U, two.U, rtol=0, atol=1e-4)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    top_singular_subspace(HOSTILE["flat"], K)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_trainer_set_does_not_reach_a_subspace():
    """Autocast would coarsen every product of a stack that is not shielded from it."""
    weights = torch.stack([HOSTILE["flat"], HOSTILE["head-heavy"]])
    expected = top_singular_subspaces(weights, K, seeds=[0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = top_singular_subspaces(weights, K, seeds=[0, 1])
        assert (weights @ weights.mT).dtype == torch.bfloat16
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.U, other.U)
        assert (one.method, one.completeness) == (other.method, other.completeness)


def test_a_stack_gives_what_its_members_give():
    names = ["head-heavy", "flat", "power law", "rank below k", "zero", "one huge entry", "clustered at k"]
    weights = torch.stack([HOSTILE[name].float() for name in names])
    seeds = [seed_of(name) for name in names]
    for name, weight, seed, found in zip(
        names, weights, seeds, top_singular_subspaces(weights, K, seeds=seeds, names=names), strict=True
    ):
        assert_certified(weight, found, K)
        alone = top_singular_subspace(weight, K, seed=seed)
        assert found.method == alone.method, name
        torch.testing.assert_close(found.S, alone.S, rtol=1e-5, atol=1e-6 * float(alone.S[0]))
        if found.gap > 1.01 and name != "clustered at k":
            torch.testing.assert_close(found.U @ found.U.T, alone.U @ alone.U.T, rtol=0, atol=1e-4)


def test_a_member_does_not_depend_on_its_companions():
    """So that ranks which share the targets out differently still agree bit for bit."""
    for name in ("head-heavy", "one huge entry", "rank below k", "rank k"):
        alike = [
            top_singular_subspaces(torch.stack([HOSTILE[name].float(), HOSTILE[other]]), K, seeds=[3, 4])[0]
            for other in ("flat", "zero", "rank k")
        ]
        for other in alike[1:]:
            assert torch.equal(alike[0].U, other.U), name
            assert torch.equal(alike[0].V, other.V), name
            assert alike[0].completeness == other.completeness, name


def test_a_wide_stack_gives_the_transposed_result():
    tall = HOSTILE["head-heavy"]
    found = top_singular_subspaces(torch.stack([tall.T, 2 * tall.T]), K, seeds=[0, 0])
    other = top_singular_subspace(tall, K)
    torch.testing.assert_close(found[0].U @ found[0].U.T, other.V @ other.V.T, rtol=0, atol=1e-4)
    torch.testing.assert_close(found[1].S, 2 * other.S, rtol=1e-5, atol=0)


def test_rank_for_energy_is_the_smallest_that_holds_the_share():
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert rank_for_energy(values, 30.0, 16 / 30) == 1
    assert rank_for_energy(values, 30.0, 16.1 / 30) == 2
    assert rank_for_energy(values, 30.0, 1.0) == 4
    assert rank_for_energy(values, 60.0, 0.9) == 4, "all that were computed, where even they hold less"


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(SubspaceError, match=r"in \(0, 1\]"):
        rank_for_energy(torch.ones(3), 3.0, share)


def test_energy_is_of_the_whole_weight():
    found = top_singular_subspace(HOSTILE["flat"], K)
    assert found.frobenius_squared == pytest.approx(float(HOSTILE["flat"].double().square().sum()))


def test_seeds_depend_on_the_name_alone():
    assert seed_of("model.language_model.layers.0.self_attn.q_proj") == 1449369554150888766
    assert seed_of("a") != seed_of("b")
    assert 0 <= seed_of("a") < 2**63
