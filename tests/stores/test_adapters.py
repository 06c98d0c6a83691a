"""An adapter is plain LoRA of one rank and scale, named by target; anything else is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.adapter_files import write_adapter
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError
from skippy.stores.adapter_fit import fit_to_base
from skippy.stores.adapters import read_adapter


def factors(rank: int = 2, scale: float = 2.0) -> dict[str, LoraFactors]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"model.layers.{layer}.self_attn.q_proj": LoraFactors(
            A=torch.randn(rank, 4, generator=generator),
            B=torch.randn(6, rank, generator=generator),
            scale=scale,
        )
        for layer in range(2)
    }


def test_adapter_round_trip(tmp_path):
    written = factors()
    adapter = read_adapter(write_adapter(tmp_path / "a", written, card={"variant": "v4"}))
    assert {(each.A.shape[0], each.scale) for each in adapter.factors.values()} == {(2, 2.0)}
    assert adapter.card == {"variant": "v4"}
    assert set(adapter.factors) == set(written)
    for name, each in adapter.factors.items():
        assert torch.equal(each.A, written[name].A)
        assert torch.equal(each.B, written[name].B)
    fit_to_base(adapter, {f"{name}.weight": (6, 4) for name in written})
    with pytest.raises(AdapterError, match=r"does not fit.*\n.*layers\.1"):
        fit_to_base(adapter, {f"{name}.weight": (6, 4 + (".1." in name)) for name in written})
    with pytest.raises(AdapterError, match="does not fit"):
        fit_to_base(adapter, {f"{name}.weight": (7, 4) for name in written})
    with pytest.raises(AdapterError, match="no such weight"):
        fit_to_base(adapter, {})


def test_adapter_digest_sees_factors_and_scale(tmp_path):
    first = read_adapter(write_adapter(tmp_path / "a", factors(), card={"note": 1})).digest()
    assert read_adapter(write_adapter(tmp_path / "b", factors())).digest() == first
    assert read_adapter(write_adapter(tmp_path / "c", factors(scale=1.0))).digest() != first
    for letter in "AB":
        changed = factors()
        getattr(next(iter(changed.values())), letter)[0, 0] += 1e-6
        assert read_adapter(write_adapter(tmp_path / letter, changed)).digest() != first
    renamed = {name.replace("q_proj", "o_proj"): each for name, each in factors().items()}
    assert read_adapter(write_adapter(tmp_path / "renamed", renamed)).digest() != first
    retyped = {
        read_adapter(write_adapter(tmp_path / str(dtype), viewed(factors(), dtype))).digest()
        for dtype in (torch.float16, torch.bfloat16)
    }
    assert len(retyped) == 2, "the same bytes of another type"


def viewed(written: dict[str, LoraFactors], dtype: torch.dtype) -> dict[str, LoraFactors]:
    return {
        name: LoraFactors(each.A.half().view(dtype), each.B.half().view(dtype), each.scale)
        for name, each in written.items()
    }


def edit_config(directory, **changes):
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_rslora_scale(tmp_path):
    write_adapter(tmp_path / "a", factors(rank=4, scale=2.0))
    edit_config(tmp_path / "a", use_rslora=True)
    assert {each.scale for each in read_adapter(tmp_path / "a").factors.values()} == {8.0 / 2.0}


@pytest.mark.parametrize(
    "option",
    [
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 0}},
        {"alpha_pattern": {"q_proj": "4"}},
        {"fan_in_fan_out": True},
        {"layer_replication": [[0, 1], [0, 1]]},
        {"target_parameters": ["experts.gate_up_proj"]},
        {"trainable_token_indices": [7]},
        {"bias": "all"},
        {"peft_type": "IA3"},
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path, option):
    write_adapter(tmp_path / "a", factors())
    edit_config(tmp_path / "a", **option)
    with pytest.raises(AdapterError, match=next(iter(option))):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("option", [{"r": 0}, {"r": None}, {"lora_alpha": "8"}])
def test_a_senseless_rank_or_alpha_is_refused(tmp_path, option):
    write_adapter(tmp_path / "a", factors())
    edit_config(tmp_path / "a", **option)
    with pytest.raises(AdapterError, match="rank or alpha of the adapter is unusable"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        ("base_model.model.model.x.lora_A.weight", torch.zeros(2, 4), "do not fit together"),
        ("base_model.model.model.x.lora_embedding_A", torch.zeros(2, 4), "something else"),
        ("model.x.lora_A.weight", torch.zeros(2, 4), "something else"),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            torch.zeros(3, 4),
            "do not fit together",
        ),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
            torch.zeros(6, 3),
            "do not fit together",
        ),
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            torch.full((2, 4), torch.nan),
            "not finite",
        ),
    ],
    ids=["half", "embedding", "prefix", "rank of A", "rank of B", "nan"],
)
def test_adapter_damage_is_named(tmp_path, key, tensor, words):
    path = write_adapter(tmp_path / "a", factors()) / "adapter_model.safetensors"
    save_file(load_file(path) | {key: tensor}, path)
    with pytest.raises(AdapterError, match=words):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("file", ["adapter_config.json", "skippy.json"])
@pytest.mark.parametrize(
    ("content", "found"),
    [("{", "property name"), ("[1]", "JSON list"), ("3", "JSON int"), ("[" * 10**5, "too deeply")],
)
def test_a_torn_file_is_named(tmp_path, file, content, found):
    (write_adapter(tmp_path / "a", factors(), card={}) / file).write_text(content)
    with pytest.raises(AdapterError, match="cannot be read") as refusal:
        read_adapter(tmp_path / "a")
    assert file in refusal.value.where
    assert found in refusal.value.found


def test_adapter_files_missing(tmp_path):
    with pytest.raises(AdapterError, match="no such directory"):
        read_adapter(tmp_path / "nowhere")
    path = write_adapter(tmp_path / "a", factors()) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(tmp_path / "a")
    save_file({}, path)
    with pytest.raises(AdapterError, match="adapter is empty"):
        read_adapter(tmp_path / "a")
