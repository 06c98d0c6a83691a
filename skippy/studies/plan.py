"""The plan of a study: a small YAML file, read once, refused by line and field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skippy.core.inference.cells import NO_SEED, NO_TRAINING, TrainingDose
from skippy.core.inference.predictions import CONDITIONS, STATISTICS, Prediction
from skippy.core.inference.study import LEVELS, PREDICTORS
from skippy.core.sampling import PRESETS as SAMPLINGS
from skippy.core.spectral.rank import TOP
from skippy.core.variants import VARIANTS, has_seed
from skippy.errors import PlanError, nearest
from skippy.presets.reading import PRESETS
from skippy.yaml_nodes import Node, read_nodes

REQUIRED = ("name", "arms", "training", "alphas", "seeds")
OPTIONAL = (
    *("base_model", "character", "k", "preset", "margin", "problems", "limit", "samples", "sampling"),
    *("max_tokens", "sampling_seed", "predictions", "note", "own_alphas"),
)
RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
LARGEST_ALPHA = 8.0
LARGEST_SEED = 2**31
MOST_SEEDS = 1000
WHOLE_MASK = 1.0
"""α of a mask at which all of its weights are gone."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study runs."""

    file: Path  # where it was read
    name: str  # of the study
    note: str  # a sentence for its run
    base_model: str  # as in every stage
    character: str  # as in every stage
    k: int  # protected directions a target
    preset: str  # hyperparameters that training doses change; `auto` as in `train`
    margin: float  # δ, a share of one
    arms: tuple[str, ...]  # variants, of every kind
    training: tuple[TrainingDose, ...]  # training doses
    alphas: tuple[float, ...]  # scales at which each update is played back, ascending
    seeds: tuple[int, ...]  # training seeds
    problems: str  # sources, as in `eval`
    limit: int  # first so many problems; 0: all
    samples: int  # answers a problem
    sampling: str  # preset
    max_tokens: int  # cuts the preset's; 0: as it is
    sampling_seed: int  # of every answer, the same for all cells
    predictions: tuple[Prediction, ...]  # stated before the run
    # arm → its scales, where they are others
    own_alphas: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    # top-level field → its line
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def trainings(self) -> int:
        """How many updates are made, and arms that have none."""
        return sum(len(self.doses_of(arm)) * len(self.seeds_of(arm)) for arm in self.arms)

    @property
    def bases(self) -> tuple[str, ...]:
        """Of which directions the arms need subspaces; the top ones measure every update."""
        return tuple(dict.fromkeys([TOP, *(VARIANTS[arm].own_basis or TOP for arm in self.arms)]))

    def doses_of(self, arm: str) -> tuple[TrainingDose, ...]:
        """The training doses, for an arm that GRPO trains as LoRA; others have a recipe of their own."""
        return self.training if VARIANTS[arm].method == "grpo" else (NO_TRAINING,)

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of its training or of the answers that it is made from; an arm that changes nothing has none."""
        return self.seeds if has_seed(arm) else (NO_SEED,)

    def alphas_of(self, arm: str) -> tuple[float, ...]:
        """The scales at which it is played; an arm that changes nothing is one point."""
        return self.own_alphas.get(arm, self.alphas) if has_seed(arm) else (1.0,)

    def refuse(self, name: str, what: str, *, expected: str, found: str, next_step: str = "") -> PlanError:
        """The error that a field deserves once the base or the problems are known; the caller raises it."""
        line = self.lines.get(name)
        where = (
            f"{self.file}, line {line}, field {name}" if line else f"{self.file}, field {name} (not given)"
        )
        return PlanError(what, where=where, expected=expected, found=found, next_step=next_step)


def read_plan(path: str | Path) -> StudyPlan:
    """Read and check a plan.

    Raises:
        PlanError: no such file, or one that breaks the schema; file, line and field are named.
    """
    if not str(path):
        raise PlanError(
            "A study needs a plan.",
            where="plan",
            expected="a YAML file, such as studies/lab.yaml: 120 trainings, 17 minutes on 32 cores",
            found="none",
            next_step="mlflow run . -e study --env-manager local -P plan=FILE",
        )
    root = read_nodes(Path(path), "plan")
    fields = root.mapping(REQUIRED, OPTIONAL)
    sampling = _choice(fields.get("sampling"), ("auto", *SAMPLINGS), "auto")
    arms = _arms(fields["arms"])
    return StudyPlan(
        file=Path(path),
        name=fields["name"].text(),
        note=fields["note"].text() if "note" in fields else "",
        base_model=_text(fields.get("base_model"), "lab"),
        character=_text(fields.get("character"), "skippy"),
        k=_integer(fields.get("k"), 16, 1, 128),
        preset=_choice(fields.get("preset"), ("auto", *PRESETS), "auto"),
        margin=fields["margin"].number(0.001, 0.5) if "margin" in fields else 0.05,
        arms=arms,
        training=_doses(fields["training"]),
        alphas=_alphas(fields["alphas"]),
        seeds=_seeds(fields["seeds"]),
        problems=_text(fields.get("problems"), "lab"),
        limit=_integer(fields.get("limit"), 0, 0, 10**6),
        samples=_integer(fields.get("samples"), 2, 1, 1024),
        sampling=sampling,
        max_tokens=_integer(fields.get("max_tokens"), 0, 0, 10**6),
        sampling_seed=_integer(fields.get("sampling_seed"), 0, 0, 2**31),
        predictions=_predictions(fields.get("predictions"), arms),
        own_alphas=_own_alphas(fields, arms),
        lines={name: node.line for name, node in fields.items()},
    )


def _text(node: Node | None, default: str) -> str:
    return default if node is None else node.text()


def _integer(node: Node | None, default: int, low: int, high: int) -> int:
    return default if node is None else node.integer(low, high)


def _choice(node: Node | None, choices: tuple[str, ...], default: str) -> str:
    return default if node is None else _one_of(node, node.text(), choices, "There is no such choice")


def _one_of(node: Node, word: str, known: Iterable[str], what: str) -> str:
    """`word` of a field, where it is known."""
    if word not in known:
        near = nearest(word, known)
        step = f"write {near} for {word}" if near else ""
        raise node.fail(what, expected="one of " + ", ".join(known), found=word, next_step=step)
    return word


def _arms(node: Node) -> tuple[str, ...]:
    arms = node.texts(1)
    for item, arm in zip(node.items(), arms, strict=True):
        _one_of(item, arm, VARIANTS, "There is no such arm")
    return arms


def _alphas(node: Node) -> tuple[float, ...]:
    alphas = _distinct(node, [item.number(0.0, LARGEST_ALPHA) for item in node.items(1)])
    for item, alpha in zip(node.items(), alphas, strict=True):
        if alpha == 0.0:
            raise item.fail(
                "A dose of 0 is the base, which is always asked", expected="scales above 0", found="0"
            )
    return tuple(sorted(alphas))


def _own_alphas(fields: Mapping[str, Node], arms: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Arm → its scales. A mask can take away no more than all of its weights."""
    own = fields["own_alphas"].mapping((), tuple(filter(has_seed, arms))) if "own_alphas" in fields else {}
    for arm in arms:
        node = own.get(arm, fields["alphas"])
        largest = _alphas(node)[-1]
        if VARIANTS[arm].update == "mask" and largest > WHOLE_MASK:
            raise node.fail(
                f"The mask of {arm} takes away at most all of its weights",
                expected="scales up to 1",
                found=f"{largest:g}",
                next_step=f"write own_alphas: {{{arm}: [0.5, 1]}}",
            )
    return {arm: _alphas(node) for arm, node in own.items()}


