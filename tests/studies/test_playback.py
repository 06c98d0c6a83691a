"""Playing an adapter back over α: exact weights, restored to the bit, with a divergence that is really one."""

from dataclasses import replace

import pytest
import torch

from skippy.errors import AdapterError
from skippy.lab.paths import LAB_ADAPTER, LAB_CHECKPOINT
from skippy.models.loading import attach_adapter, hash_parameters, load_model, load_tokenizer
from skippy.resolve.dial import Dial
from skippy.stores.adapters import read_adapter
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.merging import merge_checkpoint
from skippy.studies.playback import Divergence
from skippy.studies.training import whole_curves

BASE = Checkpoint.open(LAB_CHECKPOINT)
TEXTS = [([5, 6, 7, 8], [9, 10, 11]), ([5, 6], [12, 13, 14, 15, 16])]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(LAB_CHECKPOINT)


@pytest.fixture
def model():
    return load_model(LAB_CHECKPOINT)


def test_full_scale_is_the_adapter_of_stock_peft(model) -> None:
    tokens = torch.arange(5, 60)[None]
    Dial(model, BASE, read_adapter(LAB_ADAPTER)).turn(1.0)
    adapted = attach_adapter(load_model(LAB_CHECKPOINT), LAB_ADAPTER)
    with torch.inference_mode():
        ours, stock = model(input_ids=tokens).logits, adapted(input_ids=tokens).logits
        base = load_model(LAB_CHECKPOINT)(input_ids=tokens).logits
    assert torch.allclose(ours, stock, atol=1e-3)
    assert not torch.allclose(ours, base, atol=1e-3)


def test_a_scale_in_bfloat16_is_what_a_merge_would_store(tmp_path) -> None:
    """Two independent paths: the live weights at α, and a checkpoint merged at α and loaded."""
    live = load_model(LAB_CHECKPOINT, dtype=torch.bfloat16)
    Dial(live, BASE, read_adapter(LAB_ADAPTER)).turn(0.6)
    merge_checkpoint(Checkpoint.open(LAB_CHECKPOINT), LAB_ADAPTER, tmp_path / "merged", alpha=0.6)
    stored = load_model(tmp_path / "merged", dtype=torch.bfloat16)
    assert hash_parameters(live) == hash_parameters(stored)


def test_zero_restores_every_bit(model) -> None:
    before = hash_parameters(model)
    dial = Dial(model, BASE, read_adapter(LAB_ADAPTER))
    dial.turn(0.7)
    assert hash_parameters(model) != before
    dial.turn(0.3)
    dial.turn(0.0)
    assert hash_parameters(model) == before


def test_adding_and_subtracting_fails_the_same_check() -> None:
    """The twin: undoing an update by its negative leaves rounding behind, in the type that bases are stored in."""
    model = load_model(LAB_CHECKPOINT, dtype=torch.bfloat16)
    before = hash_parameters(model)
    factors = read_adapter(LAB_ADAPTER).factors
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for sign in (1.0, -1.0):
            for name, one in factors.items():
                weights[f"{name}.weight"] += (sign * 0.7 * one.scale * (one.B @ one.A)).to(torch.bfloat16)
    assert hash_parameters(model) != before


def test_an_adapter_of_another_model_is_refused(model) -> None:
    adapter = read_adapter(LAB_ADAPTER)
    for child in model.children():
        with pytest.raises(AdapterError, match="check that the adapter belongs to this base"):
            Dial(child, BASE, adapter)
    others = {f"other.{name}": one for name, one in adapter.factors.items()}
    for wrong in (others, {}):
        with pytest.raises(AdapterError):
            Dial(model, BASE, replace(adapter, factors=wrong))


def test_divergence_is_zero_at_the_base_and_grows(model, tokenizer) -> None:
    measure = Divergence(model, tokenizer, TEXTS)
    dial = Dial(model, BASE, read_adapter(LAB_ADAPTER))
    found = []
    for alpha in (0.0, 0.25, 1.0):
        dial.turn(alpha)
        found.append(measure.measure())
    assert found[0] == (0.0, 0.0)
    assert 0 < found[1][0] < found[2][0]
    assert 0 < found[1][1] < found[2][1]


def test_divergence_against_the_definition(model, tokenizer) -> None:
    """Each text alone, token by token; padding beside it changes nothing."""
    measure = Divergence(model, tokenizer, TEXTS)
    base = load_model(LAB_CHECKPOINT)
    Dial(model, BASE, read_adapter(LAB_ADAPTER)).turn(1.0)
    total, count = 0.0, 0
    with torch.inference_mode():
        for prompt, answer in TEXTS:
            tokens = torch.tensor([prompt + answer])
            p, q = (m(input_ids=tokens).logits[0].log_softmax(-1) for m in (base, model))
            for place in range(len(prompt) - 1, len(prompt) + len(answer) - 1):
                total += float((p[place].exp() * (p[place] - q[place])).sum())
                count += 1
    assert measure.measure()[0] == pytest.approx(total / count, rel=1e-4)


def test_the_norm_is_that_of_the_update(model) -> None:
    adapter = read_adapter(LAB_ADAPTER)
    factors = adapter.factors
    dial = Dial(model, BASE, adapter)
    weights = dict(model.named_parameters())
    change = sum(float((one.scale * (one.B @ one.A)).square().sum()) for one in factors.values())
    whole = sum(float(weights[f"{name}.weight"].detach().square().sum()) for name in factors)
    assert dial.relative_norm() == pytest.approx((change / whole) ** 0.5, rel=1e-4)
    doubled = {name: replace(one, scale=2 * one.scale) for name, one in factors.items()}
    assert Dial(model, BASE, replace(adapter, factors=doubled)).relative_norm() == pytest.approx(
        2 * dial.relative_norm()
    )


def test_figures_of_a_training_are_those_of_every_step() -> None:
    """A training logs a value only where it moves: nothing cut off in most steps is not left out of the mean."""
    told = {
        1: {"train/reward": 0.1, "c": 0.0},
        2: {"train/reward": 0.2},
        3: {"c": 1.0},
        4: {"train/reward": 0.3},
    }
    assert whole_curves(told) == {
        1: {"train/reward": 0.1, "c": 0.0},
        2: {"train/reward": 0.2, "c": 0.0},
        3: {"train/reward": 0.2, "c": 1.0},
        4: {"train/reward": 0.3, "c": 1.0},
    }
