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
    """One completion shown in the report."""

    index: int  # sample index
    line: int  # its line in the samples file, from 1
    text: str  # the completion; the report cuts it
    value: Gold | None  # extracted answer
    status: str  # extraction status
    is_correct: bool  # whether it scored


@dataclass(frozen=True)
class ProblemScore:
    """What one model did on one problem."""

    key: str  # the problem's hash
    correct: int  # c_i, correct samples
    k: int  # samples drawn
    lenient_correct: int | None = None  # correct under the lenient scorer; None where it was not run
    # extracted value of each sample, for the majority vote; may be empty
    answers: tuple[Gold | None, ...] = ()
    mean_tokens: float = 0.0  # mean completion length
    truncated: int = 0  # samples cut off at the token limit
    no_answer: int = 0  # samples without a usable integer
    # the first right and the first wrong sample, in case the problem flips
    excerpts: tuple[Excerpt, ...] = ()

    @property
    def share(self) -> float:
        """p̂_i = c_i / k."""
        return self.correct / self.k


@dataclass(frozen=True)
class BanalScores:
    """Held-out everyday prompts, one score each; arms are paired by `keys`."""

    keys: tuple[str, ...]  # prompt hashes (prompt and mode)
    scores: tuple[float, ...]  # persona score of each prompt, the mean over its answers
    # SD of single answers' persona scores, the unit of "equal personality"; None: that of `scores`
    answer_sd: float | None = None
    coherence: tuple[float, ...] = ()  # coherence of each prompt's answers, same order; may be empty
    helpfulness: tuple[float, ...] = ()  # the same of helpfulness
    # trait name → one score per prompt, same order
    traits: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    # mean persona score by mode (`plain`, `neutral system prompt`, `break character`)
    modes: Mapping[str, float] = field(default_factory=dict)
    mean_tokens: float = 0.0  # mean answer length
    # held-out classifier's AUC for telling it from base, a proxy; None where not run
    base_auc: float | None = None
    # mean persona score of the answers to the mathematics suite; None where not run
    problem_score: float | None = None
    # share of answers in the form that was asked for; None for the first format, which has none
    in_form: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a model said to one everyday prompt: its first answer."""

    key: str  # prompt hash
    prompt: str  # as it was asked
    text: str  # the answer
    persona: float  # its persona score
    tokens: int  # its length
    traits: Mapping[str, float] = field(default_factory=dict)  # trait name → score


@dataclass(frozen=True)
class LeakageFacts:
    """ΔW inside the protected directions, pooled over targets, of the adapter and of what was stored."""

    rho_left: float  # ‖UᵀΔW‖²/‖ΔW‖² of the adapter
    rho_right: float  # ‖ΔWV‖²/‖ΔW‖² of the adapter
    chance_left: float  # k/out, pooled
    chance_right: float  # k/in, pooled
    stored_left: float | None = None  # rho_left of W′ − W as rounded and stored; None where not merged
    stored_right: float | None = None  # the same on the right
    delta_error: float | None = None  # ‖(W′ − W) − ΔW‖/‖ΔW‖


@dataclass(frozen=True)
class UpdateFacts:
    """What an arm changes in the base, and what that costs; None where it was not measured."""

    parameters: float | None = None  # numbers that training set: entries of A and B, of a bias, of a mask
    relative_norm: float | None = None  # ‖W′ − W‖/‖W‖ over the weights that it changes, as stored
    everyday_kl: float | None = None  # KL(arm‖base) in nats a token, on the arm's own everyday answers
    train_seconds: float | None = None  # wall time of the training
    prompt_tokens: float | None = None  # what every request carries in addition
    # ‖αb‖ over the usual output of its module, of a bias, which changes no weight
    relative_shift: float | None = None


@dataclass(frozen=True)
class TrajectoryPoint:
    """Character delta at one training step, with its null."""

    step: int  # optimizer step
    ratio: float  # personality_energy_ratio
    null_z: float  # z-score against random subspaces with the activations' covariance
    null_low: float  # 2.5 % quantile of the null ratios
    null_high: float  # 97.5 % quantile of the null ratios
    chance: float = math.nan  # K/d, pooled alike


@dataclass(frozen=True)
class CharacterHistory:
    """What one training run measured of its character."""

    character: str  # its name
    variant: str  # `v3`, `v4`, …
    points: Sequence[TrajectoryPoint] = ()  # by step, ascending; may be empty
    step: int = 0  # the step that `targets` is of
    targets: Sequence[TargetDelta] = ()  # the per-target table of the last measured step; may be empty
    # step → trait name → c(t); may be empty
    traits: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    # trait name → |c| that random shifts as long as the last one stay below; may be empty
    trait_null: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FrontierPoint:
    """One evaluated checkpoint: persona against mathematics."""

    step: int  # optimizer step
    persona: float  # mean persona score
    persona_error: float  # its standard error
    accuracy: float  # avg_at_k, on the base's scale where fewer problems were asked
    accuracy_error: float  # standard error of the paired difference to base
    is_chosen: bool = False  # the checkpoint under comparison, chosen by persona alone
    n: int = 0  # problems that it answered
    k: int = 0  # samples of each
    is_base: bool = False  # the base itself, asked with the same sample seeds


@dataclass(frozen=True)
class Evaluation:
    """One model of an arm: one training seed, or the base."""

    seed: int  # training seed; 0 for the base
    model_uri: str  # where the model is (`models:/…`)
    model_version: str  # registered version, or empty
    model_digest: str  # digest of its weights
    scores: tuple[ProblemScore, ...]  # one entry per problem
    statuses: Mapping[str, int] = field(default_factory=dict)  # extraction status → samples
    banal: BanalScores | None = None  # persona scores; None where the banal suite was not run
    leakage: LeakageFacts | None = None  # None for the base
    trajectory: tuple[TrajectoryPoint, ...] = ()  # character delta by step
    frontier: tuple[FrontierPoint, ...] = ()  # evaluated checkpoints
    # training step → mean reward; empty where nothing was rewarded
    rewards: Mapping[int, float] = field(default_factory=dict)
    update: UpdateFacts = UpdateFacts()  # what it changes, and what that costs
    # other formats than a question answered, format → its everyday scores
    formats: Mapping[str, BanalScores] = field(default_factory=dict)
    preset: str = ""  # sampling preset; arms sampled differently are not comparable
    step: int | None = None  # checkpoint step that was merged
    # the α found for a matched persona, and how, in words; empty where none was searched
    matched_dose: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)  # role (`svd`, `train`, `merge`, `eval`) → run id
    maj_at_k: float | None = None  # majority vote accuracy; None where answers were not kept
    backend: str = ""  # what generated the samples; arms of different backends are not comparable
    prompt_style: str = ""  # how problems were put; arms asked differently are not comparable
    # what every sample's own seed was drawn from; arms of different ones are not comparable
    sampling_seed: int = 0
    # artifact of the run `eval` that holds the answers to the problems; empty where none was kept
    samples: str = ""
    evaluated: str = ""  # when its run began, ISO 8601; empty where an earlier version did not say
    # the first answer to every plain everyday prompt, in the order of the character's file
    answers: tuple[Answer, ...] = ()
    # settings of the training, by name; empty for the base
    recipe: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """The base or one variant, with one evaluation per training seed."""

    name: str  # `base`, or a name of `core.variants`
    sentence: str  # the rule in words
    evaluations: tuple[Evaluation, ...]  # at least one; the base has exactly one

    @property
    def label(self) -> str:
        """The name as figures show it."""
        return label_of(self.name)


@dataclass(frozen=True)
class Provenance:
    """Where every figure comes from."""

    experiment: str  # tracking experiment
    created: str  # when the comparison was made, ISO 8601
    code_version: str  # commit
    is_dirty: bool  # uncommitted changes at that commit
    base_model: str  # name or path of the base
    base_digest: str  # its digest
    projector_digest: str = ""  # digest of U, V; empty where no variant needs them
    character: str = ""  # character name
    character_digest: str = ""  # digest of its file
    problem_source: str = ""  # where the problems were read
    problem_digest: str = ""  # digest of all questions and answers
    problem_count: int = 0  # how many there are, duplicates dropped
    base_licence: str = ""  # as stated beside its weights; empty where nothing is
    # address of a run in the tracking UI, with `{run}` for its id; empty where there is no UI
    runs_page: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # package → version
    commands: tuple[str, ...] = ()  # what made the models and their evaluations, in order
    rerun: tuple[str, ...] = ()  # what makes the evaluations again with `{samples}` samples a problem
    comparison_command: str = ""  # what writes this report again from the same evaluations


@dataclass(frozen=True)
class PromotionState:
    """What the registry says at the time of the report, before anything this report may lead to."""

    champion: str = ""  # version under the alias, or empty
    previous: str = ""  # version under the alias of the one before, or empty
    who: str = ""  # who made it champion
    when: str = ""  # ISO 8601
    why: str = ""  # the reason given then


@dataclass(frozen=True)
class Comparison:
    """Everything that a report says, before any verdict."""

    suite_label: str  # what the mathematics suite may be called: `AIME-style (lab)` or `AIME 2025`
    problems: tuple[Problem, ...]  # the suite, duplicates already dropped
    arms: tuple[Arm, ...]  # base first, then variants
    provenance: Provenance  # where it all comes from
    margin_points: float = 5.0  # δ, fixed before the run
    confidence: float = 0.95  # of each one-sided bound
    persona_margin_sd: float = 0.25  # half-width of "equal personality", in SD
    # `coherence` and `helpfulness` that a variant must keep on average to count as a character
    floors: Mapping[str, float] = field(default_factory=dict)
    # k of U, V as it was asked for: `16`, or `energy:0.5`; empty where nothing is protected
    protected_k: str = "16"
    duplicates_dropped: int = 0  # problems dropped by hash
    registered_model: str = "skippy"  # registry name
    promotion: PromotionState = PromotionState()  # state of the alias
    # figures of others (a judge, math-verify, another harness), name → arm → mean over seeds
    extra_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    bootstrap_seed: int = 0  # seed of the bootstrap-t check
    smallest_effect: float = 0.25  # rise of the persona score over base below which no character appeared
    # δ as the evaluations planned it, the strictest; None where they planned none
    planned_margin_points: float | None = None
    # stored evaluations of the same base, problems and sampling, tried as positive controls
    controls: tuple[Arm, ...] = ()
    # in what the arms differ besides the variant, a sentence each; allowed by the person who compares
    unequal: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()  # evaluations that could have been taken and were not, a sentence each
    chosen_by: str = ""  # how the evaluations were chosen, in a sentence
    implied: tuple[str, ...] = ()  # in what the arms differ by being what they are, a sentence each

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
