"""Door: certified top-k singular subspaces, at the name that other programs import. See `core/spectral/`."""

from skippy.core.spectral.certificate import Certificate
from skippy.core.spectral.subspaces import SingularSubspace, top_singular_subspace, top_singular_subspaces

__all__ = ["Certificate", "SingularSubspace", "top_singular_subspace", "top_singular_subspaces"]
