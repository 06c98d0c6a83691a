"""Seeded draws of vLLM with our noise: exact, paired, whatever the batch; and left alone where vLLM is another."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from scipy import stats

from skippy.core.sampling import Sampling
from skippy.errors import BackendError, ConfigError
from skippy.models import vllm_noise, vllm_server
from skippy.models.sampling import choose
from skippy.models.vllm_noise import SeededDraw, draw, next_keys, register


class GpuGenerator:
    """What a generator of CUDA says of itself."""

    def __init__(self, seed: int, drawn: int = 0) -> None:
        self.seed, self.offset = seed, 4 * drawn

    def initial_seed(self) -> int:
        return self.seed

    def get_offset(self) -> int:
        return self.offset

    def set_offset(self, offset: int) -> None:
        self.offset = offset


def generators(seeds, drawn: int = 0) -> dict[int, GpuGenerator]:
    return {row: GpuGenerator(seed, drawn) for row, seed in enumerate(seeds)}


def row_by_row(probs, generators):
    """Stands for vLLM's own draw."""
    noise = torch.empty_like(probs).exponential_()
    for row, generator in generators.items():
        own = torch.Generator().manual_seed(generator.initial_seed())
        noise[row].exponential_(generator=own)
    return (probs / noise).argmax(-1)


def drawn(probs, of) -> list[int]:
    return SeededDraw(row_by_row)(probs, of).tolist()


def distribution(width: int = 12, number: int = 0) -> torch.Tensor:
    return (torch.randn(width, generator=torch.Generator().manual_seed(number)) * 1.5).softmax(-1)


