"""report.json: one record for writer and readers, of this version and earlier ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from skippy.errors import ReportError
from skippy.report.conclusions import VariantVerdict
from skippy.report.page import report_record
from skippy.report.record import ArmEntry, EvaluationEntry, ReportRecord, WinnerEntry
from skippy.report.verdicts import judge
from skippy.results import LeakageFacts
from tests.report.report_example import distinct_comparison

SMALL = ReportRecord(
    WinnerEntry("v4", "so"),
    {"v4": VariantVerdict("v4", "preserved", "kept", interval=(-1.0, 2.0))},
    {"v4": ArmEntry((EvaluationEntry({"eval": "e"}, "ab"),))},
)


def test_what_is_written_is_what_is_read() -> None:
    facts = distinct_comparison()
    record = report_record(facts, judge(facts))
    assert ReportRecord.from_json(record.to_json()) == record


def test_infinities_and_nan_become_null_and_come_back_as_unknown() -> None:
    leakage = LeakageFacts(math.nan, 0.1, math.inf, 0.3)
    arms = {"v4": ArmEntry((EvaluationEntry({"eval": "e"}, "ab", leakage=leakage),))}
    text = replace(SMALL, arms=arms).to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = ReportRecord.from_json(text).arms["v4"].evaluations[0].leakage
    assert found is not None
    assert (math.isnan(found.rho_left), found.rho_right, math.isnan(found.chance_left)) == (True, 0.1, True)


def test_keys_of_later_versions_are_left_alone_and_those_of_earlier_ones_take_their_default() -> None:
    content = json.loads(SMALL.to_json())
    content["later"] = {"a": 1}
    for key in ("pairs", "planning", "limits"):
        del content[key]
    assert ReportRecord.from_json(json.dumps(content)) == SMALL


def forget_winner(content: dict) -> None:
    del content["winner"]


def number_the_winner(content: dict) -> None:
    content["winner"]["variant"] = 4


def make_up_a_verdict(content: dict) -> None:
    content["verdicts"]["v4"]["verdict"] = "splendid"


def cut_an_interval(content: dict) -> None:
    content["verdicts"]["v4"]["interval"] = [1.0]


def truth_for_a_number(content: dict) -> None:
    content["verdicts"]["v4"]["n"] = True


@pytest.mark.parametrize(
    ("change", "where", "found"),
    [
        (forget_winner, "report/report.json: winner", "nothing"),
        (number_the_winner, "report/report.json: winner.variant", "int 4"),
        (make_up_a_verdict, "report/report.json: verdicts.v4.verdict", "splendid"),
        (cut_an_interval, "report/report.json: verdicts.v4.interval", "list [1.0]"),
        (truth_for_a_number, "report/report.json: verdicts.v4.n", "bool True"),
    ],
)
def test_another_form_is_refused_by_place(change: Callable[[dict], None], where: str, found: str) -> None:
    content = json.loads(SMALL.to_json())
    change(content)
    with pytest.raises(ReportError, match="form that compare writes") as refusal:
        ReportRecord.from_json(json.dumps(content))
    assert (refusal.value.where, refusal.value.found) == (where, found)
    assert refusal.value.next_step


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ReportError, match="no JSON"):
        ReportRecord.from_json("{")
