"""The plan of the whole experiment: which jobs there are, what each is given, and by whom."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from skippy.config import CONFIGS, MainConfig
from skippy.errors import ConfigError
from skippy.options import parse_config
from skippy.stages.pipeline import Job, plan_jobs, runs_by_stage

OPINIONS = {
    "judge_url": "http://judge/v1",
    "judge_model": "strict",
    "cross_check": True,
    "lm_eval": "gsm8k,ifeval",
}
ENDPOINT = {"backend": "openai", "base_url": "http://here/v1", "concurrency": 7}


def by_label(**given: object) -> dict[str, Job]:
    jobs = plan_jobs(MainConfig(**given))
    labels = {job.label: job for job in jobs}
    assert len(labels) == len(jobs), "labels are unique"
    return labels


def evaluations(jobs: dict[str, Job], *, of_one_model: bool) -> list[Job]:
    return [
        job
        for job in jobs.values()
        if job.entry_point == "eval" and (job.parameters.get("model") != "checkpoints") == of_one_model
    ]


def stuck(jobs: list[Job]) -> list[str]:
    """Labels of the jobs that never have what they need, whatever finishes."""
    waiting, done = list(jobs), set()
    while ready := [job for job in waiting if job.needs <= done]:
        done |= {job.label for job in ready}
        waiting = [job for job in waiting if job not in ready]
    return [job.label for job in waiting]


def test_three_seeds_are_every_stage_of_both_arms_three_times() -> None:
    jobs = by_label(seeds=3, seed=42)
    each = [
        f"{stage} {arm} seed {seed}"
        for seed in (42, 43, 44)
        for arm in ("v3", "v4")
        for stage in ("train", "checkpoints", "merge", "eval")
    ]
    assert list(jobs)[:3] == ["svd", "subspace", "eval base"]
    assert sorted(list(jobs)[3:-2]) == sorted(each)
    assert list(jobs)[-2:] == ["compare", "promote"]
    assert len(jobs) == 3 + 24 + 2


def test_every_job_is_given_what_its_own_seed_made() -> None:
    jobs = by_label(seeds=3)
    for seed in ("42", "43", "44"):
        walks = tuple(f"checkpoints {arm} seed {seed}" for arm in ("v3", "v4"))
        for arm in ("v3", "v4"):
            train, merge = (jobs[f"{stage} {arm} seed {seed}"] for stage in ("train", "merge"))
            assert (train.parameters["seed"], train.parameters["variant"]) == (seed, arm)
            assert train.takes == {"svd_run": ("svd",), "subspace_run": ("subspace",)}
            assert merge.takes == {"train_run": (train.label,), "match": walks}
            assert jobs[f"checkpoints {arm} seed {seed}"].takes == {"train_run": (train.label,)}
            assert jobs[f"eval {arm} seed {seed}"].takes == {"model": (merge.label,)}
    assert jobs["compare"].takes == {
        "runs": ("eval base", *(f"eval {arm} seed {s}" for arm in ("v3", "v4") for s in (42, 43, 44))),
    }
    assert jobs["promote"].takes == {"compare_run": ("compare",)}


def test_no_job_lacks_what_it_needs() -> None:
    jobs = plan_jobs(MainConfig(seeds=3))
    assert stuck(jobs) == []
    without = [job for job in jobs if job.label != "merge v4 seed 43"]
    assert stuck(without) == ["eval v4 seed 43", "compare", "promote"]


def test_every_job_can_be_started_with_its_parameters() -> None:
    for job in plan_jobs(MainConfig(seeds=2, **OPINIONS, **ENDPOINT)):
        config = CONFIGS[job.entry_point]
        parse_config(config, job.parameters)
        assert set(job.takes) <= {item.name for item in fields(config)}
        assert not set(job.takes) & set(job.parameters)


def test_evaluations_get_endpoint_and_opinions_and_walks_do_not() -> None:
    """A walk is refused with them: its models are on no server, and many."""
    jobs = by_label(seeds=3, sampling="greedy", **OPINIONS, **ENDPOINT)
    given = {**OPINIONS, **ENDPOINT, "cross_check": "true", "concurrency": "7", "sampling": "greedy"}
    full, walks = (evaluations(jobs, of_one_model=each) for each in (True, False))
    assert (len(full), len(walks)) == (7, 6)
    for job in full:
        assert given.items() <= job.parameters.items()
        assert "served_model" not in job.parameters, "every arm is another model"
    for job in walks:
        assert not job.parameters.keys() & (OPINIONS.keys() | {"base_url", "concurrency", "limit"})
        assert (job.parameters["backend"], job.parameters["sampling"]) == ("transformers", "greedy")


def test_any_arms_are_trained_and_compared_and_matched_with_one_another() -> None:
    jobs = by_label(arms="v4, v4-random,v3")
    walks = tuple(f"checkpoints {arm} seed 42" for arm in ("v4", "v4-random", "v3"))
    for arm in ("v3", "v4", "v4-random"):
        assert jobs[f"merge {arm} seed 42"].takes["match"] == walks
    assert jobs["compare"].takes["runs"][1:] == tuple(
        f"eval {arm} seed 42" for arm in ("v4", "v4-random", "v3")
    )
    assert stuck(list(jobs.values())) == []


def test_a_single_arm_has_nothing_to_match() -> None:
    assert "match" not in by_label(arms="v4")["merge v4 seed 42"].takes


@pytest.mark.parametrize(
    ("arms", "said"),
    [("v3,V4", "arms=v4"), ("v3,v3", "each once"), (" , ", "each once"), ("v9", "one of v3")],
)
def test_arms_that_cannot_be_set_side_by_side_are_refused(arms: str, said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        plan_jobs(MainConfig(arms=arms))
    assert said in str(refusal.value)


def test_finished_stages_of_the_same_work_are_taken_unless_told_otherwise() -> None:
    for is_reused in (True, False):
        jobs = by_label(reuse=is_reused)
        told = {job.parameters["reuse"] for job in jobs.values() if "reuse" in job.parameters}
        assert told == {str(is_reused).lower()}
        costly = [job for job in jobs.values() if job.entry_point in ("train", "merge", "eval")]
        assert all("reuse" in job.parameters for job in costly)


def test_every_merge_gets_the_character() -> None:
    jobs = by_label(character="keeper")
    merges = [job for job in jobs.values() if job.entry_point == "merge"]
    assert [job.parameters["character"] for job in merges] == ["keeper", "keeper"]


def test_links_of_the_parent_name_every_seed() -> None:
    jobs = plan_jobs(MainConfig(seeds=2))
    links = runs_by_stage(jobs, {job.label: f"run of {job.label}" for job in jobs})
    assert links["eval_v4"] == "run of eval v4 seed 42,run of eval v4 seed 43"
    assert links["eval_base"] == "run of eval base"


def test_a_suite_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="aime, all"):
        parse_config(MainConfig, {"suite": "banal"})
    assert parse_config(MainConfig, {"suite": "aime"}).suite == "aime"
    assert replace(MainConfig(), suite="aime") == parse_config(MainConfig, {"suite": "aime"})


def test_what_is_turned_reaches_every_training_and_own_prompts_every_asking() -> None:
    turned = {"lora_r": 4, "beta": 0.0, "bf16": False, "targets": "mlp"}
    jobs = by_label(prompts="mine.yaml", rewards="mine:brief", preset="own.yaml", profile="llama", **turned)
    for job in jobs.values():
        given = job.parameters
        if job.entry_point == "train":
            assert {name: given[name] for name in turned} == {
                **{"lora_r": "4", "beta": "0.0", "bf16": "false", "targets": "mlp"}
            }
            assert "lora_alpha" not in given
            assert (given["rewards"], given["preset"]) == ("mine:brief", "own.yaml")
        if job.entry_point in ("train", "eval"):
            assert given["prompts"] == "mine.yaml"
        if job.entry_point in ("train", "eval", "subspace"):
            assert given["profile"] == "llama"
        parse_config(CONFIGS[job.entry_point], given)


@pytest.mark.parametrize(("arms", "reads"), [("v3,v4", "false"), ("v3,v5", "true"), ("prompt,v4", "false")])
def test_the_base_answers_twice_only_for_arms_that_read_it(arms, reads) -> None:
    jobs = by_label(arms=arms)
    assert jobs["subspace"].parameters["base_answers"] == reads


def test_a_persona_asked_for_is_each_arms_own_target() -> None:
    jobs = by_label(arms="v3,v4", match_by="alpha", persona=0.7)
    merge = jobs["merge v4 seed 42"]
    assert (merge.parameters["match_by"], merge.parameters["persona"]) == ("alpha", "0.7")
    assert "match" not in merge.takes, "the others' walks would set another level"
    assert (
        by_label(arms="v4", match_by="alpha", persona=0.7)["merge v4 seed 42"].parameters["persona"] == "0.7"
    )
    assert "match" in by_label(arms="v3,v4", match_by="alpha")["merge v4 seed 42"].takes


def test_a_persona_without_a_way_to_reach_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="match_by"):
        parse_config(MainConfig, {"persona": "0.7"})
