"""One process at a time in a workspace, and nothing given up that another one works on."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest

from skippy.errors import TrackingError
from skippy.resolve.workspaces import claim_workspace, discard_workspace, workspace


def tracker_at(root: Path) -> SimpleNamespace:
    return SimpleNamespace(store=SimpleNamespace(root=root))


def hold(root: Path, held, release) -> None:
    with claim_workspace(tracker_at(root), "train", "x"):
        held.set()
        release.wait(30)


def test_a_workspace_is_free_again_after_its_owner(tmp_path) -> None:
    for _ in range(2):
        with claim_workspace(tracker_at(tmp_path), "train", "x") as folder:
            (folder / "part").write_text("kept")


def test_another_process_is_refused_and_takes_nothing_away(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(tmp_path, held, release))
    owner.start()
    try:
        assert held.wait(60)
        with pytest.raises(TrackingError, match=r"exactly this work[\s\S]*one process at a time"), \
                claim_workspace(tracker_at(tmp_path), "train", "x"):  # fmt: skip
            pass
        folder = workspace(tracker_at(tmp_path), "train", "x")
        discard_workspace(folder)
        assert folder.is_dir(), "another process works there"
    finally:
        release.set()
        owner.join()
    discard_workspace(folder)
    assert not folder.exists()
