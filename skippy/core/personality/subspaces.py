"""Where personas and traits live in activation space.

A persona is the mean activation over its answer tokens (a *centroid*). The directions in which the centroids
of several personas differ span the personality subspace; the difference between answers that show a trait
and answers that lack it is the trait's vector.

Source: MATH §5. Trait vectors by contrast of means: Chen et al. 2025, arXiv 2507.21509, §2. Departure: the
coordinates of a shift are solved for jointly by least squares, not by one projection a trait, because trait
vectors of one character are far from orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.errors import SubspaceError


@dataclass(frozen=True)
class PersonaSubspace:
    """Principal directions of persona centroids at one hook."""

    # (K, d) orthonormal rows, float32, leading direction first; sign fixed by the largest component
    P: Float[Tensor, "K d"]
    # share of the centroids' variance along every principal direction, C − 1 of them at most, descending. Report it:
    # eight centroids have rank ≤ 7, so a small K alone says nothing.
    spectrum: Float[Tensor, " directions"]
    explained: float  # the share asked for

    @property
    def K(self) -> int:
        """Number of directions."""
        return int(self.P.shape[0])

    @property
    def chance(self) -> float:
        """K/d: the share of an isotropic vector's energy that P captures."""
        return self.P.shape[0] / self.P.shape[1]


@dataclass(frozen=True)
class TraitSolver:
    """The linear map from a shift to its least-squares coordinates, for one set of trait vectors."""

    inverse: Float[Tensor, "L N d"]  # (L, N, d) with c = Σ_l inverse_l shift_l
    vectors: Float[Tensor, "L N d"]  # (L, N, d) the trait vectors
    weights: Float[Tensor, " L"]  # (L,) w of `trait_solver`
    condition: float  # condition number of the unit trait vectors


@dataclass(frozen=True)
class TraitCoordinates:
    """Least-squares coordinates of a shift in the (non-orthogonal) basis of trait vectors."""

    values: Float[Tensor, " N"]  # c, one a trait; 1.0 is as far as the trait's own contrast reaches
    explained: float  # share of the shift's energy that the traits together account for
    # condition number of the unit trait vectors; large means that single coordinates trade off against each other and
    # only their sum is to be read
    condition: float


def persona_subspace(centroids: Float[Tensor, "C d"], explained: float = 0.99) -> PersonaSubspace:
    """Principal directions of the centred centroids: the fewest that hold `explained` of their variance.

    K ≤ C − 1, because centring removes one dimension; directions without variance are never counted.

    Args:
        centroids: one mean activation a persona, any float dtype.
        explained: share of the variance to hold, in (0, 1].

    Raises:
        SubspaceError: fewer than two personas, not finite, or all centroids coincide.

    Source: MATH §5.
    """
    if not 0.0 < explained <= 1.0:
        raise SubspaceError(
            "The share of variance to explain is no share.", expected="in (0, 1]", found=f"{explained}"
        )
    centred = _centred(centroids)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    energies = singular[: len(centroids) - 1].square()
    rounding = torch.finfo(torch.float64).eps * len(centroids) * float(centroids.double().square().sum())
    energies = energies[energies > rounding]
    if not len(energies):
        raise SubspaceError(
            "The persona centroids coincide: there is no direction in which personas differ.",
            expected="at least two different centroids",
            found=f"{len(centroids)} equal ones of width {centroids.shape[1]}",
            next_step="check that each persona's system prompt reaches the model",
        )
    spectrum = energies / energies.sum()
    reached = spectrum.cumsum(0) >= explained - 1e-12
    K = int(reached.int().argmax()) + 1 if bool(reached.any()) else len(spectrum)
    P = directions[:K]
    largest = P.abs().argmax(dim=1, keepdim=True)
    P = P * torch.sign(P.gather(1, largest))
    return PersonaSubspace(P.float().contiguous(), spectrum, explained)


def held_out_energy(subspace: PersonaSubspace, centroids: Float[Tensor, "C d"]) -> float:
    """Share of the energy of centred centroids, taken on prompts that P never saw, that P captures.

    ‖X Pᵀ‖² / ‖X‖² with X the centred held-out centroids. A subspace of prompt noise falls to its chance K/d
    here; one of personas stays near `explained`.
    """
    centred = _centred(centroids)
    P = subspace.P.to(centred)
    return float((centred @ P.T).square().sum() / centred.square().sum())


def trait_vectors(
    showing: Float[Tensor, "*n N d"], lacking: Float[Tensor, "*n N d"]
) -> Float[Tensor, "*n N d"]:
    """Contrast of means: mean activation of answers that show each trait, less that of those without it."""
    return (showing.double() - lacking.double()).float()


def trait_solver(vectors: Float[Tensor, "L N d"]) -> TraitSolver:
    """Solve once for the c that minimises Σ_l ‖shift_l − Σ_n c_n v_{l,n}‖² / w_l: one c for all layers.

    w_l is the mean energy of layer l's trait vectors. Without it the last layers would decide alone, since a
    residual stream grows with depth.

    Args:
        vectors: the trait vectors at each layer.

    Raises:
        SubspaceError: a trait has no contrast at any layer.

    Source: MATH §5, c(t). Departure: several layers share one c.
    """
    basis = vectors.double()
    weights = basis.square().sum(-1).mean(-1)
    lengths = basis.square().sum((0, 2)).sqrt()
    if not bool((weights > 0).all()) or not bool((lengths > 0).all()):
        raise SubspaceError(
            "A trait vector is zero: its contrast does not show in the activations.",
            where=f"trait {int(lengths.argmin())} of {vectors.shape[1]}",
            expected="a positive length at every layer",
            next_step="make the trait's contrastive prompts differ more",
        )
    scale = weights.sqrt()[:, None, None]
    columns = (basis / scale).transpose(0, 1).flatten(1).T
    lengths = columns.norm(dim=0)
    inverse = torch.linalg.pinv(columns / lengths, rtol=1e-8) / lengths[:, None]
    singular = torch.linalg.svdvals(columns / lengths)
    return TraitSolver(
        inverse=inverse.unflatten(1, (basis.shape[0], basis.shape[2])).transpose(0, 1) / scale,
        vectors=basis,
        weights=weights,
        condition=float(singular[0] / singular[-1]),
    )


def trait_coordinates(shift: Float[Tensor, "L d"], solver: TraitSolver) -> TraitCoordinates:
    """Where a shift h̄_t − h̄_base, taken on the same tokens, lies among the traits."""
    target = shift.double()
    values = torch.einsum("lnd,ld->n", solver.inverse, target)
    fitted = torch.einsum("lnd,n->ld", solver.vectors, values)
    energy, explained = (float((part.square().sum(1) / solver.weights).sum()) for part in (target, fitted))
    return TraitCoordinates(values, explained / energy if energy > 0 else 0.0, solver.condition)


def _centred(centroids: Float[Tensor, "C d"]) -> Float[Tensor, "C d"]:
    if len(centroids) < 2 or not bool(torch.isfinite(centroids).all()):
        raise SubspaceError(
            "Persona centroids are unusable.",
            expected="two or more finite vectors",
            found=f"{tuple(centroids.shape)}, finite: {bool(torch.isfinite(centroids).all())}",
        )
    wide = centroids.double()
    return wide - wide.mean(dim=0, keepdim=True)
