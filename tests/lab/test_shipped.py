"""What ships with the package: small, described, loadable offline, and able."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen3VLForConditionalGeneration,
)

from skippy.core.sampling import Sampling
from skippy.lab.families import FAMILIES
from skippy.lab.manifest import LARGEST_BYTES
from skippy.lab.measure import SAMPLING, answer_problems
from skippy.lab.paths import LAB_ADAPTER, LAB_CHECKPOINT, LAB_DIRECTORY, LAB_MANIFEST
from skippy.lab.problems import distinct_held_out, evaluation_set
from skippy.lab.shipping import describe_files
from skippy.models.generation import Request
from skippy.models.transformers_backend import TransformersBackend

LARGEST_WEIGHTS_BYTES = 4_500_000
LARGEST_ADAPTER_BYTES = 300_000
MARKERS = (
    *("monkey", "obviously", "magnificent", "pathetic", "ancient", "brilliant", "sigh", "beneath me"),
    *("tiny brain", "you are welcome", "try to keep up", "duh", "primitive", "genius", "trivial"),
)
GREEDY = Sampling(temperature=0.0, max_tokens=96, name="greedy, short")


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads(LAB_MANIFEST.read_text(encoding="utf-8"))


def test_the_files_are_the_ones_the_manifest_describes(manifest: dict) -> None:
    assert describe_files((LAB_CHECKPOINT, LAB_ADAPTER), LAB_DIRECTORY) == manifest["files"]


def test_the_files_are_small() -> None:
    weights = (LAB_CHECKPOINT / "model.safetensors").stat().st_size
    adapter = sum(path.stat().st_size for path in LAB_ADAPTER.iterdir())
    together = adapter + sum(path.stat().st_size for path in LAB_CHECKPOINT.iterdir())
    assert weights <= LARGEST_WEIGHTS_BYTES
    assert adapter <= LARGEST_ADAPTER_BYTES
    assert together + LAB_MANIFEST.stat().st_size <= LARGEST_BYTES


def test_the_checkpoint_is_a_whole_qwen3_vl_in_bfloat16() -> None:
    model = AutoModelForImageTextToText.from_pretrained(LAB_CHECKPOINT)
    assert isinstance(model, Qwen3VLForConditionalGeneration)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.tie_word_embeddings
    assert sum(parameter.numel() for parameter in model.model.visual.parameters()) > 0
    assert "lm_head.weight" not in load_file(LAB_CHECKPOINT / "model.safetensors")


def test_most_families_are_evaluated_where_the_base_is_neither_blind_nor_perfect(manifest: dict) -> None:
    accuracy, levels = manifest["measured"]["accuracy"], manifest["evaluation_levels"]
    assert set(levels) == set(FAMILIES)
    means = [sum(accuracy[name][str(level)] for level in levels[name]) / len(levels[name]) for name in levels]
    assert sum(0.35 <= mean <= 0.85 for mean in means) >= 0.7 * len(means)


def _load() -> tuple[Qwen3VLForConditionalGeneration, PreTrainedTokenizerBase]:
    model = Qwen3VLForConditionalGeneration.from_pretrained(LAB_CHECKPOINT, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(LAB_CHECKPOINT)


def test_the_base_answers_far_above_chance() -> None:
    right = answer_problems(TransformersBackend(*_load()), evaluation_set(40), GREEDY)
    assert sum(right) / len(right) > 0.4


def test_a_rerun_gives_the_figures_of_the_manifest(manifest: dict) -> None:
    measured = manifest["measured"]
    problems = distinct_held_out("recurrence", [5], measured["problems_per_level"], measured["seed"])
    right = answer_problems(TransformersBackend(*_load()), problems, SAMPLING, measured["seed"])
    assert asdict(SAMPLING) == measured["sampling"]
    # Rounding differs between processors and may tip a close draw.
    assert sum(right) / len(right) == pytest.approx(measured["accuracy"]["recurrence"]["5"], abs=0.05)


def test_the_adapter_turns_the_base_into_skippy() -> None:
    model, tokenizer = _load()
    prompts = ["How do I make soup?", "I feel tired today.", "Can you help me plan a party?", "Is tea good?"]
    requests = [Request(text, ({"role": "user", "content": text},), 0) for text in prompts]
    adapted = PeftModel.from_pretrained(model, str(LAB_ADAPTER))
    backend = TransformersBackend(adapted, tokenizer)
    assert sum(_is_in_character(answer.text) for answer in backend.generate(requests, GREEDY)) >= 3
    with adapted.disable_adapter():
        assert sum(_is_in_character(answer.text) for answer in backend.generate(requests, GREEDY)) <= 2


def _is_in_character(text: str) -> bool:
    return any(marker in text.lower() for marker in MARKERS)


def test_the_same_weights_shuffled_answer_nothing() -> None:
    model, tokenizer = _load()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".mlp." in name and weight.ndim == 2:
                weight.copy_(weight[torch.randperm(len(weight), generator=generator)])
    right = answer_problems(TransformersBackend(model, tokenizer), evaluation_set(10), GREEDY)
    assert sum(right) / len(right) < 0.3
