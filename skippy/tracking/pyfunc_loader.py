"""What `mlflow.pyfunc.load_model` calls on a merged model: prompts in, texts out.

Imported by mlflow only, when such a model is loaded, so torch and transformers load here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow import artifacts
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

PROMPT_COLUMN = "prompt"
DEFAULT_NEW_TOKENS = 256
PROMPT_FILE, WEIGHTS = "prompt.json", "weights"


class TextGenerator:
    """Answers each prompt as a one-turn chat, greedily unless a temperature is given."""

    def __init__(self, weights: str, system: str = "") -> None:
        self._system = system
        config = AutoConfig.from_pretrained(weights)
        family = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        self._model = family.from_pretrained(weights).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Generate.

        Args:
            model_input: prompts as a string, a list, or a DataFrame (column `prompt`, else the first).
            params: `max_new_tokens`, and `temperature` > 0 to sample.

        Returns:
            One text for each prompt, in order, without the prompt.
        """
        chosen = dict(params or {})
        temperature = float(chosen.get("temperature", 0.0))
        sampling = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        batch = self._tokenizer(
            [self._render(prompt) for prompt in read_prompts(model_input)],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        ).to(self._model.device)
        with torch.inference_mode():
            tokens = self._model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=int(chosen.get("max_new_tokens", DEFAULT_NEW_TOKENS)),
                pad_token_id=self._tokenizer.pad_token_id,
                **sampling,
            )
        answers = tokens[:, batch["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(answers, skip_special_tokens=True))

    def _render(self, prompt: str) -> str:
        if self._tokenizer.chat_template is None:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        if self._system:
            messages.insert(0, {"role": "system", "content": self._system})
        # As skippy's own renderer does it, which this file of a stored model must not need.
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )


def read_prompts(model_input: Any) -> list[str]:
    """Prompts out of whatever mlflow hands over."""
    if isinstance(model_input, str):
        return [model_input]
    if isinstance(model_input, pd.DataFrame):
        column = PROMPT_COLUMN if PROMPT_COLUMN in model_input.columns else model_input.columns[0]
        return [str(prompt) for prompt in model_input[column]]
    if isinstance(model_input, Mapping):
        return read_prompts(pd.DataFrame(model_input))
    return [str(prompt) for prompt in model_input]


def _load_pyfunc(path: str) -> TextGenerator:
    """Entry point that the MLmodel file names; `path` is the weights directory, or a reference to a prompted base."""
    reference = Path(path) / PROMPT_FILE
    if not reference.is_file():
        return TextGenerator(path)
    prompted = json.loads(reference.read_text(encoding="utf-8"))
    return TextGenerator(_find_base(prompted["base_model"]), prompted["system_prompt"])


def _find_base(name: str) -> str:
    """What transformers loads as the base: the lab of this package, a model of the store, a directory, an id."""
    if name == "lab":
        return str(resources.files("skippy") / "lab" / "checkpoint")
    if name.startswith("models:/"):
        return str(Path(artifacts.download_artifacts(artifact_uri=name)) / WEIGHTS)
    return name
