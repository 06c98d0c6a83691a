"""How often anything was killed, over all workers: said at the end of `make faults`."""

from __future__ import annotations

from collections import Counter

import pytest

kills: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what the tests counted."""
    if report.when == "call":
        for name, value in report.user_properties:
            if name == "kills":
                kills[value[0]] += value[1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it, scenario by scenario."""
    if kills:
        said = ", ".join(f"{name} {count}" for name, count in kills.items())
        terminalreporter.write_line(f"kills: {said}; {sum(kills.values())} in all")
