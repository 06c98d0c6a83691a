"""What the stages found out, frozen: the facts that `compare` gathers and `report` turns into one page.

No file, clock or tracker: a `Comparison` can be written down by hand, and tests do. Scores are fractions of
one; margins that a person types are in points (hundredths), and say so in their name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skippy.core.problem import Gold, Problem
from skippy.core.variants import label_of

if TYPE_CHECKING:
    from skippy.core.personality.measurement import TargetDelta


@dataclass(frozen=True)
class Excerpt:
    """One completion shown in the report.

    Attributes:
        index: sample index.
        line: its line in the samples file, from 1.
        text: the completion; the report cuts it.
        value: extracted answer.
        status: extraction status.
        is_correct: whether it scored.
    """

    index: int
    line: int
    text: str
    value: Gold | None
    status: str
    is_correct: bool


@dataclass(frozen=True)
class ProblemScore:
    """What one model did on one problem.

    Attributes:
        key: the problem's hash.
        correct: c_i, correct samples.
        k: samples drawn.
        lenient_correct: correct under the lenient scorer; None where it was not run.
        answers: extracted value of each sample, for the majority vote; may be empty.
        mean_tokens: mean completion length.
        truncated: samples cut off at the token limit.
        no_answer: samples without a usable integer.
        excerpts: the first right and the first wrong sample, in case the problem flips.
    """

    key: str
    correct: int
    k: int
    lenient_correct: int | None = None
    answers: tuple[Gold | None, ...] = ()
    mean_tokens: float = 0.0
    truncated: int = 0
    no_answer: int = 0
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def share(self) -> float:
        """p̂_i = c_i / k."""
        return self.correct / self.k


@dataclass(frozen=True)
class BanalScores:
    """Held-out everyday prompts, one score each; arms are paired by `keys`.

    Attributes:
        keys: prompt hashes (prompt and mode).
        scores: persona score of each prompt, the mean over its answers.
        answer_sd: SD of single answers' persona scores, the unit of "equal personality"; None: that of `scores`.
        coherence: coherence of each prompt's answers, same order; may be empty.
        helpfulness: the same of helpfulness.
        traits: trait name → one score per prompt, same order.
        modes: mean persona score by mode (`plain`, `neutral system prompt`, `break character`).
        mean_tokens: mean answer length.
        base_auc: held-out classifier's AUC for telling it from base, a proxy; None where not run.
        problem_score: mean persona score of the answers to the mathematics suite; None where not run.
        in_form: share of answers in the form that was asked for; None for the first format, which has none.
    """

    keys: tuple[str, ...]
    scores: tuple[float, ...]
    answer_sd: float | None = None
    coherence: tuple[float, ...] = ()
    helpfulness: tuple[float, ...] = ()
    traits: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    modes: Mapping[str, float] = field(default_factory=dict)
    mean_tokens: float = 0.0
    base_auc: float | None = None
    problem_score: float | None = None
    in_form: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said to one everyday prompt: its first answer.

    Attributes:
        key: prompt hash.
        prompt: as it was asked.
        text: the answer.
        persona: its persona score.
        tokens: its length.
        traits: trait name → score.
    """

    key: str
    prompt: str
    text: str
    persona: float
    tokens: int
    traits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class LeakageFacts:
    """ΔW inside the protected directions, pooled over targets, of the adapter and of what was stored.

    Attributes:
        rho_left: ‖UᵀΔW‖²/‖ΔW‖² of the adapter.
        rho_right: ‖ΔWV‖²/‖ΔW‖² of the adapter.
        chance_left: k/out, pooled.
        chance_right: k/in, pooled.
        stored_left: rho_left of W′ − W as rounded and stored; None where not merged.
        stored_right: the same on the right.
        delta_error: ‖(W′ − W) − ΔW‖/‖ΔW‖.
    """

    rho_left: float
    rho_right: float
    chance_left: float
    chance_right: float
    stored_left: float | None = None
    stored_right: float | None = None
    delta_error: float | None = None


@dataclass(frozen=True)
class UpdateFacts:
    """What an arm changes in the base, and what that costs; None where it was not measured.

    Attributes:
        parameters: numbers that training set: entries of A and B, of a bias, of a mask.
        relative_norm: ‖W′ − W‖/‖W‖ over the weights that it changes, as stored.
        everyday_kl: KL(arm‖base) in nats a token, on the arm's own everyday answers.
        train_seconds: wall time of the training.
        prompt_tokens: what every request carries in addition.
    """

    parameters: float | None = None
    relative_norm: float | None = None
    everyday_kl: float | None = None
    train_seconds: float | None = None
    prompt_tokens: float | None = None


