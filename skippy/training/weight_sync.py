"""W + ΔW for whoever generates, without ever writing into the base.

Merging an adapter into bf16 weights and subtracting it again does not give the weights back: each cycle
rounds, and a hundred of them drift by 10–35 % of ‖ΔW‖ (trl issue 6688). Here the sum is a new tensor each
time, W' = dtype(float32(W) + s·float32(B)·float32(A)), and the base is only read.

A server that holds the base needs nothing but the adapted weights; the rest never changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn import functional
from trl.generation import vllm_generation

from skippy.models.engine import free_port
from skippy.training.layers import adapted_layers, base_bias, base_weight, factors_of


def merged_weights(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (checkpoint key, W + ΔW) of every adapted weight, in the base's dtype, one at a time.

    Feed these to `load_weights` of an inference engine after each optimizer step. Memory above the model is
    one weight.
    """
    for name, layer in adapted_layers(model).items():
        yield f"{name}.weight", _merged(layer)


def take_free_port() -> None:
    """Choose the port that a single vLLM is found at; TRL would begin at 29500, and two trainings that start together
    would both find it free.
    """
    os.environ["MASTER_PORT"] = str(free_port())


@contextmanager
def engine_without_eyes(cache_bytes: int = 0) -> Iterator[None]:
    """Within the block TRL starts vLLM without the vision tower: prompts are text, and its memory is the policy's.

    Else vLLM asks for the image processor of the checkpoint, and takes room for the largest picture.

    Args:
        cache_bytes: for keys and values; 0 lets vLLM measure what is free, which fails where another process gives
            memory back meanwhile.
    """
    whole = getattr(vllm_generation, "LLM", None)
    if whole is not None:
        told = {"kv_cache_memory_bytes": cache_bytes} if cache_bytes else {}
        vllm_generation.LLM = partial(whole, language_model_only=True, **told)
    try:
        yield
    finally:
        if whole is not None:
            vllm_generation.LLM = whole


def push_without_merging(generation: Any, model: PeftModel) -> None:
    """Let TRL's vLLM weight sync send these sums in place of merging into the base and back.

    In one process they are handed over in a single call: vLLM lists all its parameters in each.

    Args:
        generation: TRL's `VLLMGeneration`; where its weights come from is replaced, and how they travel within a
            process.
    """
    generation._iter_named_params = partial(merged_weights, model)
    if generation.mode == "colocate":
        generation.sync_weights = partial(_load_at_once, generation, model)


def _load_at_once(generation: Any, model: PeftModel) -> None:
    engine = generation.llm
    engine.llm_engine.model_executor.driver_worker.model_runner.model.load_weights(merged_weights(model))
    engine.reset_prefix_cache()


@contextmanager
def merged_forward(model: PeftModel, kept: dict[str, Tensor] | None = None) -> Iterator[None]:
    """Within the block every adapted layer computes x (W + ΔW)ᵀ as one product, base tensors untouched.

    Sampling token by token is a quarter faster without the adapter's own small products. Only for a float32
    base: in a shorter type W + ΔW would drop much of ΔW (MATH §6) and sample from another policy than the one
    that is trained.

    Args:
        kept: the sums by layer, from block to block. The first block fills it, later ones write into the same
            tensors, so that a recorded step reads what is new. None makes new ones each time.
    """
    layers = adapted_layers(model)
    sums: dict[str, Tensor] = {} if kept is None else kept
    try:
        for name, layer in layers.items():
            sums[name] = _merged(layer, sums.get(name))
            vars(layer)["forward"] = partial(functional.linear, weight=sums[name], bias=base_bias(layer))
        yield
    finally:
        for layer in layers.values():
            vars(layer).pop("forward", None)


def has_float32_base(model: PeftModel) -> bool:
    """Whether every adapted weight of the base is float32."""
    return all(base_weight(layer).dtype == torch.float32 for layer in adapted_layers(model).values())


@torch.no_grad()
def _merged(layer: LoraLayer, into: Tensor | None = None) -> Tensor:
    weight, factors = base_weight(layer), factors_of(layer)
    wide = torch.addmm(weight.float(), factors.B.float(), factors.A.float(), alpha=factors.scale)
    return wide.to(weight.dtype) if into is None else into.copy_(wide)
