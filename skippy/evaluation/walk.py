"""The walk over every checkpoint of one training: what one is chosen by, and the frontier of the report.

Not a stage: `evaluate` walks when its model is `checkpoints`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from skippy.core.variants import DOSES, find_variant, place_words
from skippy.evaluation.asking import Plan, fill, identify_asking, read_finished
from skippy.evaluation.backends import close_backend, open_backend
from skippy.evaluation.generator import VLLM
from skippy.evaluation.metrics import BASE_STEP, FRONTIER, persona_by_step
from skippy.evaluation.suites import Question, requests_for
from skippy.models.generation import Request
from skippy.models.loading import attach_adapter, load_model, load_tokenizer
from skippy.models.transformers_backend import TransformersBackend
from skippy.resolve.bases import Base
from skippy.resolve.dial import Dial
from skippy.resolve.workspaces import claim_workspace, discard_workspace
from skippy.stores.changes import read_change
from skippy.stores.samples import Sample, SampleStore
from skippy.stores.seals import require_sealed
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

# Seeds of its own: a checkpoint chosen for lucky samples must not be tested on those very samples.
PURPOSE = "walk"
BASE_CHECKPOINT = f"step_{BASE_STEP:06d}"
Wanted = Mapping[str, tuple[Question, Request]]


def walk(plan: Plan, base: Base, tracker: Tracker, stage: StageRun) -> dict[str, float]:
    """Ask every checkpoint, keep the samples, log persona by step; returns the figures by step."""
    identity = (plan.character.digest[:8], plan.sampling.name, identify_asking(plan))
    with claim_workspace(tracker, PURPOSE, plan.subject.train_run, *identity) as folder:
        path = folder / "samples.jsonl"
        _ask_checkpoints(path, plan, base, tracker)
        samples = sorted(read_finished(path, plan), key=lambda sample: (sample.suite, sample.problem_id))
        stage.log_text("".join(sample.to_line() for sample in samples), FRONTIER)
        stage.when_finished(partial(discard_workspace, folder))
    personas = persona_by_step(samples)
    for step, persona in personas.items():
        stage.log_metrics({"frontier/persona": persona}, step=step)
    unit, scale = ("dose", 100) if find_variant(plan.subject.variant).is_dosed else ("step", 1)
    curve = ", ".join(f"{step / scale:g}: {value:.2f}" for step, value in personas.items())
    logger.info("eval: persona by %s: %s", unit, curve)
    return {f"frontier/persona/{step}": value for step, value in personas.items()}


def _ask_checkpoints(path: Path, plan: Plan, base: Base, tracker: Tracker) -> None:
    """Fill the file at `path` with the answers of the base as step 0 and of every checkpoint; none is asked twice.

    The base answers with the same sample seeds: the line that the frontier is read against shares its noise. A dose
    in percent stands in the place of a step for an arm that is walked over doses.
    """
    train_run, rule = plan.subject.train_run, find_variant(plan.subject.variant)
    names = sorted({name.split("/")[1] for name in tracker.artifacts.files(train_run, "adapters")})
    if rule.is_dosed:
        names = [f"step_{percent:06d}" for percent in DOSES[rule.update]]

    def fetch(name: str) -> Path:
        path = tracker.artifacts.path(train_run, "adapter" if rule.is_dosed else f"adapters/{name}")
        require_sealed(path)
        return path

    with closing(SampleStore(path)) as store:
        before = read_finished(path, plan)
        finished = store.finished()
        wanted: dict[str, Wanted] = {}
        for name in (BASE_CHECKPOINT, *names):
            asked = requests_for(
                plan.questions,
                1,
                plan.sampling,
                _digest(base, name),
                finished,
                purpose=PURPOSE,
                seed=plan.seed,
            )
            if asked:
                wanted[name] = asked
        if plan.generator.backend == VLLM and not rule.is_dosed:  # no engine scales a mask or biases
            ask_at_once(store, wanted, plan, base, fetch, before)
        else:
            ask_in_turn(store, wanted, plan, base, fetch, before)


def ask_in_turn(
    store: SampleStore,
    wanted: Mapping[str, Wanted],
    plan: Plan,
    base: Base,
    fetch: Callable[[str], Path],
    before: Sequence[Sample],
) -> None:
    """One checkpoint or dose after another, each set up in this process."""
    tokenizer = load_tokenizer(base.path)
    is_dosed = find_variant(plan.subject.variant).is_dosed
    load = _dosed(plan, base, fetch) if is_dosed else partial(_at_step, plan, base, fetch)
    for name, asked in wanted.items():
        digest = _digest(base, name)
        finished = [sample for sample in before if sample.model_digest == digest]
        label = f"{plan.subject.variant} {place_words(plan.subject.variant, _place(name))}"
        named = replace(plan, subject=replace(plan.subject, label=label))
        fill(store, asked, named, digest, TransformersBackend(load(name), tokenizer), finished)


def _at_step(plan: Plan, base: Base, fetch: Callable[[str], Path], name: str) -> nn.Module:
    """The model as it was at a step of the training."""
    model = load_model(base.path, device=plan.generator.device)
    return model if name == BASE_CHECKPOINT else attach_adapter(model, fetch(name)).merge_and_unload()


def _dosed(plan: Plan, base: Base, fetch: Callable[[str], Path]) -> Callable[[str], nn.Module]:
    """What sets one live model to a dose of the update."""
    model = load_model(base.path, device=plan.generator.device)
    dial = Dial(model, base.checkpoint, read_change(fetch("")))

    def load(name: str) -> nn.Module:
        dial.turn(_place(name) / 100)
        return model

    return load


def ask_at_once(
    store: SampleStore,
    wanted: Mapping[str, Wanted],
    plan: Plan,
    base: Base,
    fetch: Callable[[str], Path],
    before: Sequence[Sample],
) -> None:
    """All checkpoints together, as adapters of one server."""
    asked = {
        f"{name}/{key}": (question, replace(request, id=f"{name}/{key}", model=_served_name(name)))
        for name, requests in wanted.items()
        for key, (question, request) in requests.items()
    }
    if not asked:
        return
    served = {name: fetch(name) for name in wanted if name != BASE_CHECKPOINT}
    digests = {_served_name(name): _digest(base, name) for name in wanted}
    backend = open_backend(plan.generator, base.path, plan.sampling, served)
    try:
        fill(store, asked, plan, plan.subject.digest, backend, before, digests)
    finally:
        close_backend(backend)


def _served_name(checkpoint: str) -> str:
    return "" if checkpoint == BASE_CHECKPOINT else checkpoint


def _digest(base: Base, checkpoint: str) -> str:
    return f"{base.digest}@{_place(checkpoint)}"


def _place(checkpoint: str) -> int:
    return int(checkpoint.removeprefix("step_"))
