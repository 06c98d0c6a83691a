"""Plans of studies: read whole, or refused with the line and the field."""

from dataclasses import fields
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from skippy.core.inference.cells import NO_SEED, NO_TRAINING, TrainingDose
from skippy.core.inference.study import CURVES, PREDICTORS
from skippy.core.variants import VARIANTS
from skippy.errors import PlanError
from skippy.studies.plan import read_plan
from skippy.studies.records import COLUMNS
from skippy.studies.training import WATCHED

ROOT = Path(__file__).parents[2]
PLAN = """\
name: small
arms: [v3, v4]
training:
  - {learning_rate: 1e-3, beta: 0.04, steps: 60}
  - {learning_rate: 3e-3, beta: 0, steps: 60}
alphas: [1.0, 0.5]
seeds: 101-103
predictions:
  - name: P1
    says: near chance
    statistic: rho_ratio
    about: {arm: v3}
    below: 2
"""
RHO = "statistic: rho_ratio\n    about: {arm: v3}"
CORRELATION = "  - {name: P1, says: s, statistic: correlation, about: {predictor: delta_norm}, below: 1}\n"


def of(statistic: str, about: str) -> str:
    return f"statistic: {statistic}\n    about: {{{about}}}"


def written(tmp_path: Path, text: str = PLAN) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return path


def test_a_plan_is_read_whole(tmp_path) -> None:
    plan = read_plan(written(tmp_path))
    assert plan.training == (TrainingDose(1e-3, 0.04, 60), TrainingDose(3e-3, 0.0, 60))
    assert (plan.alphas, plan.seeds, plan.trainings) == ((0.5, 1.0), (101, 102, 103), 12)
    assert (plan.base_model, plan.character, plan.k, plan.margin, plan.samples) == (
        "lab",
        "skippy",
        16,
        0.05,
        2,
    )
    assert plan.predictions[0].arguments == {"arm": "v3"}
    assert (plan.predictions[0].condition, plan.predictions[0].value) == ("below", 2.0)


