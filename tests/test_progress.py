"""What a person without a terminal reads: how far it is, and how long at the present pace."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from skippy import progress
from skippy.progress import Progress


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    monkeypatch.setenv(progress.LINES_VARIABLE, "1")
    caplog.set_level(logging.INFO)
    return made


def test_a_line_now_and_then_with_the_time_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("work", 100) as bar:
        clock.now += 5
        bar.advance(10)
        assert not caplog.messages, "not yet"
        clock.now += 6
        bar.advance(12, accuracy="0.50")
        bar.advance(1)
        assert caplog.messages == ["work: 22/100, 11 s, 39 s left  accuracy 0.50"], "one now, not one each"


def test_work_that_goes_on_starts_at_what_is_done_and_is_timed_from_here(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with Progress("work", 100, done=90) as bar:
        clock.now += 20
        bar.advance(2)
        assert caplog.messages == ["work: 92/100, 20 s, 80 s left  "]


def test_before_anything_is_done_no_time_is_promised(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("work", 100, done=90):
        clock.now += 20
    assert caplog.messages == ["work: 90/100, 20 s, ? s left  "]


def test_what_breaks_off_says_no_more(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt), Progress("work", 100):
        raise KeyboardInterrupt
    assert not caplog.messages


@pytest.mark.parametrize(("told", "is_drawn"), [("", True), ("1", False)])
def test_processes_that_share_a_terminal_draw_no_bars(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, told: str, is_drawn: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda stderr: Console(file=screen, force_terminal=True))
    monkeypatch.setenv(progress.LINES_VARIABLE, told)
    caplog.set_level(logging.INFO)
    with Progress("work", 1) as bar:
        bar.advance()
    assert ("work" in screen.getvalue()) is is_drawn
    assert bool(caplog.messages) is not is_drawn


def test_a_field_that_is_a_function_is_called_when_it_is_shown_and_not_for_every_item(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[float] = []

    def accuracy() -> str:
        called.append(clock.now)
        return f"{len(called)}"

    with Progress("work", 100) as bar:
        for _ in range(50):
            clock.now += 0.3
            bar.advance(1, accuracy=accuracy)
        assert len(called) == len(caplog.messages) == 1
    assert "accuracy 2" in caplog.text, "the last line is of the end"


def test_the_end_is_told_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress("work", 1) as bar:
        clock.now += 11
        bar.advance(1)
    assert caplog.messages == ["work: 1/1, 11 s, 0 s left  "]
