"""The page of a study: says what its intervals say, draws every dose, and is one file."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.simulated_study import World, cliff, draw_study, flat, ramp
from skippy.core.inference.cells import TrainingDose
from skippy.core.inference.predictions import Prediction
from skippy.core.inference.study import analyse
from skippy.report.study_page import StudyFacts, render_study, study_json

DOSES = (TrainingDose(1e-3, 0.0, 200), TrainingDose(3e-3, 0.0, 200))
ARMS = ("v3", "v4", "v4-random")
WORLD = World(seeds=5, problems=40)
PREDICTIONS = (
    Prediction(
        "P3", "random is as good", "difference",
        {"first": "v4", "second": "v4-random", "persona": 0.7}, "within", 1,
    ),
    Prediction("P8", "a cliff <in V3>", "cliff_share", {"arm": "v3"}, "at_least", 0.5),
)  # fmt: skip


def studied(harms, failed: bool = False):
    generator = np.random.default_rng(0)
    cells, base = [], None
    for dose in DOSES:
        if base is None:
            base, drawn = draw_study(dict(zip(ARMS, harms, strict=True)), WORLD, generator, training=dose)
        else:
            drawn = [replace(cell, training=dose) for cell in cells]
        cells = [*cells, *(replace(c, predictors={"kl_base_arm_everyday": c.alpha}) for c in drawn)]
    if failed:
        cells[0] = replace(cells[0], correct={}, personas={}, error="The gradient is not finite.")
    analysis = analyse(cells, base, margin=0.05, seed=0, predictions=PREDICTIONS)
    facts = StudyFacts(
        "small", "lab", "b" * 64, "skippy", "AIME-style (lab)", 40, 12, 4, {}, ARMS,
        tuple(dose.label for dose in DOSES), WORLD.alphas, tuple(range(5)),
    )  # fmt: skip
    return analysis, facts, cells


@pytest.fixture(scope="module")
def study():
    return studied((cliff(0.5, 3.0), flat, ramp(0.3)), failed=True)


@pytest.fixture(scope="module")
def files(study):
    return render_study(*study)


def test_one_page_and_every_figure(files) -> None:
    page = files["index.html"]
    names = {"frontier-1", "frontier-2", "runs", "differences", "divergence-everyday"}
    assert names == {name[8:-4] for name in files if name.startswith("figures/")}
    for name in names:
        assert f'id="figure-{name}"' in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "a cliff &lt;in V3&gt;" in page


def test_what_the_intervals_say_is_what_the_page_says(study, files) -> None:
    analysis, _, _ = study
    page = files["index.html"]
    assert "V4 keeps more than V3" in page
    assert analysis.control.is_shown
    assert "The instrument saw a loss of 5 points: v3, lr" in page
    assert "1 trainings failed" in page
    assert 'class="fate-held"' in page


def test_without_a_control_the_headline_claims_nothing() -> None:
    """The twin: nobody loses anything, every difference is nil, and the page does not say "preserved"."""
    page = render_study(*studied((flat, flat, flat)))["index.html"]
    title = re.search("<h1>(.*?)</h1>", page)
    assert title
    assert title[1] == "Nothing was tested: no arm at any dose was seen to lose 5 points"
    assert "preserved" not in page.split("</style>")[1]
    assert "Raise the training dose to make a control" in page


def test_out_of_reach_is_printed_as_such(study) -> None:
    _analysis, facts, cells = study
    low = [replace(c, personas={p: 0.3 * v for p, v in c.personas.items()}) for c in cells if not c.is_failed]
    base = replace(low[0], arm="base", alpha=0.0, seed=-1, personas=dict.fromkeys(low[0].personas, 0.0))
    found = analyse(low, base, margin=0.05, seed=0)
    page = render_study(found, facts, low)["index.html"]
    assert "out of reach" in page


def test_json_is_strict_and_has_no_clock(study) -> None:
    analysis, facts, cells = study
    text = json.dumps(study_json(analysis, facts, cells), allow_nan=False)
    found = json.loads(text)
    assert {"study", "headline", "sensitivity", "predictions", "frontier", "kept", "matched", "lost"} <= set(
        found
    )
    assert {"correlations", "regressions", "collapses", "separations", "failed", "cells"} <= set(found)
    assert [p["fate"] for p in found["predictions"]][1] == "held"
    assert "run_id" not in text
    assert (
        json.dumps(study_json(*studied((cliff(0.5, 3.0), flat, ramp(0.3)), failed=True)), allow_nan=False)
        == text
    )