def fit(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """The p-value of these counts."""
    expected = probs.double() / probs.double().sum() * counts.sum()
    return float(stats.chisquare(counts, expected).pvalue)


@pytest.mark.parametrize("drawn_before", [0, 1, 200])
def test_draws_follow_the_distribution(drawn_before):
    probs = distribution()
    probs[3] = 0  # dropped by top-k
    probs /= probs.sum()
    counts = torch.bincount(
        torch.tensor(drawn(probs.expand(20_000, -1), generators(range(20_000), drawn_before))), minlength=12
    )
    kept = probs > 0
    assert counts[3] == 0
    assert fit(counts[kept], probs[kept]) > 1e-3
    assert fit(counts[kept], distribution(number=1)[kept]) < 1e-3, "the twin"


def test_one_request_draws_its_tokens_from_the_distribution_too():
    """Over positions of one seed, as a text is drawn; the generator counts them."""
    probs, of = distribution()[None], generators([77])
    sampler = SeededDraw(row_by_row)
    tokens = torch.cat([sampler(probs, of) for _ in range(2000)])
    assert of[0].offset == 4 * 2000
    assert fit(torch.bincount(tokens, minlength=12), probs[0]) > 1e-3
    pairs = torch.bincount(tokens[:-1] * 12 + tokens[1:], minlength=144).reshape(12, 12)
    assert stats.chi2_contingency(pairs[:, pairs.sum(0) > 0]).pvalue > 1e-3, "one says nothing of the next"


def noise(seeds, position: int, width: int) -> torch.Tensor:
    """The exponential noise that the draw stands for, (seeds, width)."""
    keys = next_keys(torch.empty(len(seeds), width), generators(seeds, position))
    gumbel = vllm_noise.gumbel_noise(keys, torch.arange(width)[None])
    return (-gumbel).exp()


def test_the_noise_is_exponential_and_uniform_below():
    values = noise(range(60), 5, 3000).flatten()
    assert stats.kstest(values, "expon").pvalue > 1e-3
    uniform = (-values).exp()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.chisquare(torch.histc(uniform.float(), 100, 0, 1)).pvalue > 1e-3
    assert stats.kstest(values * 1.02, "expon").pvalue < 1e-3, "the twin: 2 % off is seen"


@pytest.mark.parametrize("axis", ["seed", "position", "token"])
def test_neighbours_are_independent(axis):
    """Seeds, positions and tokens that differ by one are what is really used."""
    grid = torch.stack([noise(range(40), position, 300) for position in range(20)])  # position, seed, token
    dim = {"position": 0, "seed": 1, "token": 2}[axis]
    left, right = grid.narrow(dim, 0, grid.shape[dim] - 1), grid.narrow(dim, 1, grid.shape[dim] - 1)
    assert abs(stats.pearsonr(left.flatten(), right.flatten()).statistic) < 5 / math.sqrt(left.numel())
    cells = (left.gt(math.log(2)).long() * 2 + right.gt(math.log(2)).long()).flatten()
    assert stats.chisquare(torch.bincount(cells, minlength=4)).pvalue > 1e-4
    assert abs(stats.pearsonr(left.flatten(), left.flatten()).statistic) == pytest.approx(1), "the twin"


def test_a_request_draws_alike_in_any_company_and_any_row():
    probs = torch.stack([distribution(50, number) for number in range(9)])
    alone = [drawn(probs[row : row + 1], {0: GpuGenerator(100 + row, row)})[0] for row in range(9)]
    together = {row: GpuGenerator(100 + row, row) for row in range(9)}
    assert drawn(probs, together) == alone
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    moved = {row: GpuGenerator(100 + old, old) for row, old in enumerate(order.tolist())}
    assert drawn(probs[order], moved) == [alone[old] for old in order.tolist()]
    some = {row: GpuGenerator(100 + row, row) for row in (7, 2)}  # the others have no seed
    found = drawn(probs, some)
    assert (found[2], found[7]) == (alone[2], alone[7])
    assert drawn(probs, generators(range(100, 109), 50)) != alone, "the twin: another position, other tokens"


def test_what_is_in_memory_at_once_changes_nothing(monkeypatch):
    probs = torch.stack([distribution(50, number) for number in range(9)])
    whole = drawn(probs, generators(range(9)))
    monkeypatch.setattr(vllm_noise, "PIECE", 100)
    assert drawn(probs, generators(range(9))) == whole


def test_requests_without_a_seed_are_left_to_vllm_or_drawn_anew():
    probs = distribution(200).expand(64, -1)
    torch.manual_seed(5)
    expected = row_by_row(probs, {})
    torch.manual_seed(5)
    assert drawn(probs, {}) == expected.tolist()
    first, second = (drawn(probs, {3: GpuGenerator(9)}) for _ in range(2))
    assert first[3] == second[3]
    assert first != second


@pytest.mark.parametrize("top", [{}, {"top_k": 7}, {"top_p": 0.8}, {"top_k": 9, "top_p": 0.9}])
def test_the_token_is_that_of_an_evaluation_in_process(top):
    """Same seed, same position: what differs between the two engines is rounding alone."""
    logits = torch.randn(500, 40, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(temperature=0.8, presence_penalty=0.5, **top)
    seen = torch.rand(500, 40, generator=torch.Generator().manual_seed(3)) < 0.2
    here = choose(logits, sampling, range(500), [6] * 500, seen)
    scores = (logits - 0.5 * seen) / 0.8  # as vLLM does it: from the smallest up
    ascending, order = scores.sort(-1)
    if sampling.top_k:
        ascending[:, : 40 - sampling.top_k] = -math.inf
    if sampling.top_p < 1:
        gone = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        gone[:, -1] = False
        ascending.masked_fill_(gone, -math.inf)
    probs = torch.empty_like(scores).scatter_(-1, order, ascending).softmax(-1)
    assert drawn(probs, generators(range(500), 6)) == here.tolist()


def test_arms_share_their_noise():
    """Two arms that hardly differ draw the same token nearly always; with noise of their own they do not."""
    one = torch.stack([distribution(50, number) for number in range(400)])
    other = (one.log() + 0.02 * torch.randn(400, 50, generator=torch.Generator().manual_seed(1))).softmax(-1)
    first, second = (torch.tensor(drawn(probs, generators(range(400)))) for probs in (one, other))
    apart = torch.tensor(drawn(other, generators(range(1000, 1400))))
    assert (first == second).float().mean() > 0.95
    assert (first == apart).float().mean() < 0.5


def test_a_compiled_draw_is_tried_out_first(monkeypatch):
    given = distribution(50).expand(5, -1), torch.arange(5) * 12345, torch.arange(50)[None]
    compiled = vllm_noise.compiled_draw(torch.device("cpu"), backend="eager")
    assert torch.equal(compiled(*given), draw(*given))
    vllm_noise.compiled_draw.cache_clear()
    wrong = lambda probs, keys, tokens: draw(probs, keys + 1, tokens)  # noqa: E731
    monkeypatch.setattr(vllm_noise.torch, "compile", lambda *_, **__: wrong)
    with pytest.raises(RuntimeError, match="of its tokens are those"):
        vllm_noise.compiled_draw(torch.device("cpu"))


def stand_in(monkeypatch, version: str, own: Callable) -> ModuleType:
    """A vLLM of that version, whose sampler draws with `own`."""
    sampler = ModuleType(vllm_noise.SAMPLER)
    sampler.random_sample = own
    names = vllm_noise.SAMPLER.split(".")
    for depth in range(1, len(names)):
        monkeypatch.setitem(sys.modules, ".".join(names[:depth]), ModuleType(".".join(names[:depth])))
    sys.modules["vllm"].__version__ = version
    monkeypatch.setitem(sys.modules, vllm_noise.SAMPLER, sampler)
    return sampler


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setenv("SKIPPY_VLLM_NOISE", "counter")


@pytest.mark.parametrize("version", ["0.22.0", "0.22.0+cu130"])
def test_the_plugin_takes_the_place_of_vllms_draw_once(monkeypatch, asked, version, caplog):
    sampler = stand_in(monkeypatch, version, row_by_row)
    register()
    ours = sampler.random_sample
    register()
    assert sampler.random_sample is ours
    probs = distribution(50).expand(6, -1)
    with caplog.at_level(logging.INFO, "vllm"):
        found = [ours(probs, generators(range(6))) for _ in range(2)]
    keys = next_keys(probs, generators(range(6)))
    assert found[0].tolist() == draw(probs, keys, torch.arange(50)[None]).tolist()
    assert caplog.text.count(vllm_noise.IN_EFFECT) == 1


@pytest.mark.parametrize("value", ["", "runner2", None])
def test_a_server_that_we_did_not_start_for_it_is_left_alone(monkeypatch, value):
    monkeypatch.delenv("SKIPPY_VLLM_NOISE", raising=False)
    if value is not None:
        monkeypatch.setenv("SKIPPY_VLLM_NOISE", value)
    sampler = stand_in(monkeypatch, "0.22.0", row_by_row)
    register()
    assert sampler.random_sample is row_by_row


def other_arguments(probs, generators, is_double=False):
    return row_by_row(probs, generators)


@pytest.mark.parametrize(("version", "own"), [("0.23.0", row_by_row), ("0.22.0", other_arguments)])
def test_a_vllm_that_is_not_known_is_left_alone_and_that_is_said(monkeypatch, asked, caplog, version, own):
    sampler = stand_in(monkeypatch, version, own)
    with caplog.at_level(logging.WARNING, "vllm"):
        register()
    assert sampler.random_sample is own
    assert f"leaves seeded requests to vLLM {version}" in caplog.text


def test_a_compiler_that_fails_costs_speed_alone(monkeypatch, caplog):
    class OnGpu(torch.Tensor):
        is_cuda = True

    def broken(*_):
        raise RuntimeError("no such target")

    sampler = SeededDraw(row_by_row)
    sampler._compile = broken
    probs = distribution(50).expand(6, -1)
    with caplog.at_level(logging.WARNING, "vllm"):
        first, second = (sampler(probs.as_subclass(OnGpu), generators(range(6))) for _ in range(2))
    assert first.tolist() == second.tolist() == drawn(probs, generators(range(6)))
    assert caplog.text.count("is not compiled: RuntimeError: no such target") == 1


def test_the_noise_of_a_server_is_ours_only_where_the_plugin_is_there(monkeypatch, caplog):
    def installed(version: str, plugins: list[str]) -> str:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
        found = type("Points", (), {"names": set(plugins)})
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
        caplog.clear()
        return vllm_server.choose_noise()

    monkeypatch.delenv("SKIPPY_VLLM_NOISE", raising=False)
    assert installed("0.22.0", ["skippy"]) == "counter"
    assert not caplog.text
    assert installed("0.22.0", []) == ""
    assert "make setup" in caplog.text
    assert installed("0.23.0", ["skippy"]) == ""
    assert "vLLM 0.23.0 is not known" in caplog.text
    for chosen in ("", "runner2"):
        monkeypatch.setenv("SKIPPY_VLLM_NOISE", chosen)
        assert installed("0.22.0", ["skippy"]) == chosen
        assert not caplog.text
    monkeypatch.setenv("SKIPPY_VLLM_NOISE", "white")
    with pytest.raises(ConfigError, match="no such noise") as refusal:
        vllm_server.choose_noise()
    assert refusal.value.expected.startswith("counter or runner2")


def test_a_server_must_have_said_that_it_draws_so(tmp_path):
    engine = vllm_server.Engine("vLLM", 1, tmp_path / "log", None)
    engine.log.write_text(f"$ vllm serve\n{vllm_noise.IN_EFFECT}\n$ vllm serve\nstarted again\n")
    with pytest.raises(BackendError, match="vLLM's own noise") as refusal:
        vllm_server.require_noise("counter", engine)
    assert "export SKIPPY_VLLM_NOISE=" in refusal.value.next_step
    vllm_server.require_noise("", engine)
    with engine.log.open("a") as log:
        log.write(f"INFO {vllm_noise.IN_EFFECT}, all rows at once\n" + "bar\r" * 9000)
    vllm_server.require_noise("counter", engine)
