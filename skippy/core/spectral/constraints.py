"""The orthogonal constraint: keep ΔW = s·B·A out of protected directions at every step, and measure leakage.

With U (out, k) and V (in, k) orthonormal, P_L = I − U Uᵀ and P_R = I − V Vᵀ, the constraint is
ΔW = P_L ΔW P_R. It holds exactly through AdamW, clipping, weight decay, accumulation and warm-up when

1. A ← A P_R once after LoRA's random init (`project_init_`; B = 0 needs nothing),
2. ∇A ← ∇A P_R and ∇B ← P_L ∇B before clipping and the optimizer step (`project_gradients_`),
3. A ← A P_R and B ← P_L B after every optimizer step (`project_parameters_`).

All three give the trajectory of training P_L B A P_R by reparameterisation. No single one does: Adam divides
elementwise by the root of its second moment, and that leaves the subspace.

Source: OPLoRA, arXiv 2510.13003, Prop. 2. Departure: the paper projects in the forward pass; here the
parameters themselves stay inside, so that the adapter is a vanilla LoRA file at every moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skippy.core.spectral import lora
from skippy.core.spectral.precision import full_float32
from skippy.errors import AdapterError, ProjectorError, TargetError

# Stacks larger than this are split on a CPU. There one product a target costs the same as a stacked one at the
# lab's shapes (2.0 to 2.5 ms for 28 targets, twice projected), and copying makes stacking 8B shapes 1.6 times
# slower; leakage, a dozen small products, gains 3.5 times at the lab's. On a GPU calls dominate: all together.
CPU_STACK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Leakage:
    """Share of ΔW's energy inside the protected directions; 0 for ΔW = 0, which touches nothing."""

    rho_left: float  # ‖UᵀΔW‖_F² / ‖ΔW‖_F², the paper's ρ_k
    rho_right: float  # ‖ΔW V‖_F² / ‖ΔW‖_F², which the paper does not have


@dataclass(frozen=True, eq=False)
class ConstrainedTarget:
    """One target's trainable factors and the directions they must stay out of.

    That U and V fit is checked by `OrthogonalConstraint`, which knows the target's name.
    """

    A: Float[Tensor, "r in"]  # LoRA's A, (r, in), float32
    B: Float[Tensor, "out r"]  # LoRA's B, (out, r), float32
    # protected output directions, (out, k), orthonormal columns; none to leave the outputs free
    U: Float[Tensor, "u_rows u_columns"]
    # protected input directions, (in, k), orthonormal columns; none to leave the inputs free
    V: Float[Tensor, "v_rows v_columns"]


def leakage(
    A: Float[Tensor, "r in"], B: Float[Tensor, "out r"], U: Float[Tensor, "out k"], V: Float[Tensor, "in k"]
) -> Leakage:
    """Both leakages of one target's ΔW = s·B·A, in float64; the scale s cancels."""
    return pooled_leakage([(A, B, U, V)])


def pooled_leakage(
    items: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]], scales: Iterable[float] | None = None
) -> Leakage:
    """Leakage of a whole model: the sum of numerators over the sum of denominators, never a mean of ratios.

    Args:
        items: (A, B, U, V) of every target.
        scales: s of every target, in the same order; left out, all targets share one and it cancels.
    """
    items = list(items)
    factors = torch.ones(len(items)) if scales is None else torch.tensor(list(scales))
    energies = _energies(items) * factors.double().square()[:, None]
    return _ratios(energies.sum(dim=0).tolist())


def chance(k: int, out: int, in_: int) -> Leakage:
    """Expected leakage of a ΔW with no preferred direction: k/out and k/in."""
    return Leakage(k / out, k / in_)


