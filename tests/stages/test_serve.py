"""serve: what is found, what is refused, a promotion while it serves, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from skippy.config import ServeConfig
from skippy.errors import BackendError, CheckpointError, ConfigError, MissingRunError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.resolve.files import ALIASES, check_files
from skippy.resolve.workspaces import idle_workspaces
from skippy.serving import engines, watch
from skippy.serving.router import claim_port
from skippy.serving.served import Finder, name_for
from skippy.stages import serve
from skippy.stages.serve import LEDGER_FILE, resolve, run
from skippy.stores.cards import CARD_FILE, hash_file
from skippy.tracking import promotions


@dataclass
class SilentEngine:
    """Runs until it is told not to."""

    names: tuple[str, ...]
    is_running: bool = True
    url: str = "http://127.0.0.1:9/v1"

    def stop(self) -> None:
        self.is_running = False

    def fault(self, how: str) -> BackendError:
        return BackendError(f"engine {how}.", next_step="read its log")


@pytest.fixture
def started(monkeypatch) -> list[SilentEngine]:
    """Engines that start at once; watched every tick."""
    made: list[SilentEngine] = []

    def start(kind, served, routes, logs, device, places) -> None:
        engine = SilentEngine(tuple(one.subject.uri for one in served))
        made.append(engine)
        routes.put(engine, {one.name: one.facts("skippy") for one in served})

    monkeypatch.setattr(engines, "start", start)
    monkeypatch.setattr(serve, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(watch, "WATCH_SECONDS", 0.0)
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def register(tracker, variant: str) -> int:
    """The lab's weights as the next version of skippy."""
    with (
        tracker.stage("merge", name=variant, note="", config={}, variant=variant) as stage,
        tracker.models.draft(stage, variant) as draft,
    ):
        shutil.copytree(LAB_CHECKPOINT, draft.weights_dir)
        return int(draft.register("skippy", {"variant": variant}).version)


def point_champion_at(tracker, version: int) -> None:
    tracker.store.client.set_registered_model_alias("skippy", "champion", str(version))


def serving(config: ServeConfig, tracker, during: Callable[[], None]) -> serve.ServeResult:
    """Run the stage; `during` happens beside it, then Ctrl-C."""
    faults: list[BaseException] = []

    def act() -> None:
        try:
            wait_until(lambda: answers(config.port, "/health"))
            during()
        except BaseException as error:
            faults.append(error)
        os.kill(os.getpid(), signal.SIGINT)

    beside = threading.Thread(target=act)
    beside.start()
    try:
        return run(config, tracker)
    finally:
        beside.join(30)
        assert not faults, faults


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.05)


def answers(port: int, page: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def served_at(port: int) -> dict[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
        return {one["id"]: one["source"] for one in json.load(answer)["data"]}


def test_without_a_champion_what_can_be_served_is_proposed(tracker) -> None:
    with pytest.raises(MissingRunError) as refusal:
        resolve(ServeConfig(port=free_port()), tracker)
    assert "skippy serve --model base" in refusal.value.next_step
    register(tracker, "v3")
    register(tracker, "v4")
    with pytest.raises(MissingRunError, match="has no alias champion") as refusal:
        resolve(ServeConfig(port=free_port()), tracker)
    assert "the gate of promote stayed shut" in refusal.value.found
    assert refusal.value.next_step.startswith("skippy serve --model v4 (or --model models:/skippy/2")


def test_a_version_a_base_and_an_alias_are_served_under_names_of_their_own(tracker) -> None:
    version = register(tracker, "v4")
    point_champion_at(tracker, version)
    arms = f"base,models:/skippy/{version},models:/skippy@champion"
    plan = resolve(ServeConfig(arms=arms, port=free_port()), tracker)
    plan.listener.close()
    assert [one.name for one in plan.served] == ["base", "skippy-1", "champion"]
    assert plan.served[2].subject.uri == "models:/skippy/1", "pinned: the alias may move"
    assert len({one.subject.digest for one in plan.served}) == 1
    assert plan.served[0].sampling.name == "lab"
    assert name_for("models:/m-12ab") == "m-12ab"


def test_an_alias_is_known_by_its_own_name_and_a_word_without_meaning_is_refused(tracker) -> None:
    register(tracker, "v3")
    point_champion_at(tracker, register(tracker, "prompt"))
    finder = Finder("lab", "auto", "auto", tracker)
    found = finder.find("champion")
    assert (found.name, found.asked, found.subject.uri) == (
        "champion",
        "models:/skippy@champion",  # followed, as that is
        "models:/skippy/2",
    )
    assert set(ALIASES) == {promotions.CHAMPION, promotions.PREVIOUS}
    assert finder.known() == ["base", "champion", "prompt", "v3"]
    with pytest.raises(MissingRunError, match="no alias previous"):
        finder.find("previous")
    check_files(ServeConfig(model="champion"))
    for word, step in (("champoin", "pass model=champion"), ("nonsense", "skippy models lists the versions")):
        with pytest.raises(CheckpointError, match="no such model") as refusal:
            finder.find(word)
        assert step in refusal.value.next_step
        with pytest.raises(CheckpointError, match="no such model"):
            check_files(ServeConfig(model=word))
    with pytest.raises(CheckpointError, match="does not exist"):
        finder.find("./elsewhere")


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (ServeConfig(host="0.0.0.0"), ConfigError, "export SKIPPY_API_KEY"),
        (ServeConfig(arms="base,v33"), ConfigError, "pass v3"),
        (ServeConfig(arms="base,base"), ConfigError, "arms=base"),
        (ServeConfig(arms=","), ConfigError, "leave arms out, or name one"),
        (ServeConfig(host="nonsense.invalid"), ConfigError, "The host has no address."),
        (ServeConfig(backend="vllm", model="base"), ConfigError, "pip install vllm"),
        (ServeConfig(model="models:/skippy/7"), MissingRunError, "found: no registered model at all"),
    ],
)
def test_what_cannot_be_served_is_one_message(tracker, config, error, text, monkeypatch) -> None:
    monkeypatch.delenv("SKIPPY_API_KEY", raising=False)
    with pytest.raises(error) as refusal:
        resolve(replace(config, port=free_port()), tracker)
    assert text in str(refusal.value)


