"""One comparison and its report, rendered once for all tests that only read it."""

from __future__ import annotations

import pytest

from skippy.results import Comparison
from tests.report.report_example import example_comparison, report


@pytest.fixture(scope="session")
def facts() -> Comparison:
    return example_comparison(n=80)


@pytest.fixture(scope="session")
def files(facts: Comparison) -> dict[str, str | bytes]:
    return report(facts)