def random_basis(dim: int, k: int, seed: int) -> Float[Tensor, "dim k"]:
    """Draw k orthonormal directions uniformly, for the control variant: same seed, same bits.

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q, which makes the law the Haar one.
    Drawn and factored in float64 on the CPU, returned in float32.

    Raises:
        ProjectorError: more directions than dimensions were asked for.

    Source: Mezzadri 2007, "How to generate random matrices from the classical compact groups", §5.
    """
    if not 1 <= k <= dim:
        raise ProjectorError(
            "There are not that many directions to draw.",
            expected=f"1 ≤ k ≤ {dim}",
            found=f"k = {k}",
            next_step="pass a smaller -P k",
        )
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(dim, k, generator=generator, dtype=torch.float64))
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(Q)
    return (Q * signs).float()


class OrthogonalConstraint:
    """Projects all targets of a model in place, those of one shape in one batched product.

    Which of the three projections runs is the variant's rule; this class only knows how. Same input, same
    bits: every rank of a data-parallel run that holds the same U and V stays in step.

    Args:
        targets: by target name; U and V are copied to the factors' device in float32.

    Raises:
        TargetError: there is nothing to constrain.
        AdapterError: the factors of a target are not float32.
        ProjectorError: U or V does not fit its target.
    """

    def __init__(self, targets: Mapping[str, ConstrainedTarget]) -> None:
        if not targets:
            raise TargetError(
                "No targets to constrain.",
                expected="one adapted weight at least",
                found="an empty mapping",
                next_step="check that the adapter's target_modules match the model",
            )
        for name, target in targets.items():
            _check_target(name, target)
        self.targets = {name: _on_device(target) for name, target in targets.items()}
        sides = [(t.A, True, t.V) for t in self.targets.values()]
        sides += [(t.B, False, t.U) for t in self.targets.values()]
        self._stacks = _stack_sides([side for side in sides if side[2].shape[1]])
        self._device = sides[0][0].device

    def protected_sides(self) -> tuple[str, ...]:
        """`left` where outputs are protected, `right` where inputs are."""
        left, right = (
            any(basis.shape[1] for basis in bases)
            for bases in zip(*((t.U, t.V) for t in self.targets.values()), strict=True)
        )
        return ("left",) * left + ("right",) * right

    @torch.no_grad()
    def project_init_(self) -> None:
        """A ← A P_R (and B ← P_L B, which is zero then): call once, before the optimizer is made."""
        self.project_parameters_()

    @torch.no_grad()
    def project_gradients_(self) -> None:
        """∇A ← ∇A P_R, ∇B ← P_L ∇B; factors without a gradient are left alone.

        Call before clipping: the norm that clips must be that of the projected gradient, or the trajectory
        is no longer the reparameterised one.
        """
        with full_float32(self._device):
            for stack in self._stacks:
                stack.project_gradients_()

    @torch.no_grad()
    def project_parameters_(self) -> None:
        """A ← A P_R, B ← P_L B: call after every optimizer step."""
        with full_float32(self._device):
            for stack in self._stacks:
                stack.project_parameters_()

    @torch.no_grad()
    def leakages(self) -> dict[str, Leakage]:
        """Leakage of every target, in float64."""
        rows = _energies([(t.A, t.B, t.U, t.V) for t in self.targets.values()]).tolist()
        return {name: _ratios(row) for name, row in zip(self.targets, rows, strict=True)}

    @torch.no_grad()
    def pooled_leakage(self, scales: Mapping[str, float] | None = None) -> Leakage:
        """Leakage of the whole model; `scales` by target name where they differ."""
        items = [(t.A, t.B, t.U, t.V) for t in self.targets.values()]
        return pooled_leakage(items, None if scales is None else [scales[name] for name in self.targets])


@dataclass(frozen=True, eq=False)
class _Stack:
    """Factors of one shape on one device, each with its basis; a lone one is projected where it lies."""

    factors: tuple[Tensor, ...]
    bases: Tensor
    is_transposed: bool

    def project_parameters_(self) -> None:
        self._project_(list(self.factors), self.bases)

    def project_gradients_(self) -> None:
        present = [index for index, factor in enumerate(self.factors) if factor.grad is not None]
        if not present:
            return
        bases = self.bases if len(present) == len(self.factors) else self.bases[present]
        self._project_([self.factors[index].grad for index in present], bases)

    def _project_(self, tensors: list[Tensor], bases: Tensor) -> None:
        columns = [tensor.mT if self.is_transposed else tensor for tensor in tensors]
        if bases.shape[-1] == bases.shape[-2]:
            torch._foreach_zero_(columns)
        elif len(columns) == 1:
            _project_out_(columns[0], bases[0])
        else:
            stack = torch.stack(columns)
            _project_out_(stack, bases)
            torch._foreach_copy_(columns, list(stack.unbind()))


