"""One GRPO run of one variant: plan, validate, train, account."""

from __future__ import annotations

import logging
import os
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from skippy.models.loading import hash_parameters
from skippy.models.targets import find_targets, select_targets
from skippy.stores.checkpoints import Checkpoint
from skippy.training.guards import (
    require_own_reference,
    require_supported_launch,
    require_unchanged_base,
    require_vllm,
)
from skippy.training.journal import Journal
from skippy.training.making import Made
from skippy.training.margin import spectral_margin
from skippy.training.plan import Margin, RunSink, TrainOutcome, TrainRequest
from skippy.training.resume import claim_output, finished_checkpoints
from skippy.training.setup import BuiltRun, build_run
from skippy.words import counted

logger = logging.getLogger(__name__)

ADAPTER_DIRECTORY = "adapter"


def describe(outcome: TrainOutcome, variant: str) -> Made:
    """What training says of itself."""
    metrics = {
        "train/steps": outcome.steps,
        "train/seconds": outcome.seconds,
        "train/reward_first": outcome.reward_first,
        "train/reward_last": outcome.reward_last,
        "train/completion_length": outcome.completions.mean_length,
        "train/truncated": outcome.completions.truncated,
        "train/parameters": outcome.parameters,
    }
    documents = {}
    if outcome.margin is not None:
        metrics["leakage/margin_worst"] = outcome.margin.worst
        documents["leakage/margin.json"] = asdict(outcome.margin)
    leaked = ""
    if outcome.leakage is not None:
        leaked = f", leakage {outcome.leakage.rho_left:.1e} left, {outcome.leakage.rho_right:.1e} right"
    sentence = (
        f"{variant}, {counted(outcome.steps, 'step')} in {outcome.seconds:.0f} s, "
        f"reward {outcome.reward_first:.2f} → {outcome.reward_last:.2f}{leaked}"
    )
    return Made(sentence, metrics, documents, outcome.base_hash_after)


def train_grpo(request: TrainRequest, run: RunSink) -> TrainOutcome:
    """Train one adapter under one variant's rule.

    Raises:
        TrainingError: the launch is not supported, a guarantee broke, or there is nothing to resume.
        ProjectorError: the projectors are not of this base.
        RewardError: a reward failed; the last checkpoint is whole.
    """
    require_supported_launch(os.environ)
    require_vllm(request.settings, request.base_path, request.device)
    checkpoint = Checkpoint.open(request.base_path)
    targets = select_targets(find_targets(checkpoint.config, checkpoint.shapes), request.settings.targets)
    require_own_reference(request)
    resume_from = claim_output(request)
    sink: RunSink = run
    journal: Journal | None = None
    if os.environ.get("RANK", "0") == "0":
        sink = journal = Journal(run, request.output_dir)
        if resume_from is not None:
            journal.replay(_step_of(resume_from))
    # TRL 1.16 still says gradient_checkpointing where transformers 5.23 says activation_checkpointing.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
    built = build_run(request, sink, targets)
    if resume_from is not None and journal is not None:
        built.tracking.go_on(journal.standing(), _step_of(resume_from))
    before = hash_parameters(built.model)
    began = time.perf_counter()
    with built.tracking:
        built.trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    seconds = time.perf_counter() - began
    after = hash_parameters(built.model)
    require_unchanged_base(before, after)
    return _account(request, run, built, before, after, seconds)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _account(
    request: TrainRequest, run: RunSink, built: BuiltRun, before: str, after: str, seconds: float
) -> TrainOutcome:
    steps = int(built.trainer.state.global_step)
    directory = request.output_dir / ADAPTER_DIRECTORY
    margin: Margin | None = None
    if built.trainer.is_world_process_zero():
        built.save_adapter(directory)
        run.log_folder(directory, ADAPTER_DIRECTORY)
        if request.bases is not None:
            margin = spectral_margin(built.layers, built.factors, request.bases)
            run.log_metrics(
                {"leakage/margin": margin.worst, "leakage/margins_negative": margin.negative}, step=steps
            )
            run.log_table(_leakage_rows(built, margin), f"leakage/step_{steps:06d}.parquet")
        if request.protected is not None:
            rows = [{"target": name, **asdict(found)} for name, found in built.own_leakages().items()]
            run.log_table(rows, f"leakage/own_step_{steps:06d}.parquet")
    first, last = built.tracking.reward_means()
    logger.info(
        "trained %s: %s, reward %.2f → %.2f, %.0f s",
        *(request.variant, counted(steps, "step"), first, last, seconds),
    )
    return TrainOutcome(
        adapter_dir=directory,
        steps=steps,
        reward_first=first,
        reward_last=last,
        leakage=None if built.measured is None else built.measured.pooled_leakage(),
        margin=margin,
        base_hash_before=before,
        base_hash_after=after,
        checkpoints=finished_checkpoints(request.output_dir),
        adapters=built.checkpoints.adapters(),
        completions=built.tracking.completion_statistics(),
        parameters=sum(each.A.numel() + each.B.numel() for each in built.factors.values()),
        seconds=seconds,
    )


def _leakage_rows(built: BuiltRun, margin: Margin) -> list[dict[str, Any]]:
    assert built.measured is not None
    return [
        {"target": name, **asdict(found), "margin": margin.by_target[name]}
        for name, found in built.measured.leakages().items()
    ]
