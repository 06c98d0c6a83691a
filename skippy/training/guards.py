"""What must hold before and after training, checked rather than assumed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from skippy.core.basis import Basis
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import ProjectorError, TrainingError
from skippy.presets.settings import GrpoSettings
from skippy.resolve.devices import pick_device
from skippy.training.layers import base_weight
from skippy.training.plan import TrainRequest

# A stored triple satisfies W v = σ u to 1e-5; the rest is room for a base that is loaded in another dtype.
TRIPLE_TOLERANCE = 1e-2
COLOCATED_SHARE = 0.3
"""Of the GPU's memory that vLLM takes where it shares it with the training."""
WEIGHTS_OF_SHARE = 0.8
GRAPHS_BYTES, LEAST_CACHE_BYTES = 4 << 30, 1 << 30


def require_supported_launch(environment: Mapping[str, str]) -> None:
    """Refuse launchers that shard parameters, before any model is loaded.

    The constraint needs whole factors and whole gradients on every rank: data parallelism gives that,
    FSDP and DeepSpeed do not.

    Raises:
        TrainingError: the process was launched under FSDP or DeepSpeed.
    """
    for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if environment.get(variable, "false").lower() in {"1", "true", "yes"}:
            raise TrainingError(
                f"Training under {name} is not supported: it shards the adapter, which must stay whole.",
                where=f"environment variable {variable}",
                expected="one process, or data parallelism (torchrun)",
                found=f"{variable}={environment[variable]}",
                next_step="launch with torchrun --nproc-per-node N, without an accelerate config",
            )


def require_vllm(settings: GrpoSettings, base: Path, device: str) -> None:
    """Refuse vLLM sampling where it cannot work, before any model is loaded.

    Raises:
        TrainingError: vLLM is not installed; or it is to share a GPU that is not there, or too small.
    """
    if not settings.vllm:
        return
    if importlib.util.find_spec("vllm") is None:
        raise TrainingError(
            "Sampling with vLLM was asked for, and vLLM is not installed.",
            where=f"setting vllm={settings.vllm}",
            expected="the package vllm in this environment",
            found="no such package",
            next_step="install vllm beside skippy, or leave the setting empty",
        )
    if settings.vllm != "colocate":
        return
    if pick_device(device).type != "cuda":
        raise TrainingError(
            "vLLM cannot share a GPU that is not there.",
            where="setting vllm=colocate",
            expected="a CUDA device",
            found=f"device={device}, trained on the CPU",
            next_step="leave vllm out; on a CPU completions are sampled in this process",
        )
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    share = COLOCATED_SHARE * torch.cuda.get_device_properties(0).total_memory
    if weights > WEIGHTS_OF_SHARE * share:
        raise TrainingError(
            "vLLM's copy of the weights does not fit beside the training.",
            where="setting vllm=colocate",
            expected=f"at most {WEIGHTS_OF_SHARE * share / 2**30:.1f} GiB of weights: vLLM is given "
            f"{COLOCATED_SHARE:.0%} of the GPU, and needs room for keys, values and graphs",
            found=f"{weights / 2**30:.1f} GiB",
            next_step="leave vllm out, or train on a GPU with more memory",
        )


def colocated_cache_bytes(model: nn.Module) -> int:
    """What a vLLM that shares the GPU is given for keys and values; 0 where it must measure how little is left."""
    if not torch.cuda.is_available():
        return 0
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    share = COLOCATED_SHARE * torch.cuda.get_device_properties(0).total_memory
    left = int(share) - weights - GRAPHS_BYTES
    return left if left >= LEAST_CACHE_BYTES else 0


def require_only_adapter_trains(model: nn.Module, factors: Mapping[str, LoraFactors]) -> None:
    """Check that the trainable parameters are the targets' A and B in float32, and nothing else.

    Raises:
        TrainingError: another parameter would train, or a factor would not, or not in float32.
    """
    wanted = {id(tensor) for one in factors.values() for tensor in (one.A, one.B)}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    strays = [name for name, p in trainable.items() if id(p) not in wanted or ".visual." in name]
    short = [name for name, p in trainable.items() if p.dtype != torch.float32]
    if strays or short or len(trainable) != len(wanted):
        raise TrainingError(
            "The trainable parameters are not exactly the adapter in float32.",
            where=", ".join((strays + short)[:4]),
            expected=f"{len(wanted)} float32 factors",
            found=f"{len(trainable)} trainable, {len(strays)} foreign, {len(short)} not float32",
            next_step="check the adapter's target modules and PEFT's autocast_adapter_dtype",
        )


def require_in_optimizer(optimizer: torch.optim.Optimizer, factors: Mapping[str, LoraFactors]) -> None:
    """Check that the optimizer moves every factor, and these very tensors.

    A constraint on tensors that something replaced would hold while the model leaks.

    Raises:
        TrainingError: the optimizer is empty or holds other tensors.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = {id(tensor) for one in factors.values() for tensor in (one.A, one.B)}
    if held != wanted:
        raise TrainingError(
            "The optimizer does not hold exactly the adapter.",
            expected=f"{len(wanted)} factors",
            found=f"{len(held)} tensors, {len(held & wanted)} of them factors",
            next_step="report this: PEFT or transformers replaced the adapter's parameters after set-up",
        )


def require_unchanged_base(before: str, after: str) -> None:
    """Check that training left the base alone.

    Raises:
        TrainingError: the hashes differ.
    """
    if before != after:
        raise TrainingError(
            "The base weights changed during training; the adapter does not belong to the base any more.",
            where="frozen parameters",
            expected=f"sha256 {before}",
            found=f"sha256 {after}",
            next_step="look for something that merges the adapter in place, such as a weight sync",
        )


def require_own_reference(request: TrainRequest) -> None:
    """Check that the character reference was measured on this base.

    Raises:
        TrainingError: it is of another base.
    """
    if request.reference is not None and request.reference.base_digest != request.base_digest:
        raise TrainingError(
            "The character reference is of another base.",
            where="manifest of the subspace run, base digest",
            expected=request.base_digest,
            found=request.reference.base_digest,
            next_step="run the subspace stage on this base, or name its run with -P subspace_run=RUN_ID",
        )


@torch.no_grad()
def require_true_triples(layers: Mapping[str, LoraLayer], projectors: Mapping[str, Basis]) -> None:
    """Check the projectors against the weights that were really loaded: W V = U S and Wᵀ U = V S.

    A digest says which file was meant; this says that U and V belong to the matrix they will protect.

    Raises:
        ProjectorError: they do not.
    """
    for name, layer in layers.items():
        W = base_weight(layer).detach()
        U, S, V = (tensor.to(W.device, torch.float32) for tensor in projectors[name])
        if W.shape != (U.shape[0], V.shape[0]):
            raise ProjectorError(
                "The projectors do not fit the target.",
                where=name,
                expected=f"U of {W.shape[0]} rows and V of {W.shape[1]}",
                found=f"U {tuple(U.shape)}, V {tuple(V.shape)}",
                next_step="use the projectors of this very base, or run svd for it",
            )
        residuals = torch.cat([W.float() @ V - U * S, W.float().mT @ U - V * S]).norm(dim=0)
        worst, allowed = float(residuals.max()), TRIPLE_TOLERANCE * float(S.max())
        if not worst <= allowed:
            raise ProjectorError(
                "The projectors are no singular vectors of the weight that was loaded.",
                where=name,
                expected=f"residual ≤ {TRIPLE_TOLERANCE:g} σ₁ = {allowed:.3g}",
                found=f"{worst:.3g}",
                next_step="run the svd stage on this base again",
            )