def _doses(node: Node) -> tuple[TrainingDose, ...]:
    doses = []
    for item in node.items(1):
        parts = item.mapping(("learning_rate", "beta", "steps"))
        rate = parts["learning_rate"].number(1e-9, 1.0)
        doses.append(TrainingDose(rate, parts["beta"].number(0.0, 10.0), parts["steps"].integer(1, 10**6)))
    return tuple(_distinct(node, doses))


def _seeds(node: Node) -> tuple[int, ...]:
    """A list of whole numbers, or `101-110`."""
    match = RANGE.fullmatch(str(node.raw.value)) if isinstance(node.raw.value, str) else None
    if match:
        first, last = int(match[1]), int(match[2])
        if last < first:
            raise node.fail("A range of seeds runs backwards", expected="first-last", found=match[0])
        if last - first >= MOST_SEEDS or last > LARGEST_SEED:
            raise node.fail(
                "A range of seeds is too long",
                expected=f"at most {MOST_SEEDS} seeds, none above {LARGEST_SEED}",
                found=match[0],
            )
        return tuple(range(first, last + 1))
    return tuple(_distinct(node, [item.integer(0, LARGEST_SEED) for item in node.items(1)]))


def _distinct(node: Node, values: list) -> list:
    """The values, each of them once."""
    for position, (item, value) in enumerate(zip(node.items(), values, strict=True)):
        if value in values[:position]:
            shown = value.label if isinstance(value, TrainingDose) else f"{value:g}"
            raise item.fail("A dose or seed is given twice", expected="each of them once", found=shown)
    return values


