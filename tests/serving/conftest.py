"""The lab behind a talker, and behind a router, once for all tests of this folder that need a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

import pytest

from skippy.core.sampling import PRESETS
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.serving.router import Door, build_router, claim_port
from skippy.serving.routes import Routes
from skippy.serving.worker import Voice, build_app, load_voice


@pytest.fixture(scope="session")
def lab_voice() -> Voice:
    return load_voice(LAB_CHECKPOINT, "lab", "cpu")


FACTS = {"owned_by": "skippy", "source": "lab", "sampling": asdict(PRESETS["lab"])}


class InProcess:
    """Our own engine on a port of this process."""

    is_running = True

    def __init__(self, voices: Mapping[str, Voice]) -> None:
        listener = claim_port("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._door = Door(build_app(voices), listener)
        self._door.open()

    def stop(self) -> None:
        self._door.close()

    def fault(self, how: str) -> Exception:
        return RuntimeError(how)


@pytest.fixture(scope="session")
def champion(lab_voice: Voice) -> Iterator[str]:
    """The endpoint of a router that serves the lab as champion."""
    routes, listener = Routes(), claim_port("127.0.0.1", 0)
    routes.put(InProcess({"champion": lab_voice}), {"champion": FACTS})
    door = Door(build_router(routes), listener)
    door.open()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    door.close()
    routes.close()
