"""What a cell of the lab's study costs, and how long the study of the issue would take: 4 arms × 3 doses × 3 seeds.

    python -m benchmarks.bench_study            # two whole cells of studies/lab.yaml for each way, CPU
    python -m benchmarks.bench_study --quick    # cells of 20 steps at one scale, to see that it runs

Runs real cells through the study stage, in a store of its own: with one worker, with two, and on a machine of 16
cores or more with sixteen. A cell's cost is processor time, which other work on the machine changes little; a rate is
wall time, and is only worth something on an idle machine. The time of 36 cells is extrapolated from the cost of one,
and says so. The exit status is 1 where it is above 30 minutes on two cores, or sixteen workers do not reach six
times the rate of two.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from skippy.config import StudyConfig, SvdConfig
from skippy.stages import study, svd
from skippy.tracking.store import open_tracker
from skippy.tracking.tracker import Tracker

PLAN = Path(__file__).parents[1] / "studies" / "lab.yaml"
CELLS, MINUTES, CORES = 36, 30.0, 2
MANY, LEAST_RATIO = 16, 6.0
QUICK_STEPS = 20
FIRST_SEED = 201
"""Of the benchmark alone; each way has seeds of its own, so that no cell is there already."""


@dataclass(frozen=True)
class Measured:
    """One run of the stage.

    Attributes:
        workers: side by side.
        cells: done.
        wall_seconds: from the first cell's start to the last one's end.
        cell_seconds: processor seconds inside cells, all together.
        other_seconds: processor seconds outside: starting workers, the base's answers, looking, analysing.
        train_share: share of a cell's wall time that is training; the rest is playback.
    """

    workers: int
    cells: int
    wall_seconds: float
    cell_seconds: float
    other_seconds: float
    train_share: float

    @property
    def seconds_per_cell(self) -> float:
        """Processor seconds."""
        return self.cell_seconds / self.cells

    @property
    def rate(self) -> float:
        """Cells an hour, by the clock."""
        return 3600 * self.cells / self.wall_seconds


def processor_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def write_plan(folder: Path, cells: int, first_seed: int, *, is_quick: bool) -> Path:
    """A slice of the lab's plan: all of its arms at its highest dose, as many seeds as it takes."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    arms = plan["arms"][: min(cells, len(plan["arms"]))]
    training = plan["training"][-1] | ({"steps": QUICK_STEPS} if is_quick else {})
    seeds = list(range(first_seed, first_seed + -(-cells // len(arms))))
    slice_of_it = {**plan, "arms": arms, "training": [training], "seeds": seeds, "predictions": []}
    if is_quick:
        slice_of_it["alphas"] = [1.0]
    path = folder / f"{first_seed}.yaml"
    path.write_text(yaml.safe_dump(slice_of_it), encoding="utf-8")
    return path


def measure(tracker: Tracker, plan: Path, workers: int) -> Measured:
    """Run the stage over a plan of which nothing is there."""
    before = processor_seconds()
    result = study.run(StudyConfig(plan=str(plan), device="cpu", parallel=workers), tracker)
    used = processor_seconds() - before
    runs = [
        run
        for run in tracker.runs.find_all("cell")
        if run.parent == result.run_id and "cell/processor_seconds" in run.metrics
    ]
    inside = sum(run.metrics["cell/processor_seconds"] for run in runs)
    train = sum(run.metrics["cell/train_seconds"] for run in runs)
    play = sum(run.metrics["cell/play_seconds"] for run in runs)
    started = min(run.start_time for run in runs) / 1000
    return Measured(workers, len(runs), ended(runs) - started, inside, used - inside, train / (train + play))


def ended(runs: list) -> float:
    """When the last of some cells was kept, in seconds since the epoch."""
    return max(
        run.start_time / 1000 + run.metrics["cell/train_seconds"] + run.metrics["cell/play_seconds"]
        for run in runs
    )


def show(measured: list[Measured], *, is_quick: bool) -> list[str]:
    """Print what was measured and what follows; returns what was missed."""
    print("measured, whole cells through the study stage" + (" (quick: short cells)" if is_quick else ""))
    print(
        f"{'workers':>8s}{'cells':>7s}{'processor s a cell':>20s}{'beside cells, s':>17s}{'cells an hour':>15s}"
    )
    for one in measured:
        print(
            f"{one.workers:8d}{one.cells:7d}{one.seconds_per_cell:20.1f}{one.other_seconds:17.1f}{one.rate:15.1f}"
            f"   {100 * one.train_share:.0f} % training, the rest playback"
        )
    by_workers = {one.workers: one for one in measured}
    alone, two = by_workers[1], by_workers[2]
    print(f"two workers against one, by the clock: {two.rate / alone.rate:.2f} times the rate")
    worker_start = max(0.0, two.other_seconds - alone.other_seconds) / 2
    whole = CELLS * two.seconds_per_cell + two.other_seconds
    minutes = whole / CORES / 60
    print(
        f"extrapolated, not measured: {CELLS} cells on {CORES} idle cores, {minutes:.1f} min "
        f"({CELLS} × {two.seconds_per_cell:.1f} s, {two.other_seconds:.0f} s beside them, of which a worker's start "
        f"about {worker_start:.0f} s); {MINUTES:g} min wanted"
    )
    missed = [] if is_quick or minutes <= MINUTES else [f"{minutes:.1f} min for {CELLS} cells"]
    if MANY in by_workers:
        ratio = by_workers[MANY].rate / two.rate
        print(f"{MANY} workers against two, by the clock: {ratio:.1f} times the rate; {LEAST_RATIO:g} wanted")
        missed += (
            [] if is_quick or ratio >= LEAST_RATIO else [f"{ratio:.1f} times the rate with {MANY} workers"]
        )
    else:
        print(f"{MANY} workers: not measured, this machine has {os.cpu_count()} cores")
    return missed


def main() -> None:
    """Run the ways one after the other, in a store that goes when they are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short cells")
    is_quick = parser.parse_args().quick
    ways = {1: 1, 2: 2, **({MANY: MANY} if len(os.sched_getaffinity(0)) >= MANY else {})}
    os.environ["MLFLOW_TRACKING_URI"] = ""
    with tempfile.TemporaryDirectory() as scratch:
        tracker = open_tracker(Path(scratch))
        svd.run(SvdConfig(device="cpu"), tracker)
        measured = []
        for workers, cells in ways.items():
            plan = write_plan(Path(scratch), cells, FIRST_SEED + 100 * workers, is_quick=is_quick)
            measured.append(measure(tracker, plan, workers))
    missed = show(measured, is_quick=is_quick)
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
