"""svd: the certified subspaces of every target that a variant keeps its update out of.

For singular directions the model is never instantiated: headers first, then one weight (on a GPU: one batch of equal
shapes) at a time straight from the file, as `solving` has it. For those of activations it reads worked solutions. A
finished target is kept in the workspace, so that a killed run goes on where it was and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from skippy.commands import next_command
from skippy.config import SvdConfig, config_dict
from skippy.core.problem import Problem
from skippy.core.spectral.rank import ACTIVATIONS, TOP, SubspaceTask, basis_tag, parse_rank
from skippy.core.target import Target
from skippy.errors import ConfigError, SubspaceError
from skippy.evaluation.suites import load_problem_set
from skippy.lab.paths import LAB
from skippy.lab.problems import unasked_set
from skippy.models.profiles import PROMPT_STYLES
from skippy.report.spectra import SpectrumRow, render_spectra
from skippy.resolve.bases import Base, open_base
from skippy.resolve.devices import pick_device, process_rank, require_device
from skippy.resolve.projectors import load_projectors
from skippy.resolve.work import find_equal_run, take_over
from skippy.resolve.workspaces import claim_workspace, discard_workspace, workspace
from skippy.stores.projector_files import MANIFEST_FILE, PROJECTORS_FILE
from skippy.tracking.records import RunRecord
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker
from skippy.words import counted

if TYPE_CHECKING:
    from skippy.stores.projectors import Projectors, ProjectorStore
    from skippy.stores.solving import SolvesRest

logger = logging.getLogger(__name__)

AMBIGUOUS_GAP = 1.01
PATIENCE_SECONDS = 0.5
"""How long the digest of a base is waited for: small ones, and those that are known, have it at once."""
SOLUTIONS = 384
"""Worked solutions that activations are read on, a third of them only to see what others have in the span."""
NEEDED_BY = {"top": "v4", "bottom": "v4-bottom", "activations": "v4-act"}
"""Basis → the variant that a person would train next."""


@dataclass(frozen=True)
class SvdResult:
    """What the stage leaves behind."""

    run_id: str  # the run that holds the projectors (an earlier one where it was reused)
    targets: int  # number of targets certified
    worst_residual: float  # largest two-sided residual, relative to sigma_1
    ambiguous: int  # targets whose gap is below 1.01, where the choice of k splits a cluster


@dataclass(frozen=True)
class SvdPlan:
    """What is solved, found or refused before a run is opened."""

    base: Base  # whose targets
    share: tuple[Target, ...]  # those that this process solves
    is_leader: bool  # whether this process keeps the run and the parts of all the others
    task: SubspaceTask  # rank, tolerance, seed and basis of every target
    device: str  # where it is solved: cpu, cuda or auto
    identity: Mapping[str, str]  # the tags that make two runs of one base interchangeable
    is_forced: bool  # solve again although a finished run holds the same
    draw_solutions: Callable[[], Sequence[Problem]]  # on which activations are read; drawn when they are

    @property
    def k(self) -> str:
        """The rule as a person wrote it."""
        return self.identity[Tag.K].split()[0]

    @property
    def work(self) -> tuple[str, ...]:
        """What names the workspace; waits for the base's digest."""
        return ("svd", self.base.digest[:16], *self.identity.values())


def run(config: SvdConfig, tracker: Tracker) -> SvdResult | None:
    """Compute, certify and store the subspaces, or reuse a finished run of the same base, basis, k and tolerance.

    Under `torchrun` the list is split by rank; rank 0 alone talks to the tracker, the others return None.
    """
    plan = resolve(config, tracker)
    if not plan.is_leader:
        _solve(_begin(plan), workspace(tracker, *plan.work), plan)
        return None
    with tracker.stage(
        "svd",
        name=f"svd k={basis_tag(config.k, config.basis)} of {config.base_model}",
        note=f"Certified {config.basis} subspaces, k = {config.k}, of every target of {config.base_model}.",
        config=config_dict(config),
    ) as stage:
        started = time.monotonic()
        # Where hashing takes minutes, a GPU has solved the first targets before it ends.
        begun = None if plan.base.is_hashed_within(PATIENCE_SECONDS) else _begin(plan)
        stage.describe(base_digest=plan.base.digest)
        stage.set_tags(plan.identity)
        finished = None if plan.is_forced else _finished(tracker, plan)
        if finished is not None:
            take_over(finished, stage, tracker, "force=true")
            figures = ("svd/targets", "svd/worst_residual", "svd/ambiguous_gaps")
            targets, worst, ambiguous = (finished.metrics[name] for name in figures)
            return SvdResult(finished.run_id, int(targets), worst, int(ambiguous))
        with claim_workspace(tracker, *plan.work) as folder:
            projectors = _run(begun or _begin(plan), folder, plan)
            for name in (PROJECTORS_FILE, MANIFEST_FILE):  # and nothing that a killed process left there
                stage.log_file(folder / name, "projectors")
            result = record(projectors, plan, stage, time.monotonic() - started)
            stage.when_finished(partial(discard_workspace, folder))
        stage.say_next(next_command("train", config, stage.manager, variant=NEEDED_BY[config.basis]))
        return result


