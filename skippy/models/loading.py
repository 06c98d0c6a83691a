"""Models, tokenizers and adapters into memory, always from local files, always of an explicit type."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers import logging as transformers_logging

from skippy.errors import AdapterError, CheckpointError
from skippy.models.prompts import require_template

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Families whose weights AutoModelForCausalLM refuses.
IMAGE_TEXT_FAMILIES = frozenset({"qwen3_vl"})
PROBE_TOKENS = 16


def load_model(
    path: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """Load a checkpoint directory in evaluation mode.

    Args:
        dtype: of the weights; None takes float32 on a CPU, the stored type elsewhere.

    Raises:
        CheckpointError: transformers refuses it, or weights are missing from it.
    """
    directory = Path(path)
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise CheckpointError(
            "There is no checkpoint to load.",
            where=str(directory),
            expected="a directory with config.json",
            found="no config.json" if directory.is_dir() else "no such directory",
            next_step="check the path given as the model",
        )
    config = json.loads(config_file.read_text(encoding="utf-8"))
    is_image_text = config.get("model_type") in IMAGE_TEXT_FAMILIES
    auto: Any = AutoModelForImageTextToText if is_image_text else AutoModelForCausalLM
    on_cpu = torch.device(device).type == "cpu"
    try:
        with _quiet_transformers():
            model, report = auto.from_pretrained(
                directory,
                dtype=dtype or (torch.float32 if on_cpu else "auto"),
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            "The checkpoint cannot be loaded.",
            where=str(directory),
            expected=f"a {config.get('model_type')} checkpoint that {auto.__name__} loads",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            next_step="check that config.json belongs to these weights",
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise CheckpointError(
            "Weights of the model are missing from the checkpoint, or have another shape there.",
            where=str(directory),
            expected="every weight that config.json promises",
            found=f"{len(missing)} missing or unfit: {', '.join(missing[:4])}",
            next_step="check that config.json belongs to these weights",
        )
    dropped = sorted(str(key) for key in report["unexpected_keys"] if str(key).endswith("_proj.bias"))
    if dropped:
        raise CheckpointError(
            "Biases of the checkpoint would be dropped: the model has no place for them.",
            where=str(directory),
            expected="attention_bias: true in config.json, and a family that has this switch",
            found=f"{len(dropped)} without a place: {', '.join(dropped[:4])}",
            next_step="set attention_bias to true, or merge again",
        )
    return model.to(device).eval()


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the left, as generation needs, and whose chat template renders.

    Raises:
        CheckpointError: there is none, or it has no usable chat template or no token to pad with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(Path(path), local_files_only=True)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "The tokenizer cannot be loaded.",
            where=str(path),
            expected="tokenizer.json and tokenizer_config.json beside the weights",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            next_step="copy the tokenizer files of the base into this directory",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    lacking = [name for name in ("pad_token", "eos_token", "chat_template") if not getattr(tokenizer, name)]
    if lacking:
        raise CheckpointError(
            "The tokenizer is not one of a chat model.",
            where=str(path),
            expected="pad_token or eos_token, and chat_template",
            found="without " + ", ".join(lacking),
            next_step="use an instruction-tuned model, or add chat_template.jinja",
        )
    require_template(tokenizer, str(path))
    tokenizer.padding_side = "left"
    return tokenizer


def attach_adapter(model: PreTrainedModel, adapter_dir: str | Path) -> PeftModel:
    """Put an adapter on a loaded base with stock PEFT, and see by the logits that it does something.

    An adapter whose names do not match loads without an error and without effect; absence of errors
    proves nothing.

    Raises:
        AdapterError: it cannot be loaded, or has no effect although its B is not zero.
    """
    directory = Path(adapter_dir)
    try:
        # Imported here: PEFT takes two seconds, and who loads no adapter waits for it in vain.
        peft = import_module("peft")
        adapted: PeftModel = peft.PeftModel.from_pretrained(model, directory, is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise AdapterError(
            "PEFT cannot load the adapter on this base.",
            where=str(directory),
            expected="an adapter trained on this base",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            next_step="check that the adapter belongs to this base",
        ) from error
    adapted.eval()
    if _has_effect_on_file(directory) and not _has_effect_on_logits(adapted):
        raise AdapterError(
            "The adapter was loaded and changes nothing.",
            where=str(directory),
            expected="other logits with the adapter than without, as its B is not zero",
            found="the same logits: its names do not match the model's modules",
            next_step="check the prefix of the names in adapter_model.safetensors",
        )
    adapted.requires_grad_(False)  # last: switching an adapter off and on again makes it trainable
    return adapted


def hash_parameters(model: nn.Module) -> str:
    """Hash the base weights of a live model: names, types, shapes and bytes, adapters left out.

    The same before and after PEFT wraps the model, so that a training run can prove that it left its base
    alone.
    """
    sha = hashlib.sha256()
    named = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    for name in sorted(named):
        tensor = named[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _has_effect_on_file(directory: Path) -> bool:
    with safe_open(directory / "adapter_model.safetensors", "pt") as weights:
        names = [name for name in weights.keys() if "lora_B" in name]  # noqa: SIM118 - not a mapping
        return any(bool(weights.get_tensor(name).any()) for name in names)


@torch.no_grad()
def _has_effect_on_logits(adapted: PeftModel) -> bool:
    vocabulary = adapted.get_input_embeddings().weight.shape[0]
    tokens = (torch.arange(PROBE_TOKENS, device=adapted.device) * 7919 % vocabulary)[None]
    with_adapter = adapted(input_ids=tokens).logits
    with adapted.disable_adapter():
        without = adapted(input_ids=tokens).logits
    return not torch.equal(with_adapter, without)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep the loading report of transformers off the screen: what matters of it is raised."""
    level, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if has_bar:
            transformers_logging.enable_progress_bar()
