"""The shapes of conclusions: what `judge` returns and every part of the report reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skippy.core.variants import label_of

Word = Literal["preserved", "degraded", "inconclusive", "not_comparable", "not_tested"]


@dataclass(frozen=True)
class NeededDesign:
    """What would let a variant that lost nothing pass."""

    problems: int  # with as many samples a problem as there were
    # a problem, with as many problems as there were; None where no reasonable number is enough
    samples: int | None
    power: float  # probability of passing


@dataclass(frozen=True)
class VariantVerdict:
    """One variant against the base. All differences in points."""

    name: str  # the variant
    verdict: Word  # one of five words; `preserved, measurably lower` is `preserved` with the flag below
    reason: str  # the verdict in a sentence with its figures
    is_measurably_lower: bool = False  # preserved within the margin, and yet below the base
    mean_difference: float | None = None  # variant − base
    interval: tuple[float, float] | None = None  # one-sided bounds
    standard_error: float | None = None  # of the mean difference, over problems and seeds
    bootstrap_interval: tuple[float, float] | None = None  # bootstrap-t bounds (problems only)
    is_bootstrap_agreeing: bool | None = None  # the check reaches the same words
    margin: float = 0.0  # δ
    n: int = 0  # problems
    k: int = 0  # samples a problem
    seed_means: tuple[float, ...] = ()  # mean difference per training seed
    within_seed_error: float | None = None  # uncertainty from problems alone
    across_seed_error: float | None = None  # uncertainty from seeds alone; None for one seed
    lenient_mean_difference: float | None = None  # the same under the lenient scorer; None where not run
    mcnemar_p: float | None = None  # exact McNemar, for k = 1 and one seed only
    # for an inconclusive verdict, the design that would settle it; None where none would
    needed: NeededDesign | None = None
    # what the interval alone says; `verdict` is `not_tested` where no positive control stands behind it, or where no
    # character appeared that could have cost anything
    by_interval: Word | None = None


@dataclass(frozen=True)
class Likeness:
    """Whether two variants have the same personality score, in SD of that score."""

    is_equal: bool  # the interval lies inside ±margin
    is_different: bool  # the interval excludes zero
    mean_difference_sd: float  # first − second
    interval_sd: tuple[float, float]  # one-sided bounds
    margin_sd: float  # half-width of "equal"
    n: int  # prompts
    reason: str  # in a sentence


@dataclass(frozen=True)
class PairVerdict:
    """Two variants at equal personality, or the reason why they cannot be compared."""

    first: str  # the treatment
    second: str  # its rival, control, ablation or anchor, or another treatment
    # `first_better`, `second_better`, `unresolved` or `not_comparable`
    verdict: Literal["first_better", "second_better", "unresolved", "not_comparable"]
    reason: str  # in a sentence
    # the equivalence of their personalities; None where one has no banal scores
    likeness: Likeness | None = None
    mean_difference: float | None = None  # first − second, in points
    interval: tuple[float, float] | None = None  # one-sided bounds


@dataclass(frozen=True)
class GateStep:
    """One step of the promotion order; steps after the first that fails are not read."""

    name: str  # of the step
    is_passed: bool  # shown
    reason: str  # in a sentence
    is_refuted: bool = False  # the contrary is shown; neither is a step that is not settled


@dataclass(frozen=True)
class CharacterStep(GateStep):
    """Whether a variant learned the character."""

    is_absent: bool = False  # measured, and not shown to be larger than the smallest effect that counts


@dataclass(frozen=True)
class Sensitivity:
    """What the positive control showed. Differences in points."""

    is_shown: bool  # a loss of δ was seen: the control's upper bound lies below −δ
    control: str = ""  # variant of the control, or of what lost most; empty where nothing could be compared
    label: str = ""  # what people call it
    is_stored: bool = False  # an evaluation from the store, not an arm of this comparison
    runs: tuple[str, ...] = ()  # its evaluations
    mean_difference: float | None = None  # control − base
    upper_bound: float | None = None  # holds for all that were tried together
    margin: float = 0.0  # δ
    tried: int = 0  # arms and stored evaluations among which it was looked for
    reason: str = ""  # in a sentence
    next_step: str = ""  # how to make a control; empty where there is one


@dataclass(frozen=True)
class Gate:
    """The promotion order as far as it went."""

    treatment: str | None  # the variant that may win; None where the comparison has none
    rivals: tuple[str, ...]  # what it has to beat
    order: tuple[str, ...]  # names of all steps
    steps: tuple[GateStep, ...]  # those that were read; all but the last have passed
    # an arm without training that shows the character, keeps the mathematics and is not beaten by the treatment: then
    # it wins; empty where there is none
    untrained: str = ""

    @property
    def is_open(self) -> bool:
        """Whether every step passed."""
        return len(self.steps) == len(self.order) and all(step.is_passed for step in self.steps)

    @property
    def reason(self) -> str:
        """Why it is open or shut, in a sentence."""
        if self.is_open:
            return "every step of the promotion order passed"
        if self.untrained:
            return f"{label_of(self.untrained)} is enough, nothing needs training: {self.steps[-1].reason}"
        return self.steps[-1].reason


@dataclass(frozen=True)
class Planning:
    """What n × k can show, in points; `is_margin_reachable` says whether δ is worth asking for."""

    n: int
    k: int
    achievable_margin: float
    minimum_detectable_effect: float
    is_margin_reachable: bool


@dataclass(frozen=True)
class Verdicts:
    """All conclusions of one comparison."""

    variants: tuple[VariantVerdict, ...]  # one per variant, in the order of the arms
    characters: tuple[CharacterStep, ...]  # variant → did it learn the character, with the reason
    traits: dict[str, dict[str, float]]  # variant → trait → Holm-adjusted p of a change against base
    pairs: tuple[PairVerdict, ...]  # variants against each other
    gate: Gate  # promotion order as far as it went
    planning: Planning | None  # None where arms share no problems
    sensitivity: Sensitivity  # whether a loss of δ would have been seen

    @property
    def winner(self) -> str | None:
        """The treatment, where every step of the gate passed; else an arm without training that is as good."""
        return self.gate.treatment if self.gate.is_open else self.gate.untrained or None

    @property
    def primary(self) -> PairVerdict | None:
        """The treatment against its first rival: what the experiment asks."""
        if self.gate.treatment is None or not self.gate.rivals:
            return None
        return self.pair(self.gate.treatment, self.gate.rivals[0])

    def variant(self, name: str) -> VariantVerdict | None:
        """The verdict on that variant, or None."""
        return next((verdict for verdict in self.variants if verdict.name == name), None)

    def pair(self, first: str, second: str) -> PairVerdict | None:
        """The verdict on that pair, or None."""
        return next((pair for pair in self.pairs if (pair.first, pair.second) == (first, second)), None)
