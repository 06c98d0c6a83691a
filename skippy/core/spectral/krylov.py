"""Leading singular triples by randomised block Krylov iteration with thick restart, for a stack of operators.

For M (p, q) with p ≥ q, the method builds an orthonormal basis Q of span{X, (MᵀM)X, (MᵀM)²X, …} from a random
block X on the thin side q, and takes the Ritz triples of M on it: the singular triples of M Q. When they have
not converged, the leading ones start the next basis and the iteration goes on where it stopped, so no product
with M is wasted.

Sources: Musco & Musco 2015 (arXiv 1504.05477) for block Krylov from a random start; Wu & Simon 2000 for thick
restart; Yamamoto et al. 2015 for CholeskyQR2. Departures: on float32 products the Rayleigh–Ritz
matrix is the Gram matrix of M Q in float64; a block that loses rank is completed with random directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Products in float32 know a weight to about 1e-7·σ_1: too little for a 1e-3 question about less than this.
FLOAT32_RANGE = 3e-3
# Singular values below this share of σ_1 are rounding error in float64.
VANISHED = 1e-12
# Below this many roundings of the block's largest direction a new one is noise and is drawn afresh.
LOST_ROUNDINGS = 4
# A lone weight within this factor of its goal gets a short sweep before the next look, and room for two of them
# without a restart. A sweep of two blocks gains 100 on a head-heavy spectrum and 4 on a flat one.
NEAR = 100.0
SHORT_SWEEP = 2
SPARE_BLOCKS = 2 * SHORT_SWEEP
# "Twice is enough" holds while the second projection leaves this much of a unit vector's length; a vector that
# keeps less than the other was rounding error to begin with.
ENOUGH_KEPT = 0.7
TOO_LITTLE_KEPT = 0.1
DRAWING_THREADS = 16
GRAM_ROWS = 2048


@runtime_checkable
class Operator(Protocol):
    """A stack of n linear maps of shape (p, q), known by their products with blocks of vectors."""

    def multiply_both(
        self, block: Float[Tensor, "n q b"]
    ) -> tuple[Float[Tensor, "n p b"], Float[Tensor, "n q b"]]:
        """M X and MᵀM X."""


@dataclass(frozen=True)
class RitzTriples:
    """Approximate leading singular triples of a stack of operators, descending."""

    # (n, p, m) orthonormal columns, m = wanted + 1 where the block has that many
    left: Float[Tensor, "n p m"]
    # (n, m) Ritz values; each is a lower bound of the singular value of its index
    values: Float[Tensor, "n m"]
    right: Float[Tensor, "n q m"]  # (n, q, m) orthonormal columns
    is_converged: Bool[Tensor, " n"]  # (n,) whether the triples asked for met the tolerance


@dataclass(frozen=True)
class RandomBlocks:
    """Gaussian blocks, one stream a member of the stack, drawn on the CPU: same seeds, same bits anywhere."""

    seeds: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    _generators: list[torch.Generator] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._generators.extend(torch.Generator().manual_seed(seed) for seed in self.seeds)

    def draw(
        self, rows: int, columns: int, is_wanted: Bool[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n rows columns"]:
        """The next block of every stream; zeros, and no step of the stream, where it is not wanted."""
        wanted = [True] * len(self.seeds) if is_wanted is None else is_wanted.tolist()

        def one(generator: torch.Generator, needed: bool) -> Tensor:
            if not needed:
                return torch.zeros(rows, columns, dtype=self.dtype)
            return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(self.dtype)

        # A GPU would wait for one core: 252 streams of 8B's shapes took it as long as the iteration itself.
        with ThreadPoolExecutor(min(len(self.seeds), DRAWING_THREADS)) as pool:
            blocks = list(pool.map(one, self._generators, wanted))
        return torch.stack(blocks).to(self.device)


def leading_triples(
    operator: Operator,
    columns: int,
    wanted: int,
    noise: RandomBlocks,
    *,
    block: int,
    depth: int,
    restarts: int,
    tolerance: float,
) -> RitzTriples:
    """The leading wanted + 1 Ritz triples, iterated until the first `wanted` of them have converged.

    Converged means ‖Mᵀu − σv‖ ≤ tolerance·σ_1 as far as the recurrence can tell; the other residual, Mv − σu,
    is zero by construction. A member that has converged is frozen, so its result does not depend on how long
    the others of its stack take. Float32 products are given up where they cannot reach the wanted triples.

    Args:
        operator: the stack M.
        columns: q, the thin side; at least block·(depth + 2).
        wanted: how many triples must converge.
        noise: random starts, one stream a member.
        block: width of a Krylov block and number of Ritz triples kept over a restart.
        depth: Krylov blocks between restarts, a few more when nearly done.
        restarts: how many times depth more blocks to spend before giving up.
    """
    fresh, _ = _orthonormal_block(noise.draw(columns, block), None, noise)
    room = block * min(depth + 1 + SPARE_BLOCKS, columns // block - 1)
    basis = fresh.new_empty(*fresh.shape[:2], room)
    images: Tensor | None = None
    result: RitzTriples | None = None
    count, spent, ahead = 0, 0, depth
    while True:
        for _ in range(ahead):
            basis[..., count : count + block] = fresh
            image, back = operator.multiply_both(fresh)
            if images is None:
                images = image.new_empty(*image.shape[:2], room)
            images[..., count : count + block] = image
            count += block
            fresh, coupling = _orthonormal_block(back, basis[..., :count], noise)
        assert images is not None
        values, rotation = _ritz(images[..., :count], block)
        right, image = basis[..., :count] @ rotation, images[..., :count] @ rotation
        # MᵀM Q = Q H + fresh·coupling·E_lastᵀ, so the last rows of the rotation carry the whole residual.
        tail = torch.linalg.vector_norm(coupling @ rotation[:, count - block :, :wanted], dim=1)
        excess = _excess(tail, values, tolerance)
        is_out_of_reach = values[:, wanted - 1] < reach_of(fresh.dtype) * values[:, 0]
        is_converged = (excess <= 1) & ~is_out_of_reach
        result = _freeze(result, RitzTriples(image, values, right, is_converged))
        spent += ahead
        if bool((result.is_converged | is_out_of_reach).all()) or spent >= depth * (restarts + 1):
            return _with_orthonormal_left(result, min(wanted + 1, block))
        # In a stack everyone goes the same way, so that nobody's bits depend on the others.
        is_near = len(excess) == 1 and float(excess) <= NEAR
        ahead = min(SHORT_SWEEP, depth) if is_near else depth
        if count + ahead * block > room:
            basis[..., :block], images[..., :block], count = right, image, block


def reach_of(dtype: torch.dtype) -> float:
    """Share of σ_1 below which products in this precision say nothing about a singular value."""
    return FLOAT32_RANGE if dtype == torch.float32 else 0.0


def orthonormalise(
    columns: Float[Tensor, "n rows m"],
) -> tuple[Float[Tensor, "n rows m"], Float[Tensor, " n"]]:
    """CholeskyQR in float64: Y (chol YᵀY)⁻ᵀ, and each member's smallest pivot, 0 where that broke down.

    Apply twice (CholeskyQR2) for orthonormality at rounding level; once is enough near orthonormal columns.
    """
    wide = columns.double()
    factor, info = torch.linalg.cholesky_ex(wide.mT @ wide)
    pivots = factor.diagonal(dim1=-2, dim2=-1).amin(dim=-1)
    is_regular = (info == 0) & (pivots > 0)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    factor = torch.where(is_regular[:, None, None], factor, identity)
    solved = torch.linalg.solve_triangular(factor.mT, wide, upper=True, left=False)
    return solved.to(columns.dtype), torch.where(is_regular, pivots, 0.0)


def _orthonormal_block(
    block: Float[Tensor, "n q b"], basis: Float[Tensor, "n q m"] | None, noise: RandomBlocks
) -> tuple[Float[Tensor, "n q b"], Float[Tensor, "n b b"]]:
    """An orthonormal block orthogonal to `basis`, and its coupling XᵀY to what was left of `block`.

    The pivots of the second factorisation say whether twice was enough (Kahan, in Parlett 1980, §6.9).
    """
    remainder = _project_out(block, basis)
    fresh, first = orthonormalise(remainder)
    fresh, second = orthonormalise(_project_out(fresh, basis))
    is_poor = (first <= 0) | (second < ENOUGH_KEPT)
    if bool(is_poor.any()):
        completed = _completed_block(remainder, basis, noise, is_poor)
        fresh = torch.where(is_poor[:, None, None], completed, fresh)
    return fresh, fresh.mT @ remainder


def _completed_block(
    remainder: Float[Tensor, "n q b"],
    basis: Float[Tensor, "n q m"] | None,
    noise: RandomBlocks,
    is_poor: Bool[Tensor, " n"],
) -> Float[Tensor, "n q b"]:
    """Householder QR, with random directions for those that vanished: an invariant subspace was met."""
    rows, columns = remainder.shape[-2:]
    fresh, triangle = torch.linalg.qr(remainder)
    weights = triangle.diagonal(dim1=-2, dim2=-1).abs()
    noise_level = LOST_ROUNDINGS * torch.finfo(remainder.dtype).eps
    is_lost = weights <= noise_level * weights.amax(dim=-1, keepdim=True)
    for _ in range(3):
        drawn = noise.draw(rows, columns, is_poor & is_lost.any(dim=-1)) / rows**0.5
        fresh = torch.where(is_lost.unsqueeze(-2), drawn, fresh)
        fresh, triangle = torch.linalg.qr(_project_out(fresh, basis))
        is_lost = triangle.diagonal(dim1=-2, dim2=-1).abs() < TOO_LITTLE_KEPT
    return torch.linalg.qr(_project_out(fresh, basis)).Q


def _project_out(block: Tensor, basis: Tensor | None) -> Tensor:
    return block if basis is None else torch.baddbmm(block, basis, basis.mT @ block, alpha=-1)


def _ritz(
    images: Float[Tensor, "n p m"], keep: int
) -> tuple[Float[Tensor, "n keep"], Float[Tensor, "n m keep"]]:
    """Leading singular values of M Q and the rotation of Q that belongs to them.

    Float32 images: from their Gram matrix in float64, whose squares they cannot exhaust. Float64 images: from
    the triangle of their QR, since squares would lose everything below 1e-8·σ_1.
    """
    if images.dtype == torch.float64:
        _, values, rows = torch.linalg.svd(torch.linalg.qr(images, mode="r").R)
        return values[:, :keep], rows[:, :keep].mT
    squares, vectors = torch.linalg.eigh(_gram(images))
    values = squares[:, -keep:].flip(-1).clamp(min=0.0).sqrt()
    return values, vectors[..., -keep:].flip(-1).to(images.dtype)


def _gram(columns: Float[Tensor, "n rows m"]) -> Float[Tensor, "n m m"]:
    """YᵀY in float64, a share of the rows at a time: all of Y in float64 would double what the iteration holds."""
    wide = (rows.double() for rows in columns.split(GRAM_ROWS, dim=1))
    return sum((rows.mT @ rows for rows in wide), start=columns.new_zeros((), dtype=torch.float64))


def _excess(
    tail: Float[Tensor, "n w"], values: Float[Tensor, "n m"], tolerance: float
) -> Float[Tensor, " n"]:
    """How many times the worst residual tail_i / σ_i exceeds tolerance·min(σ_1, σ_i / FLOAT32_RANGE).

    Relative to σ_1 alone, nothing would be asked of triples that are far smaller.
    """
    wanted, largest = values[:, : tail.shape[1]], values[:, :1]
    allowed = tolerance * torch.minimum(largest, wanted / FLOAT32_RANGE).clamp(min=VANISHED * largest)
    return (tail / (allowed * torch.maximum(wanted, allowed)).clamp(min=1e-300)).amax(dim=1)


def _freeze(old: RitzTriples | None, new: RitzTriples) -> RitzTriples:
    if old is None or not bool(old.is_converged.any()):
        return new
    done = old.is_converged
    pick = done[:, None, None]
    return RitzTriples(
        torch.where(pick, old.left, new.left),
        torch.where(done[:, None], old.values, new.values),
        torch.where(pick, old.right, new.right),
        done | new.is_converged,
    )


def _with_orthonormal_left(ritz: RitzTriples, most: int) -> RitzTriples:
    """Turn the images M V into U S: QR of M V in float64, then the SVD of the small triangle.

    Dividing M v by σ would lose orthogonality wherever σ is small against σ_1. The triangle comes from
    CholeskyQR2, which a GPU does in bulk, as long as σ_most is in its range, and else from Householder's QR.
    """
    right = ritz.right[..., :most].double()
    basis, _ = orthonormalise(right)
    mix = basis.mT @ right
    image = torch.linalg.solve_triangular(mix, ritz.left[..., :most].double(), upper=True, left=False)
    left, _ = orthonormalise(orthonormalise(image)[0])
    is_steep = ritz.values[:, most - 1] <= FLOAT32_RANGE * ritz.values[:, 0]
    if bool(is_steep.any()):
        left = torch.where(is_steep[:, None, None], torch.linalg.qr(image).Q, left)
    inner, values, outer = torch.linalg.svd(left.mT @ image)
    return RitzTriples(left @ inner, values, basis @ outer.mT, ritz.is_converged)
