"""serve: the champion, or several arms, behind an OpenAI-compatible server, until it is told to stop."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from skippy.config import ServeConfig, config_dict
from skippy.errors import SkippyError
from skippy.resolve.workspaces import claim_workspace, discard_workspace
from skippy.serving import engines
from skippy.serving.router import KEY_VARIABLE, Door, build_router, claim_port, require_key
from skippy.serving.routes import Routes
from skippy.serving.served import Finder, Served, check_arms, find_all, followed_alias
from skippy.serving.watch import Ledger, Watch
from skippy.tracking.stage_run import StageRun
from skippy.tracking.tags import Tag
from skippy.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

LEDGER_FILE = "served.json"
TICK_SECONDS = 1.0


@dataclass(frozen=True)
class ServeResult:
    """What the stage leaves behind: its run, and how many requests were answered under each name."""

    run_id: str
    requests: dict[str, int]


@dataclass(frozen=True)
class ServePlan:
    """What is served and how, found or refused before a run is opened."""

    served: tuple[Served, ...]  # the models, verified
    engine: str  # what answers: `vllm` or `transformers`
    listener: socket.socket  # the port, ours already
    api_key: str  # that requests must bring; empty: none
    finder: Finder  # finds what an alias means later
    places: engines.Places  # of the servers of vLLM

    @property
    def url(self) -> str:
        """Where people reach it."""
        host, port = self.listener.getsockname()[:2]
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
        return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def run(config: ServeConfig, tracker: Tracker) -> ServeResult:
    """Serve until Ctrl-C, SIGTERM or the death of an engine."""
    plan = resolve(config, tracker)
    names = ", ".join(one.name for one in plan.served)
    try:
        with tracker.stage(
            "serve",
            name=f"serve {names}",
            note=f"Serves {names} at {plan.url}.",
            variant=_common(one.subject.variant for one in plan.served),
            base_digest=_common(one.base_digest for one in plan.served),
            config=config_dict(config),
        ) as stage:
            with claim_workspace(tracker, "serve", stage.run_id) as logs:
                requests = serve(plan, config, stage, tracker, logs)
            stage.when_finished(partial(discard_workspace, logs))
    finally:
        plan.listener.close()
    return ServeResult(stage.run_id, requests)


def resolve(config: ServeConfig, tracker: Tracker) -> ServePlan:
    """The port first, since waiting for a model only to find it taken is a waste; then the models.

    Raises:
        ConfigError: an address that others reach without a key, an arm that is none, or a missing engine.
        BackendError: the port is taken.
        MissingRunError: nothing to serve under that name.
        CheckpointError: weights that are not those that were written.
    """
    api_key = os.environ.get(KEY_VARIABLE, "")
    require_key(config.host, api_key)
    check_arms(config.arms)
    engine = engines.choose_engine(config.backend, gpus=config.gpus, options=config.engine_options)
    listener = claim_port(config.host, config.port)
    try:
        finder = Finder(config.base_model, config.profile, config.sampling, tracker)
        served = find_all(config.model, config.arms, finder)
    except BaseException:
        listener.close()
        raise
    is_following = config.watch and any(followed_alias(one.asked) for one in served)
    if config.watch and not is_following:
        logger.warning("serve: watch=true follows nothing: no model here is named by an alias")
    names = tuple(group[0].name for group in engines.group_by_engine(engine, served))
    places = engines.Places(names, config.gpus, is_following, config.engine_options)
    return ServePlan(served, engine, listener, api_key, finder, places)


def serve(
    plan: ServePlan, config: ServeConfig, stage: StageRun, tracker: Tracker, logs: Path
) -> dict[str, int]:
    """Start the engines, open the door, watch; close everything whatever happens."""
    routes, ledger = Routes(), Ledger()
    watch = Watch(plan.finder, tracker, is_following=config.watch)
    door = Door(
        build_router(routes, api_key=plan.api_key, voice_url=config.voice_url.rstrip("/")), plan.listener
    )
    stage.set_tags(_tags(plan))
    device = config.device
    try:
        engines.start(plan.engine, plan.served, routes, logs, device, plan.places)
        door.open()
        ledger.begin(plan.served)
        stage.log_json(ledger.periods(), LEDGER_FILE)
        _say(plan, config)
        try:
            serving = list(plan.served)
            while True:
                time.sleep(TICK_SECONDS)
                _require_alive(routes)
                routes.retire()
                for changed in watch.changes(serving):
                    if not _swap(changed, plan, routes, logs, device):
                        continue
                    serving = [changed if one.name == changed.name else one for one in serving]
                    ledger.begin([changed])
                    stage.log_json(ledger.periods(), LEDGER_FILE)
        except KeyboardInterrupt:
            logger.info("serve: Ctrl-C; requests still to finish: %d", routes.in_flight())
    finally:
        requests = routes.requests()
        door.close()
        routes.close()
        ledger.end(requests)
        total = sum(requests.values())
        stage.describe(note=ledger.sentence(total))
        stage.log_json(ledger.periods(), LEDGER_FILE)
        _keep_logs(logs, stage)
    stage.log_metrics({f"serve/requests/{name}": count for name, count in requests.items()})
    logger.info("serve: %s", ledger.sentence(total))
    return requests


def _swap(changed: Served, plan: ServePlan, routes: Routes, logs: Path, device: str) -> bool:
    """Put the model that an alias means now in the place of the one before; where it does not start, that one stays."""
    try:
        engines.start(plan.engine, [changed], routes, logs, device, plan.places)
    except SkippyError as error:
        logger.warning("serve: %s stays as it is. %s", changed.name, error)
        return False
    rest = "; answers in flight are finished by the one before" if routes.retire() else ""
    logger.info("serve: %s is %s from now on%s", changed.name, changed.subject.uri, rest)
    return True


def _require_alive(routes: Routes) -> None:
    dead = routes.dead()
    if dead is None:
        return
    raise dead.fault("died while it served")


def _say(plan: ServePlan, config: ServeConfig) -> None:
    for one in plan.served:
        told = one.name, one.subject.uri, one.subject.label, one.subject.digest[:12]
        logger.info("serve: %s is %s, %s, digest %s", *told)
    logger.info("serve: %s is ready; Ctrl-C ends it", plan.url)
    port = plan.listener.getsockname()[1]
    chat = "skippy chat" if port == 8000 else f"skippy chat --url {plan.url}"
    logger.info("serve: talk to it in another terminal: %s", chat)


def _keep_logs(logs: Path, stage: StageRun) -> None:
    """What the engines said, without secrets, beside the run."""
    for log in sorted(logs.glob("*.log")):
        try:
            stage.log_text(log.read_text(encoding="utf-8", errors="replace"), f"logs/{log.name}")
        except (OSError, SkippyError) as error:
            logger.warning("serve: the log %s is not kept: %s", log.name, error)


def _tags(plan: ServePlan) -> dict[str, object]:
    one = plan.served[0]
    return {
        Tag.SUBJECT: ",".join(each.name for each in plan.served),
        Tag.MODEL_URI: one.subject.uri if len(plan.served) == 1 else "",
        Tag.MODEL_DIGEST: one.subject.digest if len(plan.served) == 1 else "",
        Tag.BACKEND: plan.engine,
    }


def _common(values: Iterable[str]) -> str:
    """What all share; empty where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else ""
