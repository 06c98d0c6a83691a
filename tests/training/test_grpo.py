"""Whole runs: what each variant guarantees at the end, and at a checkpoint on the way."""

from __future__ import annotations

import json
import math
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from skippy.core.problem import Problem
from skippy.core.spectral.constraints import pooled_leakage
from skippy.errors import TrainingError
from skippy.models.loading import load_model
from skippy.presets.reading import PRESETS
from skippy.stores.adapters import read_adapter
from skippy.training.adapters import adapter_card
from skippy.training.grpo import train_grpo
from skippy.training.trainer import ConstrainedTrainer
from tests.training.tiny_run import BASE_DIGEST, PROMPTS, RecordingRun, Trained, make_request, read_json

EXACT = 1e-12
ONE_STEP = replace(PRESETS["short"], max_steps=1)
VARIANTS = ("v3", "v4", "v4-hooks", "v4-random")


def leakage_on_disk(base: Path, adapter: Path, projectors: dict) -> tuple[float, float]:
    """Both leakages in float64, of an adapter as stock PEFT loads it."""
    model = PeftModel.from_pretrained(load_model(base), adapter)
    modules = dict(model.get_base_model().named_modules())
    items = []
    for name, (U, _, V) in projectors.items():
        layer = modules[name]
        A, B = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        assert float(B.norm()) > 0, "an adapter that does nothing would pass every check"
        items.append((A.double(), B.double(), U.double(), V.double()))
    found = pooled_leakage(items)
    return found.rho_left, found.rho_right


def test_v4_is_exact_at_the_end_and_on_the_way(
    base: Path, projectors: dict, trained: dict[str, Trained]
) -> None:
    outcome = trained["v4"].outcome
    assert sorted(outcome.adapters) == [2, 4]
    assert [path.name for path in outcome.checkpoints] == ["checkpoint-2", "checkpoint-4"]
    for adapter in (outcome.adapter_dir, outcome.adapters[2], outcome.checkpoints[0]):
        assert max(leakage_on_disk(base, adapter, projectors)) <= EXACT


@pytest.mark.parametrize("variant", ["v3", "v4-random"])
def test_unprotected_directions_are_used(
    variant: str, base: Path, projectors: dict, trained: dict[str, Trained]
) -> None:
    left, right = leakage_on_disk(base, trained[variant].outcome.adapter_dir, projectors)
    assert min(left, right) > 1e-3


def test_hooks_only_leaks_on_one_side(base: Path, projectors: dict, trained: dict[str, Trained]) -> None:
    """Gradients are projected, so little is written into U; A's random init is not: V is read as by chance."""
    left, right = leakage_on_disk(base, trained["v4-hooks"].outcome.adapter_dir, projectors)
    plain_left, _ = leakage_on_disk(base, trained["v3"].outcome.adapter_dir, projectors)
    assert right > 1e-2
    assert EXACT < left < plain_left


def test_the_random_control_is_exact_about_its_own_directions(trained: dict[str, Trained]) -> None:
    card = read_json(trained["v4-random"].outcome.adapter_dir / "skippy.json")
    assert max(card["own_leakage"].values()) <= EXACT
    assert min(card["leakage"].values()) > 1e-3


def test_variants_share_seed_and_data(trained: dict[str, Trained]) -> None:
    """Before the first update all variants are the same model, so they say the same."""
    first = []
    for variant in VARIANTS:
        lines = (trained[variant].request.output_dir / "samples/training.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        first.append([(row["prompt"], row["completion"]) for row in rows if row["step"] == 1])
        assert {row["prompt"] for row in rows} <= set(PROMPTS)
    assert all(rows == first[0] for rows in first)


@pytest.mark.parametrize("variant", VARIANTS)
def test_base_is_untouched(variant: str, trained: dict[str, Trained]) -> None:
    outcome = trained[variant].outcome
    assert len(outcome.base_hash_before) == 64
    assert outcome.base_hash_before == outcome.base_hash_after == trained["v3"].outcome.base_hash_before


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapter_is_a_vanilla_one(variant: str, trained: dict[str, Trained]) -> None:
    directory = trained[variant].outcome.adapter_dir
    assert sorted(path.name for path in directory.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "skippy.json",
    ]
    assert read_json(directory / "adapter_config.json")["inference_mode"]
    tensors = load_file(directory / "adapter_model.safetensors")
    assert len(tensors) == 28
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert not any("visual" in name for name in tensors)
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in tensors)


