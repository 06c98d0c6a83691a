"""Character deltas by step: names, tables, and that measuring changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skippy.core.personality.reference import CharacterReference, HookReference, TraitReference, middle_layers
from skippy.core.personality.subspaces import PersonaSubspace
from skippy.errors import TrainingError
from skippy.models.activations import mean_hidden, plan_hooks
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.stores.checkpoints import Checkpoint
from skippy.training.grpo import train_grpo
from tests.training.tiny_run import BASE_DIGEST, RecordingRun, Trained, make_request

PROBES = (("hm", "well then"), ("a cat", "no"))
TRAITS = ("arrogance", "warmth")
# Measured at 3 (due), at 2 and 4 (saved), and at 5 (the end).
SETTINGS = replace(PRESETS["short"], max_steps=5, character_steps=3)


def make_reference(base: Path) -> CharacterReference:
    """Random subspaces and trait vectors: what is tested is where the numbers go, not what they mean."""
    checkpoint = Checkpoint.open(base)
    targets, hooks = plan_hooks(find_targets(checkpoint.config, checkpoint.shapes))
    generator = torch.Generator().manual_seed(0)
    width = 32

    def hook_reference() -> HookReference:
        P = torch.linalg.qr(torch.randn(width, 2, generator=generator)).Q.T.contiguous()
        sketch = torch.randn(16, width, generator=generator)
        return HookReference(
            PersonaSubspace(P, torch.tensor([0.6, 0.4]), 0.99), sketch, held_out=0.9, tokens=100
        )

    streams = tuple(f"model.language_model.layers.{layer}.output" for layer in middle_layers(2))
    vectors = torch.randn(len(streams), len(TRAITS), width, generator=generator)
    blank = TraitReference(
        TRAITS,
        streams,
        vectors,
        PROBES,
        torch.zeros(len(PROBES), len(streams), width),
        torch.tensor([9.0, 2.0]),
    )
    model, tokenizer = load_model(base), load_tokenizer(base)
    return CharacterReference(
        base_digest=BASE_DIGEST,
        character_digest="c" * 64,
        depth=2,
        targets=targets,
        hooks={name: hook_reference() for name in [hook.name for hook in hooks] + list(streams)},
        traits=replace(blank, hidden=mean_hidden(model, tokenizer, blank)),
    )


@pytest.fixture(scope="module")
def measured(base: Path, projectors: dict, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    request = make_request(base, projectors, tmp_path_factory.mktemp("measured"), "v4", SETTINGS)
    request = replace(request, reference=make_reference(base))
    run = RecordingRun()
    return Trained(request, train_grpo(request, run), run)


def test_metrics_by_step(measured: Trained) -> None:
    for name in (
        "character/personality_energy_ratio",
        "character/mean_personality_energy_ratio",
        "character/null_z",
        "character/delta_norm",
        "character/trait/arrogance",
        "character/trait/warmth",
    ):
        assert list(measured.run.curve(name)) == [2, 3, 4, 5], name
    norms = list(measured.run.curve("character/delta_norm").values())
    assert norms == sorted(norms)


def test_tables_by_step(measured: Trained) -> None:
    tables = [name for name in measured.run.tables if name.startswith("character_deltas/")]
    assert tables == [f"character_deltas/step_{step:06d}.parquet" for step in (2, 3, 4, 5)]
    rows = measured.run.tables[tables[0]]
    assert len(rows) == 14
    assert {"target", "layer", "kind", "side", "ratio", "chance", "singular_values"} <= set(rows[0])


def test_pooled_tables_by_step_lie_where_the_figures_do_not_look(measured: Trained) -> None:
    tables = [name for name in measured.run.tables if name.startswith("character_pooled/")]
    assert tables == [f"character_pooled/step_{step:06d}.parquet" for step in (2, 3, 4, 5)]
    rows = measured.run.tables[tables[0]]
    assert {row["group"] for row in rows} == {"layer", "kind"}
    assert {"name", "ratio", "null_mean", "null_low", "null_high", "z"} <= set(rows[0])


def test_trait_tables_by_step(measured: Trained) -> None:
    tables = [name for name in measured.run.tables if name.startswith("character_traits/")]
    assert tables == [f"character_traits/step_{step:06d}.parquet" for step in (2, 3, 4, 5)]
    assert [row["trait"] for row in measured.run.tables[tables[0]]] == list(TRAITS)
    assert list(measured.run.curve("character/trait_null/warmth")) == [2, 3, 4, 5]


def test_an_adapter_moves_the_probes(measured: Trained) -> None:
    """The trait profile is read off the adapted model, not off the base."""
    assert any(value != 0 for value in measured.run.curve("character/trait/warmth").values())


def test_a_reference_of_another_base_is_refused(measured: Trained, tmp_path: Path) -> None:
    request = replace(measured.request, output_dir=tmp_path, base_digest="d" * 64)
    with pytest.raises(TrainingError, match="reference is of another base"):
        train_grpo(request, RecordingRun())


def test_measuring_changes_nothing(measured: Trained, base: Path, projectors: dict, tmp_path: Path) -> None:
    plain = train_grpo(make_request(base, projectors, tmp_path, "v4", SETTINGS), RecordingRun())
    expected = load_file(plain.adapter_dir / "adapter_model.safetensors")
    found = load_file(measured.outcome.adapter_dir / "adapter_model.safetensors")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
