"""From a request to a trainer that is ready: base, adapter, rewards, prompts and callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback

from skippy.core.spectral.constraints import Leakage, OrthogonalConstraint
from skippy.core.spectral.lora import LoraFactors
from skippy.core.spectral.rank import BOTTOM
from skippy.core.style.rewards import correctness
from skippy.core.target import Target
from skippy.core.variants import find_variant
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import template_arguments
from skippy.resolve.devices import pick_device
from skippy.training.adapters import adapter_card, save_adapter
from skippy.training.character_callback import CharacterCallback
from skippy.training.checkpoint_callback import CheckpointCallback, FinishCallback
from skippy.training.constraint_callback import ConstraintCallback, constrain, protected_bases
from skippy.training.guards import require_only_adapter_trains, require_true_triples
from skippy.training.layers import all_factors, target_layers
from skippy.training.plan import RunSink, TrainRequest
from skippy.training.prompts import CHAT, MATH, gather_prompts, schedule
from skippy.training.rewards import adapt_reward
from skippy.training.tracking_callback import TrackingCallback
from skippy.training.trainer import ConstrainedTrainer, grpo_config, lora_config, process_count
from skippy.training.weight_sync import take_free_port

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class BuiltRun:
    """A trainer ready to train, with what is read off it afterwards."""

    trainer: ConstrainedTrainer
    model: PeftModel
    tracking: TrackingCallback
    checkpoints: CheckpointCallback
    layers: Mapping[str, LoraLayer]
    factors: Mapping[str, LoraFactors]
    measured: OrthogonalConstraint | None
    save_adapter: Callable[[Path], None]

    def own_leakages(self) -> dict[str, Leakage]:
        """By target, against the directions that the variant itself protects; empty where it protects none."""
        constraint = self.trainer.constraint.constraint
        return {} if constraint is None else constraint.leakages()


def build_run(request: TrainRequest, run: RunSink, targets: tuple[Target, ...]) -> BuiltRun:
    """Load the base, put the adapter on its targets, and hang the callbacks on the trainer.

    Raises:
        TrainingError: something else than the adapter would train, or no prompt fits.
        ProjectorError: the projectors are no singular vectors of the weights that were loaded.
    """
    settings = request.settings
    tokenizer = load_tokenizer(request.base_path)
    trainer = _build_trainer(request, tokenizer, targets)
    model = trainer.accelerator.unwrap_model(trainer.model)
    layers = target_layers(model, [target.name for target in targets])
    factors = all_factors(layers)
    require_only_adapter_trains(model, factors)
    rule = find_variant(request.variant)
    if request.protected is not None and rule.basis == BOTTOM:
        require_true_triples(layers, request.protected.bases)
    own = request.protected.bases if request.protected else request.bases
    bases = protected_bases(rule, factors, own, request.k, settings.seed)
    constraint = ConstraintCallback(rule, factors, bases)
    measured = None
    if request.bases is not None:
        require_true_triples(layers, request.bases)
        measured = constrain(factors, {name: (U, V) for name, (U, _, V) in request.bases.items()})

    def save(directory: Path) -> None:
        card = adapter_card(request, trainer.state.global_step, measured, constraint.constraint)
        save_adapter(model, directory, request.base_name or request.base_digest, card)

    own_constraint = constraint.constraint if rule.own_basis else None
    tracking = TrackingCallback(run, f"train {request.variant}", request.output_dir, measured, own_constraint)
    tracking.completions = trainer._logs
    checkpoints = CheckpointCallback(run, request.output_dir, save)
    trainer.constraint, trainer.write_adapter = constraint, save
    trainer.remove_callback(PrinterCallback)
    for callback in (constraint, tracking, checkpoints):
        trainer.add_callback(callback)
    if request.reference is None:
        logger.info("no character reference: character metrics are left out")
    else:
        every, seed = settings.character_steps, settings.seed
        reference = request.reference.of_targets(factors)
        trainer.add_callback(CharacterCallback(run, model, tokenizer, factors, reference, every, seed))
    trainer.add_callback(FinishCallback())
    return BuiltRun(trainer, model, tracking, checkpoints, layers, factors, measured, save)


def _build_trainer(
    request: TrainRequest, tokenizer: PreTrainedTokenizerBase, targets: tuple[Target, ...]
) -> ConstrainedTrainer:
    settings = request.settings
    on_gpu = pick_device(request.device).type == "cuda"
    chat, problems = gather_prompts(request.prompts, request.math_problems, tokenizer, settings)
    steps = settings.steps(len(chat), process_count())
    if settings.vllm and process_count() == 1:
        take_free_port()
    dtype = torch.bfloat16 if settings.bf16 and on_gpu else torch.float32
    model = load_model(request.base_path, dtype=dtype, device="cpu").train()
    return ConstrainedTrainer(
        merged_generation=settings.merged_generation,
        model=model,
        args=grpo_config(request, steps, on_gpu=on_gpu, template_arguments=template_arguments(tokenizer)),
        train_dataset=schedule(chat, problems, settings, process_count()),
        processing_class=tokenizer,
        reward_funcs=reward_functions(request, end_tokens(model, tokenizer)),
        peft_config=lora_config(targets, settings),
    )


def reward_functions(request: TrainRequest, ends: list[int]) -> list[Callable[..., Any]]:
    """The request's rewards as TRL calls them."""
    functions = [
        adapt_reward(function, name, CHAT, ends)
        for function, name in zip(request.reward_functions, request.reward_names, strict=True)
    ]
    if request.settings.math_mix > 0:
        functions.append(adapt_reward(correctness, "correctness", MATH, ends))
    return functions


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Tokens that end an answer."""
    declared = model.generation_config.eos_token_id
    listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return [*listed, tokenizer.eos_token_id]
