"""TRL's GRPO trainer with the four seams that skippy needs, and the arguments it is given."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer

from skippy.core.target import Target
from skippy.errors import TrainingError
from skippy.models.captured import gains_from_recording
from skippy.models.targets import target_pattern
from skippy.models.traced import TracedSampling
from skippy.presets.settings import GrpoSettings
from skippy.resolve.devices import pick_device
from skippy.training.constraint_callback import ConstraintCallback
from skippy.training.guards import COLOCATED_SHARE, colocated_cache_bytes
from skippy.training.plan import TrainRequest
from skippy.training.resume import FINISHED_FILE
from skippy.training.rollout import Rollout
from skippy.training.weight_sync import (
    engine_without_eyes,
    has_float32_base,
    merged_forward,
    push_without_merging,
)


class ConstrainedTrainer(GRPOTrainer):
    """GRPO with a constraint between all-reduce and clipping, and adapters written our way.

    The adapter exists only after construction, so what needs it is attached before `train` is called.

    Args:
        merged_generation: sample with W + ΔW in place of W where the base is float32.
        **trl: everything `GRPOTrainer` takes.
    """

    constraint: ConstraintCallback  # projects the gradients; attach it before training
    write_adapter: Callable[[Path], None]  # the adapter as it is now; attach it before training

    def __init__(self, *, merged_generation: bool, **trl: Any) -> None:
        with engine_without_eyes(colocated_cache_bytes(trl["model"])):
            super().__init__(**trl)
        model = self.accelerator.unwrap_model(self.model)
        self._merges = merged_generation and not self.use_vllm and has_float32_base(model)
        self._rollout: Rollout | None = None
        # On a CPU W + ΔW stays at one address, so that a traced step reads what is new.
        self._traced = TracedSampling() if self._merges and self.accelerator.device.type == "cpu" else None
        self._sums: dict[str, torch.Tensor] = {}
        if self.use_vllm:
            push_without_merging(self.vllm_generation, model)
        elif gains_from_recording(model):
            self.sample_in_fixed_buffers()

    def sample_in_fixed_buffers(self) -> None:
        """Make completions by recorded steps from now on: the same distribution, other random numbers."""
        model = self.accelerator.unwrap_model(self.model)
        self._rollout = Rollout(model, self.generation_config, merges=self._merges)

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | None:
        """Project, then clip: after accumulation and all-reduce, before the norm is taken.

        Raises:
            TrainingError: the gradient is not finite; one more step would ruin the adapter.
        """
        self.constraint.project_gradients()
        norm = super()._clip_grad_norm(model)
        if norm is not None and not bool(torch.isfinite(torch.as_tensor(norm))):
            raise TrainingError(
                "The gradient is not finite.",
                where=f"step {self.state.global_step + 1}",
                expected="a finite norm",
                found=str(float(norm)),
                next_step="the last checkpoint is whole; train again with a lower learning rate",
            )
        return norm

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple:
        """Sample completions, with the adapter folded into a copy of the weights where that is exact.

        Dropout is off where steps are recorded, and on where TRL samples.
        """
        if self._rollout is not None:
            return self._rollout.complete(args[0] if args else kwargs["prompt_ids"]), None
        model = self.accelerator.unwrap_model(self.model)
        if self._traced is None:
            with merged_forward(model) if self._merges else nullcontext():
                return super()._generate_single_turn(*args, **kwargs)
        with merged_forward(model, self._sums):
            vars(model)["generate"] = partial(model.generate, custom_generate=self._traced)
            try:
                return super()._generate_single_turn(*args, **kwargs)
            finally:
                del vars(model)["generate"]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write only the adapter, in place of model card, tokenizer and pickled arguments."""
        if self.args.should_save:
            self.write_adapter(Path(output_dir or str(self.args.output_dir)))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint with every rank's part; `FinishCallback` marks it once all of its step is logged."""
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / FINISHED_FILE).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: `skippy.json` says what the adapter is."""

    def _send_telemetry(self) -> None:
        """Send nothing."""


def lora_config(targets: tuple[Target, ...], settings: GrpoSettings) -> LoraConfig:
    """LoRA on exactly the targets, by a pattern that matches full module names."""
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=target_pattern(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def grpo_config(
    request: TrainRequest, steps: int, *, on_gpu: bool, template_arguments: dict[str, bool]
) -> GRPOConfig:
    """TRL's arguments. What differs from TRL's own defaults and is not a setting says why."""
    settings = request.settings
    return GRPOConfig(
        output_dir=str(request.output_dir),
        use_cpu=not on_gpu,
        seed=settings.seed,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup,
        per_device_train_batch_size=settings.per_device_batch,
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_completion_length,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        beta=settings.beta,
        loss_type=settings.loss_type,
        # The recipe's KL estimator; TRL's correction changes its gradient even on-policy.
        use_bias_correction_kl=False,
        use_vllm=bool(settings.vllm),
        vllm_mode=settings.vllm or "colocate",
        vllm_gpu_memory_utilization=COLOCATED_SHARE,
        # Else room is taken for the model's whole context, which at 262,144 positions is more than there is.
        vllm_max_model_length=settings.max_prompt_length + settings.max_completion_length,
        # The ratio it corrects by is biased by a cut-off of the sampling distribution.
        vllm_importance_sampling_correction=settings.top_p >= 1.0 and settings.top_k == 0,
        reward_weights=_weights(request),
        bf16=settings.bf16 and on_gpu,
        gradient_checkpointing=settings.gradient_checkpointing and on_gpu,
        chat_template_kwargs=template_arguments,
        # The schedule of prompts is the dataset's own order.
        shuffle_dataset=False,
        save_strategy="steps",
        save_steps=settings.save_steps,
        # Adapters of every save are kept apart; these hold the optimizer too and are only for resuming.
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=settings.logging_steps,
        report_to="none",
        disable_tqdm=True,
        # Every adapter factor gets a gradient in every step; the vision tower is frozen.
        ddp_find_unused_parameters=False,
    )


def await_all(device: str) -> None:
    """Wait until every process of this launch is here; returns at once where there is only this one."""
    if process_count() > 1:
        PartialState(cpu=pick_device(device).type == "cpu").wait_for_everyone()


def process_count() -> int:
    """Processes that train together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _weights(request: TrainRequest) -> list[float]:
    weights = list(request.weights)
    return [*weights, 1.0] if request.settings.math_mix > 0 else weights
