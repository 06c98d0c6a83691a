"""The noun *target*: one frozen linear weight that LoRA adapts, and the projections of a decoder layer."""

from __future__ import annotations

from dataclasses import dataclass

from skippy.errors import TargetError

PROJECTIONS: dict[str, str] = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
"""Projection → the block of a decoder layer that holds it."""
FUSED: dict[str, str] = {"qkv_proj": "self_attn", "gate_up_proj": "mlp"}
"""Several projections in one weight, as Phi-3 has them: one target each."""
BLOCKS: dict[str, str] = PROJECTIONS | FUSED
WRITES, READS = "writes", "reads"
SIDES: dict[str, str] = {kind: WRITES if kind in ("o_proj", "down_proj") else READS for kind in BLOCKS}
"""Whether a projection writes the residual stream or reads it; by name, never by comparing shapes (MATH §5)."""


@dataclass(frozen=True)
class Target:
    """One adapted weight of shape (out, in_); it `writes` the residual stream or `reads` it."""

    name: str
    layer: int
    kind: str
    out: int
    in_: int
    side: str

    @property
    def weight_key(self) -> str:
        """The key of the weight in a checkpoint."""
        return f"{self.name}.weight"


def side_of(kind: str) -> str:
    """Which side of a target lies in the residual stream: it "writes" or "reads" it.

    By module name. Shapes cannot tell: where heads × head size equals the hidden size, the output of
    `q_proj` has the width of the residual stream and is head space.

    Raises:
        TargetError: a module kind without a known side.
    """
    if kind not in SIDES:
        raise TargetError(
            "It is not known on which side this module meets the residual stream.",
            where=f"module kind {kind!r}",
            expected=", ".join(SIDES),
            next_step="add the kind to SIDES in skippy/core/target.py",
        )
    return SIDES[kind]
