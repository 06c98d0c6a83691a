"""The noise is a pure function of its counters, and sampling with it is exact."""

import math

import pytest
import torch
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from skippy.core.sampling import PRESETS, Sampling
from skippy.errors import ConfigError
from skippy.models.sampling import choose, gumbel_noise, keep_candidates, keys_at, row_keys, seed_keys


def noise_of(seeds, positions, tokens):
    return gumbel_noise(row_keys(seeds, positions), tokens)


def test_noise_is_standard_gumbel():
    noise = noise_of(range(50), [3] * 50, torch.arange(2000)[None]).flatten().numpy()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3
    assert abs(noise.mean() - 0.5772) < 0.02
    assert abs(noise.var() - math.pi**2 / 6) < 0.03


def test_noise_depends_on_seed_position_and_token_and_on_nothing_else():
    tokens = torch.arange(64)[None]
    noise = noise_of([7, 8, 7], [0, 0, 1], tokens)
    assert len(set(noise.flatten().tolist())) == noise.numel()
    assert torch.equal(noise_of([8], [0], tokens)[0], noise[1])
    assert torch.equal(noise_of([7], [0], tokens[:, 10:20])[0], noise[0, 10:20])
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise_of([7], [0], shuffled[None])[0], noise[0, shuffled])


def test_neighbouring_counters_are_uncorrelated():
    """Counters in a row are what is really used: seeds, positions and tokens that differ by one."""
    tokens = torch.arange(400)[None]
    grid = torch.stack([noise_of(range(100), [position] * 100, tokens) for position in range(20)])
    grid = (grid - grid.mean()) / grid.std()
    for shifted, rest in (
        (grid[1:], grid[:-1]),
        (grid[:, 1:], grid[:, :-1]),
        (grid[:, :, 1:], grid[:, :, :-1]),
        (grid[1:, 1:], grid[:-1, :-1]),
        (grid[:, 1:, 1:], grid[:, :-1, :-1]),
    ):
        assert abs(float((shifted * rest).mean())) < 5 / math.sqrt(rest.numel())


def test_keys_take_any_integer():
    keys = row_keys([0, -1, 1 << 63, 12345678901234567890123, 0], [0, 0, 0, 0, 1])
    assert len(set(keys.tolist())) == 5


def test_keys_are_those_of_splitmix64_in_plain_integers():
    """Stored samples rest on these very bits."""

    def mix(bits):
        bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) % 2**64
        return bits ^ bits >> 31

    golden, seeds, positions = 0x9E3779B97F4A7C15, [0, 7, -3, 1 << 63, 10**25], [0, 1, 2, 77, 81920]
    expected = [
        mix((mix((seed + golden) % 2**64) + place * golden) % 2**64)
        for seed, place in zip(seeds, positions, strict=True)
    ]
    assert [key % 2**64 for key in row_keys(seeds, positions).tolist()] == expected
    assert torch.equal(keys_at(seed_keys(seeds), torch.tensor(positions)), row_keys(seeds, positions))


def draws(logits, sampling, count=20_000):
    return choose(logits.expand(count, -1), sampling, range(count), [0] * count)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=1.7),
        Sampling(temperature=0.6, top_k=5),
        Sampling(top_p=0.8),
        Sampling(temperature=1.3, top_k=8, top_p=0.9),
    ],
)
def test_draws_follow_the_distribution_of_transformers_own_warpers(sampling):
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(1)) * 2
    warped = TemperatureLogitsWarper(sampling.temperature)(None, logits)
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    if sampling.top_p < 1:
        warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    expected = warped.softmax(-1)[0].double()
    counts = torch.bincount(draws(logits, sampling), minlength=20).double()
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    fit = stats.chisquare(counts[possible], expected[possible] / expected[possible].sum() * counts.sum())
    assert fit.pvalue > 1e-3


def test_chi_square_can_fail():
    """The twin: a temperature that is 5 % off is noticed."""
    logits = torch.randn(1, 20, generator=torch.Generator().manual_seed(1)) * 2
    counts = torch.bincount(draws(logits, Sampling(temperature=1.05)), minlength=20).double()
    assert stats.chisquare(counts, logits[0].double().softmax(-1) * counts.sum()).pvalue < 1e-3


def test_temperature_zero_is_greedy_and_small_ones_approach_it():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(2))
    best = logits.argmax(-1)
    assert torch.equal(choose(logits, Sampling(temperature=0), range(50), [0] * 50), best)
    assert torch.equal(choose(logits, Sampling(temperature=1e-4), range(50), [0] * 50), best)
    assert not torch.equal(choose(logits, Sampling(temperature=1), range(50), [0] * 50), best)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=5), Sampling(top_p=0.7)])
def test_a_row_does_not_depend_on_the_others(sampling):
    logits = torch.randn(40, 30, generator=torch.Generator().manual_seed(3))
    seeds, positions = list(range(100, 140)), [index % 7 for index in range(40)]
    together = choose(logits, sampling, seeds, positions)
    alone = [
        choose(logits[i : i + 1], sampling, seeds[i : i + 1], positions[i : i + 1]).item() for i in range(40)
    ]
    assert together.tolist() == alone
    assert choose(logits.flip(0), sampling, seeds[::-1], positions[::-1]).flip(0).tolist() == alone


def test_presence_penalty_is_subtracted_once_from_what_was_seen():
    logits = torch.tensor([[2.0, 1.5, 0.0], [2.0, 1.5, 0.0]])
    seen = torch.tensor([[True, False, False], [False, False, False]])
    sampling = Sampling(temperature=0, presence_penalty=1.0)
    assert choose(logits, sampling, [0, 0], [0, 0], seen).tolist() == [1, 0]
    assert choose(logits, Sampling(temperature=0), [0, 0], [0, 0], seen).tolist() == [0, 0]


def test_half_precision_logits():
    logits = torch.randn(4, 30).to(torch.bfloat16)
    assert choose(logits, Sampling(top_k=5), range(4), [0] * 4).shape == (4,)


def test_top_p_keeps_at_least_one():
    scores, tokens = keep_candidates(torch.tensor([[5.0, 0.0, 0.0]]), 0, 1e-9)
    assert scores.isfinite().sum() == 1
    assert tokens[0, 0] == 0


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"presence_penalty": 3.0},
        {"max_tokens": 0},
    ],
)
def test_meaningless_values_are_refused(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        Sampling(**values)


def test_presets():
    assert {"lab", "greedy", "qwen3vl-instruct", "qwen3vl-thinking"} <= set(PRESETS)
    assert all(name == preset.name for name, preset in PRESETS.items())
