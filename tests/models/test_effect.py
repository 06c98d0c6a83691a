"""Log-probabilities tell a server that applies an adapter from one that only says so."""

from __future__ import annotations

import pytest
import torch

from skippy.errors import BackendError
from skippy.models.effect import CERTAIN, LEAST_SHARE, TOLERANCE_NATS, measure, require_in_effect

TOKENS = 200


def readings(effect: float = 0.5, rounding: float = 0.02) -> dict[str, dict[str, torch.Tensor]]:
    """What transformers says of a base and an adapter, and a server that applies it up to its own rounding."""
    generator = torch.Generator().manual_seed(0)

    def noise(size: float) -> torch.Tensor:
        return torch.randn(TOKENS, generator=generator, dtype=torch.float64) * size

    base = -3 + noise(1)
    arm = base + noise(effect)
    expected = {"base": base, "v4": arm}
    served = {name: values + noise(rounding) for name, values in expected.items()}
    return {"expected": expected, "served": served}


def check(served, expected):
    return require_in_effect(served, expected, "base", "http://here/v1")


def test_an_adapter_in_effect_passes_with_its_figures():
    found = readings()
    effects = check(**found)
    assert effects["v4"].share == pytest.approx(1, abs=0.05)
    assert effects["v4"].size == pytest.approx(0.5, rel=0.2)
    assert effects["base"].error < effects["v4"].size / 10


def test_an_adapter_that_loaded_as_nothing_is_refused():
    found = readings()
    found["served"]["v4"] = found["served"]["base"].clone()
    with pytest.raises(BackendError, match="answers for v4 and does not apply it") as refusal:
        check(**found)
    assert "to the bit" in refusal.value.found


def test_so_it_is_where_the_server_rounds_anew_each_time():
    """Else a difference in the last bit would pass for an effect."""
    found = readings()
    found["served"]["v4"] = found["served"]["base"] + 1e-3 * torch.randn(TOKENS, dtype=torch.float64)
    with pytest.raises(BackendError, match="does not apply it") as refusal:
        check(**found)
    assert f"at least {LEAST_SHARE:g}" in refusal.value.expected


def test_another_adapter_is_refused():
    found = readings()
    found["served"]["v4"] = found["served"]["base"] - (found["expected"]["v4"] - found["expected"]["base"])
    with pytest.raises(BackendError, match="does not apply it"):
        check(**found)


def test_other_weights_are_refused():
    found = readings()
    found["served"]["base"] = found["served"]["base"] + 2 * TOLERANCE_NATS
    with pytest.raises(
        BackendError, match="does not answer for base with the weights it was given"
    ) as refusal:
        check(**found)
    assert f"within {TOLERANCE_NATS:g} nats" in refusal.value.expected
    assert "nats away" in refusal.value.found


def test_nothing_but_numbers_passes():
    found = readings()
    found["served"]["base"] = torch.full((TOKENS,), float("nan"), dtype=torch.float64)
    with pytest.raises(BackendError):
        check(**found)


def test_a_small_effect_is_seen_by_its_direction_below_the_rounding_of_a_token():
    found = readings(effect=0.02, rounding=0.02)
    assert check(**found)["v4"].is_shown, "200 tokens tell what one does not"


def test_an_effect_below_rounding_is_not_claimed(caplog):
    found = readings(effect=1e-4, rounding=0.02)
    with caplog.at_level("WARNING", "skippy"):
        effect = check(**found)["v4"]
    assert not effect.is_shown
    assert "less than rounding shows" in caplog.text


def test_an_adapter_that_says_nothing_is_the_base():
    found = readings(effect=0)
    effect = measure(*(found["served"]["base"], found["expected"]["base"]) * 2)
    assert effect.size == 0
    assert check(found["served"], found["expected"])["v4"].size == 0


def test_the_standard_error_of_the_share_is_what_it_says():
    """Over many servers that round alike, the share varies as the bound on it assumes."""
    shares = []
    generator = torch.Generator().manual_seed(1)
    moved = torch.randn(TOKENS, generator=generator, dtype=torch.float64) * 0.05
    zero = torch.zeros(TOKENS, dtype=torch.float64)
    for _ in range(300):
        base, arm = (torch.randn(TOKENS, generator=generator, dtype=torch.float64) * 0.05 for _ in range(2))
        shares.append(measure(moved + arm, moved, base, zero).share)
    spread = float(torch.tensor(shares).std())
    assert spread == pytest.approx((2 / float(moved.square().sum())) ** 0.5 * 0.05, rel=0.15)
    assert spread < CERTAIN
