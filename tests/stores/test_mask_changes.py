"""A mask in a checkpoint: the base's bytes at γ = 1, exact zeros at γ = 0, and the live model's own logits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skippy.core.spectral.masks import cut_mask
from skippy.errors import AdapterError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.loading import hash_parameters, load_model
from skippy.resolve.dial import Dial, apply_
from skippy.stores.changes import read_change
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.mask_changes import MaskChange, mask_bytes, write_mask
from skippy.stores.merging import merge_checkpoint

BASE = Checkpoint.open(LAB_CHECKPOINT)
NAMES = [
    "model.language_model.layers.1.self_attn.o_proj",
    "model.language_model.layers.2.mlp.gate_proj",
    "model.language_model.layers.3.mlp.down_proj",
]
RHO = 0.2


def make(folder: Path, *, k: int = 0, **changes) -> MaskChange:
    """A mask of three targets from drawn statistics, written; with the top k triples kept if asked."""
    generator = torch.Generator().manual_seed(1)
    statistics, targets, triples = {}, {}, {}
    for name in NAMES:
        weight = BASE.read(f"{name}.weight").float()
        a = torch.rand(2, weight.shape[1], generator=generator) + 0.1
        statistics |= {f"{name}.input.plus": a[0], f"{name}.input.minus": a[1]}
        cut = cut_mask("c-relative", weight, a[0], a[1], RHO)
        targets[name] = {"input": f"{name}.input", "sha256": hashlib.sha256(mask_bytes(cut)).hexdigest()}
        if k:
            U, _, Vt = torch.linalg.svd(weight.double(), full_matrices=False)
            triples |= {f"{name}.U": U[:, :k].float(), f"{name}.V": Vt[:k].mT.float().contiguous()}
    change = MaskChange(folder, "c-relative", RHO, targets, statistics, triples, {"update": "mask"})
    write_mask(replace(change, **changes))
    return change


@pytest.mark.parametrize("k", [0, 4])
def test_at_gamma_one_every_byte_is_the_bases(tmp_path, k) -> None:
    make(tmp_path / "mask", k=k)
    account = merge_checkpoint(BASE, tmp_path / "mask", tmp_path / "merged", alpha=0.0)
    assert account.digest == BASE.digest()
    half = merge_checkpoint(BASE, tmp_path / "mask", tmp_path / "half", alpha=0.5)
    assert half.digest != BASE.digest()


def test_at_gamma_zero_each_row_has_its_zeros_and_no_other_bit_is_touched(tmp_path) -> None:
    change = make(tmp_path / "mask")
    account = merge_checkpoint(BASE, tmp_path / "mask", tmp_path / "merged")
    merged = Checkpoint.open(tmp_path / "merged")
    for name in NAMES:
        before, after = BASE.read(f"{name}.weight"), merged.read(f"{name}.weight")
        each = change.targets[name]["input"]
        a = [change.statistics[f"{each}.{side}"] for side in ("plus", "minus")]
        cut = cut_mask("c-relative", before, a[0], a[1], RHO)
        assert (cut.sum(1) == int(RHO * before.shape[1])).all()
        assert not after[cut].any()
        assert torch.equal(after[~cut], before[~cut])
    assert account.delta_error == 0.0
    assert account.targets == len(NAMES)


@pytest.mark.parametrize(("k", "alpha"), [(0, 1.0), (0, 0.4), (4, 0.7)])
def test_the_live_model_and_the_checkpoint_have_the_same_bits_and_logits(tmp_path, k, alpha) -> None:
    """Two paths: gates on live weights, and a checkpoint written some rows at a time; in the type that is stored."""
    make(tmp_path / "mask", k=k)
    live = load_model(LAB_CHECKPOINT, dtype=torch.bfloat16)
    before = hash_parameters(live)
    dial = Dial(live, BASE, read_change(tmp_path / "mask"))
    dial.turn(alpha)
    merge_checkpoint(BASE, tmp_path / "mask", tmp_path / "merged", alpha=alpha)
    stored = load_model(tmp_path / "merged", dtype=torch.bfloat16)
    tokens = torch.arange(5, 60)[None]
    with torch.inference_mode():
        ours, theirs = live(input_ids=tokens).logits, stored(input_ids=tokens).logits
        base = load_model(LAB_CHECKPOINT, dtype=torch.bfloat16)(input_ids=tokens).logits
    if not k:
        assert hash_parameters(live) == hash_parameters(stored)
        assert torch.equal(ours, theirs)
    assert torch.allclose(ours.float(), theirs.float(), atol=0.1)
    assert not torch.allclose(ours.float(), base.float(), atol=0.1), "the mask is in effect"
    dial.turn(0.0)
    assert hash_parameters(live) == before


def test_applied_for_good_it_is_what_the_dial_sets(tmp_path) -> None:
    make(tmp_path / "mask")
    one, other = load_model(LAB_CHECKPOINT), load_model(LAB_CHECKPOINT)
    change = read_change(tmp_path / "mask")
    Dial(one, BASE, change).turn(0.5)
    apply_(dict(other.named_parameters()), BASE, change, 0.5)
    assert hash_parameters(one) == hash_parameters(other)


def test_kept_triples_are_those_of_the_base(tmp_path) -> None:
    change = make(tmp_path / "mask", k=4)
    merge_checkpoint(BASE, tmp_path / "mask", tmp_path / "merged", dtype="float32")
    merged = Checkpoint.open(tmp_path / "merged")
    for name in NAMES:
        before, after = (one.read(f"{name}.weight").float() for one in (BASE, merged))
        U, V = change.triples[f"{name}.U"], change.triples[f"{name}.V"]
        scale = float((before @ V).norm())
        assert float((after @ V - before @ V).norm()) < 1e-5 * scale
        assert float((after.mT @ U - before.mT @ U).norm()) < 1e-5 * scale
        assert float((after - before).norm()) > 0.01 * float(before.norm())


def test_a_mask_that_comes_out_otherwise_is_refused(tmp_path) -> None:
    change = make(tmp_path / "mask")
    wrong = {**change.targets, NAMES[1]: {**change.targets[NAMES[1]], "sha256": "0" * 64}}
    make(tmp_path / "wrong", targets=wrong)
    with pytest.raises(AdapterError, match="is not the one that was made") as refused:
        merge_checkpoint(BASE, tmp_path / "wrong", tmp_path / "merged")
    assert NAMES[1] in refused.value.where
    assert refused.value.expected.startswith("sha256 0000")
    assert not (tmp_path / "merged").exists()


def test_damage_and_another_base_are_refused(tmp_path) -> None:
    change = make(tmp_path / "mask")
    recipe = json.loads((tmp_path / "mask" / "mask.json").read_text())
    (tmp_path / "mask" / "mask.json").write_text(json.dumps({**recipe, "rho": "a tenth"}))
    with pytest.raises(AdapterError, match="cannot be read"):
        read_change(tmp_path / "mask")
    renamed = {f"other.{name}": each for name, each in change.targets.items()}
    make(tmp_path / "other", targets=renamed)
    with pytest.raises(AdapterError, match="does not fit the base") as refused:
        merge_checkpoint(BASE, tmp_path / "other", tmp_path / "merged")
    assert refused.value.found == "no such weight"


def test_the_digest_is_that_of_the_masks(tmp_path) -> None:
    one, kept = make(tmp_path / "one"), make(tmp_path / "kept", k=4)
    assert read_change(tmp_path / "one").digest() == one.digest()
    assert len({one.digest(), kept.digest(), replace(one, rho=0.1).digest()}) == 3
