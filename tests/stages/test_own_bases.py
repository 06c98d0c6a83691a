"""Arms whose directions are not the top ones: found, kept apart, held exactly, and honest about what they promise."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skippy.config import MainConfig, SvdConfig, TrainConfig
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import ConfigError, MissingRunError, ProblemError, ProjectorError, SubspaceError
from skippy.evaluation.scoring import score_answer
from skippy.evaluation.solutions import solutions_of
from skippy.evaluation.suites import load_problem_set
from skippy.lab.problems import evaluation_set, unasked_set
from skippy.models.hooks import Hook, Reading, read_moments
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.prompts import conversation, prompt_ids
from skippy.options import parse_config
from skippy.resolve.bases import open_base
from skippy.resolve.projectors import load_projectors
from skippy.stages import svd, train
from skippy.stages.pipeline import plan_jobs
from skippy.stores.adapters import read_adapter
from skippy.stores.projectors import Projectors
from skippy.tracking.tracker import Tracker
from tests.core.spectral.single_target import dense_delta
from tests.stages.tiny_checkpoint import write_checkpoint

K = 8
EXACT = 1e-12


@dataclass(frozen=True)
class Arm:
    """One training of two steps on the lab, with the directions it protects."""

    tracker: Tracker
    run_id: str
    protected: Projectors
    factors: dict[str, LoraFactors]


def trained(tracker: Tracker, variant: str, basis: str) -> Arm:
    found = svd.run(SvdConfig(k=str(K), basis=basis, device="cpu"), tracker)
    config = {"variant": variant, "preset": "short", "steps": "2", "device": "cpu", "k": str(K)}
    result = train.run(parse_config(TrainConfig, config), tracker)
    assert found is not None
    assert result is not None
    adapter = read_adapter(tracker.artifacts.path(result.run_id, "adapter"))
    protected = load_projectors(tracker, found.run_id, open_base("lab", tracker), k=str(K), basis=basis)
    return Arm(tracker, result.run_id, protected, dict(adapter.factors))


@pytest.fixture(scope="module")
def on_activations(module_tracker: Tracker) -> Arm:
    return trained(module_tracker, "v4-act", "activations")


def second_moments(problems: list, names: list[str]) -> dict[str, Tensor]:
    """E[x xᵀ] of what these weights read, on worked solutions."""
    base = open_base("lab", None)
    model, tokenizer = load_model(base.path), load_tokenizer(base.path)
    readings = []
    for problem in problems:
        solution = tokenizer(problem.solution, add_special_tokens=False)["input_ids"]
        readings.append(
            Reading((*prompt_ids(tokenizer, conversation(problem.question)), *solution), len(solution), 0)
        )
    hooks = [Hook(name, name, "reads") for name in names]
    found = read_moments(model, readings, hooks, groups=1, pad_id=0, batch_size=32, with_squares=True)
    return {name: moments.squares[0] for name, moments in found.items()}


def effect_within(delta: Tensor, inside: Tensor, moment: Tensor) -> float:
    """E‖ΔW V Vᵀx‖² over ‖ΔW‖² E‖x‖²."""
    effect = torch.einsum("oi,ij,oj->", delta, inside @ moment @ inside, delta)
    return float(effect / (delta.square().sum() * moment.trace()))


def test_on_fresh_problems_the_update_is_zero_within_the_span(on_activations: Arm) -> None:
    """The certificate of `v4-act`: ΔW V Vᵀx = 0 for x of problems that nobody has seen; most of x lies in the span."""
    names = list(on_activations.factors)[::5]
    asked = {problem.id for problem in (*evaluation_set(), *unasked_set(svd.SOLUTIONS))}
    fresh = [problem for problem in unasked_set(600, seed=7) if problem.id not in asked][:60]
    assert len(fresh) == 60
    for name, moment in second_moments(fresh, names).items():
        delta = dense_delta(on_activations.factors[name]).double()
        V = on_activations.protected.bases[name].V.double()
        inside = V @ V.mT
        seen = moment.double()
        assert effect_within(delta, inside, seen) < EXACT
        # The negative twin: an update of the same kind that was given the protected directions back.
        leaking = delta + torch.ones(len(delta), K, dtype=torch.float64) @ V.mT
        assert effect_within(leaking, inside, seen) > 1e3 * EXACT
        share = float((inside @ seen).trace() / seen.trace())
        facts = on_activations.protected.manifest["targets"][name]
        assert share == pytest.approx(facts["energy_fresh"], abs=0.1)
        assert share > 2 * K / len(V), "no better than directions at random"


def problem_file(path: Path, problems: list, with_solutions: bool = True) -> str:
    rows = [
        {"problem": p.question, "answer": p.gold, "solution": p.solution * with_solutions} for p in problems
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_of_ones_own_with_solutions(module_tracker: Tracker, tmp_path: Path) -> None:
    """Read on the file's solutions, two thirds fitted; its fresh third gives the share that the manifest states."""
    solved = unasked_set(30, seed=11)
    config = SvdConfig(
        k="4", basis="activations", device="cpu", problems=problem_file(tmp_path / "own.jsonl", solved)
    )
    found = svd.run(config, module_tracker)
    lab = svd.run(replace(config, problems="lab"), module_tracker)
    assert found is not None
    assert lab is not None
    assert lab.run_id != found.run_id, "neither stands in for the other"
    assert svd.run(config, module_tracker).run_id == found.run_id
    base = open_base("lab", module_tracker)
    own, other = (
        load_projectors(module_tracker, each.run_id, base, k="4", basis="activations")
        for each in (found, lab)
    )
    name = next(iter(own.bases))
    V, facts = own.bases[name].V.double(), own.manifest["targets"][name]
    moment = second_moments(solved[2::3], [name])[name].double()
    assert float((V.mT @ moment @ V).trace() / moment.trace()) == pytest.approx(
        facts["energy_fresh"], abs=1e-4
    )
    V = other.bases[name].V.double()
    assert float((V.mT @ moment @ V).trace() / moment.trace()) != pytest.approx(
        facts["energy_fresh"], abs=1e-4
    )


