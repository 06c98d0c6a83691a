"""One rank of a data-parallel run: trains as it stands, then on fixed completions, and saves this rank's view."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from skippy.presets.reading import PRESETS
from skippy.training import grpo
from skippy.training.plan import TrainRequest
from skippy.training.trainer import process_count
from tests.training.tiny_run import (
    FIXED_SETTINGS,
    RecordingRun,
    fix_completions,
    make_request,
    singular_triples,
)


def train_and_look(request: TrainRequest) -> tuple[RecordingRun, dict[str, torch.Tensor]]:
    """Train through the public door; also return the factors that this rank holds at the end."""
    built = []
    build_run, run = grpo.build_run, RecordingRun()

    def remember(*arguments: object) -> grpo.BuiltRun:
        built.append(build_run(*arguments))
        return built[-1]

    grpo.build_run = remember
    grpo.train_grpo(request, run)
    grpo.build_run = build_run
    factors = {f"{name}.A": one.A.detach() for name, one in built[0].factors.items()}
    return run, factors | {f"{name}.B": one.B.detach() for name, one in built[0].factors.items()}


def main(base: Path, folder: Path) -> None:
    """Two runs, one file each."""
    torch.set_num_threads(1)
    projectors = singular_triples(base)
    run, sampled = train_and_look(make_request(base, projectors, folder / "run", "v4", PRESETS["short"]))
    rank = torch.distributed.get_rank()
    assert process_count() == torch.distributed.get_world_size() == 2
    assert bool(run.metrics) == (rank == 0), "only the first process logs"
    save_file(sampled, folder / f"sampled_{rank}.safetensors")
    fix_completions()
    halves = replace(FIXED_SETTINGS, per_device_batch=FIXED_SETTINGS.per_device_batch // 2)
    _, fixed = train_and_look(make_request(base, projectors, folder / "fixed", "v4", halves))
    save_file(fixed, folder / f"fixed_{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
