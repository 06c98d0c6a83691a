"""svd: the certified top-k singular subspaces of every target, streamed from the checkpoint.

The model is never instantiated: headers first, then one weight (on a GPU: one batch of equal shapes) at a
time straight from the file. A finished target is kept in the workspace, so that a killed run goes on where it
was and ends with the same bits.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import torch

from skippy.config import MAX_K, RankRule, SvdConfig, config_dict, parse_rank
from skippy.core.subspace import SingularSubspace, rank_for_energy, seed_of, top_singular_subspaces
from skippy.errors import MissingRunError, SubspaceError
from skippy.models.targets import Target
from skippy.progress import Progress
from skippy.report.spectra import SpectrumRow, render_spectra
from skippy.stages.inputs import (
    REUSES,
    Base,
    claim_workspace,
    find_run,
    open_base,
    pick_device,
    process_rank,
    workspace,
)
from skippy.stores.projectors import Projectors, ProjectorStore
from skippy.tracking.runs import Tracker
from skippy.tracking.stage_run import StageRun

logger = logging.getLogger(__name__)

AMBIGUOUS_GAP = 1.01
GPU_BATCH_BYTES = 8 * 2**30
POLL_SECONDS = 0.5
READERS = 8  # threads that read a GPU's next batch


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
        store = ProjectorStore(workspace(tracker, *_parts(base, config)), identify(config))
        _compute(base, parse_rank(config.k), config, store, rank, ranks)
        return None
    with tracker.stage(
        "svd",
        name=f"svd k={config.k} of {config.base_model}",
        note=f"Certified top-{config.k} singular subspaces of every target of {config.base_model}.",
        config=config_dict(config),
    ) as stage:
        rule = parse_rank(config.k)
        base = open_base(config.base_model, tracker)
        stage.describe(base_digest=base.digest)
        stage.set_tags(identify(config))
        finished = None if config.force else _finished(tracker, base, identify(config))
        if finished is not None:
            return _reuse(finished, stage, tracker)
        started = time.monotonic()
        with claim_workspace(tracker, *_parts(base, config)) as folder:
            store = ProjectorStore(folder, identify(config))
            _compute(base, rule, config, store, rank, ranks)
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
        return find_run(tracker, "svd", "", base_digest=base.digest, extra_tags=identity).run_id
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


def _compute(
    base: Base, rule: RankRule, config: SvdConfig, store: ProjectorStore, rank: int, ranks: int
) -> None:
    """This rank's share of what the workspace does not hold yet, in batches of equal shape."""
    if rule.k:
        _require_rank(base.targets, rule.k)
    device = pick_device(config.device)
    share = base.targets[rank::ranks]
    # Batches are those of the whole share: a stack of what is left would end with other bits on a GPU.
    finished = store.finished()
    waiting = [
        batch
        for batch in batches(share, device, one_by_one=not rule.k)
        if not finished.issuperset(target.name for target in batch)
    ]
    todo = sum(len(batch) for batch in waiting)
    done = len(share) - todo
    logger.info(
        "svd: %d targets of %s on %s%s",
        len(share),
        base.name,
        device,
        f", {done} already done" if done else "",
    )
    with Progress("svd", todo) as bar:
        worst = 0.0
        for batch, weights in _loaded(base, waiting, device):
            started = time.monotonic()
            found = _solve(batch, weights, rule, config)
            seconds = (time.monotonic() - started) / len(batch)
            for target, subspace in zip(batch, found, strict=True):
                store.append(target.name, subspace.U, subspace.S, subspace.V, certificate(subspace, seconds))
                worst = max(worst, subspace.residual)
            bar.advance(len(batch), worst_residual=f"{worst:.1e}")


def _loaded(
    base: Base, waiting: Sequence[list[Target]], device: torch.device
) -> Iterator[tuple[list[Target], torch.Tensor]]:
    """Each batch with its weights on the device; for a GPU, threads read the next batch while this one is solved.

    On a CPU memory is what counts, and reading is nothing beside solving: one target at a time.
    """
    if device.type == "cpu":
        for batch in waiting:
            yield batch, torch.stack([base.checkpoint.read(target.weight_key) for target in batch])
        return
    with ThreadPoolExecutor(READERS) as pool:

        def begin(batch: list[Target]) -> list[Future[torch.Tensor]]:
            return [pool.submit(base.checkpoint.read, target.weight_key) for target in batch]

        ahead = begin(waiting[0]) if waiting else []
        for index, batch in enumerate(waiting):
            reading, ahead = ahead, begin(waiting[index + 1]) if index + 1 < len(waiting) else []
            yield batch, torch.stack([part.result().to(device) for part in reading])


def _solve(
    batch: Sequence[Target], weights: torch.Tensor, rule: RankRule, config: SvdConfig
) -> list[SingularSubspace]:
    names = [target.name for target in batch]
    seeds = [seed_of(f"{config.seed}:{name}") for name in names]
    k = rule.k or _rank_for_share(weights, rule.share, config, seeds, names)
    return top_singular_subspaces(weights, k, tolerance=config.tolerance, seeds=seeds, names=names)


def _rank_for_share(
    weights: torch.Tensor, share: float, config: SvdConfig, seeds: list[int], names: list[str]
) -> int:
    """The fewest directions that hold `share` of ‖W‖², up to `MAX_K`; one weight at a time."""
    limit = min(MAX_K, *weights.shape[1:])
    probe = top_singular_subspaces(weights, limit, tolerance=config.tolerance, seeds=seeds, names=names)[0]
    total = float(weights[0].double().square().sum())
    return rank_for_energy(probe.S, total, share)


def batches(
    targets: Sequence[Target], device: torch.device, *, one_by_one: bool = False
) -> Iterator[list[Target]]:
    """One target at a time on a CPU; on a GPU, equal shapes together up to `GPU_BATCH_BYTES` in float32."""
    if device.type == "cpu" or one_by_one:
        yield from ([target] for target in targets)
        return
    by_shape = sorted(targets, key=lambda target: (target.out, target.in_))
    for (out, in_), group in groupby(by_shape, key=lambda target: (target.out, target.in_)):
        members = list(group)
        size = max(1, GPU_BATCH_BYTES // (4 * out * in_))
        yield from (members[start : start + size] for start in range(0, len(members), size))


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