def resolve(config: SvdConfig, tracker: Tracker) -> SvdPlan:
    """Find base and device.

    Raises:
        SkippyError: there is no such base, k does not fit a target, or there is no such device.
    """
    base = open_base(config.base_model, tracker)
    rule = parse_rank(config.k)
    if rule.k:
        _require_rank(base.targets, rule.k)
    elif config.basis != TOP:
        raise SubspaceError(
            "A share of energy says how many of the top directions to keep, not how many of others.",
            where=f"basis={config.basis}",
            expected="k, a whole number",
            found=f"k={config.k}",
            next_step="pass for example -P k=16",
        )
    device = require_device(config.device)
    problems, draw_solutions = _find_solutions(config, base, device)
    if config.basis == ACTIVATIONS:
        problems = {**problems, Tag.READING: base.reading}
    rank, ranks = process_rank()
    return SvdPlan(
        base=base,
        share=base.targets[rank::ranks],
        is_leader=rank == 0,
        task=SubspaceTask(rule, config.tolerance, config.seed, config.basis),
        device=device,
        identity={
            Tag.K: basis_tag(config.k, config.basis),
            Tag.TOLERANCE: f"{config.tolerance:g}",
            Tag.SVD_SEED: str(config.seed),
            **problems,
        },
        is_forced=config.force,
        draw_solutions=draw_solutions,
    )


def _find_solutions(
    config: SvdConfig, base: Base, device: str
) -> tuple[dict[str, str], Callable[[], Sequence[Problem]]]:
    """The lab's own, or those of a problem file, which two runs must share to be interchangeable."""
    if config.problems == LAB:
        tags: dict[str, str] = {Tag.PROBLEMS_DIGEST: LAB} if config.basis == ACTIVATIONS else {}
        return tags, partial(unasked_set, SOLUTIONS, config.seed)
    if config.basis != ACTIVATIONS:
        raise ConfigError(
            "Singular directions are those of the weights: no problem has a say in them.",
            where=f"problems={config.problems}",
            expected=f"basis={ACTIVATIONS}, or problems left out",
            found=f"basis={config.basis}",
            next_step=f"pass -P basis={ACTIVATIONS}",
        )
    problems = load_problem_set(config.problems, 0)
    solved = "".join(problem.solution for problem in problems.problems)
    digest = hashlib.sha256((problems.digest + solved).encode()).hexdigest()[:16]

    def draw() -> Sequence[Problem]:
        from skippy.evaluation.solutions import solutions_of

        return solutions_of(problems, base, SOLUTIONS, str(pick_device(device)))

    return {Tag.PROBLEMS_DIGEST: digest}, draw


def _finished(tracker: Tracker, plan: SvdPlan) -> RunRecord | None:
    """An earlier run of the same work whose projectors are still there and still those of this base."""

    def check(found: RunRecord) -> None:
        load_projectors(tracker, found.run_id, plan.base, k=plan.k, basis=plan.task.basis)

    return find_equal_run(tracker, "svd", plan.identity, check, base=plan.base)


