"""The small reference and its gauge, made once for each module that measures adapters."""

import pytest

from skippy.core.personality.reference import prepare_gauge
from tests.core.personality.small_reference import make_reference


@pytest.fixture(scope="module")
def reference():
    return make_reference()


@pytest.fixture(scope="module")
def gauge(reference):
    return prepare_gauge(reference)