def _predictions(node: Node | None, arms: tuple[str, ...]) -> tuple[Prediction, ...]:
    if node is None:
        return ()
    predictions: list[Prediction] = []
    for item in node.items():
        parts = item.mapping(("name", "says", "statistic"), ("about", *CONDITIONS))
        name = parts["name"].text()
        if name in [other.name for other in predictions]:
            raise parts["name"].fail("Two predictions have one name", expected="each name once", found=name)
        statistic = _one_of(
            parts["statistic"], parts["statistic"].text(), STATISTICS, "There is no such statistic"
        )
        given = [condition for condition in CONDITIONS if condition in parts]
        if len(given) != 1:
            raise item.fail(
                "A prediction needs one condition",
                expected="one of " + ", ".join(CONDITIONS),
                found=", ".join(given) or "none",
            )
        about = _about(item, parts.get("about"), statistic, arms)
        value = parts[given[0]].number(0.0 if given[0] == "within" else -1e9, 1e9)
        predictions.append(Prediction(name, parts["says"].text(), statistic, about, given[0], value))
    return tuple(predictions)


def _about(
    item: Node, node: Node | None, statistic: str, arms: tuple[str, ...]
) -> dict[str, str | float | int]:
    """What a prediction is about; refused is what the study could never say anything of."""
    needed = STATISTICS[statistic].arguments
    if node is None:
        raise item.fail(
            "A prediction does not say what it is about",
            expected=f"about: {', '.join(needed)}",
            found="nothing",
        )
    about: dict[str, str | float | int] = {}
    predictors: list[str] = []
    for name, value in node.mapping(needed).items():
        if name == "persona":
            about[name] = value.number(0.0, 1.0)
            known = [f"{level:g}" for level in LEVELS]
            _one_of(value, f"{about[name]:g}", known, "No difference is taken at this persona")
            continue
        word = value.text()
        words = word.split() if name in ("predictor", "known", "added") else []
        if not words:
            _one_of(value, word, arms, "A prediction is about an arm that the plan does not run")
            if word in about.values():
                raise value.fail("An arm is set against itself", expected="another arm", found=word)
        for word in words:
            _one_of(value, word, PREDICTORS, "There is no such predictor")
            if word in predictors:
                raise value.fail("A predictor is named twice", expected="each once", found=word)
            predictors.append(word)
        about[name] = value.text()
    return about