def test_without_solutions_the_bases_own_right_answers_are_read(tmp_path: Path) -> None:
    base = open_base("lab", None)
    asked = load_problem_set(
        problem_file(tmp_path / "p.jsonl", unasked_set(24, seed=5), with_solutions=False), 0
    )
    found = solutions_of(asked, base, 20, "cpu")
    assert 12 <= len(found) <= 20
    assert all(score_answer(p.solution, p.gold, p.rule).is_right for p in found)
    wrong = replace(asked, problems=tuple(replace(p, gold=999) for p in asked.problems))
    with pytest.raises(ProblemError, match=r"too few worked solutions[\s\S]*column `solution`[\s\S]*0 of 24"):
        solutions_of(wrong, base, 20, "cpu")


def test_no_problem_has_a_say_in_singular_directions(module_tracker: Tracker) -> None:
    with pytest.raises(ConfigError, match=r"no problem has a say[\s\S]*-P basis=activations"):
        svd.run(SvdConfig(problems="own.jsonl", device="cpu"), module_tracker)


def test_outputs_are_free_and_said_to_be(on_activations: Arm) -> None:
    arm = on_activations
    metrics = arm.tracker.runs.get(arm.run_id).metrics
    assert metrics["leakage/own_right"] < EXACT
    assert "leakage/own_left" not in metrics
    card = read_adapter(arm.tracker.artifacts.path(arm.run_id, "adapter")).card
    assert card["basis"] == "activations"
    assert card["own_leakage"]["rho_left"] is None
    assert card["own_leakage"]["rho_right"] < EXACT
    assert arm.protected.manifest["basis"] == "activations"
    assert all(basis.U.shape[1] == 0 for basis in arm.protected.bases.values())


