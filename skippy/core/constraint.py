"""Door: the constraint and its leakage, at the name that other programs import. See `core/spectral/`."""

from skippy.core.spectral.constraints import Leakage, OrthogonalConstraint, leakage, pooled_leakage

__all__ = ["Leakage", "OrthogonalConstraint", "leakage", "pooled_leakage"]
