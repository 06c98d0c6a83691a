"""What TRL and PEFT are told: every setting under its own name there, and a checkpoint that is whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from skippy.core.problem import Problem
from skippy.models.targets import find_targets
from skippy.presets.reading import PRESETS
from skippy.stores.checkpoints import Checkpoint
from skippy.training import trainer
from skippy.training.layers import base_weight
from skippy.training.resume import finished_checkpoints
from skippy.training.setup import build_run
from skippy.training.trainer import FINISHED_FILE, grpo_config, lora_config
from tests.training.tiny_run import RecordingRun, make_request

# setting: (a value that is nobody's default, TRL's name for it)
SETTINGS = {
    "learning_rate": (3e-4, "learning_rate"),
    "weight_decay": (0.07, "weight_decay"),
    "max_grad_norm": (0.3, "max_grad_norm"),
    "lr_scheduler": ("linear", "lr_scheduler_type"),
    "warmup": (0.2, "warmup_steps"),
    "per_device_batch": (6, "per_device_train_batch_size"),
    "gradient_accumulation": (5, "gradient_accumulation_steps"),
    "num_generations": (3, "num_generations"),
    "max_completion_length": (17, "max_completion_length"),
    "temperature": (0.6, "temperature"),
    "top_p": (0.8, "top_p"),
    "top_k": (11, "top_k"),
    "beta": (0.09, "beta"),
    "loss_type": ("dr_grpo", "loss_type"),
    "seed": (9, "seed"),
    "save_steps": (13, "save_steps"),
    "logging_steps": (2, "logging_steps"),
}


def configure(folder: Path, steps: int = 21, **changes: object) -> GRPOConfig:
    request = make_request(folder, None, folder, "v3", replace(PRESETS["short"], **changes))
    return grpo_config(request, steps, on_gpu=False, template_arguments={"enable_thinking": False})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> GRPOConfig:
    changes = {name: value for name, (value, _) in SETTINGS.items()}
    return configure(tmp_path_factory.mktemp("told"), bf16=True, gradient_checkpointing=True, **changes)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_reaches_trl(name: str, told: GRPOConfig) -> None:
    value, argument = SETTINGS[name]
    assert getattr(told, argument) == value
    assert getattr(PRESETS["short"], name) != value


def test_what_no_setting_changes(told: GRPOConfig) -> None:
    assert told.max_steps == 21
    assert told.use_bias_correction_kl is False
    assert told.shuffle_dataset is False
    assert told.chat_template_kwargs == {"enable_thinking": False}
    assert not told.bf16, "on a CPU"
    assert not told.gradient_checkpointing, "on a CPU"


@pytest.mark.parametrize(("top_p", "top_k", "is_whole"), [(1.0, 0, True), (0.9, 0, False), (1.0, 50, False)])
def test_the_ratio_is_corrected_where_all_of_the_distribution_is_sampled(
    top_p: float, top_k: int, is_whole: bool, tmp_path: Path
) -> None:
    assert configure(tmp_path, top_p=top_p, top_k=top_k).vllm_importance_sampling_correction == is_whole


def test_rewards_have_their_weights_and_correctness_has_one(tmp_path: Path) -> None:
    request = make_request(tmp_path, None, tmp_path, "v3", reward_weights=(0.5, 2.0))
    assert grpo_config(request, 1, on_gpu=False, template_arguments={}).reward_weights == [0.5, 2.0]
    mixed = replace(
        request,
        settings=replace(PRESETS["short"], math_mix=0.2),
        math_problems=[Problem("", "1 and 1?", 2)],
    )
    assert grpo_config(mixed, 1, on_gpu=False, template_arguments={}).reward_weights == [0.5, 2.0, 1.0]


def test_the_adapter_is_as_the_settings_say(base: Path) -> None:
    checkpoint = Checkpoint.open(base)
    settings = replace(PRESETS["short"], lora_r=3, lora_alpha=12, lora_dropout=0.25)
    found: LoraConfig = lora_config(find_targets(checkpoint.config, checkpoint.shapes), settings)
    assert (found.r, found.lora_alpha, found.lora_dropout, found.bias) == (3, 12, 0.25, "none")


@pytest.mark.parametrize(
    ("is_wanted", "is_exact", "merges"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_sampling_merges_where_it_is_wanted_and_exact(
    is_wanted: bool, is_exact: bool, merges: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "has_float32_base", lambda model: is_exact)
    settings = replace(PRESETS["short"], merged_generation=is_wanted, bf16=True)
    checkpoint = Checkpoint.open(base)
    request = make_request(base, None, tmp_path, "v3", settings)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    built = build_run(request, RecordingRun(), targets)
    assert built.trainer._merges == merges
    assert {base_weight(layer).dtype for layer in built.layers.values()} == {torch.float32}, "on a CPU"


def test_a_checkpoint_that_dies_in_the_writing_is_not_finished(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where an earlier attempt had finished it."""
    save = GRPOTrainer._save_checkpoint

    def die(self: GRPOTrainer, model: object, trial: object) -> None:
        save(self, model, trial)
        raise KeyboardInterrupt

    earlier = tmp_path / "checkpoint-1"
    monkeypatch.setattr(GRPOTrainer, "_save_checkpoint", die)
    settings = replace(PRESETS["short"], max_steps=1, save_steps=1)
    request = make_request(base, None, tmp_path, "v3", settings)
    checkpoint = Checkpoint.open(base)
    built = build_run(request, RecordingRun(), find_targets(checkpoint.config, checkpoint.shapes))
    earlier.mkdir()
    (earlier / FINISHED_FILE).touch()
    with pytest.raises(KeyboardInterrupt):
        built.trainer.train()
    assert (earlier / "adapter_model.safetensors").is_file()
    assert finished_checkpoints(tmp_path) == ()
