"""A store that the version before this one wrote still compares and promotes (see `earlier_store/make.py`)."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from skippy.config import CompareConfig, PromoteConfig
from skippy.report.record import ReportRecord
from skippy.stages import compare, promote
from skippy.stores.cards import verify_checkpoint
from skippy.tracking.store import open_tracker
from skippy.tracking.tracker import Tracker

CHARACTER = "character/skippy.yaml"
ARCHIVE = Path(__file__).parent / "earlier_store" / "store.tar.gz"


@pytest.fixture
def earlier(project: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    """The earlier store, unpacked where the project's own would be."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(project, filter="data")
    (project / "mlflow.db").unlink()
    for path in (project / "mlartifacts").rglob("*"):
        if path.is_file() and b"{ROOT}" in path.read_bytes():
            path.write_bytes(path.read_bytes().replace(b"{ROOT}", str(project).encode()))
    with closing(sqlite3.connect(project / "mlflow.db")) as database:
        database.executescript((project / "store.sql").read_text().replace("{ROOT}", str(project)))
    monkeypatch.chdir(project)
    return open_tracker(project)


def test_its_evaluations_compare(earlier: Tracker) -> None:
    before = ReportRecord.from_json(
        earlier.artifacts.path(earlier.runs.find("compare").run_id, "report/report.json").read_bytes()
    )
    result = compare.run(CompareConfig(base_model="base", character=CHARACTER), earlier)
    after = json.loads(earlier.artifacts.path(result.run_id, "report/report.json").read_text())
    for name, verdict in before.verdicts.items():
        found = after["verdicts"][name]
        assert (found["mean_difference"], tuple(found["interval"])) == (
            verdict.mean_difference,
            verdict.interval,
        )
    assert after["provenance"]["base_digest"] == before.provenance.base_digest


def test_its_versions_get_a_card_with_their_verdict(earlier: Tracker) -> None:
    """In the registry and beside the weights, not among them: those still are what was hashed."""
    result = compare.run(CompareConfig(base_model="base", character=CHARACTER), earlier)
    for version in earlier.registry.versions("skippy"):
        text = earlier.client.get_model_version("skippy", str(version.version)).description
        arm = version.tags["variant"]
        assert text.startswith(f"# {arm.upper()}, skippy on base")
        assert f"**{'preserved' if arm == 'v4' else 'degraded'}**" in text
        folder = earlier.models.resolve(version.uri).path
        assert (folder.parent / "MODEL_CARD.md").read_text() == text
        assert verify_checkpoint(folder)["digest"] in text
        kept = earlier.artifacts.path(result.run_id, f"cards/skippy-{version.version}.md")
        assert kept.read_text() == text


def test_its_report_promotes(earlier: Tracker) -> None:
    report = earlier.runs.find("compare")
    result = promote.run(PromoteConfig(base_model="base", compare_run=report.run_id), earlier)
    assert result.state == "promoted"
    champion = earlier.registry.alias("skippy", "champion")
    assert champion.tags["variant"] == "v4"


def test_a_comparison_of_its_evaluations_promotes(earlier: Tracker) -> None:
    compare.run(CompareConfig(base_model="base", character=CHARACTER), earlier)
    assert promote.run(PromoteConfig(base_model="base"), earlier).state == "promoted"