@pytest.mark.parametrize(
    ("line", "changed", "number", "field", "message"),
    [
        ("arms: [v3, v4]", "arms: [v3, v9]", 2, "arms[1]", "There is no such arm"),
        ("arms: [v3, v4]", "arms: []", 2, "arms", "A list is too short"),
        ("alphas: [1.0, 0.5]", "alphas: []", 6, "alphas", "A list is too short"),
        ("alphas: [1.0, 0.5]", "alphas: [0.5, 0.5]", 6, "alphas[1]", "given twice"),
        ("alphas: [1.0, 0.5]", "alphas: [0.5, 0]", 6, "alphas[1]", "A dose of 0 is the base"),
        ("alphas: [1.0, 0.5]", "alphas: [0.5, nan]", 6, "alphas[1]", "Not a usable number"),
        ("3e-3, beta: 0, steps", "1e-3, beta: 0.04, steps", 5, "training[1]", "given twice"),
        ("1e-3, beta: 0.04", "1e-3, bata: 0.04", 4, "training[0].bata", "Unknown field in a plan file"),
        ("seeds: 101-103", "seeds: 103-101", 7, "seeds", "runs backwards"),
        ("seeds: 101-103", "seeds: 1-3000000000", 7, "seeds", "too long"),
        ("seeds: 101-103", "seeds: [7, 7]", 7, "seeds[1]", "given twice"),
        ("seeds: 101-103", "sedes: 101-103", 7, "sedes", "Unknown field"),
        ("statistic: rho_ratio", "statistic: rho", 11, "predictions[0].statistic", "no such statistic"),
        (
            "about: {arm: v3}",
            "about: {arm: v6}",
            12,
            "predictions[0].about.arm",
            "an arm that the plan does not run",
        ),
        ("    below: 2", "    above: 2", 13, "predictions[0].above", "Unknown field"),
        ("    below: 2\n", "", 9, "predictions[0]", "A prediction needs one condition"),
        ("    below: 2", "    within: -2", 13, "predictions[0].within", "Not a usable number"),
        ("arms: [v3, v4]", "arms: [v3, v3]", 2, "arms[1]", "given twice"),
        (
            "  - name: P1",
            f"{CORRELATION}  - name: P1",
            10,
            "predictions[1].name",
            "Two predictions have one name",
        ),
        (
            "about: {arm: v3}",
            "about: {arm: v3, persona: 1}",
            12,
            "predictions[0].about.persona",
            "Unknown field",
        ),
        *[
            (f"{RHO}", changed, 12, f"predictions[0].about.{field}", message)
            for changed, field, message in (
                (of("correlation", "predictor: kl_base"), "predictor", "There is no such predictor"),
                (of("r2_gain", "known: delta_norm, added: lost"), "added", "There is no such predictor"),
                (
                    of("r2_gain", "known: delta_norm, added: delta_norm"),
                    "added",
                    "A predictor is named twice",
                ),
                (
                    of("difference", "first: v3, second: v4, persona: 0.6"),
                    "persona",
                    "No difference is taken",
                ),
                (of("difference", "first: v4, second: v4, persona: 0.7"), "second", "set against itself"),
                (of("difference", "persona: 0.7, second: v4, first: v4"), "first", "set against itself"),
                (of("beside_point", "first: v3, second: prompt"), "second", "the plan does not run"),
            )
        ],
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, changed, number, field, message) -> None:
    path = written(tmp_path, PLAN.replace(line, changed))
    with pytest.raises(PlanError) as refusal:
        read_plan(path)
    assert message in refusal.value.what
    assert f"{path}, line {number}, field {field}" in refusal.value.where
    assert refusal.value.next_step


def test_a_missing_file_and_no_yaml(tmp_path) -> None:
    with pytest.raises(PlanError, match="A plan file cannot be read"):
        read_plan(tmp_path / "nothing.yaml")
    with pytest.raises(PlanError, match="A plan file cannot be read"):
        read_plan("/dev/zero")
    with pytest.raises(PlanError, match="needs a plan"):
        read_plan("")
    with pytest.raises(PlanError, match=r"start from a copy of studies/lab\.yaml"):
        read_plan(written(tmp_path, ""))
    with pytest.raises(PlanError, match="A plan file is not YAML"):
        read_plan(written(tmp_path, "name: [a"))


def test_what_cells_know_of_themselves_is_what_predictions_may_name() -> None:
    assert set(WATCHED.values()) == set(CURVES)
    tables = (ROOT / "studies" / "results").glob("*/cells.parquet")
    found = {name for path in tables for name in pq.read_schema(path).names} - set(COLUMNS)
    assert found
    assert found <= set(PREDICTORS)


def test_scales_of_arms_that_have_none(tmp_path) -> None:
    alone = PLAN.split("predictions")[0].replace("[v3, v4]", "[prompt]")
    with pytest.raises(PlanError) as refusal:
        read_plan(written(tmp_path, alone + "own_alphas: {prompt: [1]}\n"))
    assert refusal.value.expected == "no field here"


@pytest.mark.parametrize("name", ["lab", "calibration", "smollm2"])
def test_the_plans_of_this_repository(name) -> None:
    plan = read_plan(ROOT / "studies" / f"{name}.yaml")
    assert plan.name == name
    assert plan.arms
    seeds = set(plan.seeds)
    if name == "calibration":
        assert (plan.arms, seeds) == (("v3",), set(range(1, 9)))
        assert not plan.predictions
    else:
        assert not seeds & ({*range(1, 9)} | {*range(42, 48)})
        assert {p.name for p in plan.predictions} == {"P1", "P2", "P2b", "P3", "P8"}


def test_the_lab_study_is_what_was_asked() -> None:
    plan = read_plan(ROOT / "studies" / "lab.yaml")
    assert set(plan.arms) == {"v3", "v4", "v4-hooks", "v4-random"}
    assert len(plan.seeds) >= 10
    assert len(plan.training) >= 3


def test_the_study_of_all_arms_is_what_was_asked() -> None:
    plan = read_plan(ROOT / "studies" / "arms.yaml")
    assert set(plan.arms) == set(VARIANTS) - {"v4-hooks", "v6-v"}
    assert len(plan.seeds) >= 6
    assert not set(plan.seeds) & {*range(1, 9), *range(42, 48), *range(101, 111)}
    assert plan.bases == ("top", "bottom", "activations")
    assert plan.trainings == 1 + 11 * len(plan.seeds)
    assert (plan.alphas_of("prompt"), plan.seeds_of("prompt")) == ((1.0,), (NO_SEED,))
    assert all(1.0 in plan.alphas_of(arm) for arm in plan.arms), "arms are set side by side as made, too"
    assert plan.doses_of("v4") == plan.training
    assert plan.doses_of("v6") == (NO_TRAINING,)


def test_the_study_at_equal_persona_asks_one_thing_first_on_seeds_that_nobody_saw() -> None:
    plan = read_plan(ROOT / "studies" / "equal.yaml")
    assert plan.arms == ("v3", "v4", "v4-random")
    assert not set(plan.seeds) & {*range(1, 9), *range(42, 48), *range(101, 119)}
    alone = [p for p in plan.predictions if p.statistic == "difference_alone"]
    assert [(p.name, p.arguments) for p in alone] == [("E1", {"first": "v4", "second": "v3", "persona": 0.7})]
    again = read_plan(ROOT / "studies" / "again.yaml")
    own = {"file", "name", "seeds", "predictions"}
    assert all(
        getattr(again, f.name) == getattr(plan, f.name)
        for f in fields(plan)
        if f.compare and f.name not in own
    )
    assert not set(again.seeds) & set(plan.seeds)
    assert again.predictions[0].arguments == alone[0].arguments


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("own_alphas: {v5: [0.5, 1.5]}", "takes away at most all of its weights"),
        ("own_alphas: {v5: [0.5, 0]}", "A dose of 0 is the base"),
        ("own_alphas: {prompt: [0.5]}", "Unknown field"),
        ("own_alphas: {v6: [0.5]}", "Unknown field"),
    ],
)
def test_scales_of_one_arm(tmp_path, extra, message) -> None:
    text = PLAN.replace("[v3, v4]", "[v3, v5, prompt]") + "own_alphas: {v5: [0.5, 1]}\n"
    assert read_plan(written(tmp_path, text)).alphas_of("v5") == (0.5, 1.0)
    with pytest.raises(PlanError, match=message):
        read_plan(written(tmp_path, text.replace("own_alphas: {v5: [0.5, 1]}", extra)))
    wide = PLAN.replace("[v3, v4]", "[v3, v5]").replace("[1.0, 0.5]", "[1.0, 1.5]")
    with pytest.raises(PlanError, match="The mask of v5"):
        read_plan(written(tmp_path, wide))
