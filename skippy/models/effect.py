"""Proof that a server answers with the weights it is asked for: its log-probabilities on fixed prompts.

An adapter under names that a server does not know loads without an error and changes nothing; absence of errors
proves nothing. So the server is asked for the log-probability of every token of a few prompts, and these are held
against those of transformers with the same weights, for the base and for each adapter.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai
import torch
from safetensors import safe_open
from torch import Tensor, nn

from skippy.errors import BackendError
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import prompt_ids

logger = logging.getLogger(__name__)

QUESTIONS = (
    "What is 17 + 25?",
    "The sum of three consecutive integers is 72. What is the largest of them?",
    "Can you help me with my taxes?",
    "Tell me something about yourself.",
    "What should I cook tonight? There are eggs, rice and an onion.",
    "Good morning!",
)
TOLERANCE_NATS = 0.1
"""Mean distance of a token's log-probability, server to transformers; bfloat16 kernels differ by a third of it."""
LEAST_SHARE = 0.5
"""Of an adapter's effect on these log-probabilities, as transformers computes it, that the server must show."""
CERTAIN = 0.2
"""Standard error of that share above which the effect is too small to be told from rounding."""

PREFIX, ENDING_A, ENDING_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

Prompts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Effect:
    """What one model's log-probabilities show, in nats."""

    error: float  # mean distance to transformers
    size: float = 0.0  # root mean square of what transformers says the adapter changes; 0 for the base
    share: float = 1.0  # of it that the server shows: the least-squares slope; 1 for the base
    is_shown: bool = True  # whether `size` can be told from rounding


def fixed_prompts(tokenizer: Any) -> Prompts:
    """The prompts as the model reads them."""
    return tuple(tuple(prompt_ids(tokenizer, ({"role": "user", "content": text},))) for text in QUESTIONS)


def expect(weights: Path, adapters: Mapping[str, Path], base_name: str, device: str) -> dict[str, Tensor]:
    """What transformers says, by model name; the weights are loaded once and gone again after.

    Every adapter is taken as plain LoRA of one scale, which `stores.servable` makes sure of; PEFT would take seconds
    for each of a dozen.

    Raises:
        CheckpointError: the base cannot be loaded.
    """
    prompts = fixed_prompts(load_tokenizer(weights))
    model = load_model(weights, device=device)
    found = {base_name: logprobs_of(model, prompts)}
    for name, path in adapters.items():
        with _added(model, path):
            found[name] = logprobs_of(model, prompts)
    del model
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # the server wants it
    return found


@contextmanager
def _added(model: nn.Module, path: Path) -> Iterator[None]:
    """Within the block every target of the adapter computes W x + s B A x."""
    config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    device = str(next(model.parameters()).device)
    handles = []
    try:
        with safe_open(path / "adapter_model.safetensors", "pt", device=device) as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                if key.endswith(ENDING_A):
                    target = key.removeprefix(PREFIX).removesuffix(ENDING_A)
                    A, B = file.get_tensor(key), file.get_tensor(key.replace(ENDING_A, ENDING_B))
                    hook = partial(_add_update, A=A.float(), B=B.float(), scale=scale)
                    handles.append(model.get_submodule(target).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_update(
    module: nn.Module, given: tuple[Tensor, ...], output: Tensor, *, A: Tensor, B: Tensor, scale: float
) -> Tensor:
    return output + (given[0].float() @ A.mT @ B.mT * scale).to(output.dtype)


@torch.no_grad()
def logprobs_of(model: nn.Module, prompts: Prompts) -> Tensor:
    """Log-probability of every token but the first of each prompt, one after the other, in float64."""
    device = next(model.parameters()).device
    found = []
    for prompt in prompts:
        tokens = torch.tensor([prompt], device=device)
        logits = model(input_ids=tokens).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].double().cpu())
    return torch.cat(found)