def test_adapter_tells_nothing_of_this_machine(base: Path, trained: dict[str, Trained]) -> None:
    directory = trained["v4"].outcome.adapter_dir
    assert read_json(directory / "adapter_config.json")["base_model_name_or_path"] == "tiny"
    for path in directory.iterdir():
        content = path.read_bytes()
        assert str(base).encode() not in content
        assert str(base.parent).encode() not in content


def test_card(trained: dict[str, Trained]) -> None:
    card = read_json(trained["v4"].outcome.adapters[2] / "skippy.json")
    assert card["variant"] == "v4"
    assert card["constraint"] == "oplora"
    assert card["base_digest"] == BASE_DIGEST
    assert (card["k"], card["step"], card["projector_digest"]) == (3, 2, "p" * 64)
    assert set(card["leakage"]) == {"rho_left", "rho_right"}
    request = trained["v4"].request
    other = adapter_card(replace(request, settings=replace(request.settings, seed=7)), 3, None, None)
    assert (other["seed"], other["step"], other["leakage"], other["own_leakage"]) == (7, 3, None, None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_curves(variant: str, trained: dict[str, Trained]) -> None:
    run = trained[variant].run
    named = {name for _, values in run.metrics for name in values}
    assert named >= {
        "train/reward",
        "train/reward_std",
        "train/rewards/vowels",
        "train/rewards/brevity",
        "train/kl",
        "train/entropy",
        "train/grad_norm",
        "train/learning_rate",
        "train/completion_length_mean",
        "train/completion_length_max",
        "train/completions_truncated",
        "train/step_seconds",
        "leakage/rho_left",
        "leakage/rho_right",
        "leakage/chance_left",
        "leakage/chance_right",
        "leakage/margin",
    }
    assert list(run.curve("train/reward")) == [1, 2, 3, 4]
    assert all(math.isfinite(value) for _, values in run.metrics for value in values.values())
    assert list(run.tables) == ["leakage/step_000004.parquet"]
    assert run.folders["adapters/step_000002"] == run.folders["adapter"]
    assert run.folders["samples"] == ["training.jsonl"]


def test_logged_leakage_is_that_of_the_file(
    base: Path, projectors: dict, trained: dict[str, Trained]
) -> None:
    run = trained["v3"]
    left, right = leakage_on_disk(base, run.outcome.adapter_dir, projectors)
    assert run.run.curve("leakage/rho_left")[4] == pytest.approx(left, rel=1e-6)
    assert run.run.curve("leakage/rho_right")[4] == pytest.approx(right, rel=1e-6)
    assert run.outcome.leakage is not None
    assert run.outcome.leakage.rho_right == pytest.approx(right, rel=1e-6)


def test_outcome(trained: dict[str, Trained]) -> None:
    outcome = trained["v4"].outcome
    rewards = trained["v4"].run.curve("train/reward")
    assert outcome.steps == 4
    assert (outcome.reward_first, outcome.reward_last) == (rewards[1], rewards[4])
    assert 0 < outcome.completions.mean_length <= outcome.completions.max_length <= 12
    assert outcome.seconds > 0
    assert outcome.margin is not None
    assert outcome.margin.targets == 14


def test_a_gradient_that_is_not_finite_stops_the_run(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = ConstrainedTrainer._compute_loss
    monkeypatch.setattr(ConstrainedTrainer, "_compute_loss", lambda *given: compute(*given) * math.nan)
    with pytest.raises(TrainingError, match="gradient is not finite") as raised:
        train_grpo(make_request(base, projectors, tmp_path, settings=ONE_STEP), RecordingRun())
    assert "step 1" in str(raised.value)


def test_a_base_that_changes_stops_the_run(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By however little: one bit of one frozen weight."""
    compute = ConstrainedTrainer._compute_loss

    def nudge(self: ConstrainedTrainer, model: torch.nn.Module, *rest: object) -> Tensor:
        frozen = next(p for p in model.parameters() if not p.requires_grad)
        frozen.data.view(-1)[0] = torch.nextafter(frozen.data.view(-1)[0], torch.tensor(9.0))
        return compute(self, model, *rest)

    monkeypatch.setattr(ConstrainedTrainer, "_compute_loss", nudge)
    run = RecordingRun()
    with pytest.raises(TrainingError, match="base weights changed"):
        train_grpo(make_request(base, projectors, tmp_path, settings=ONE_STEP), run)
    assert "adapter" not in run.folders


def test_training_talks_to_nobody(
    base: Path, projectors: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No telemetry, no model card, no question to a hub about the base."""
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **_: asked.append(arguments))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("CI", raising=False)
    train_grpo(make_request(base, projectors, tmp_path, settings=ONE_STEP), RecordingRun())
    assert not asked


def merged_on_disk(base: Path, adapter: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """W and W + ΔW of every target in float64."""
    weights = dict(load_model(base).named_parameters())
    found = {}
    for name, factors in read_adapter(adapter).factors.items():
        W = weights[f"{name}.weight"].detach().double()
        found[name] = (W, W + factors.scale * factors.B.double() @ factors.A.double())
    return found


def moved_triples(base: Path, run: Trained, projectors: dict) -> float:
    """The largest ‖(W + ΔW) v_i − σ_i u_i‖ / σ_1 over all targets."""
    worst = 0.0
    for name, (_, merged) in merged_on_disk(base, run.outcome.adapter_dir).items():
        U, S, V = (tensor.double() for tensor in projectors[name])
        worst = max(worst, float((merged @ V - U * S).norm(dim=0).max() / S[0]))
    return worst


def test_v4_leaves_the_top_triples_alone(base: Path, projectors: dict, trained: dict[str, Trained]) -> None:
    assert moved_triples(base, trained["v4"], projectors) < 1e-5
    assert moved_triples(base, trained["v3"], projectors) > 1e-3


def test_margin_is_that_of_the_dense_matrix(
    base: Path, projectors: dict, trained: dict[str, Trained]
) -> None:
    run = trained["v4"]
    margins = run.outcome.margin
    assert margins is not None
    for name, (_, merged) in merged_on_disk(base, run.outcome.adapter_dir).items():
        U, S, V = (tensor.double() for tensor in projectors[name])
        rest = float(torch.linalg.matrix_norm(merged - (U * S) @ V.T, ord=2))
        assert margins.by_target[name] == pytest.approx((float(S[-1]) - rest) / float(S[-1]), abs=1e-3)
    assert margins.worst == margins.by_target[margins.worst_target] == min(margins.by_target.values())


def test_math_mix_rewards_each_kind_by_its_own(base: Path, projectors: dict, tmp_path: Path) -> None:
    settings = replace(PRESETS["short"], max_steps=3, math_mix=0.5)
    problems = [Problem("", f"{n} and {n}?", 2 * n) for n in range(5)]
    run = RecordingRun()
    train_grpo(make_request(base, projectors, tmp_path, settings=settings, math_problems=problems), run)
    assert set(run.curve("train/rewards/correctness")) < set(run.curve("train/reward"))
    lines = (tmp_path / "samples/training.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        is_problem = row["prompt"] not in PROMPTS
        assert (row["rewards"]["vowels"] is None) == is_problem
        assert (row["rewards"]["correctness"] is None) != is_problem