def _project_out_(columns: Float[Tensor, "*n dim r"], basis: Float[Tensor, "*n dim k"]) -> None:
    """X ← X − Q (QᵀX) in place, twice, never forming dim×dim.

    Once leaves |QᵀQ − I| ≈ 1e-7 of what it removes, which is too much where nearly all of X is removed.
    """
    subtract = torch.Tensor.addmm_ if columns.ndim == 2 else torch.Tensor.baddbmm_
    for _ in range(2):
        subtract(columns, basis, basis.mT @ columns, alpha=-1)


def _stack_sides(sides: Sequence[tuple[Tensor, bool, Tensor]]) -> list[_Stack]:
    stacks = []
    for part in _parts([(factor.shape, basis.shape, t, factor.device) for factor, t, basis in sides]):
        members = [sides[index] for index in part]
        bases = torch.stack([basis for _, _, basis in members])
        stacks.append(_Stack(tuple(factor for factor, _, _ in members), bases, members[0][1]))
    return stacks


def _parts(keys: Sequence[tuple]) -> list[list[int]]:
    """Indices of equal keys (shape, …, device), in parts that are worth a stacked product on that device."""
    groups: dict[tuple, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    parts = []
    for (shape, *_, device), members in groups.items():
        size = len(members) if device.type != "cpu" else max(1, CPU_STACK_BYTES // (4 * shape.numel()))
        parts += [members[start : start + size] for start in range(0, len(members), size)]
    return parts


def _energies(items: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Float[Tensor, "n 3"]:
    """‖UᵀΔW‖², ‖ΔW V‖², ‖ΔW‖² of every target at scale 1, float64 on the CPU."""
    found = torch.zeros(len(items), 3, dtype=torch.float64)
    keys = [(B.shape, A.shape, U.shape, V.shape, B.device) for A, B, U, V in items]
    for part in _parts(keys):
        A, B, U, V = (torch.stack(members) for members in zip(*(items[index] for index in part), strict=True))
        found[part] = lora.split_energies(A, B, 1.0, U, V).cpu()
    return found


def _ratios(energies: Sequence[float]) -> Leakage:
    left, right, whole = energies
    return Leakage(left / whole, right / whole) if whole > 0 else Leakage(0.0, 0.0)


def _on_device(target: ConstrainedTarget) -> ConstrainedTarget:
    return replace(
        target, U=target.U.to(target.B.device, torch.float32), V=target.V.to(target.A.device, torch.float32)
    )


def _check_target(name: str, target: ConstrainedTarget) -> None:
    for letter, factor in (("A", target.A), ("B", target.B)):
        if factor.dtype != torch.float32:
            raise AdapterError(
                "Adapter weights must stay float32: in a shorter type each rounding leaves the complement.",
                where=f"{name}, lora_{letter}",
                expected="torch.float32",
                found=str(factor.dtype),
                next_step="create the adapter with autocast_adapter_dtype=True",
            )
    out, in_ = target.B.shape[0], target.A.shape[1]
    columns = {basis.shape[1] for basis in (target.U, target.V)} - {0}
    fits = target.U.shape[0] == out and target.V.shape[0] == in_ and len(columns) == 1
    if not fits:
        raise ProjectorError(
            "The projectors do not fit the target.",
            where=name,
            expected=f"U ({out}, k), V ({in_}, k)",
            found=f"U {tuple(target.U.shape)}, V {tuple(target.V.shape)}",
            next_step="use the projectors of this very base, or run svd for it",
        )