def test_the_smallest_directions_are_kept(module_tracker: Tracker) -> None:
    arm = trained(module_tracker, "v4-bottom", "bottom")
    checkpoint = open_base("lab", module_tracker).checkpoint
    for name, factors in arm.factors.items():
        U, S, V = (tensor.double() for tensor in arm.protected.bases[name])
        W = checkpoint.read(f"{name}.weight").double()
        exact = torch.linalg.svdvals(W)
        assert pytest.approx(exact.flip(0)[:K].numpy(), rel=1e-3, abs=1e-6 * float(exact[0])) == S
        updated = W + dense_delta(factors).double()
        assert torch.dist(updated @ V, U * S) < 1e-5 * exact[0]
        assert torch.dist(updated.mT @ U, V * S) < 1e-5 * exact[0]
    metrics = module_tracker.runs.get(arm.run_id).metrics
    assert max(metrics["leakage/own_left"], metrics["leakage/own_right"]) < EXACT


def test_plain_lora_on_the_mlp_alone(module_tracker: Tracker) -> None:
    config = {"variant": "v3-mlp", "preset": "short", "steps": "1", "device": "cpu", "k": "5"}
    result = train.run(parse_config(TrainConfig, config), module_tracker)
    assert result is not None
    adapter = read_adapter(module_tracker.artifacts.path(result.run_id, "adapter"))
    assert adapter.factors
    assert all(".mlp." in name for name in adapter.factors)
    assert module_tracker.runs.get(result.run_id).params["hp.targets"] == "mlp"


def test_bases_are_never_taken_for_one_another(tracker: Tracker, tmp_path: Path) -> None:
    base = str(write_checkpoint(tmp_path / "base"))
    top = svd.run(SvdConfig(base_model=base, k="4", device="cpu"), tracker)
    assert top is not None
    asked = TrainConfig(base_model=base, k="4", variant="v4-bottom", device="cpu")
    with pytest.raises(MissingRunError, match=r"svd[\s\S]*basis=bottom"):
        train._find_protected(asked, tracker, open_base(base, tracker))
    with pytest.raises(ProjectorError, match=r"another basis[\s\S]*basis=bottom[\s\S]*basis=top"):
        train._find_protected(replace(asked, basis_run=top.run_id), tracker, open_base(base, tracker))
    with pytest.raises(ConfigError, match=r"no directions of its own[\s\S]*variant=v4"):
        train._find_protected(
            replace(asked, variant="v4", basis_run=top.run_id), tracker, open_base(base, tracker)
        )
    bottom = svd.run(SvdConfig(base_model=base, k="4", basis="bottom", device="cpu"), tracker)
    assert bottom is not None
    assert train._find_protected(asked, tracker, open_base(base, tracker))[0] == bottom.run_id
    plain = replace(asked, variant="v4")
    assert train._find_projectors(plain, tracker, open_base(base, tracker))[0] == top.run_id
    again = svd.run(SvdConfig(base_model=base, k="4", basis="bottom", device="cpu"), tracker)
    assert again is not None
    assert again.run_id == bottom.run_id


def test_a_share_of_energy_is_of_the_top_alone(tracker: Tracker, tmp_path: Path) -> None:
    base = str(write_checkpoint(tmp_path / "base"))
    with pytest.raises(SubspaceError, match=r"share of energy[\s\S]*basis=bottom[\s\S]*-P k=16"):
        svd.run(SvdConfig(base_model=base, k="energy:0.5", basis="bottom", device="cpu"), tracker)


def test_main_solves_what_its_arms_protect() -> None:
    jobs = {job.label: job for job in plan_jobs(MainConfig(arms="v3,v4,v4-bottom,v4-act"))}
    assert jobs["svd bottom"].parameters["basis"] == "bottom"
    assert jobs["train v4-act seed 42"].takes["basis_run"] == ("svd activations",)
    assert "basis_run" not in jobs["train v4 seed 42"].takes
    assert "svd bottom" not in {job.label for job in plan_jobs(MainConfig(arms="v3,v4"))}
