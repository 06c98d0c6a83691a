"""The shapes of conclusions: what `judge` returns and every part of the report reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skippy.core.variants import label_of

Word = Literal["preserved", "degraded", "inconclusive", "not_comparable", "not_tested"]


@dataclass(frozen=True)
class NeededDesign:
    """What would let a variant that lost nothing pass.

    Attributes:
        problems: with as many samples a problem as there were.
        samples: a problem, with as many problems as there were; None where no reasonable number is enough.
        power: probability of passing.
    """

    problems: int
    samples: int | None
    power: float


@dataclass(frozen=True)
class VariantVerdict:
    """One variant against the base. All differences in points.

    Attributes:
        name: the variant.
        verdict: one of five words; `preserved, measurably lower` is `preserved` with the flag below.
        by_interval: what the interval alone says; `verdict` is `not_tested` where no positive control stands
            behind it, or where no character appeared that could have cost anything.
        is_measurably_lower: preserved within the margin, and yet below the base.
        reason: the verdict in a sentence with its figures.
        mean_difference: variant − base.
        interval: one-sided bounds.
        standard_error: of the mean difference, over problems and seeds.
        bootstrap_interval: bootstrap-t bounds (problems only).
        is_bootstrap_agreeing: the check reaches the same words.
        margin: δ.
        n: problems.
        k: samples a problem.
        seed_means: mean difference per training seed.
        within_seed_error: uncertainty from problems alone.
        across_seed_error: uncertainty from seeds alone; None for one seed.
        lenient_mean_difference: the same under the lenient scorer; None where not run.
        mcnemar_p: exact McNemar, for k = 1 and one seed only.
        needed: for an inconclusive verdict, the design that would settle it; None where none would.
    """

    name: str
    verdict: Word
    reason: str
    is_measurably_lower: bool = False
    mean_difference: float | None = None
    interval: tuple[float, float] | None = None
    standard_error: float | None = None
    bootstrap_interval: tuple[float, float] | None = None
    is_bootstrap_agreeing: bool | None = None
    margin: float = 0.0
    n: int = 0
    k: int = 0
    seed_means: tuple[float, ...] = ()
    within_seed_error: float | None = None
    across_seed_error: float | None = None
    lenient_mean_difference: float | None = None
    mcnemar_p: float | None = None
    needed: NeededDesign | None = None
    by_interval: Word | None = None


@dataclass(frozen=True)
class Likeness:
    """Whether two variants have the same personality score, in SD of that score.

    Attributes:
        is_equal: the interval lies inside ±margin.
        is_different: the interval excludes zero.
        mean_difference_sd: first − second.
        interval_sd: one-sided bounds.
        margin_sd: half-width of "equal".
        n: prompts.
        reason: in a sentence.
    """

    is_equal: bool
    is_different: bool
    mean_difference_sd: float
    interval_sd: tuple[float, float]
    margin_sd: float
    n: int
    reason: str


@dataclass(frozen=True)
class PairVerdict:
    """Two variants at equal personality, or the reason why they cannot be compared.

    Attributes:
        first: the treatment.
        second: its rival, control, ablation or anchor, or another treatment.
        verdict: `first_better`, `second_better`, `unresolved` or `not_comparable`.
        reason: in a sentence.
        likeness: the equivalence of their personalities; None where one has no banal scores.
        mean_difference: first − second, in points.
        interval: one-sided bounds.
    """

    first: str
    second: str
    verdict: Literal["first_better", "second_better", "unresolved", "not_comparable"]
    reason: str
    likeness: Likeness | None = None
    mean_difference: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class GateStep:
    """One step of the promotion order; steps after the first that fails are not read.

    Attributes:
        name: of the step.
        is_passed: shown.
        reason: in a sentence.
        is_refuted: the contrary is shown; neither is a step that is not settled.
    """

    name: str
    is_passed: bool
    reason: str
    is_refuted: bool = False


@dataclass(frozen=True)
class CharacterStep(GateStep):
    """Whether a variant learned the character.

    Attributes:
        is_absent: measured, and not shown to be larger than the smallest effect that counts.
    """

    is_absent: bool = False


@dataclass(frozen=True)
class Sensitivity:
    """What the positive control showed. Differences in points.

    Attributes:
        is_shown: a loss of δ was seen: the control's upper bound lies below −δ.
        control: variant of the control, or of what lost most; empty where nothing could be compared.
        label: what people call it.
        is_stored: an evaluation from the store, not an arm of this comparison.
        runs: its evaluations.
        mean_difference: control − base.
        upper_bound: holds for all that were tried together.
        margin: δ.
        tried: arms and stored evaluations among which it was looked for.
        reason: in a sentence.
        next_step: how to make a control; empty where there is one.
    """

    is_shown: bool
    control: str = ""
    label: str = ""
    is_stored: bool = False
    runs: tuple[str, ...] = ()
    mean_difference: float | None = None
    upper_bound: float | None = None
    margin: float = 0.0
    tried: int = 0
    reason: str = ""
    next_step: str = ""


@dataclass(frozen=True)
class Gate:
    """The promotion order as far as it went.

    Attributes:
        treatment: the variant that may win; None where the comparison has none.
        rivals: what it has to beat.
        order: names of all steps.
        steps: those that were read; all but the last have passed.
        untrained: an arm without training that shows the character, keeps the mathematics and is not beaten by the
            treatment: then it wins; empty where there is none.
    """

    treatment: str | None
    rivals: tuple[str, ...]
    order: tuple[str, ...]
    steps: tuple[GateStep, ...]
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
    """All conclusions of one comparison.

    Attributes:
        variants: one per variant, in the order of the arms.
        characters: variant → did it learn the character, with the reason.
        traits: variant → trait → Holm-adjusted p of a change against base.
        pairs: variants against each other.
        gate: promotion order as far as it went.
        planning: None where arms share no problems.
        sensitivity: whether a loss of δ would have been seen.
    """

    variants: tuple[VariantVerdict, ...]
    characters: tuple[CharacterStep, ...]
    traits: dict[str, dict[str, float]]
    pairs: tuple[PairVerdict, ...]
    gate: Gate
    planning: Planning | None
    sensitivity: Sensitivity

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
