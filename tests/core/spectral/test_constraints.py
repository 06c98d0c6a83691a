"""The constraint's theorems. Each has a twin that undamaged training, or a part of the rule, must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from skippy.core.spectral import constraints as module
from skippy.core.spectral.constraints import (
    ConstrainedTarget,
    Leakage,
    OrthogonalConstraint,
    chance,
    leakage,
    pooled_leakage,
    random_basis,
)
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, ProjectorError, TargetError
from tests.core.spectral.single_target import dense_delta

IN, HIDDEN, OUT, RANK, K, SCALE = 40, 24, 36, 4, 6, 2.0
EXACT = 1e-12


def head_heavy(out: int, in_: int, seed: int) -> Tensor:
    """A weight with a few large singular values over a bulk, as trained ones have."""
    generator = torch.Generator().manual_seed(seed)
    U, S, Vh = torch.linalg.svd(torch.randn(out, in_, generator=generator), full_matrices=False)
    S = S / S[0]
    S[:K] += torch.linspace(3.0, 1.0, K)
    return (U * S) @ Vh


@dataclass
class Layer:
    W: Tensor
    U: Tensor
    S: Tensor
    V: Tensor
    A: nn.Parameter
    B: nn.Parameter

    def delta(self) -> Tensor:
        return SCALE * self.B.detach().double() @ self.A.detach().double()


def make_layers(seed: int = 0) -> dict[str, Layer]:
    layers = {}
    for index, (name, out, in_) in enumerate(
        (("reads", HIDDEN, IN), ("same", HIDDEN, HIDDEN), ("writes", OUT, HIDDEN))
    ):
        W = head_heavy(out, in_, seed + index)
        U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
        A = torch.randn(RANK, in_, generator=torch.Generator().manual_seed(100 + seed + index)) / in_**0.5
        parts = (U[:, :K].float(), S[:K].float(), Vh[:K].T.float())
        layers[name] = Layer(W, *parts, nn.Parameter(A), nn.Parameter(torch.zeros(out, RANK)))
    return layers


def constrain(layers: dict[str, Layer]) -> OrthogonalConstraint:
    return OrthogonalConstraint({n: ConstrainedTarget(x.A, x.B, x.U, x.V) for n, x in layers.items()})


def plain_delta(layer: Layer) -> Tensor:
    return SCALE * layer.B @ layer.A


def reparameterised_delta(layer: Layer) -> Tensor:
    """P_L B A P_R in the forward pass: what the paper trains."""
    A = layer.A - layer.A @ layer.V @ layer.V.T
    B = layer.B - layer.U @ (layer.U.T @ layer.B)
    return SCALE * B @ A


def train(
    layers: dict[str, Layer],
    steps: int = 60,
    *,
    init: bool,
    gradients: bool,
    parameters: bool,
    delta: Callable[[Layer], Tensor] = plain_delta,
    first: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
) -> torch.optim.Optimizer:
    """AdamW with warm-up, clipping, weight decay, two accumulated micro-batches and dropout."""
    rule = constrain(layers)
    trained = [p for layer in layers.values() for p in (layer.A, layer.B)]
    if init:
        rule.project_init_()
    optimizer = optimizer or torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.05)
    for step in range(first, steps):
        for micro in range(2):
            generator = torch.Generator().manual_seed(1000 * step + micro)
            h = torch.randn(16, IN, generator=generator)
            wanted = torch.randn(16, OUT, generator=torch.Generator().manual_seed(micro))
            for layer in layers.values():
                kept = (torch.rand(h.shape, generator=generator) > 0.05) / 0.95
                h = torch.tanh(h @ layer.W.T + (h * kept) @ delta(layer).T)
            (((h - wanted) ** 2).mean() / 2).backward()
        if gradients:
            rule.project_gradients_()
        nn.utils.clip_grad_norm_(trained, 0.05)
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1.0, (step + 1) / 10)
        optimizer.step()
        optimizer.zero_grad()
        if parameters:
            rule.project_parameters_()
    return optimizer


def worst(layers: dict[str, Layer]) -> float:
    found = [leakage(x.A, x.B, x.U, x.V) for x in layers.values()]
    return max(max(leak.rho_left, leak.rho_right) for leak in found)


def relative_distance(one: dict[str, Layer], other: Callable[[str], Tensor]) -> float:
    apart = sum(float(((layer.delta() - other(name)) ** 2).sum()) for name, layer in one.items())
    return (apart / sum(float((layer.delta() ** 2).sum()) for layer in one.values())) ** 0.5


@pytest.fixture(scope="module")
def trained() -> dict[str, dict[str, Layer]]:
    """The same run under every combination of the three projections that is tested."""
    rules = {
        "plain": (False, False, False),
        "all three": (True, True, True),
        "init only": (True, False, False),
        "gradients only": (False, True, False),
        "init and gradients": (True, True, False),
        "parameters only": (False, False, True),
    }
    runs = {}
    for name, (init, gradients, parameters) in rules.items():
        runs[name] = make_layers()
        train(runs[name], init=init, gradients=gradients, parameters=parameters)
    return runs


def test_all_three_projections_keep_both_leakages_at_rounding(trained):
    assert worst(trained["all three"]) <= EXACT


@pytest.mark.parametrize("rule", ["plain", "init only", "gradients only", "init and gradients"])
def test_no_part_of_the_rule_does_it_alone(trained, rule):
    assert worst(trained[rule]) > 1e4 * EXACT


def test_projected_gradients_alone_leak_towards_chance(trained):
    """The ablation: Adam divides elementwise, so a projected gradient does not give a projected step."""
    for layer in trained["gradients only"].values():
        found = leakage(layer.A, layer.B, layer.U, layer.V)
        assert found.rho_right > 0.05 * chance(K, *layer.W.shape).rho_right


def test_plain_lora_leaks_far_above_the_constraint(trained):
    for layer in trained["plain"].values():
        found = leakage(layer.A, layer.B, layer.U, layer.V)
        assert min(found.rho_left, found.rho_right) > 1e-2


def test_the_trajectory_is_the_reparameterised_one(trained):
    twin = make_layers()
    train(twin, init=False, gradients=False, parameters=False, delta=reparameterised_delta)
    goal = {name: reparameterised_delta(layer).detach().double() for name, layer in twin.items()}
    assert relative_distance(trained["all three"], goal.__getitem__) <= 1e-5
    assert relative_distance(trained["parameters only"], goal.__getitem__) > 1e-2
    assert worst(trained["parameters only"]) <= EXACT


def test_the_protected_triples_of_the_merged_weight_are_unchanged(trained):
    def damage(layer: Layer) -> float:
        merged = layer.W + dense_delta(LoraFactors(layer.A.detach(), layer.B.detach(), SCALE))
        right = merged @ layer.V - layer.U * layer.S
        left = merged.T @ layer.U - layer.V * layer.S
        return float(torch.maximum(right.norm(dim=0), left.norm(dim=0)).max() / layer.S[0])

    for name in ("reads", "same", "writes"):
        assert damage(trained["all three"][name]) <= 1e-5
        assert damage(trained["plain"][name]) > 1e-3


def test_stopped_and_resumed_training_arrives_bit_for_bit(trained):
    layers = make_layers()
    optimizer = train(layers, 37, init=True, gradients=True, parameters=True)
    saved = optimizer.state_dict()
    resumed = {
        name: Layer(
            x.W, x.U, x.S, x.V, nn.Parameter(x.A.detach().clone()), nn.Parameter(x.B.detach().clone())
        )
        for name, x in layers.items()
    }
    fresh = torch.optim.AdamW([p for x in resumed.values() for p in (x.A, x.B)], lr=1e-2, weight_decay=0.05)
    fresh.load_state_dict(saved)
    train(resumed, init=False, gradients=True, parameters=True, first=37, optimizer=fresh)
    for name, layer in trained["all three"].items():
        assert torch.equal(layer.A, resumed[name].A)
        assert torch.equal(layer.B, resumed[name].B)


def test_a_random_constraint_protects_its_own_directions_and_no_others():
    layers = make_layers()
    top = {name: (x.U, x.V) for name, x in layers.items()}
    for index, layer in enumerate(layers.values()):
        layer.U, layer.V = (
            random_basis(layer.W.shape[0], K, index),
            random_basis(layer.W.shape[1], K, 50 + index),
        )
    train(layers, init=True, gradients=True, parameters=True)
    assert worst(layers) <= EXACT
    for name, layer in layers.items():
        layer.U, layer.V = top[name]
    assert worst(layers) > 1e-2


def test_the_optimizers_first_moment_stays_inside():
    layers = make_layers()
    optimizer = train(layers, init=True, gradients=True, parameters=True)
    for layer in layers.values():
        moment = optimizer.state[layer.B]["exp_avg"]
        assert float((layer.U.T @ moment).norm() / moment.norm()) < 1e-5


def draw_target(out: int, in_: int, seed: int, r: int = RANK, k: int = 3) -> ConstrainedTarget:
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(r, in_, generator=generator), torch.randn(out, r, generator=generator)
    return ConstrainedTarget(
        nn.Parameter(A), nn.Parameter(B), random_basis(out, k, seed), random_basis(in_, k, seed + 1)
    )


def test_pooled_leakage_is_not_the_mean_of_ratios():
    quiet, loud = draw_target(20, 30, 0), draw_target(20, 30, 2)
    OrthogonalConstraint({"loud": loud}).project_parameters_()
    with torch.no_grad():
        quiet.B.mul_(1e-3)
    items = [(t.A, t.B, t.U, t.V) for t in (quiet, loud)]
    mean = sum(leakage(*item).rho_left for item in items) / 2
    pooled = pooled_leakage(items).rho_left
    deltas = [t.B.detach().double() @ t.A.detach().double() for t in (quiet, loud)]
    inside = sum(float(((t.U.double().T @ d) ** 2).sum()) for t, d in zip((quiet, loud), deltas, strict=True))
    assert pooled == pytest.approx(inside / sum(float((d**2).sum()) for d in deltas), rel=1e-9)
    assert mean > 1e3 * pooled


def test_scales_weigh_the_pool_and_cancel_when_equal():
    targets = {"one": draw_target(20, 30, 0), "other": draw_target(20, 30, 2)}
    items = [(t.A, t.B, t.U, t.V) for t in targets.values()]
    assert pooled_leakage(items, [2.0, 2.0]).rho_left == pytest.approx(pooled_leakage(items).rho_left)
    parts = [pooled_leakage([item]) for item in items]
    wholes = [float((B.detach().double() @ A.detach().double()).square().sum()) for A, B, _, _ in items]
    weights = [9.0 * wholes[0], wholes[1]]
    expected = sum(w * part.rho_left for w, part in zip(weights, parts, strict=True)) / sum(weights)
    assert pooled_leakage(items, [3.0, 1.0]).rho_left == pytest.approx(expected)
    by_name = OrthogonalConstraint(targets).pooled_leakage({"other": 1.0, "one": 3.0})
    assert by_name.rho_left == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(2, 30), st.integers(1, 6), st.integers(0, 1000))
def test_leakage_equals_its_dense_definition(out, in_, r, seed):
    target = draw_target(out, in_, seed, r, k=2)
    delta = target.B.detach().double() @ target.A.detach().double()
    whole = float((delta**2).sum())
    found = leakage(target.A, target.B, target.U, target.V)
    assert found.rho_left == pytest.approx(
        float(((target.U.double().T @ delta) ** 2).sum()) / whole, rel=1e-8, abs=1e-12
    )
    assert found.rho_right == pytest.approx(
        float(((delta @ target.V.double()) ** 2).sum()) / whole, rel=1e-8, abs=1e-12
    )


def test_leakage_sees_each_side_alone():
    """A one-sided measure, as in the paper, would call the second of these clean."""
    t = draw_target(20, 30, 0)
    with torch.no_grad():
        left = t.U[:, :1] @ torch.ones(1, RANK)
        outside = t.B - t.U @ (t.U.T @ t.B)
        inside = torch.ones(RANK, 1) @ t.V[:, :1].T
        clean = t.A - t.A @ t.V @ t.V.T
    written, read = leakage(clean, left, t.U, t.V), leakage(inside, outside, t.U, t.V)
    assert (written.rho_left, written.rho_right) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-12))
    assert (read.rho_left, read.rho_right) == (pytest.approx(0.0, abs=1e-12), pytest.approx(1.0))


def test_a_random_delta_reads_chance():
    found = pooled_leakage(
        (t.A, t.B, t.U, t.V) for t in (draw_target(64, 96, s, r=16, k=16) for s in range(40))
    )
    expected = chance(16, 64, 96)
    assert found.rho_left == pytest.approx(expected.rho_left, rel=0.1)
    assert found.rho_right == pytest.approx(expected.rho_right, rel=0.1)


def test_no_delta_leaks_nothing():
    t = draw_target(20, 30, 0)
    assert leakage(t.A, torch.zeros_like(t.B), t.U, t.V) == Leakage(0.0, 0.0)
    assert pooled_leakage([]) == Leakage(0.0, 0.0)


@pytest.mark.parametrize("stack_bytes", [1, 1000, 1 << 30])
def test_stacks_of_any_size_measure_and_project_as_the_formula(monkeypatch, stack_bytes):
    """Also where k differs between targets of one shape, as `energy:` gives."""
    monkeypatch.setattr(module, "CPU_STACK_BYTES", stack_bytes)
    targets = {
        f"{out}x{in_}.{i}": draw_target(out, in_, i, k=2 + i % 2)
        for out, in_ in ((20, 30), (30, 20))
        for i in range(4)
    }
    goal = {}
    for name, t in targets.items():
        U, V = t.U.double(), t.V.double()
        A, B = t.A.detach().double(), t.B.detach().double()
        goal[name] = (A - A @ V @ V.T, B - U @ (U.T @ B))
    constraint = OrthogonalConstraint(targets)
    for name, found in constraint.leakages().items():
        alone = leakage(*(getattr(targets[name], letter) for letter in ("A", "B", "U", "V")))
        assert (found.rho_left, found.rho_right) == pytest.approx((alone.rho_left, alone.rho_right))
    constraint.project_parameters_()
    for name, t in targets.items():
        torch.testing.assert_close(t.A.detach().double(), goal[name][0], rtol=0, atol=2e-6)
        torch.testing.assert_close(t.B.detach().double(), goal[name][1], rtol=0, atol=2e-6)


def test_gradients_that_are_missing_are_left_alone():
    targets = {str(i): draw_target(20, 30, i) for i in range(4)}
    rule = OrthogonalConstraint(targets)
    rule.project_gradients_()
    for name in "13":
        targets[name].B.grad = torch.ones_like(targets[name].B)
    rule.project_gradients_()
    for name in "13":
        t = targets[name]
        assert float((t.U.T @ t.B.grad).norm() / t.B.grad.norm()) < 1e-6
    assert targets["0"].B.grad is None
    assert targets["1"].A.grad is None


def test_a_full_basis_leaves_exactly_nothing():
    t = draw_target(3, 30, 0, k=3)
    OrthogonalConstraint({"q": t}).project_parameters_()
    assert float(t.B.detach().abs().max()) == 0.0
    assert float(t.A.detach().abs().max()) > 0.0


def test_nearly_everything_removed_is_still_clean():
    """B almost inside span(U): one application leaves 1e-7 of what it removed, which is then most of B."""
    t = draw_target(50, 60, 0)
    rounded = t.U + 3e-7 * torch.randn(t.U.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        t.B.copy_(1e4 * (rounded @ torch.ones(3, RANK)) + 1e-2 * t.B)
    once = t.B.detach() - t.U @ (t.U.T @ t.B.detach())
    OrthogonalConstraint({"q": t}).project_parameters_()
    assert leakage(t.A, t.B, t.U, t.V).rho_left <= EXACT
    assert leakage(t.A, once, t.U, t.V).rho_left > 1e-10


def test_autocast_does_not_coarsen_the_projection():
    targets = {str(i): draw_target(64, 48, i, r=8) for i in range(3)}
    naive = draw_target(64, 48, 0, r=8)
    rule = OrthogonalConstraint(targets)
    for target in targets.values():
        target.B.grad = target.B.detach().clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rule.project_gradients_()
        rule.project_parameters_()
        coarse = naive.B.detach() - naive.U @ (naive.U.T @ naive.B.detach())
    assert rule.pooled_leakage().rho_left <= EXACT
    assert all(leakage(t.A, t.B.grad, t.U, t.V).rho_left <= EXACT for t in targets.values())
    assert leakage(naive.A, coarse, naive.U, naive.V).rho_left > 1e4 * EXACT


def test_same_input_gives_the_same_bits():
    one, two = ({str(i): draw_target(20, 30, i) for i in range(5)} for _ in range(2))
    OrthogonalConstraint(one).project_parameters_()
    OrthogonalConstraint(two).project_parameters_()
    assert all(torch.equal(one[n].A, two[n].A) and torch.equal(one[n].B, two[n].B) for n in one)


def test_random_bases_are_orthonormal_seeded_and_unbiased():
    basis = random_basis(50, 7, 3).double()
    torch.testing.assert_close(basis.T @ basis, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(random_basis(50, 7, 3), random_basis(50, 7, 3))
    assert not torch.equal(random_basis(50, 7, 3), random_basis(50, 7, 4))
    first_entries = torch.stack([random_basis(4, 2, seed)[0, 0] for seed in range(400)])
    assert abs(float(first_entries.mean())) < 4 * 0.5 / 20


def test_more_directions_than_dimensions_are_refused():
    with pytest.raises(ProjectorError, match=r"1 ≤ k ≤ 4[\s\S]*k = 5"):
        random_basis(4, 5, 0)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_short_float_adapters_are_refused(letter):
    t = draw_target(20, 30, 0)
    short = replace(t, **{letter: nn.Parameter(getattr(t, letter).detach().bfloat16())})
    with pytest.raises(AdapterError, match=rf"layers\.0\.q_proj, lora_{letter}[\s\S]*torch\.bfloat16"):
        OrthogonalConstraint({"layers.0.q_proj": short})


def test_projectors_of_another_shape_are_refused():
    t = draw_target(20, 30, 0)
    for U, V in ((t.V, t.V), (t.U, t.U), (t.U, t.V[:, :2])):
        with pytest.raises(
            ProjectorError, match=r"layers\.0\.q_proj[\s\S]*U \(20, k\), V \(30, k\)[\s\S]*run svd"
        ):
            OrthogonalConstraint({"layers.0.q_proj": ConstrainedTarget(t.A, t.B, U, V)})


def test_nothing_to_constrain_is_refused():
    with pytest.raises(TargetError, match="No targets"):
        OrthogonalConstraint({})
