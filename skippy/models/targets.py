"""Where the adapted weights of a model family are: names, shapes, and which side of the residual stream.

A target is one linear weight that LoRA adapts. Families differ in the prefix of their layers and in whether they
fuse projections, so a family is one row of `FAMILIES`; supporting another one is adding a row. Vision towers,
embeddings and `lm_head` are never targets: nothing here can name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skippy.core.target import BLOCKS, PROJECTIONS, Target, side_of
from skippy.errors import TargetError

# Names under which other projects store several of the seven in one matrix.
FUSED_NAMES = ("qkv_proj", "gate_up_proj", "c_attn", "query_key_value", "W_pack", "Wqkv", "dense_h_to_4h")
NAMED_IN_ERRORS = 4


@dataclass(frozen=True)
class Family:
    """One architecture: what its config calls itself, where its decoder layers are, and what projects in them."""

    model_type: str
    architecture: str
    layers: str
    text_config: str | None = None
    kinds: tuple[str, ...] = tuple(PROJECTIONS)


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("qwen3_vl", "Qwen3VLForConditionalGeneration", "model.language_model.layers", "text_config"),
        Family("qwen3", "Qwen3ForCausalLM", "model.layers"),
        Family("qwen2", "Qwen2ForCausalLM", "model.layers"),
        Family("llama", "LlamaForCausalLM", "model.layers"),
        Family("mistral", "MistralForCausalLM", "model.layers"),
        Family("gemma", "GemmaForCausalLM", "model.layers"),
        Family("gemma2", "Gemma2ForCausalLM", "model.layers"),
        Family("gemma3_text", "Gemma3ForCausalLM", "model.layers"),
        Family(
            "phi3",
            "Phi3ForCausalLM",
            "model.layers",
            kinds=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
        ),
    )
}
EXPERTS = "its experts are stacked into one tensor in memory and stored apart on disk, so they are no linear targets"
# Asked for, and why not.
NOT_SUPPORTED = {
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS,
    "qwen2_moe": EXPERTS,
    "qwen3_vl_moe": EXPERTS,
    "gemma3": "its vision model is not handled; save its language model alone, as gemma3_text",
}


def family_of(config: Mapping[str, Any]) -> Family:
    """Find the family by `model_type`, else by `architectures`.

    Raises:
        TargetError: the family is not in the table.
    """
    model_type = str(config.get("model_type"))
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    named = config.get("architectures")
    architectures = named if isinstance(named, list) else []
    for family in FAMILIES.values():
        if family.architecture in architectures:
            return family
    if model_type in NOT_SUPPORTED:
        raise TargetError(
            f"Models of the family {model_type} are not supported: {NOT_SUPPORTED[model_type]}.",
            where="config.json, model_type",
            expected="one of " + ", ".join(sorted(FAMILIES)),
            found=f"model_type {model_type!r}",
            next_step="use a dense model of a known family",
        )
    raise TargetError(
        "The model is of a family whose targets are not known.",
        where="config.json, model_type and architectures",
        expected="one of " + ", ".join(sorted(FAMILIES)),
        found=f"model_type {model_type!r}, architectures {list(architectures)!r}",
        next_step="use a base of a known family, or add its row to FAMILIES in skippy/models/targets.py",
    )


def find_targets(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> tuple[Target, ...]:
    """List the projections of every decoder layer, ordered by layer and then as the family has them.

    Raises:
        TargetError: the family is unknown, or a target is missing, fused or of an unexpected shape.
    """
    family = family_of(config)
    text = config.get(family.text_config) if family.text_config else config
    text = text if isinstance(text, Mapping) else {}
    layers = text.get("num_hidden_layers")
    if not isinstance(layers, int) or layers < 1:
        raise TargetError(
            "The number of decoder layers is not known.",
            where=f"config.json, {family.text_config + '.' if family.text_config else ''}num_hidden_layers",
            expected="an integer of at least 1",
            found=repr(layers),
            next_step="check that config.json belongs to this checkpoint",
        )
    names = [
        (f"{family.layers}.{layer}.{BLOCKS[kind]}.{kind}", layer, kind)
        for layer in range(layers)
        for kind in family.kinds
    ]
    _require_present([name for name, _, _ in names], shapes, family)
    targets = tuple(_target(name, layer, kind, shapes[f"{name}.weight"]) for name, layer, kind in names)
    _require_hidden_size(targets, text.get("hidden_size"))
    return targets


def select_targets(targets: Iterable[Target], which: str) -> tuple[Target, ...]:
    """The targets of one block of every layer: `attention`, `mlp`, or `all` of them."""
    blocks = {"attention": "self_attn", "mlp": "mlp"}
    return tuple(target for target in targets if which == "all" or BLOCKS[target.kind] == blocks[which])


def target_pattern(targets: Iterable[Target]) -> str:
    """Write the regular expression that matches exactly the names of `targets`, for PEFT's `target_modules`.

    PEFT matches a string pattern against the full module name. Layer numbers are listed, not wildcards, so
    that a pattern can never reach a layer that was not asked for.

    Raises:
        TargetError: there are no targets, or they are not a full product of layers and kinds.
    """
    listed = tuple(targets)
    if not listed:
        raise TargetError(
            "No targets to adapt.", expected="at least one target", found="none", next_step="use find_targets"
        )
    prefixes = sorted({target.name.rsplit(".", 3)[0] for target in listed})
    layers = sorted({target.layer for target in listed})
    modules = sorted({f"{BLOCKS[target.kind]}.{target.kind}" for target in listed})
    if len(listed) != len(prefixes) * len(layers) * len(modules):
        return "(?:" + "|".join(re.escape(target.name) for target in listed) + ")"
    alternatives = ("|".join(map(re.escape, group)) for group in (prefixes, map(str, layers), modules))
    return r"\.".join(f"(?:{group})" for group in alternatives)


def _target(name: str, layer: int, kind: str, shape: Sequence[int]) -> Target:
    if len(shape) != 2:
        raise TargetError(
            "A target is not a matrix.",
            where=f"{name}.weight",
            expected="two dimensions (out, in)",
            found=f"shape {tuple(shape)}",
            next_step="use a checkpoint of plain, unquantised linear weights",
        )
    return Target(name=name, layer=layer, kind=kind, out=int(shape[0]), in_=int(shape[1]), side=side_of(kind))


def _require_present(names: Sequence[str], shapes: Mapping[str, Sequence[int]], family: Family) -> None:
    missing = [name for name in names if f"{name}.weight" not in shapes]
    if not missing:
        return
    fused = [key for key in shapes if any(f".{fused}." in key for fused in FUSED_NAMES)]
    shown = ", ".join(missing[:NAMED_IN_ERRORS]) + (", …" if len(missing) > NAMED_IN_ERRORS else "")
    if fused:
        raise TargetError(
            "The checkpoint stores fused projections; LoRA here adapts the separate ones.",
            where=", ".join(sorted(fused)[:NAMED_IN_ERRORS]),
            expected=f"{len(names)} separate weights such as {missing[0]}.weight",
            found=f"{len(missing)} missing, {len(fused)} fused",
            next_step="convert the checkpoint to separate q/k/v and gate/up projections",
        )
    layer = missing[0].rsplit(".", 2)[0]
    near = sorted(key for key in shapes if key.startswith(layer + "."))[:NAMED_IN_ERRORS]
    raise TargetError(
        f"{len(missing)} of {len(names)} targets are not in the checkpoint.",
        where=shown,
        expected=f"{len(family.kinds)} projections in every layer under {family.layers} (family {family.model_type})",
        found=", ".join(near) if near else f"no tensor under {layer}",
        next_step="check that config.json and the safetensors files belong together",
    )


def _require_hidden_size(targets: Iterable[Target], hidden: int | None) -> None:
    if hidden is None:
        return
    for target in targets:
        facing = target.out if target.side == "writes" else target.in_
        if facing != hidden:
            raise TargetError(
                "A target does not face the residual stream with the model's hidden size.",
                where=f"{target.name}.weight",
                expected=f"{'out' if target.side == 'writes' else 'in'} = {hidden}",
                found=f"shape ({target.out}, {target.in_})",
                next_step="check that config.json belongs to these weights, and that they are unquantised",
            )
