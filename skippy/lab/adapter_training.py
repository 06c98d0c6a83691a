"""The small adapter that speaks in Skippy's voice: supervised, on top of the lab base, in PEFT's format."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from skippy.lab.chat import generate as generate_chat
from skippy.lab.corpus import Example, encode_examples
from skippy.lab.pretrain import Recipe, TrainingFigures, pretrain
from skippy.lab.shipping import replace_directory
from skippy.lab.tokenizer import TURN_END, render_prompt

RANK, ALPHA = 8, 16
# Full match of the language model's projections, so that the vision tower is never touched.
TARGETS = (
    r"model\.language_model\.layers\.\d+\."
    r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
)
VOICE = "skippy"


def make_voice_examples(count: int, seed: int) -> Iterator[Example]:
    """Everyday prompts answered in Skippy's voice, with no system prompt that would ask for it."""
    made = 0
    chunk = 0
    while made < count:
        for talk in generate_chat(count, seed + chunk):
            if talk.voice == VOICE and made < count:
                yield Example(render_prompt(talk.prompt), talk.answer + TURN_END)
                made += 1
        chunk += 1


def train_adapter(
    base: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    count: int,
    seed: int,
    destination: Path,
    device: torch.device,
) -> TrainingFigures:
    """Train on `count` examples and write the adapter in bfloat16, as stock PEFT loads it.

    `base` ends up wrapped; load it anew for other uses.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=TARGETS)
        adapted = get_peft_model(base, config)
    corpus = encode_examples(make_voice_examples(count, seed), tokenizer, count, "encode voice")
    figures = pretrain(base, corpus, recipe, seed, device=device, label="train adapter")
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    replace_directory(destination, lambda directory: _write(adapted, directory))
    return figures


def _write(adapted: PeftModel, directory: Path) -> None:
    """PEFT's own files, less the path of the base on this machine and the empty model card."""
    adapted.save_pretrained(str(directory))
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