def ask(base_url: str, name: str, prompts: Prompts, api_key: str = "unused") -> Tensor:
    """What the server says, in the same order: the prompt is echoed with its log-probabilities.

    Raises:
        BackendError: it does not answer, or without them.
    """
    with openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=1) as client:
        try:
            return torch.cat([_echo(client, base_url, name, prompt) for prompt in prompts])
        except openai.OpenAIError as error:
            raise _no_logprobs(base_url, name, f"{type(error).__name__}: {str(error)[:300]}") from error


def require_in_effect(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], base_name: str, where: str
) -> dict[str, Effect]:
    """Check every model that a server answers for.

    Raises:
        BackendError: one is not what it should be; says which.
    """
    effects = {}
    for name, served in found.items():
        effect = measure(served, expected[name], found[base_name], expected[base_name], name == base_name)
        effects[name] = effect
        same = name != base_name and effect.size > 0 and bool(torch.equal(served, found[base_name]))
        if same or (effect.is_shown and effect.share < LEAST_SHARE):
            raise BackendError(
                f"The server answers for {name} and does not apply it.",
                where=f"{name} at {where}",
                expected=f"log-probabilities that move from the base's as transformers' do "
                f"({effect.size:.3g} nats), at least {LEAST_SHARE:g} of it",
                found="those of the base, to the bit" if same else f"{effect.share:.2f} of it",
                next_step="the names in adapter_model.safetensors are not those this server maps; merge it instead",
            )
        if not effect.error <= TOLERANCE_NATS:
            raise BackendError(
                f"The server does not answer for {name} with the weights it was given.",
                where=f"{name} at {where}",
                expected=f"log-probabilities within {TOLERANCE_NATS:g} nats of transformers', on average",
                found=f"{effect.error:.3g} nats away",
                next_step="check the engine's options (quantisation, dtype), or leave backend out",
            )
        if not effect.is_shown:
            logger.warning(
                "%s changes log-probabilities by %.1e nats, less than rounding shows: that it is in effect is seen "
                "by their being other than the base's, not by their size",
                *(name, effect.size),
            )
    return effects


def measure(
    served: Tensor, expected: Tensor, served_base: Tensor, expected_base: Tensor, is_base: bool = False
) -> Effect:
    """How far a server is from transformers, and how much of an adapter's effect it shows.

    The share is the slope of served − served_base on expected − expected_base through the origin: 0 where the adapter
    is not applied, 1 where it is, whatever the size of the effect. Its standard error follows from the base's own
    distance to transformers, twice, since both readings round.
    """
    error = float((served - expected).abs().mean())
    if is_base:
        return Effect(error)
    moved = expected - expected_base
    energy = float(moved.square().sum())
    if energy == 0:
        return Effect(error, is_shown=False)
    share = float((served - served_base) @ moved) / energy
    rounding = float((served_base - expected_base).square().mean()) ** 0.5
    standard_error = (2 / energy) ** 0.5 * rounding
    return Effect(error, (energy / len(moved)) ** 0.5, share, standard_error <= CERTAIN)


def _echo(client: openai.OpenAI, base_url: str, name: str, prompt: Sequence[int]) -> Tensor:
    answer = client.completions.create(
        model=name, prompt=list(prompt), max_tokens=1, temperature=0, echo=True, logprobs=1
    )
    logprobs = answer.choices[0].logprobs if answer.choices else None
    values = (logprobs.token_logprobs or [])[1 : len(prompt)] if logprobs else []
    if len(values) != len(prompt) - 1 or any(value is None for value in values):
        raise _no_logprobs(base_url, name, f"{len(values)} values for a prompt of {len(prompt)} tokens")
    return torch.tensor(values, dtype=torch.float64)


def _no_logprobs(base_url: str, name: str, found: str) -> BackendError:
    return BackendError(
        "The server does not say log-probabilities of a prompt, so nothing shows what it answers with.",
        where=f"{name} at {base_url}",
        expected="/v1/completions with echo and logprobs, as vLLM has it",
        found=found,
        next_step="serve with vLLM; through any other server pass -P backend=openai, which proves nothing",
    )
