"""GRPO on biases alone: V3's rewards and V6's place, so that *where* is told from *how*.

PEFT has no biases without LoRA, and TRL trains what has a gradient: so the base is frozen, the biases hang on the
outputs of its modules as parameters of their own, in float32, and TRL is given the model as it is. For β > 0 TRL then
loads a second copy of the base to measure KL against. Nothing is kept to resume from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback

from skippy.models.hooks import find_module
from skippy.models.loading import hash_parameters, load_model, load_tokenizer
from skippy.models.prompts import template_arguments
from skippy.presets.steering import SteerSettings
from skippy.resolve.bases import Base
from skippy.resolve.devices import pick_device
from skippy.training.guards import require_unchanged_base
from skippy.training.making import Made
from skippy.training.plan import RunSink, TrainRequest
from skippy.training.prompts import gather_prompts, schedule
from skippy.training.setup import end_tokens, reward_functions
from skippy.training.steer_bias import keep_biases, size_of
from skippy.training.steer_means import relative_shift
from skippy.training.steered_model import SteeredModel, site_modules
from skippy.training.tracking_callback import TrackingCallback
from skippy.training.trainer import ConstrainedTrainer, grpo_config
from skippy.words import counted

PARAMETER = "steering_bias"


def train_bias_grpo(request: TrainRequest, base: Base, site: SteerSettings, sink: RunSink) -> Made:
    """One GRPO run on the biases of a site."""
    tokenizer = load_tokenizer(request.base_path)
    on_gpu = pick_device(request.device).type == "cuda"
    dtype = torch.bfloat16 if request.settings.bf16 and on_gpu else torch.float32
    model = load_model(request.base_path, dtype=dtype, device="cpu").requires_grad_(False)
    before = hash_parameters(model)
    with trainable_biases(model, site) as biases:
        trainer = _build_trainer(request, model, tokenizer, on_gpu=on_gpu)
        tracking = TrackingCallback(sink, f"train {request.variant}", request.output_dir, None)
        tracking.completions = trainer._logs
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(tracking)
        began = time.perf_counter()
        with tracking:
            trainer.train()
        found = {name: one.detach().float().cpu() for name, one in biases.items()}
    require_unchanged_base(before, hash_parameters(model))
    keep_biases(request.output_dir, sink, base, found, request.variant, site)
    first, last = tracking.reward_means()
    metrics = {
        "train/steps": float(trainer.state.global_step),
        "train/seconds": time.perf_counter() - began,
        "train/reward_first": first,
        "train/reward_last": last,
        **size_of(found),
        **relative_shift(model, tokenizer, found, request.prompts),
    }
    sentence = (
        f"{request.variant}, {counted(trainer.state.global_step, 'step')}, reward {first:.2f} → {last:.2f}"
    )
    return Made(sentence, metrics, {"steer/site.json": asdict(site)}, before)


@contextmanager
def trainable_biases(model: Any, site: SteerSettings) -> Iterator[dict[str, nn.Parameter]]:
    """Within, the site's modules add a parameter to their outputs; by module name, float32, zero at first."""
    steered = SteeredModel(model, *site_modules(model, site), keep_states=False)
    biases: dict[str, nn.Parameter] = {}
    handles = []
    for name in steered.modules:
        module = find_module(model, name)
        biases[name] = nn.Parameter(torch.zeros(steered.width(name), device=steered.device))
        module.register_parameter(PARAMETER, biases[name])
        handles.append(module.register_forward_hook(_add))
    try:
        yield biases
    finally:
        for handle in handles:
            handle.remove()
        for name in steered.modules:
            del find_module(model, name)._parameters[PARAMETER]


def _add(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
    bias = module._parameters[PARAMETER]
    assert bias is not None
    return output + bias.to(output.dtype)


class _NoConstraint:
    """Biases have no directions to be kept out of."""

    def project_gradients(self) -> None:
        """Leave them."""


def _build_trainer(request: TrainRequest, model: Any, tokenizer: Any, *, on_gpu: bool) -> ConstrainedTrainer:
    settings = request.settings
    chat, _ = gather_prompts(request.prompts, (), tokenizer, settings)
    arguments = grpo_config(
        request, settings.steps(len(chat), 1), on_gpu=on_gpu, template_arguments=template_arguments(tokenizer)
    )
    arguments.save_strategy = "no"
    trainer = ConstrainedTrainer(
        merged_generation=False,
        model=model.train(),
        args=arguments,
        train_dataset=schedule(chat, [], settings, 1),
        processing_class=tokenizer,
        reward_funcs=reward_functions(request, end_tokens(model, tokenizer)),
    )
    trainer.constraint = _NoConstraint()  # type: ignore[assignment]
    return trainer
