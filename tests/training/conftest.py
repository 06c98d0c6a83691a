"""The tiny base, its projectors, and one finished run of each variant."""

from __future__ import annotations

from pathlib import Path

import pytest

from skippy.core.basis import Basis
from skippy.training.grpo import train_grpo
from tests.training.tiny_run import (
    PARAMETER_LIMIT,
    RecordingRun,
    Trained,
    make_model,
    make_request,
    make_tokenizer,
    singular_triples,
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    assert sum(parameter.numel() for parameter in model.parameters()) < PARAMETER_LIMIT
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def projectors(base: Path) -> dict[str, Basis]:
    return singular_triples(base)


@pytest.fixture(scope="session")
def trained(base: Path, projectors: dict, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """One finished run of each variant."""
    runs = {}
    for variant in ("v3", "v4", "v4-hooks", "v4-random"):
        request = make_request(base, projectors, tmp_path_factory.mktemp(variant), variant)
        run = RecordingRun()
        runs[variant] = Trained(request, train_grpo(request, run), run)
    return runs
