"""Door: an evaluation's mathematics, at the name that other programs import. See `core/inference/`."""

from skippy.core.inference.accuracy import avg_at_k, maj_at_k, pass_at_k
from skippy.core.inference.agreement import krippendorff_alpha
from skippy.core.inference.paired import (
    BootstrapT,
    Equivalence,
    NonInferiority,
    bootstrap_t,
    bounds_without_spread,
    exact_mcnemar,
    holm,
    non_inferiority,
    pooled_sd,
    tost_paired,
    verdict_of,
)
from skippy.core.inference.power import achievable_margin, minimum_detectable_effect, power_non_inferiority

__all__ = [
    "BootstrapT",
    "Equivalence",
    "NonInferiority",
    "achievable_margin",
    "avg_at_k",
    "bootstrap_t",
    "bounds_without_spread",
    "exact_mcnemar",
    "holm",
    "krippendorff_alpha",
    "maj_at_k",
    "minimum_detectable_effect",
    "non_inferiority",
    "pass_at_k",
    "pooled_sd",
    "power_non_inferiority",
    "tost_paired",
    "verdict_of",
]
