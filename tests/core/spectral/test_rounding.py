"""Stochastic rounding lands on a neighbour, is right on average, and is the same for the same seed."""

import pytest
import torch

from skippy.core.spectral.rounding import round_stochastically

TYPES = (torch.bfloat16, torch.float16)


def rounded(values: torch.Tensor, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return round_stochastically(values, dtype, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_value_between_two_goes_up_as_often_as_it_lies_towards_the_upper(dtype, share):
    """Nearest rounding, the twin, sends all of them the same way."""
    step = torch.finfo(dtype).eps
    values = torch.full((40_000,), 1 + share * step)
    found = rounded(values, dtype).float()
    assert set(found.tolist()) == {1.0, 1 + step}
    assert float((found > 1).float().mean()) == pytest.approx(share, abs=0.02)
    assert len(values.to(dtype).unique()) == 1


@pytest.mark.parametrize("dtype", TYPES)
def test_the_error_has_mean_zero_and_is_less_than_a_step(dtype):
    values = torch.randn(200_000, generator=torch.Generator().manual_seed(1))
    found = rounded(values, dtype)
    miss = found.float() - values
    assert abs(float(miss.mean() / miss.std())) < 4 / len(values) ** 0.5
    steps = torch.nextafter(found.abs(), torch.tensor(torch.inf, dtype=dtype)).float() - found.abs().float()
    assert bool((miss.abs() <= steps).all())


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_exact_stays_and_the_largest_does_not_become_infinite(dtype):
    largest = torch.finfo(dtype).max
    exact = torch.tensor([0.0, -0.0, 1.0, -2.5, largest, -largest])
    found = rounded(exact, dtype)
    assert torch.equal(found.float(), exact)
    assert torch.equal(found.signbit(), exact.signbit())
    assert bool(
        rounded(torch.full((64,), largest * (1 + torch.finfo(dtype).eps / 8)), dtype).isfinite().all()
    )


def test_a_seed_is_a_result_and_float32_needs_none():
    values = torch.randn(1000)
    assert torch.equal(rounded(values, torch.bfloat16, 3), rounded(values, torch.bfloat16, 3))
    assert not torch.equal(rounded(values, torch.bfloat16, 3), rounded(values, torch.bfloat16, 4))
    assert torch.equal(rounded(values, torch.float32), values)
