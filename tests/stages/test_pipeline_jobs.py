"""Running a plan: what has what it needs, so many at a time, and nothing goes on after a failure."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from skippy.errors import TrackingError
from skippy.models.profiles import PROFILES
from skippy.resolve import threads
from skippy.stages import pipeline
from skippy.stages.pipeline import Job


class Machine:
    """A tracker whose processes end when polled for the second time; keeps who ran beside whom."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.running: set[str] = set()
        self.most = 0
        self.given: dict[str, dict[str, str]] = {}
        self.stopped: list[str] = []

    @property
    def processes(self):
        return self

    def start(self, entry_point, parameters, *, parent_run_id):
        label, polls = parameters["label"], iter([False])
        self.given[label] = dict(parameters)
        self.running.add(label)
        self.most = max(self.most, len(self.running))

        def wait() -> str:
            self.running.remove(label)
            if label == self.fails:
                raise TrackingError("The stage did not succeed.")
            return f"run of {label}"

        return Process(lambda: next(polls, True), wait, lambda: self.stopped.append(label))


class Process(SimpleNamespace):
    __hash__ = object.__hash__

    def __init__(self, poll, wait, stop) -> None:
        super().__init__(poll=poll, wait=wait, stop=stop)


def job(label: str, **takes: tuple[str, ...]) -> Job:
    return Job(label, "work", {"label": label}, takes)


JOBS = [job("a"), job("b"), job("c", a_run=("a",)), job("d", both=("b", "c")), job("e")]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "POLL_SECONDS", 0.0)


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_every_job_runs_once_so_many_at_a_time_and_is_given_what_others_made(parallel: int) -> None:
    machine = Machine()
    runs = pipeline._execute(JOBS, SimpleNamespace(run_id="p"), machine, parallel)
    assert runs == {each.label: f"run of {each.label}" for each in JOBS}
    assert machine.most == parallel
    assert machine.given["c"]["a_run"] == "run of a"
    assert machine.given["d"]["both"] == "run of b,run of c"
    assert not machine.stopped


def test_the_first_failure_stops_what_runs_and_starts_nothing_more() -> None:
    machine = Machine(fails="a")
    with pytest.raises(TrackingError, match="did not succeed"):
        pipeline._execute(JOBS, SimpleNamespace(run_id="p"), machine, 2)
    assert machine.stopped == ["b"]
    assert set(machine.given) == {"a", "b"}


def test_children_share_the_cores_and_a_person_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SKIPPY_PROGRESS_LINES")

    def shared(parallel: int, *, profile: str, **given: str) -> list[str | None]:
        environment = dict(given)
        monkeypatch.setattr(pipeline, "os", SimpleNamespace(environ=environment))
        monkeypatch.setattr(threads, "count_cores", lambda: 8)
        pipeline._share_machine(parallel, PROFILES[profile])
        return [environment.get(name) for name in names]

    assert shared(2, profile="lab") == ["4", "", "1"]
    assert shared(1, profile="qwen3-vl") == ["8", None, None]
    assert shared(16, profile="qwen3-vl") == ["1", None, "1"]
    assert shared(2, profile="lab", OMP_NUM_THREADS="3", CUDA_VISIBLE_DEVICES="1") == ["3", "1", "1"]
