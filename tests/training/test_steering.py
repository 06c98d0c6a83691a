"""Theorems of steering on a tiny random model: what the biases are, and what they never depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from skippy.core.personality.pairs import Pair
from skippy.core.personality.steering import bipo_losses, signed_rows
from skippy.errors import TrainingError
from skippy.models.hooks import find_module
from skippy.models.loading import hash_parameters
from skippy.models.prompts import conversation, prompt_ids
from skippy.presets.steering import SteerSettings
from skippy.training.steer_means import mean_difference, relative_shift
from skippy.training.steered_model import SteeredModel, site_modules
from skippy.training.steering import read_pairs, split_by_prompt, train_bias
from tests.training.tiny_run import PROMPTS, RecordingRun, make_model, make_tokenizer

TOKENIZER = make_tokenizer()
SETTINGS = SteerSettings(learning_rate=0.2, warmup_steps=2, batch=3, epochs=2, fewest_pairs=2)
PAIRS = [
    Pair(prompt, f"{prompt[:3]}, monkey!"[: 8 + place % 3], f"{prompt[::-1]}."[: 6 + place % 5])
    for place, prompt in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def model():
    return make_model(TOKENIZER).eval().requires_grad_(False)


def steered(model, settings: SteerSettings = SETTINGS, *, keep_states: bool = True) -> SteeredModel:
    return SteeredModel(model, *site_modules(model, settings), keep_states=keep_states)


def log_probabilities(
    one: SteeredModel, pairs: list[Pair], vector: torch.Tensor | None, *, sides: int = 4
) -> torch.Tensor:
    """(4, pairs) under ±v, or (2, pairs) without a vector."""
    read = read_pairs(one, TOKENIZER, pairs)
    chosen, rejected = [pair[0] for pair in read], [pair[1] for pair in read]
    rows = {} if vector is None else {name: signed_rows(vector) for name in one.modules}
    with one.listening(), torch.no_grad():
        return one.log_probabilities([*chosen, *rejected] * (sides // 2), rows, 0).view(sides, -1)


def random_vector(one: SteeredModel, scale: float = 0.5) -> torch.Tensor:
    return scale * torch.randn(one.width(one.modules[0]), generator=torch.Generator().manual_seed(1))


def test_the_middle_is_steered(model) -> None:
    assert site_modules(model, SETTINGS) == (("model.language_model.layers.1.self_attn.o_proj",), 1)
    both = site_modules(model, replace(SETTINGS, site="v_proj", layers=2))
    assert both == (tuple(f"model.language_model.layers.{at}.self_attn.v_proj" for at in (0, 1)), 0)
    assert site_modules(model, replace(SETTINGS, site="block"))[0] == ("model.language_model.layers.1",)
    with pytest.raises(TrainingError, match="so many layers") as caught:
        site_modules(model, replace(SETTINGS, layers=3))
    assert caught.value.expected == "at most 2"


def test_at_zero_the_loss_is_log_two_and_both_signs_pull_the_same_way(model) -> None:
    one = steered(model)
    reference = log_probabilities(one, PAIRS, None, sides=2)
    vector = torch.zeros_like(random_vector(one))
    losses = bipo_losses(log_probabilities(one, PAIRS, vector), reference, 0.1)
    torch.testing.assert_close(losses, torch.full((2,), math.log(2)), atol=1e-6, rtol=0)
    read = read_pairs(one, TOKENIZER, PAIRS)
    answers = [*[pair[0] for pair in read], *[pair[1] for pair in read]] * 2
    gradients = []
    for sign in (0, 1):
        leaf = vector.clone().requires_grad_()
        with one.listening():
            rows = {one.modules[0]: signed_rows(leaf)}
            policy = one.log_probabilities(answers, rows, 0).view(4, -1)
        gradients.append(torch.autograd.grad(bipo_losses(policy, reference, 0.1)[sign], leaf)[0])
    assert float(gradients[0].norm()) > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("site", ["o_proj", "v_proj", "block"])
def test_exchanged_pairs_train_to_the_opposite_bit_for_bit(model, site: str) -> None:
    settings = replace(SETTINGS, site=site, layers=2)
    swapped = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in PAIRS]
    ends = [train_bias(model, TOKENIZER, pairs, settings, RecordingRun()) for pairs in (PAIRS, swapped)]
    for name, bias in ends[0].biases.items():
        assert bool(bias.any())
        assert torch.equal(bias, -ends[1].biases[name])
    assert ends[0].loss == ends[1].loss


def test_padding_changes_nothing(model) -> None:
    one = steered(model)
    vector = random_vector(one)
    long = replace(PAIRS[0], chosen="a long answer, far longer than all the others here.")
    together = log_probabilities(one, [*PAIRS, long], vector)[:, : len(PAIRS)]
    alone = torch.cat([log_probabilities(one, [pair], vector) for pair in PAIRS], 1)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    assert not torch.allclose(together, log_probabilities(one, [*PAIRS, long], 2 * vector)[:, : len(PAIRS)])


def test_kept_states_are_those_of_the_whole_model(model) -> None:
    settings = replace(SETTINGS, layers=1)
    upper = SteeredModel(model, ("model.language_model.layers.1.self_attn.o_proj",), 1)
    whole = SteeredModel(model, upper.modules, 1, keep_states=False)
    vector = random_vector(steered(model, settings))
    kept, full = (log_probabilities(one, PAIRS, vector) for one in (upper, whole))
    torch.testing.assert_close(kept, full, atol=1e-5, rtol=0)
    assert not torch.allclose(kept, log_probabilities(upper, PAIRS, -vector))
    stale = read_pairs(upper, TOKENIZER, PAIRS)[0][0]
    assert not torch.equal(stale.states, read_pairs(upper, TOKENIZER, PAIRS)[1][0].states)


def test_log_probabilities_are_those_of_plain_transformers(model) -> None:
    one = steered(model)
    found = log_probabilities(one, PAIRS, None, sides=2)[0]
    for place, pair in enumerate(PAIRS):
        prompt = list(prompt_ids(TOKENIZER, conversation(pair.prompt)))
        answer = [*TOKENIZER(pair.chosen, add_special_tokens=False)["input_ids"], TOKENIZER.eos_token_id]
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
        assert float(found[place]) == pytest.approx(float(wanted), abs=2e-5)


def test_training_lowers_the_loss_and_leaves_the_base_alone(model) -> None:
    before, run = hash_parameters(model), RecordingRun()
    settings = replace(SETTINGS, epochs=6, patience=6, weight_decay=0.0)
    done = train_bias(model, TOKENIZER, PAIRS, settings, run)
    losses = list(run.curve("steer/loss").values())
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.97 * losses[0]
    assert (done.train_pairs, done.held_out_pairs) == (7, 1)
    assert hash_parameters(model) == before


def test_held_out_prompts_stop_the_training(model) -> None:
    """Held-out pairs that contradict the others only get worse, so training stops when patience ends."""
    held, _ = split_by_prompt([pair.prompt for pair in PAIRS], SETTINGS)
    contrary = [
        Pair(pair.prompt, "no no no.", "ja ja ja.")
        if place in held
        else Pair(pair.prompt, "ja ja ja.", "no no no.")
        for place, pair in enumerate(PAIRS)
    ]
    settings = replace(SETTINGS, epochs=20, patience=2)
    done = train_bias(model, TOKENIZER, contrary, settings, RecordingRun())
    assert done.epoch == 1
    assert done.steps == 9  # three epochs of three steps


def test_pairs_of_one_prompt_stay_together() -> None:
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    held, trained = split_by_prompt(prompts, replace(SETTINGS, held_out=0.3))
    assert sorted(held + trained) == list(range(24))
    assert len(held) == 6
    assert not {prompts[i] for i in held} & {prompts[i] for i in trained}
    with pytest.raises(TrainingError, match="no prompt to hold out"):
        split_by_prompt(["one"] * 5, SETTINGS)


@pytest.mark.parametrize("site", ["o_proj", "v_proj", "block"])
def test_the_difference_of_means_is_that_of_the_answers_tokens(model, site: str) -> None:
    settings = replace(SETTINGS, site=site)
    ((name, found),) = mean_difference(model, TOKENIZER, PAIRS, settings).items()
    means = []
    for side in ("chosen", "rejected"):
        seen: list[torch.Tensor] = []
        for pair in PAIRS:
            prompt = list(prompt_ids(TOKENIZER, conversation(pair.prompt)))
            answer = [
                *TOKENIZER(getattr(pair, side), add_special_tokens=False)["input_ids"],
                TOKENIZER.eos_token_id,
            ]
            place = "post_attention_layernorm" if site == "o_proj" else ""
            seen.append(_stream(model, name, place, prompt + answer)[len(prompt) :])
        means.append(torch.cat(seen).double().mean(0))
    torch.testing.assert_close(found.double(), means[0] - means[1], atol=1e-5, rtol=1e-4)
    assert float(found.norm()) > 0.01


def _stream(model, name: str, norm: str, ids: list[int]) -> torch.Tensor:
    """What a module puts out; with `norm`, the stream after attention, which is what that norm reads."""
    kept: list[torch.Tensor] = []
    if norm:
        module = find_module(model, name.rsplit(".", 2)[0] + "." + norm)
        handle = module.register_forward_pre_hook(lambda _, args: kept.append(args[0][0]))
    else:
        handle = find_module(model, name).register_forward_hook(lambda _, __, output: kept.append(output[0]))
    model(input_ids=torch.tensor([ids]))
    handle.remove()
    return kept[0]


def test_a_bias_is_held_against_what_its_module_says(model) -> None:
    """By hand, on the tokens of one prompt; twice the bias is twice the share, and two modules are pooled."""
    names = [f"model.language_model.layers.{layer}.self_attn.o_proj" for layer in (0, 1)]
    ids = prompt_ids(TOKENIZER, conversation(PROMPTS[0]))
    seen: dict[str, torch.Tensor] = {}
    handles = [
        find_module(model, name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out[0]})
        )
        for name in names
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    usual = sum(float(out.double().square().sum(1).mean()) for out in seen.values())
    biases = {name: torch.full((out.shape[1],), 0.5) for name, out in seen.items()}
    wanted = (sum(float(one.square().sum()) for one in biases.values()) / usual) ** 0.5
    found = relative_shift(model, TOKENIZER, biases, PROMPTS[:1])["steer/relative_shift"]
    assert found == pytest.approx(wanted, rel=1e-4)
    double = {name: 2 * one for name, one in biases.items()}
    assert relative_shift(model, TOKENIZER, double, PROMPTS[:1])["steer/relative_shift"] == pytest.approx(
        2 * found
    )
