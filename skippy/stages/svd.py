"""svd: the certified top-k singular subspaces of every target, streamed from the checkpoint.

The model is never instantiated: headers first, then one weight (on a GPU: one batch of equal shapes) at a time
straight from the file, as `solving` has it. A finished target is kept in the workspace, so that a killed run goes
on where it was and ends with the same bits.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from skippy.config import SvdConfig, config_dict, parse_rank
from skippy.core.spectral.subspaces import SingularSubspace
from skippy.core.target import Target
from skippy.errors import MissingRunError, SubspaceError
from skippy.progress import Progress
from skippy.report.spectra import SpectrumRow, render_spectra
from skippy.resolve.bases import Base, open_base
from skippy.resolve.devices import pick_device, process_rank
from skippy.resolve.runs import REUSES, find_run
from skippy.resolve.workspaces import claim_workspace, workspace
from skippy.stores.projectors import Projectors, ProjectorStore
from skippy.stores.solving import Solver, SubspaceTask
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

AMBIGUOUS_GAP = 1.01
POLL_SECONDS = 0.5
WRITERS = 8  # each waits for its part to be safe on the disk


@dataclass(frozen=True)
class SvdResult:
    """What the stage leaves behind.

    Attributes:
        run_id: the run that holds the projectors (an earlier one where it was reused).
        targets: number of targets certified.
        worst_residual: largest two-sided residual, relative to sigma_1.
        ambiguous: targets whose gap is below 1.01, where the choice of k splits a cluster.
    """

    run_id: str
    targets: int
    worst_residual: float
    ambiguous: int


def run(config: SvdConfig, tracker: Tracker) -> SvdResult | None:
    """Compute, certify and store the subspaces, or reuse a finished run of the same base, k and tolerance.

    Under `torchrun` the list is split by rank; rank 0 alone talks to the tracker, the others return None.
    """
    rank, ranks = process_rank()
    if rank > 0:
        base = open_base(config.base_model, tracker)
        share = base.targets[rank::ranks]
        solver = _begin(base, config, share)
        _keep_all(solver, ProjectorStore(workspace(tracker, *_parts(base, config)), identify(config)), share)
        return None
    with tracker.stage(
        "svd",
        name=f"svd k={config.k} of {config.base_model}",
        note=f"Certified top-{config.k} singular subspaces of every target of {config.base_model}.",
        config=config_dict(config),
    ) as stage:
        base = open_base(config.base_model, tracker)
        share = base.targets[rank::ranks]
        started = time.monotonic()
        solver = _begin(base, config, share)
        stage.describe(base_digest=base.digest)
        stage.set_tags(identify(config))
        finished = None if config.force else _finished(tracker, base, identify(config))
        if finished is not None:
            return _reuse(finished, stage, tracker)
        with claim_workspace(tracker, *_parts(base, config)) as folder:
            store = ProjectorStore(folder, identify(config))
            _keep_all(solver, store, share)
            names = [target.name for target in base.targets]
            await_others(store, names)
            head = {
                "base_digest": base.digest,
                "k": config.k,
                "tolerance": config.tolerance,
                "seed": config.seed,
            }
            projectors = store.finish(head, names)
            stage.log_folder(folder, "projectors")
            result = _account(projectors, stage, base, time.monotonic() - started)
            shutil.rmtree(folder)
        return result


def _parts(base: Base, config: SvdConfig) -> tuple[str, ...]:
    return ("svd", base.digest[:16], *identify(config).values())


def await_others(store: ProjectorStore, names: Sequence[str]) -> None:
    """Wait until every rank has finished its share; `torchrun` ends us all if one of them dies."""
    while not store.finished().issuperset(names):
        time.sleep(POLL_SECONDS)


def identify(config: SvdConfig) -> dict[str, str]:
    """The tags that make two runs of one base interchangeable."""
    return {
        "skippy.k": config.k,
        "skippy.tolerance": f"{config.tolerance:g}",
        "skippy.svd_seed": str(config.seed),
    }


def _finished(tracker: Tracker, base: Base, identity: dict[str, str]) -> str | None:
    try:
        return find_run(tracker, "svd", base=base, extra_tags=identity).run_id
    except MissingRunError:
        return None


def _reuse(run_id: str, stage: StageRun, tracker: Tracker) -> SvdResult:
    logger.info(
        "svd: run %s already holds these projectors; pass -P force=true to compute them again", run_id
    )
    stage.set_tags({REUSES: run_id})
    stage.describe(note=f"Nothing to do: run {run_id} holds the same base, k and tolerance.")
    metrics = tracker.get(run_id).metrics
    return SvdResult(
        run_id, int(metrics["svd/targets"]), metrics["svd/worst_residual"], int(metrics["svd/ambiguous_gaps"])
    )


def _begin(base: Base, config: SvdConfig, share: Sequence[Target]) -> Solver:
    """Start on a share of the targets; on a GPU some are solved while the base is still being hashed."""
    rule = parse_rank(config.k)
    if rule.k:
        _require_rank(base.targets, rule.k)
    device = pick_device(config.device)
    logger.info("svd: %d targets of %s on %s", len(share), base.name, device)
    solver = Solver(base.checkpoint, share, SubspaceTask(rule, config.tolerance, config.seed), device)
    solver.work_while(lambda: not base.is_hashed)
    return solver


def _keep_all(solver: Solver, store: ProjectorStore, share: Sequence[Target]) -> None:
    """Keep every target of a share as soon as it is solved, but for those that the workspace holds already."""

    def keep(solved: tuple[Target, SingularSubspace, float]) -> float:
        target, subspace, seconds = solved
        store.append(target.name, subspace.U, subspace.S, subspace.V, certificate(subspace, seconds))
        return subspace.residual

    finished = store.finished()
    todo = sum(target.name not in finished for target in share)
    if todo < len(share):
        logger.info("svd: %d targets already done", len(share) - todo)
    worst = 0.0
    with Progress("svd", todo) as bar, ThreadPoolExecutor(WRITERS) as pool:
        for solved in solver.solve_rest(finished):
            worst = max([worst, *pool.map(keep, solved)])
            bar.advance(len(solved), worst_residual=f"{worst:.1e}")


def certificate(subspace: SingularSubspace, seconds: float) -> dict[str, float | str]:
    """What the manifest says of one target."""
    return {
        "residual": subspace.residual,
        "orthonormality": subspace.orthonormality,
        "completeness": subspace.completeness,
        "gap": subspace.gap,
        "sigma_1": float(subspace.S[0]),
        "sigma_k": float(subspace.S[-1]),
        "sigma_next": subspace.sigma_next,
        "wedin_bound": subspace.wedin_bound,
        "energy": float(subspace.S.double().square().sum()) / (subspace.frobenius_squared or 1.0),
        "method": subspace.method,
        "seconds": seconds,
    }


def _require_rank(targets: Sequence[Target], k: int) -> None:
    narrow = [target for target in targets if k > min(target.out, target.in_)]
    if narrow:
        first = min(narrow, key=lambda target: min(target.out, target.in_))
        raise SubspaceError(
            f"k is larger than the rank of {len(narrow)} targets.",
            where=f"{first.name}, shape {first.out}×{first.in_}",
            expected=f"k at most {min(first.out, first.in_)}",
            found=f"k = {k}",
            next_step=f"pass -P k={min(first.out, first.in_)} or less",
        )


def _account(projectors: Projectors, stage: StageRun, base: Base, seconds: float) -> SvdResult:
    """Log the certificates as metrics, tables and pictures."""
    rows = [_row(target, projectors) for target in base.targets]
    worst = max(row.residual for row in rows)
    ambiguous = sum(row.gap < AMBIGUOUS_GAP for row in rows)
    stage.log_metrics(
        {
            "svd/targets": len(rows),
            "svd/worst_residual": worst,
            "svd/ambiguous_gaps": ambiguous,
            "svd/mean_energy": sum(row.energy for row in rows) / len(rows),
            "svd/seconds": seconds,
        }
    )
    stage.set_tags({"skippy.projector_digest": projectors.digest})
    for name, content in render_spectra(rows, AMBIGUOUS_GAP).items():
        stage.log_text(content, f"spectra/{name}")
    logger.info(
        "svd: %d targets certified in %.1f s, worst residual %.1e; %d with a gap below %.2f, where the choice "
        "of k is arbitrary",
        *(len(rows), seconds, worst, ambiguous, AMBIGUOUS_GAP),
    )
    logger.info("next: mlflow run . -e train --env-manager local -P variant=v4")
    return SvdResult(stage.run_id, len(rows), worst, ambiguous)


def _row(target: Target, projectors: Projectors) -> SpectrumRow:
    facts = projectors.manifest["targets"][target.name]
    spectrum = tuple(projectors.bases[target.name].S.double().tolist())
    return SpectrumRow(
        target.name, target.layer, target.kind, spectrum,
        facts["sigma_next"], facts["gap"], facts["residual"], facts["energy"],
    )  # fmt: skip
