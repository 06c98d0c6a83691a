"""A tiny random Qwen3-VL with a toy tokenizer, its projectors, rewards, and a run that records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from skippy.core.basis import Basis
from skippy.presets.reading import PRESETS
from skippy.presets.settings import GrpoSettings
from skippy.stores.projectors import Projectors
from skippy.training.plan import TrainOutcome, TrainRequest
from skippy.training.trainer import ConstrainedTrainer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>")
LETTERS = "abcdefghijklmnopqrstuvwxyz .?!,\n<|>_ABCDEFGHIJ0123456789"
PROMPTS = (
    "how are you?",
    "what is rain?",
    "good day",
    "tell me of tea",
    "why sleep?",
    "who are you?",
    "a cat",
    "hm",
)
K = 3
BASE_DIGEST = "b" * 64
PARAMETER_LIMIT = 60_000


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<|pad|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[token for token in SPECIAL if token not in {"<|pad|>", "<|im_end|>"}],
        chat_template=TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(seed)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 1,
            "patch_size": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=SPECIAL.index("<|image_pad|>"),
        video_token_id=SPECIAL.index("<|video_pad|>"),
        vision_start_token_id=SPECIAL.index("<|vision_start|>"),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    # Sharper than the usual init, so that sampling has something to prefer.
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".layers." in name:
            parameter.data.normal_(std=0.2)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


@dataclass
class RecordingRun:
    """Keeps what a stage run would be given."""

    metrics: list[tuple[int | None, dict[str, float]]] = field(default_factory=list)
    tables: dict[str, list] = field(default_factory=dict)
    folders: dict[str, list[str]] = field(default_factory=dict)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_table(self, rows: Sequence[Mapping[str, Any]], artifact_path: str) -> None:
        self.tables[artifact_path] = list(rows)

    def log_folder(self, folder: Path, artifact_dir: str = "") -> None:
        self.folders[artifact_dir] = sorted(path.name for path in folder.iterdir())

    def curve(self, name: str) -> dict[int | None, float]:
        return {step: values[name] for step, values in self.metrics if name in values}


def vowels(completions: list[str]) -> list[float | None]:
    """A reward that a tiny random model can follow."""
    return [sum(letter in "aeiou" for letter in text) / 4 for text in completions]


def brevity(completions: list[str], prompts: list[str], truncated: list[bool]) -> list[float | None]:
    return [-len(text) / 12 - 0.5 * cut for text, cut in zip(completions, truncated, strict=True)]


def singular_triples(base: Path) -> dict[str, Basis]:
    model = Qwen3VLForConditionalGeneration.from_pretrained(base, dtype=torch.float64)
    found = {}
    for name, parameter in model.named_parameters():
        if ".language_model.layers." in name and name.endswith("_proj.weight"):
            U, S, Vh = torch.linalg.svd(parameter.detach(), full_matrices=False)
            found[name.removesuffix(".weight")] = Basis(U[:, :K].float(), S[:K].float(), Vh[:K].T.float())
    assert len(found) == 14
    return found


def as_projectors(bases: dict, base_digest: str = BASE_DIGEST, digest: str = "p" * 64) -> Projectors:
    return Projectors(bases, {"base_digest": base_digest}, digest)


def make_request(
    base: Path,
    projectors: dict | None,
    output_dir: Path,
    variant: str = "v4",
    settings: GrpoSettings | None = None,
    **changes: Any,
) -> TrainRequest:
    given: dict[str, Any] = dict(
        base_path=base,
        base_digest=BASE_DIGEST,
        base_name="tiny",
        variant=variant,
        prompts=PROMPTS,
        reward_functions=(vowels, brevity),
        reward_names=("vowels", "brevity"),
        settings=settings or PRESETS["short"],
        output_dir=output_dir,
        k=K,
        projectors=None if projectors is None else as_projectors(projectors),
        device="cpu",
    )
    return TrainRequest(**(given | changes))


@dataclass
class Trained:
    request: TrainRequest
    outcome: TrainOutcome
    run: RecordingRun


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


# One pass a step and no dropout, so that two processes and one can compute the same thing.
FIXED_SETTINGS = replace(PRESETS["short"], per_device_batch=8, gradient_accumulation=1, lora_dropout=0.0)


def fix_completions() -> None:
    """Let the n-th completion of a step be the same whoever makes it: sampling differs by process."""

    def complete(self: ConstrainedTrainer, prompt_ids: list, *_: Any) -> tuple[list[list[int]], None]:
        first = self.accelerator.process_index * len(prompt_ids)
        rows = range(first, first + len(prompt_ids))
        step = self.state.global_step
        ends = [self.processing_class.eos_token_id]
        return [
            [6 + (7 * row + 3 * step + place) % 26 for place in range(3 + row)] + ends for row in rows
        ], None

    ConstrainedTrainer._generate_single_turn = complete
