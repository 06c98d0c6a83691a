"""What `mlflow.pyfunc.load_model` calls on a merged model: prompts in and texts out, or chats in and messages out.

Imported by mlflow only, when such a model is loaded, so torch and transformers load here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow import artifacts
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

PROMPT_COLUMN, CHAT_COLUMN = "prompt", "messages"
DEFAULT_NEW_TOKENS = 256
Chat = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`, as OpenAI's interface has them."""
PROMPT_FILE, WEIGHTS = "prompt.json", "weights"


class TextGenerator:
    """Answers chats, and prompts as chats of one turn; greedily unless a temperature is given."""

    def __init__(self, weights: str, system: str = "") -> None:
        self._system = system
        config = AutoConfig.from_pretrained(weights)
        family = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        self._model = family.from_pretrained(weights).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(weights, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Generate.

        Args:
            model_input: prompts as a string, a list, or a DataFrame (column `prompt`, else the first); or one chat, as
                messages or as `{"messages": …}`, or several, as a list of those or a DataFrame (column `messages`).
            params: `max_new_tokens`, and `temperature` > 0 to sample.

        Returns:
            One text for each prompt, in order, without the prompt. For a chat `{"choices": [{"message": …}]}`, as
            OpenAI's interface has it; for several chats a list of those.
        """
        chats = read_chats(model_input)
        if chats is None:
            return self._answer(read_prompts(model_input), params)
        answers = [as_completion(text) for text in self._answer(chats, params)]
        return answers[0] if is_one_chat(model_input) else answers

    def _answer(self, asked: Sequence[str | Chat], params: Mapping[str, Any] | None) -> list[str]:
        chosen = dict(params or {})
        temperature = float(chosen.get("temperature", 0.0))
        sampling = (
            {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        )
        batch = self._tokenizer(
            [self._render(one) for one in asked],
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

    def _render(self, asked: str | Chat) -> str:
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else [*map(dict, asked)]
        if self._tokenizer.chat_template is None:
            return messages[-1]["content"]
        if self._system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._system})
        # As skippy's own renderer does it, which this file of a stored model must not need.
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )


def read_chats(model_input: Any) -> list[Chat] | None:
    """Chats out of whatever mlflow hands over; None where it holds prompts."""
    if isinstance(model_input, pd.DataFrame):
        return list(model_input[CHAT_COLUMN]) if CHAT_COLUMN in model_input.columns else None
    if is_one_chat(model_input):
        return [model_input[CHAT_COLUMN] if isinstance(model_input, Mapping) else model_input]
    if isinstance(model_input, str | Mapping):
        return None
    chats = [one[CHAT_COLUMN] if isinstance(one, Mapping) else one for one in model_input]
    return chats if chats and not isinstance(chats[0], str) else None


def is_one_chat(model_input: Any) -> bool:
    """Whether this is `{"messages": …}`, or messages themselves."""
    if isinstance(model_input, Mapping):
        return CHAT_COLUMN in model_input
    first = model_input[0] if isinstance(model_input, list) and model_input else None
    return isinstance(first, Mapping) and "role" in first


def as_completion(text: str) -> dict[str, Any]:
    """An answer as OpenAI's interface gives it."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


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
