"""Targets are the seven projections of every decoder layer, nothing else, on a live model of each family."""

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model

from skippy.core.target import Target
from skippy.errors import TargetError
from skippy.models.targets import FAMILIES, NOT_SUPPORTED, find_targets, target_pattern
from tests.models.families import CONFIGS, build


def test_every_family_is_tested():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_targets_of_a_live_model(family):
    model, config, shapes = build(family)
    targets = find_targets(config, shapes)
    assert len(targets) == 2 * len(FAMILIES[family].kinds)
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
    for chosen in (targets, targets[:7], targets[3:4], targets[1:6]):
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


@pytest.mark.parametrize("family", sorted(NOT_SUPPORTED))
def test_a_family_that_is_not_supported_is_refused_with_the_reason(family):
    with pytest.raises(TargetError, match=f"{family} are not supported: its "):
        find_targets({"model_type": family, "architectures": ["Any"]}, {})


def test_fused_weights_are_targets_where_the_family_has_them_and_read_the_stream():
    _, config, shapes = build("phi3")
    sides = {target.kind: target.side for target in find_targets(config, shapes)}
    assert sides == {"qkv_proj": "reads", "o_proj": "writes", "gate_up_proj": "reads", "down_proj": "writes"}


@pytest.mark.parametrize("config", [{"model_type": ["qwen3"]}, {"model_type": None, "architectures": 3}, {}])
def test_a_senseless_config_is_refused(config):
    with pytest.raises(TargetError, match="not known"):
        find_targets(config, {})


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
