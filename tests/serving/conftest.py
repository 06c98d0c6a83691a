"""The lab behind a talker, once for all tests of this folder that need a model."""

from __future__ import annotations

import pytest

from skippy.lab.paths import LAB_CHECKPOINT
from skippy.serving.worker import Voice, load_voice


@pytest.fixture(scope="session")
def lab_voice() -> Voice:
    return load_voice(LAB_CHECKPOINT, "lab", "cpu")
