"""Targets are the seven projections of every decoder layer, nothing else, on a live model of each family."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3VLConfig,
)

from skippy.core.target import Target
from skippy.errors import TargetError
from skippy.models.targets import FAMILIES, find_targets, target_pattern

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def _tiny_qwen3_vl() -> Qwen3VLConfig:
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return Qwen3VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision)


CONFIGS = {
    "qwen3_vl": _tiny_qwen3_vl,
    "qwen3": lambda: Qwen3Config(**TEXT),
    "qwen2": lambda: Qwen2Config(**{key: value for key, value in TEXT.items() if key != "head_dim"}),
    "llama": lambda: LlamaConfig(**TEXT),
    "mistral": lambda: MistralConfig(**TEXT),
}


def build(family: str) -> tuple[torch.nn.Module, dict, dict]:
    config = CONFIGS[family]()
    auto = AutoModelForImageTextToText if family == "qwen3_vl" else AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    return model, config.to_dict(), shapes


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_targets_of_a_live_model(family):
    model, config, shapes = build(family)
    targets = find_targets(config, shapes)
    assert len(targets) == 14
    modules = dict(model.named_modules())
    for target in targets:
        module = modules[target.name]
        assert isinstance(module, torch.nn.Linear)
        assert (target.out, target.in_) == tuple(module.weight.shape)
        assert shapes[target.weight_key] == (target.out, target.in_)
    assert {target.kind for target in targets if target.side == "writes"} == {"o_proj", "down_proj"}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_peft_adapts_exactly_the_targets(family):
    model, config, shapes = build(family)
    targets = find_targets(config, shapes)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=target_pattern(targets)))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(targets)
    expected = {f"base_model.model.{target.name}.lora_{x}.default.weight" for target in targets for x in "AB"}
    assert set(trained) == expected
    assert not [name for name in trained if "visual" in name or "lm_head" in name or "embed" in name]


def test_all_linear_would_reach_the_vision_tower():
    """The twin: what the pattern prevents does happen without it."""
    model, _, _ = build("qwen3_vl")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    assert any("visual" in name for name, each in adapted.named_parameters() if each.requires_grad)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_pattern_matches_targets_and_nothing_else(family):
    model, config, shapes = build(family)
    targets = find_targets(config, shapes)
    names = {target.name for target in targets}
    for chosen in (targets, targets[:7], targets[3:4], targets[2:9]):
        pattern = re.compile(target_pattern(chosen))
        matched = {name for name, _ in model.named_modules() if pattern.fullmatch(name)}
        assert matched == {target.name for target in chosen} <= names
    assert not re.fullmatch(target_pattern(targets), targets[0].name.replace(".0.", ".10."))
    assert not re.fullmatch(target_pattern(targets), targets[0].name.replace(".", "x"))


def test_no_targets_is_an_error():
    with pytest.raises(TargetError, match="No targets"):
        target_pattern([])


def test_family_by_architecture_alone():
    _, config, shapes = build("llama")
    del config["model_type"]
    config["architectures"] = ["LlamaForCausalLM"]
    assert len(find_targets(config, shapes)) == 14


def test_unknown_family_lists_the_known():
    with pytest.raises(TargetError) as caught:
        find_targets({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, {})
    assert all(name in str(caught.value) for name in [*FAMILIES, "gpt2", "GPT2LMHeadModel"])


def test_missing_targets_are_named():
    _, config, shapes = build("qwen3")
    del shapes["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(TargetError, match=r"1 of 14.*\n.*model\.layers\.1\.mlp\.up_proj"):
        find_targets(config, shapes)


def test_fused_targets_are_named():
    _, config, shapes = build("llama")
    for layer in range(2):
        for kind in ("q_proj", "k_proj", "v_proj"):
            del shapes[f"model.layers.{layer}.self_attn.{kind}.weight"]
        shapes[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = (64, 32)
    with pytest.raises(TargetError, match=r"fused.*\n.*model\.layers\.0\.self_attn\.qkv_proj\.weight"):
        find_targets(config, shapes)


def test_layers_of_another_config_are_noticed():
    _, config, shapes = build("qwen3")
    with pytest.raises(TargetError, match="not in the checkpoint"):
        find_targets({**config, "num_hidden_layers": 3}, shapes)
    for layers in (None, 0):
        with pytest.raises(TargetError, match="number of decoder layers"):
            find_targets({**config, "num_hidden_layers": layers}, shapes)


@pytest.mark.parametrize("shape", [(32,), (32, 5)])
def test_wrong_shapes_are_noticed(shape):
    _, config, shapes = build("qwen3")
    with pytest.raises(TargetError, match=r"layers\.0\.self_attn\.q_proj\.weight"):
        find_targets(config, {**shapes, "model.layers.0.self_attn.q_proj.weight": shape})


def test_side_is_by_name_where_shapes_cannot_tell():
    """As in the 8B model: q_proj's output has the size of the hidden state, and is head space."""
    _, config, shapes = build("qwen3")
    query = find_targets(config, shapes)[0]
    assert query == Target("model.layers.0.self_attn.q_proj", 0, "q_proj", 32, 32, "reads")
