"""Two comparisons and their reports, rendered once for all tests that only read them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from skippy.results import Comparison
from tests.report.chromium import Browser
from tests.report.report_example import distinct_comparison, example_comparison, report


@pytest.fixture(scope="session")
def facts() -> Comparison:
    return example_comparison(n=80)


@pytest.fixture(scope="session")
def files(facts: Comparison) -> dict[str, str | bytes]:
    return report(facts)


@pytest.fixture(scope="session")
def distinct_facts() -> Comparison:
    return distinct_comparison()


@pytest.fixture(scope="session")
def distinct_files(distinct_facts: Comparison) -> dict[str, str]:
    return {name: str(text) for name, text in report(distinct_facts).items()}


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
