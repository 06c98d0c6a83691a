"""What was measured comes back bit for bit, or not at all."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save

from skippy.core.personality.reference import (
    CharacterReference,
    HookReference,
    MeasuredTarget,
    TraitReference,
)
from skippy.core.personality.subspaces import persona_subspace
from skippy.errors import CheckpointError, ProjectorError
from skippy.stores.reference_files import MANIFEST_FILE, REFERENCE_FILE
from skippy.stores.references import load_reference, save_reference

WIDTH = 24


@pytest.fixture
def reference():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    hooks = {
        name: HookReference(persona_subspace(normal(6, WIDTH)), normal(16, WIDTH), 0.75, 321)
        for name in ("layers.0.self_attn.input", "layers.0.mlp.down_proj.output", "layers.0.output")
    }
    targets = (
        MeasuredTarget("layers.0.self_attn.q_proj", 0, "q_proj", "reads", "layers.0.self_attn.input"),
        MeasuredTarget("layers.0.mlp.down_proj", 0, "down_proj", "writes", "layers.0.mlp.down_proj.output"),
    )
    traits = TraitReference(
        names=("proud", "warm"),
        hooks=("layers.0.output",),
        vectors=normal(1, 2, WIDTH),
        probes=(("ünïcode?", "yes — 'quoted'\n"), ("why", "so")),
        hidden=normal(2, 1, WIDTH),
        tokens=torch.tensor([3.0, 4.0]),
    )
    return CharacterReference("b" * 64, "c" * 64, 1, targets, hooks, traits)


@pytest.fixture
def stored(reference, tmp_path):
    return save_reference(tmp_path / "reference", reference)


def test_comes_back_bit_for_bit(reference, stored):
    loaded = load_reference(stored, base_digest="b" * 64, character_digest="c" * 64)
    assert loaded.targets == reference.targets
    assert loaded.depth == reference.depth
    assert list(loaded.hooks) == sorted(reference.hooks)
    for name, hook in reference.hooks.items():
        assert torch.equal(loaded.hooks[name].subspace.P, hook.subspace.P)
        assert torch.equal(loaded.hooks[name].subspace.spectrum, hook.subspace.spectrum)
        assert loaded.hooks[name].subspace.explained == hook.subspace.explained
        assert torch.equal(loaded.hooks[name].sketch, hook.sketch)
        assert loaded.hooks[name].held_out == hook.held_out
        assert loaded.hooks[name].tokens == hook.tokens
    for field in dataclasses.fields(TraitReference):
        ours, theirs = getattr(loaded.traits, field.name), getattr(reference.traits, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_the_same_reference_makes_the_same_bytes(reference, tmp_path):
    first, second = (save_reference(tmp_path / name, reference) for name in "ab")
    for name in (REFERENCE_FILE, MANIFEST_FILE):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_manifest_reports_the_spectrum(stored):
    manifest = json.loads((stored / MANIFEST_FILE).read_text())
    for hook in manifest["hooks"].values():
        assert sum(hook["spectrum"]) == pytest.approx(1.0)
        assert len(hook["spectrum"]) <= 5
        assert hook["held_out"] == 0.75


@pytest.mark.parametrize("which", ["base_digest", "character_digest"])
def test_another_base_or_character_is_refused(stored, which):
    with pytest.raises(ProjectorError, match=f"another {which.removesuffix('_digest')}"):
        load_reference(stored, **{which: "0" * 64})


def test_one_changed_bit_is_noticed(stored):
    path = stored / REFERENCE_FILE
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ProjectorError, match="sha256"):
        load_reference(stored)


@pytest.mark.parametrize("file", [REFERENCE_FILE, MANIFEST_FILE])
def test_a_missing_file_names_the_stage(stored, file):
    (stored / file).unlink()
    with pytest.raises(ProjectorError, match="run the subspace stage"):
        load_reference(stored)


@pytest.mark.parametrize("content", ["{", "{}", "3", '{"sha256": "0"}'])
def test_a_torn_manifest_is_damaged(stored, content):
    (stored / MANIFEST_FILE).write_text(content)
    with pytest.raises(ProjectorError, match="damaged"):
        load_reference(stored)


@pytest.mark.parametrize("value", [2.0, math.nan])
def test_a_basis_that_is_not_orthonormal_is_refused_though_its_hash_is_right(stored, value):
    tensors = load_file(stored / REFERENCE_FILE)
    tensors["layers.0.output/P"][0, 0] = value
    content = save(tensors)
    (stored / REFERENCE_FILE).write_bytes(content)
    manifest = json.loads((stored / MANIFEST_FILE).read_text())
    manifest["sha256"] = hashlib.sha256(content).hexdigest()
    (stored / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ProjectorError, match="orthonormal"):
        load_reference(stored)


def test_nothing_is_overwritten(reference, stored):
    with pytest.raises(CheckpointError, match="already taken"):
        save_reference(stored, reference)
    load_reference(stored)
