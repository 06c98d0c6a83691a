"""Data parallelism over two processes: ranks agree bit for bit, V4 stays exact, and one process gives the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from skippy.core.spectral.constraints import pooled_leakage
from skippy.training.grpo import train_grpo
from skippy.training.trainer import ConstrainedTrainer
from tests.training.tiny_run import FIXED_SETTINGS, RecordingRun, fix_completions, make_request

EXACT = 1e-12
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes under torchrun left."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(HERE / "distributed_worker.py"), str(base), str(folder)],
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1]), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def of_rank(folder: Path, kind: str, rank: int) -> dict[str, Tensor]:
    return load_file(folder / f"{kind}_{rank}.safetensors")


@pytest.mark.parametrize("kind", ["sampled", "fixed"])
def test_ranks_agree_bit_for_bit(kind: str, folder: Path) -> None:
    first, second = (of_rank(folder, kind, rank) for rank in (0, 1))
    assert len(first) == 28
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(float(first[name].norm()) > 0 for name in first)


def test_v4_is_exact_on_every_rank(folder: Path, projectors: dict) -> None:
    for rank in (0, 1):
        factors = of_rank(folder, "sampled", rank)
        items = [(factors[f"{n}.A"], factors[f"{n}.B"], U, V) for n, (U, _, V) in projectors.items()]
        found = pooled_leakage(items)
        assert max(found.rho_left, found.rho_right) <= EXACT


def test_the_logged_adapter_is_that_of_the_ranks(folder: Path) -> None:
    saved = load_file(folder / "run/adapter/adapter_model.safetensors")
    for name, tensor in of_rank(folder, "sampled", 1).items():
        assert torch.equal(saved[saved_name(name)], tensor)


def test_one_process_gives_the_same(
    base: Path, projectors: dict, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On equal completions; the sampled runs differ, as they must."""
    monkeypatch.setattr(ConstrainedTrainer, "_generate_single_turn", None)
    fix_completions()
    outcome = train_grpo(make_request(base, projectors, tmp_path, "v4", FIXED_SETTINGS), RecordingRun())
    alone = load_file(outcome.adapter_dir / "adapter_model.safetensors")
    assert distance(alone, of_rank(folder, "fixed", 0)) < 1e-4
    assert distance(alone, of_rank(folder, "sampled", 0)) > 1e-2


def distance(alone: dict[str, Tensor], ranks: dict[str, Tensor]) -> float:
    differences = sum(
        float((alone[saved_name(name)] - tensor).square().sum()) for name, tensor in ranks.items()
    )
    return (differences / sum(float(tensor.square().sum()) for tensor in ranks.values())) ** 0.5


def saved_name(name: str) -> str:
    target, letter = name.rsplit(".", 1)
    return f"base_model.model.{target}.lora_{letter}.weight"
