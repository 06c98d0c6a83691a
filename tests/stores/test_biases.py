"""A bias of attention in a plain checkpoint: exact, read by transformers, refused where it would be dropped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from skippy.core.biases import SWITCHES, WITHOUT, engines_that_carry, require_carried
from skippy.core.sampling import PRESETS
from skippy.errors import AdapterError, BackendError, CheckpointError
from skippy.evaluation.backends import open_backend
from skippy.evaluation.generator import Generator
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.hooks import find_module
from skippy.models.loading import load_model
from skippy.resolve.dial import Dial
from skippy.resolve.subjects import Subject
from skippy.serving.engines import Places, command
from skippy.serving.served import Served
from skippy.stores.biases import BIASES_FILE, Biases, read_biases, steered_kinds, write_biases
from skippy.stores.cards import CARD_FILE, verify_checkpoint
from skippy.stores.checkpoints import INDEX_FILE, Checkpoint
from skippy.stores.control_vectors import spread, write_control_vector
from skippy.stores.merging import merge_checkpoint
from tests.models.families import CONFIGS, auto_class, build

IDS = torch.tensor([[5, 9, 2, 33, 7, 1, 60, 12]])
CARRYING = [*((family, "o_proj") for family in SWITCHES if family != "qwen2"), ("qwen2", "v_proj")]


def make_base(folder: Path, family: str = "llama", *, shard_bytes: str = "1GB") -> Path:
    model, _, _ = build(family)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    model.save_pretrained(folder, max_shard_size=shard_bytes)
    return folder


def make_biases(folder: Path, base: Path, kind: str = "o_proj", layers: tuple[int, ...] = (1,)) -> Biases:
    """Random biases for a base, written and read again."""
    shapes, generator = Checkpoint.open(base).shapes, torch.Generator().manual_seed(4)
    names = [
        key.removesuffix(".weight")
        for key in shapes
        if key.endswith(f"self_attn.{kind}.weight") and any(f".{layer}." in key for layer in layers)
    ]
    biases = {name: torch.randn(shapes[f"{name}.weight"][0], generator=generator) for name in names}
    return read_biases(write_biases(folder, biases, {"variant": "v6"}))


def hooked(model, biases: Biases, scale: float = 1.0):
    for name, bias in biases.biases.items():
        module = find_module(model, name)
        module.register_forward_hook(lambda _, __, out, added=scale * bias: out + added)
    return model


def logits(model, **given) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, **given).logits


def step_by_step(model) -> torch.Tensor:
    """The same logits token by token, through the cache of keys and values."""
    found, cache = [], None
    with torch.no_grad():
        for token in IDS.unbind(1):
            out = model(input_ids=token[:, None], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize(("family", "kind"), CARRYING)
def test_the_checkpoint_is_the_hooked_model_with_and_without_a_cache(
    tmp_path: Path, family: str, kind: str
) -> None:
    base = make_base(tmp_path / "base", family)
    biases = make_biases(tmp_path / "adapter", base, kind)
    merge_checkpoint(Checkpoint.open(base), tmp_path / "adapter", tmp_path / "merged", alpha=0.5)
    merged, wanted = load_model(tmp_path / "merged"), logits(hooked(load_model(base), biases, 0.5))
    torch.testing.assert_close(logits(merged), wanted, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(step_by_step(merged), wanted, atol=5e-5, rtol=1e-4)
    assert float((wanted - logits(load_model(base))).abs().max()) > 0.01
    verify_checkpoint(tmp_path / "merged")
    assert steered_kinds(Checkpoint.open(tmp_path / "merged").tensors) == (
        (kind,) if family != "qwen2" else ("k_proj", "q_proj", "v_proj")
    )


def test_a_bias_of_the_values_adds_one_constant_at_every_position(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    values = make_biases(tmp_path / "values", base, "v_proj")
    ((name, bias),) = values.biases.items()
    constant = spread(bias, Checkpoint.open(base).read(name.replace("v_proj", "o_proj") + ".weight"), 8)
    other = Biases(tmp_path, {name.replace("v_proj", "o_proj"): constant})
    by_values, by_constant = (logits(hooked(load_model(base), one)) for one in (values, other))
    torch.testing.assert_close(by_values, by_constant, atol=2e-5, rtol=1e-5)
    wrong = Biases(tmp_path, {name.replace("v_proj", "o_proj"): 1.1 * constant})
    assert not torch.allclose(by_values, logits(hooked(load_model(base), wrong)), atol=1e-3)


def test_at_dose_zero_the_checkpoint_is_the_base_to_the_byte(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    biases = make_biases(tmp_path / "adapter", base)
    opened = Checkpoint.open(base)
    account = merge_checkpoint(opened, [(biases, 0.0)], tmp_path / "merged")
    assert account.digest == opened.digest()
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "merged" / file).read_bytes() == (base / file).read_bytes()
    assert merge_checkpoint(opened, [(biases, 0.1)], tmp_path / "other").digest != opened.digest()


@pytest.mark.parametrize("shard_bytes", ["1GB", "20KB"])
def test_shards_index_and_config_say_what_was_added(tmp_path: Path, shard_bytes: str) -> None:
    base = make_base(tmp_path / "base", "qwen3_vl", shard_bytes=shard_bytes)
    make_biases(tmp_path / "adapter", base)
    opened = Checkpoint.open(base)
    account = merge_checkpoint(opened, tmp_path / "adapter", tmp_path / "merged", base_digest=opened.digest())
    merged = Checkpoint.open(tmp_path / "merged")
    added = sorted(set(merged.tensors) - set(opened.tensors))
    assert len(added) == 8  # two layers of q, k, v and o
    assert sum(bool(merged.read(key).any()) for key in added) == 1
    for key in opened.tensors:
        assert torch.equal(merged.read(key), opened.read(key))
    assert merged.config["text_config"]["attention_bias"] is True
    assert merged.digest() == account.digest
    assert account.base_digest == opened.digest()
    if len(opened.files) > 1:
        index = json.loads((tmp_path / "merged" / INDEX_FILE).read_text())
        assert set(added) <= set(index["weight_map"])
        sizes = [info.nbytes for info in merged.tensors.values()]
        assert index["metadata"]["total_size"] == sum(sizes)


def test_a_steered_checkpoint_can_be_a_base_again(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    biases = make_biases(tmp_path / "adapter", base)
    merge_checkpoint(Checkpoint.open(base), tmp_path / "adapter", tmp_path / "once")
    merge_checkpoint(Checkpoint.open(tmp_path / "once"), tmp_path / "adapter", tmp_path / "twice")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "twice")),
        logits(hooked(load_model(base), biases, 2.0)),
        atol=2e-5,
        rtol=1e-5,
    )


def test_the_dial_is_the_merge_at_every_dose_and_the_base_at_zero(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    biases, opened = make_biases(tmp_path / "adapter", base), Checkpoint.open(base)
    model, before = load_model(base), logits(load_model(base))
    dial = Dial(model, opened, biases)
    assert torch.equal(logits(model), before)
    for alpha in (1.5, -1.0):
        dial.turn(alpha)
        torch.testing.assert_close(
            logits(model), logits(hooked(load_model(base), biases, alpha)), atol=2e-5, rtol=1e-5
        )
        assert not torch.allclose(logits(model), before)
    dial.turn(0.0)
    assert torch.equal(logits(model), before)
    assert math.isnan(dial.relative_norm()), "a bias is no change of a weight"


def test_biases_that_the_config_switches_off_are_refused_for_transformers_drops_them(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    make_biases(tmp_path / "adapter", base)
    merged = tmp_path / "merged"
    merge_checkpoint(Checkpoint.open(base), tmp_path / "adapter", merged)
    config = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(config | {"attention_bias": False}))
    dropped = auto_class("llama").from_pretrained(merged, dtype=torch.float32)
    torch.testing.assert_close(
        logits(dropped), logits(load_model(base))
    )  # the base's, and only a line in the log
    with pytest.raises(CheckpointError, match="switches off") as caught:
        Checkpoint.open(merged)
    assert caught.value.expected == "attention_bias: true in config.json"
    with pytest.raises(CheckpointError, match="would be dropped"):
        load_model(merged)


@pytest.mark.parametrize(("family", "kind"), [*((one, "o_proj") for one in WITHOUT), ("qwen2", "o_proj")])
def test_families_without_a_place_are_refused_by_name(tmp_path: Path, family: str, kind: str) -> None:
    base = make_base(tmp_path / "base", family)
    make_biases(tmp_path / "adapter", base, kind)
    with pytest.raises(CheckpointError, match=f"family {family} have no place for a bias of {kind}"):
        merge_checkpoint(Checkpoint.open(base), tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_every_family_has_a_switch_or_a_reason() -> None:
    assert set(SWITCHES) | set(WITHOUT) == set(CONFIGS)
    assert not set(SWITCHES) & set(WITHOUT)


def test_a_vector_of_the_whole_layer_has_no_checkpoint(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = write_biases(tmp_path / "adapter", {"model.layers.1": torch.ones(32)}, {})
    with pytest.raises(AdapterError, match="no checkpoint has a place") as caught:
        merge_checkpoint(Checkpoint.open(base), adapter, tmp_path / "merged")
    assert "steer.site=o_proj" in caught.value.next_step


def test_a_bias_of_another_base_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    for name, found in (
        ("model.layers.1.self_attn.o_proj", "one of 32"),
        ("model.layers.9.self_attn.o_proj", "no such module"),
    ):
        adapter = write_biases(tmp_path / f"adapter{found[:3]}", {name: torch.ones(31)}, {})
        with pytest.raises(AdapterError, match="does not fit the base") as caught:
            merge_checkpoint(Checkpoint.open(base), adapter, tmp_path / "merged")
        assert caught.value.found == found


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        ({"a.weight": torch.ones(3)}, "a.weight"),
        ({"a.bias": torch.ones(3, 1)}, r"\(3, 1\)"),
        ({"a.bias": torch.ones(3).half()}, "float16"),
        ({"a.bias": torch.tensor([1.0, torch.inf])}, "NaN or infinity"),
        ({}, "none"),
    ],
)
def test_what_is_no_biases_is_refused(tmp_path: Path, tensors: dict, found: str) -> None:
    save_file(tensors, tmp_path / BIASES_FILE)
    with pytest.raises(AdapterError, match=found):
        read_biases(tmp_path)


def test_the_card_says_which_engines_read_it_and_the_others_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    make_biases(tmp_path / "adapter", base)
    merge_checkpoint(Checkpoint.open(base), tmp_path / "adapter", tmp_path / "merged")
    notes = json.loads((tmp_path / "merged" / CARD_FILE).read_text())["notes"]
    assert notes == ["a bias of o_proj is read by transformers, sglang; vllm would answer as the base does"]
    assert engines_that_carry(["o_proj"]) == ("transformers", "sglang")
    assert engines_that_carry(["v_proj"]) == engines_that_carry([]) == ("transformers", "sglang", "vllm")
    require_carried(["v_proj"], "vllm", "models:/skippy/1")
    with pytest.raises(BackendError, match="does not read the bias of o_proj") as caught:
        require_carried(["o_proj", "v_proj"], "vllm", "models:/skippy/1")
    assert caught.value.expected.endswith("transformers, sglang")
    assert "v6-v" in caught.value.next_step


def test_a_control_vector_holds_what_each_layer_gets(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    base = make_base(tmp_path / "base")
    biases = make_biases(tmp_path / "adapter", base)
    path = write_control_vector(tmp_path / "export", biases, Checkpoint.open(base))
    reader = gguf.GGUFReader(path)
    ((name, data),) = [(tensor.name, tensor.data) for tensor in reader.tensors]
    assert name == "direction.1"
    assert torch.equal(torch.from_numpy(data.copy()), next(iter(biases.biases.values())))
    first = make_biases(tmp_path / "first", base, layers=(0,))
    with pytest.raises(AdapterError, match="no place for a vector at the first layer"):
        write_control_vector(tmp_path / "other", first, Checkpoint.open(base))


@pytest.mark.parametrize("kind", ["o_proj", "v_proj"])
def test_vllm_is_refused_for_what_it_would_drop(tmp_path: Path, kind: str) -> None:
    make_biases(tmp_path / "adapter", LAB_CHECKPOINT, kind)
    merge_checkpoint(Checkpoint.open(LAB_CHECKPOINT), tmp_path / "adapter", tmp_path / "merged")
    one = Served(
        "steered",
        "v6",
        Subject("v6", "v6", tmp_path / "merged", "0" * 64, "models:/skippy/1"),
        PRESETS["lab"],
    )
    if kind == "v_proj":
        assert "--served-model-name" in " ".join(command("vllm", [one], 1, "cpu", Places()))
        return
    for ask in (
        lambda: open_backend(Generator(backend="vllm"), tmp_path / "merged", PRESETS["lab"]),
        lambda: command("vllm", [one], 1, "cpu", Places()),
    ):
        with pytest.raises(BackendError, match="vllm does not read the bias of o_proj"):
            ask()
    assert command("transformers", [one], 1, "cpu", Places())
