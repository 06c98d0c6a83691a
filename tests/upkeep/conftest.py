"""Registered versions of a few bytes, each with the card that a merge writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.core.spectral.lora import LoraFactors
from skippy.stores.adapters import read_adapter
from skippy.stores.cards import hash_file
from skippy.tracking import store

NAMES = ("config.json", "model.safetensors")


@pytest.fixture
def version(tracker) -> Callable:
    """Make a version: `version(digest="d1")` gives its record."""

    def make(*, digest: str = "d1", base_digest: str = "b" * 64, adapter_digest: str = "a", **tags: str):
        with (
            tracker.stage("merge", name="m", note="n", config={}, base_digest=base_digest) as run,
            tracker.models.draft(run, "v4", registered_model="skippy") as draft,
        ):
            draft.weights_dir.mkdir()
            (draft.weights_dir / "config.json").write_text("{}")
            (draft.weights_dir / "model.safetensors").write_bytes(os.urandom(10_000))
            files = {name: hash_file(draft.weights_dir / name) for name in NAMES}
            card = {
                "digest": digest,
                "base_digest": base_digest,
                "adapter_digest": adapter_digest,
                "files": files,
            }
            (draft.weights_dir / "skippy.json").write_text(json.dumps(card))
            return draft.register("skippy", {"variant": "v4", "adapter_digest": adapter_digest, **tags})

    return make


@pytest.fixture
def trained(tracker, tmp_path) -> tuple[str, str]:
    """A train run that keeps an adapter: its id, and the adapter's digest."""
    factors = {"model.layers.0.self_attn.q_proj": LoraFactors(torch.ones(2, 4), torch.ones(4, 2), 0.5)}
    write_adapter(tmp_path / "adapter", factors)
    with tracker.stage("train", name="t", note="n", config={}) as run:
        run.log_folder(tmp_path / "adapter", "adapter")
    return run.run_id, read_adapter(tmp_path / "adapter").digest()


@pytest.fixture
def opened(tracker, monkeypatch):
    """Let commands open this test's store."""
    monkeypatch.setattr(store, "open_tracker", lambda: tracker)
    return tracker