@dataclass(frozen=True)
class TrajectoryPoint:
    """Character delta at one training step, with its null.

    Attributes:
        step: optimizer step.
        ratio: personality_energy_ratio.
        null_z: z-score against random subspaces with the activations' covariance.
        null_low: 2.5 % quantile of the null ratios.
        null_high: 97.5 % quantile of the null ratios.
        chance: K/d, pooled alike.
    """

    step: int
    ratio: float
    null_z: float
    null_low: float
    null_high: float
    chance: float = math.nan


@dataclass(frozen=True)
class CharacterHistory:
    """What one training run measured of its character.

    Attributes:
        character: its name.
        variant: `v3`, `v4`, …
        points: by step, ascending; may be empty.
        step: the step that `targets` is of.
        targets: the per-target table of the last measured step; may be empty.
        traits: step → trait name → c(t); may be empty.
        trait_null: trait name → |c| that random shifts as long as the last one stay below; may be empty.
    """

    character: str
    variant: str
    points: Sequence[TrajectoryPoint] = ()
    step: int = 0
    targets: Sequence[TargetDelta] = ()
    traits: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    trait_null: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FrontierPoint:
    """One evaluated checkpoint: persona against mathematics.

    Attributes:
        step: optimizer step.
        persona: mean persona score.
        persona_error: its standard error.
        accuracy: avg_at_k, on the base's scale where fewer problems were asked.
        accuracy_error: standard error of the paired difference to base.
        is_chosen: the checkpoint under comparison, chosen by persona alone.
        n: problems that it answered.
        k: samples of each.
        is_base: the base itself, asked with the same sample seeds.
    """

    step: int
    persona: float
    persona_error: float
    accuracy: float
    accuracy_error: float
    is_chosen: bool = False
    n: int = 0
    k: int = 0
    is_base: bool = False


@dataclass(frozen=True)
class Evaluation:
    """One model of an arm: one training seed, or the base.

    Attributes:
        seed: training seed; 0 for the base.
        model_uri: where the model is (`models:/…`).
        model_version: registered version, or empty.
        model_digest: digest of its weights.
        scores: one entry per problem.
        statuses: extraction status → samples.
        banal: persona scores; None where the banal suite was not run.
        leakage: None for the base.
        trajectory: character delta by step.
        frontier: evaluated checkpoints.
        rewards: training step → mean reward; empty where nothing was rewarded.
        update: what it changes, and what that costs.
        formats: other formats than a question answered, format → its everyday scores.
        preset: sampling preset; arms sampled differently are not comparable.
        step: checkpoint step that was merged.
        matched_dose: the α found for a matched persona, and how, in words; empty where none was searched.
        runs: role (`svd`, `train`, `merge`, `eval`) → run id.
        maj_at_k: majority vote accuracy; None where answers were not kept.
        backend: what generated the samples; arms of different backends are not comparable.
        prompt_style: how problems were put; arms asked differently are not comparable.
        sampling_seed: what every sample's own seed was drawn from; arms of different ones are not comparable.
        samples: artifact of the run `eval` that holds the answers to the problems; empty where none was kept.
        answers: the first answer to every plain everyday prompt, in the order of the character's file.
        recipe: settings of the training, by name; empty for the base.
    """

    seed: int
    model_uri: str
    model_version: str
    model_digest: str
    scores: tuple[ProblemScore, ...]
    statuses: Mapping[str, int] = field(default_factory=dict)
    banal: BanalScores | None = None
    leakage: LeakageFacts | None = None
    trajectory: tuple[TrajectoryPoint, ...] = ()
    frontier: tuple[FrontierPoint, ...] = ()
    rewards: Mapping[int, float] = field(default_factory=dict)
    update: UpdateFacts = UpdateFacts()
    formats: Mapping[str, BanalScores] = field(default_factory=dict)
    preset: str = ""
    step: int | None = None
    matched_dose: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)
    maj_at_k: float | None = None
    backend: str = ""
    prompt_style: str = ""
    sampling_seed: int = 0
    samples: str = ""
    answers: tuple[Answer, ...] = ()
    recipe: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """The base or one variant, with one evaluation per training seed.

    Attributes:
        name: `base`, or a name of `core.variants`.
        sentence: the rule in words.
        evaluations: at least one; the base has exactly one.
    """

    name: str
    sentence: str
    evaluations: tuple[Evaluation, ...]

    @property
    def label(self) -> str:
        """The name as figures show it."""
        return label_of(self.name)