def test_altered_weights_are_not_served(tracker) -> None:
    register(tracker, "v4")
    weights = tracker.models.resolve("models:/skippy/1").path
    files = {file.name: hash_file(file) for file in weights.iterdir()}
    (weights / CARD_FILE).write_text(json.dumps({"files": files, "digest": "d" * 64}))
    config = ServeConfig(model="models:/skippy/1", port=free_port())
    plan = resolve(config, tracker)
    plan.listener.close()
    assert plan.served[0].subject.digest == "d" * 64
    with (weights / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(CheckpointError, match="not what was written"):
        resolve(config, tracker)
    claim_port("127.0.0.1", config.port).close()  # given back


def test_a_promotion_is_followed_and_everything_is_written_down(tracker, started) -> None:
    point_champion_at(tracker, register(tracker, "v3"))
    second = register(tracker, "v4")
    config = ServeConfig(port=free_port(), watch=True)

    def promote() -> None:
        assert served_at(config.port) == {"champion": "models:/skippy/1"}
        assert not list(idle_workspaces(tracker.store)), (
            "the log of a server that runs is nothing to clear away"
        )
        point_champion_at(tracker, second)
        wait_until(lambda: served_at(config.port) == {"champion": "models:/skippy/2"})
        wait_until(lambda: not started[0].is_running)

    result = serving(config, tracker, promote)
    record = tracker.runs.read(result.run_id)
    assert record.status == "FINISHED", "Ctrl-C is how a server ends"
    assert not list(tracker.store.unfinished.glob("serve*/")), "and then it leaves nothing"
    assert record.variant == "v3"
    ledger = json.loads(tracker.artifacts.path(result.run_id, LEDGER_FILE).read_text())["served"]
    assert [(one["source"], one["variant"]) for one in ledger] == [
        ("models:/skippy/1", "v3"),
        ("models:/skippy/2", "v4"),
    ]
    assert ledger[0]["since"] <= ledger[0]["until"] == ledger[1]["since"] <= ledger[1]["until"]
    assert [engine.is_running for engine in started] == [False, False]


def test_without_watch_a_moved_alias_is_told_of_once(tracker, started, caplog) -> None:
    point_champion_at(tracker, register(tracker, "v3"))
    second = register(tracker, "v4")
    config = ServeConfig(port=free_port())

    def promote() -> None:
        point_champion_at(tracker, second)
        wait_until(lambda: "watch=true" in caplog.text)
        time.sleep(0.3)
        assert served_at(config.port) == {"champion": "models:/skippy/1"}

    with caplog.at_level(logging.WARNING):
        serving(config, tracker, promote)
    assert caplog.text.count("models:/skippy@champion means models:/skippy/2 now") == 1
    assert len(started) == 1


def test_an_engine_that_dies_ends_the_run_with_its_reason(tracker, started) -> None:
    config = ServeConfig(model="base", port=free_port())

    def kill() -> None:
        wait_until(lambda: answers(config.port, "/health"))
        started[0].is_running = False

    beside = threading.Thread(target=kill)
    beside.start()
    with pytest.raises(BackendError, match="died while it served"):
        run(config, tracker)
    beside.join()
    (record,) = tracker.runs.newest(1, stage="serve")
    assert record.status == "FAILED"
    assert record.tags["skippy.model_digest"]


def test_the_lab_is_served_to_the_end(project) -> None:
    """The whole of it: a process, an answer in pieces from the lab's weights, Ctrl-C."""
    port = free_port()
    words = [sys.executable, "-m", "entrypoints.serve", "--model", "base", "--port", str(port)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db",
    }
    process = subprocess.Popen(words, cwd=project, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: process.poll() is not None or answers(port, "/health"), 120)
        body = {
            "model": "base",
            "messages": [{"role": "user", "content": "How are you?"}],
            "stream": True,
            "seed": 1,
        }
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions", json.dumps(body).encode()
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            events = answer.read().decode()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert events.count("chat.completion.chunk") > 3
    assert events.endswith("data: [DONE]\n\n")
    assert process.returncode == 0, said
    assert "talk to it in another terminal: skippy chat --url" in said
    assert "; 1 request" in said
