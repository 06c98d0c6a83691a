"""What a training logged is logged again by the run that resumes it: once, in order, nothing after the checkpoint."""

import json

import pytest

from skippy.training.journal import JOURNAL_FILE, Journal
from tests.training.tiny_run import RecordingRun


def train(journal, folder, steps):
    for step in steps:
        journal.log_metrics({"train/reward": step / 4}, step=step)
        if step % 2 == 0:
            adapter = folder / "adapters" / f"step_{step:06d}"
            adapter.mkdir(parents=True, exist_ok=True)
            (adapter / "weights").write_text(str(step))
            journal.log_folder(adapter, f"adapters/{adapter.name}")
            journal.log_metrics({"character/null_z": float(step)}, step=step)
            journal.log_table(
                [{"step": step, "spectrum": [0.5, 0.25]}], f"character_deltas/step_{step:06d}.parquet"
            )


def plain(tables):
    return {
        path: [{**row, "spectrum": list(row["spectrum"])} for row in rows] for path, rows in tables.items()
    }


@pytest.mark.parametrize("torn", ["", '{"step": 6, "met'])
def test_a_resumed_run_ends_with_what_an_uninterrupted_one_has(tmp_path, torn):
    whole, killed, resumed = RecordingRun(), RecordingRun(), RecordingRun()
    (tmp_path / "a").mkdir()
    train(Journal(whole, tmp_path / "a"), tmp_path / "a", range(1, 9))
    folder = tmp_path / "b"
    folder.mkdir()
    train(Journal(killed, folder), folder, range(1, 6))
    with (folder / JOURNAL_FILE).open("a") as file:
        file.write(torn)
    journal = Journal(resumed, folder)
    journal.replay(4)
    train(journal, folder, range(5, 9))
    assert resumed.metrics == whole.metrics
    assert resumed.folders == whole.folders
    assert plain(resumed.tables) == plain(whole.tables)
    again = RecordingRun()
    Journal(again, folder).replay(8)
    assert again.metrics == whole.metrics, "and once more"


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path):
    """The twin: replayed to the end, the killed run's step 5 would stand twice."""
    run = RecordingRun()
    journal = Journal(RecordingRun(), tmp_path)
    train(journal, tmp_path, range(1, 6))
    Journal(run, tmp_path).replay(4)
    assert max(run.curve("train/reward")) == 4
    assert {json.loads(line)["step"] for line in (tmp_path / JOURNAL_FILE).read_text().splitlines()} == {
        1,
        2,
        3,
        4,
    }


def test_what_belongs_to_no_step_is_not_kept(tmp_path):
    (tmp_path / "adapter").mkdir()
    journal = Journal(RecordingRun(), tmp_path)
    journal.log_folder(tmp_path / "adapter", "adapter")
    run = RecordingRun()
    Journal(run, tmp_path).replay(10)
    assert run.folders == {}


def test_a_training_of_an_earlier_version_has_its_adapters_at_least(tmp_path, caplog):
    for step in (2, 4, 6):
        (tmp_path / "adapters" / f"step_{step:06d}").mkdir(parents=True)
    run = RecordingRun()
    Journal(run, tmp_path).replay(4)
    assert list(run.folders) == ["adapters/step_000002", "adapters/step_000004"]
    assert "curves up to the checkpoint are lost" in caplog.text