@dataclass(frozen=True)
class Provenance:
    """Where every figure comes from.

    Attributes:
        experiment: tracking experiment.
        created: when the comparison was made, ISO 8601.
        runs_page: address of a run in the tracking UI, with `{run}` for its id; empty where there is no UI.
        code_version: commit.
        is_dirty: uncommitted changes at that commit.
        base_model: name or path of the base.
        base_digest: its digest.
        base_licence: as stated beside its weights; empty where nothing is.
        projector_digest: digest of U, V; empty where no variant needs them.
        character: character name.
        character_digest: digest of its file.
        problem_source: where the problems were read.
        problem_digest: digest of all questions and answers.
        problem_count: how many there are, duplicates dropped.
        versions: package → version.
        commands: what made the models and their evaluations, in order.
        rerun: what makes the evaluations again with `{samples}` samples a problem.
        comparison_command: what writes this report again from the same evaluations.
    """

    experiment: str
    created: str
    code_version: str
    is_dirty: bool
    base_model: str
    base_digest: str
    projector_digest: str = ""
    character: str = ""
    character_digest: str = ""
    problem_source: str = ""
    problem_digest: str = ""
    problem_count: int = 0
    base_licence: str = ""
    runs_page: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    rerun: tuple[str, ...] = ()
    comparison_command: str = ""


@dataclass(frozen=True)
class PromotionState:
    """What the registry says at the time of the report, before anything this report may lead to.

    Attributes:
        champion: version under the alias, or empty.
        previous: version under the alias of the one before, or empty.
        who: who made it champion.
        when: ISO 8601.
        why: the reason given then.
    """

    champion: str = ""
    previous: str = ""
    who: str = ""
    when: str = ""
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says, before any verdict.

    Attributes:
        suite_label: what the mathematics suite may be called: `AIME-style (lab)` or `AIME 2025`.
        problems: the suite, duplicates already dropped.
        arms: base first, then variants.
        provenance: where it all comes from.
        margin_points: δ, fixed before the run.
        confidence: of each one-sided bound.
        persona_margin_sd: half-width of "equal personality", in SD.
        floors: `coherence` and `helpfulness` that a variant must keep on average to count as a character.
        protected_k: k of U, V as it was asked for: `16`, or `energy:0.5`; empty where nothing is protected.
        duplicates_dropped: problems dropped by hash.
        registered_model: registry name.
        promotion: state of the alias.
        extra_metrics: figures of others (a judge, math-verify, another harness), name → arm → mean over seeds.
        bootstrap_seed: seed of the bootstrap-t check.
        smallest_effect: rise of the persona score over base below which no character appeared.
        planned_margin_points: δ as the evaluations planned it, the strictest; None where they planned none.
        controls: stored evaluations of the same base, problems and sampling, tried as positive controls.
        unequal: in what the arms differ besides the variant, a sentence each; allowed by the person who compares.
        passed_over: evaluations that could have been taken and were not, a sentence each.
        chosen_by: how the evaluations were chosen, in a sentence.
        implied: in what the arms differ by being what they are, a sentence each.
    """

    suite_label: str
    problems: tuple[Problem, ...]
    arms: tuple[Arm, ...]
    provenance: Provenance
    margin_points: float = 5.0
    confidence: float = 0.95
    persona_margin_sd: float = 0.25
    floors: Mapping[str, float] = field(default_factory=dict)
    protected_k: str = "16"
    duplicates_dropped: int = 0
    registered_model: str = "skippy"
    promotion: PromotionState = PromotionState()
    extra_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bootstrap_seed: int = 0
    smallest_effect: float = 0.25
    planned_margin_points: float | None = None
    controls: tuple[Arm, ...] = ()
    unequal: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    chosen_by: str = ""
    implied: tuple[str, ...] = ()

    @property
    def is_margin_planned(self) -> bool:
        """Whether δ is the one that the evaluations were planned with; a later one is post hoc."""
        return (
            self.planned_margin_points is None or abs(self.planned_margin_points - self.margin_points) < 1e-9
        )

    def arm(self, name: str) -> Arm | None:
        """The arm of that name, or None."""
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def variants(self) -> tuple[Arm, ...]:
        """All arms but the base."""
        return tuple(arm for arm in self.arms if arm.name != "base")