def _begin(plan: SvdPlan) -> SolvesRest:
    """Start on this process's share; on a GPU some targets are solved while the base is still being hashed."""
    from skippy.stores.solving import Solver

    device = pick_device(plan.device)
    logger.info("svd: %d targets of %s on %s", len(plan.share), plan.base.name, device)
    if plan.task.basis == ACTIVATIONS:
        # transformers takes seconds to import, which singular directions should not cost.
        from skippy.models.activation_bases import ActivationSolver

        task = plan.task
        return ActivationSolver(
            plan.base.path, plan.share, plan.draw_solutions, device,
            style=PROMPT_STYLES[plan.base.profile.prompt_style],
            k=task.rule.k, tolerance=task.tolerance, seed=task.seed,
        )  # fmt: skip
    solver = Solver(plan.base.checkpoint, plan.share, plan.task, device)
    solver.work_while(lambda: not plan.base.is_hashed)
    return solver


def _solve(solver: SolvesRest, folder: Path, plan: SvdPlan) -> ProjectorStore:
    """Solve this process's share into the workspace."""
    from skippy.stores.projectors import ProjectorStore
    from skippy.stores.solving import solve_share

    store = ProjectorStore(folder, plan.identity)
    solve_share(solver, store, plan.share)
    return store


def _run(solver: SolvesRest, folder: Path, plan: SvdPlan) -> Projectors:
    """Solve this process's share, wait for those of the others, and put all together."""
    from skippy.stores.solving import await_others

    store = _solve(solver, folder, plan)
    names = [target.name for target in plan.base.targets]
    await_others(store, names)
    head = {
        "base_digest": plan.base.digest,
        "basis": plan.task.basis,
        "k": plan.k,
        "tolerance": plan.task.tolerance,
        "seed": plan.task.seed,
    }
    return store.finish(head, names)


def _require_rank(targets: Sequence[Target], k: int) -> None:
    narrow = [target for target in targets if k > min(target.out, target.in_)]
    if narrow:
        first = min(narrow, key=lambda target: min(target.out, target.in_))
        raise SubspaceError(
            f"k is larger than the rank of {counted(len(narrow), 'target')}.",
            where=f"{first.name}, shape {first.out}×{first.in_}",
            expected=f"k at most {min(first.out, first.in_)}",
            found=f"k = {k}",
            next_step=f"pass -P k={min(first.out, first.in_)} or less",
        )


def record(projectors: Projectors, plan: SvdPlan, stage: StageRun, seconds: float) -> SvdResult:
    """Log the certificates as metrics, tables and pictures."""
    rows = [_row(target, projectors) for target in plan.base.targets]
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
    stage.set_tags({Tag.PROJECTOR_DIGEST: projectors.digest})
    for name, content in render_spectra(rows, AMBIGUOUS_GAP, plan.task.basis).items():
        stage.log_text(content, f"spectra/{name}")
    if plan.task.basis == ACTIVATIONS:
        _record_shares(projectors, stage)
    logger.info(
        "svd: %d targets certified in %.1f s, worst residual %.1e; %d with a gap below %.2f, where the choice "
        "of k is arbitrary",
        *(len(rows), seconds, worst, ambiguous, AMBIGUOUS_GAP),
    )
    return SvdResult(stage.run_id, len(rows), worst, ambiguous)


def _record_shares(projectors: Projectors, stage: StageRun) -> None:
    """How much of E‖x‖² the protected span holds, on the solutions it was fitted to and on others; means."""
    entries = list(projectors.manifest["targets"].values())
    fitted, fresh = (sum(each[key] for each in entries) / len(entries) for key in ("energy", "energy_fresh"))
    chance = sum(len(basis.S) / len(basis.V) for basis in projectors.bases.values()) / len(entries)
    stage.log_metrics({"svd/mean_energy_fresh": fresh, "svd/chance_energy": chance})
    logger.info(
        "svd: the span holds %.1f %% of what the weights read on fresh solutions (%.1f %% on its own, chance %.1f %%)",
        *(100 * fresh, 100 * fitted, 100 * chance),
    )


def _row(target: Target, projectors: Projectors) -> SpectrumRow:
    facts = projectors.manifest["targets"][target.name]
    spectrum = tuple(projectors.bases[target.name].S.double().tolist())
    return SpectrumRow(
        target.name, target.layer, target.kind, spectrum,
        facts["sigma_next"], facts["gap"], facts["residual"], facts["energy"],
    )  # fmt: skip
