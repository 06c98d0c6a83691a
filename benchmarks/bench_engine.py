"""vLLM through the stages at 8B's shapes, against vLLM's own offline engine and against doing without it; one GPU.

    python -m benchmarks.bench_engine --device cuda [--checkpoint DIR] [--parts evaluation,walk,step]
    python -m benchmarks.bench_engine --device cuda --parts evaluation --checkpoint build/smollm2 --least 15000

Random weights never end an answer, so every way makes the same number of tokens. Each way runs in a process of its
own, since vLLM does not give memory back. Where there is no GPU or no vLLM, that is said and nothing is measured.

evaluation  960 samples of 256 tokens through `fill`, with the seeds and the sampling of Qwen3-VL's preset, and the
            same requests handed to `vllm.LLM` in one call
walk        the base and 12 adapters, 60 problems and the everyday prompts each: one server, and one checkpoint loaded
            in this process, times 13
step        a GRPO step of the recipe, 8 completions of 256 tokens: vLLM in the process, and `generate`; and the memory
            that one of preset 24gb takes
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.bench_rollout import Steps, Timer
from benchmarks.bench_training import DIGEST, Nowhere, Stopwatch
from benchmarks.synthetic import write_adapter_8b, write_checkpoint_8b
from skippy.characters.loader import load_character
from skippy.core.sampling import Sampling
from skippy.core.style import rewards
from skippy.evaluation.asking import Plan, fill
from skippy.evaluation.backends import close_backend, open_backend
from skippy.evaluation.generator import VLLM, Generator
from skippy.evaluation.suites import banal_questions, load_problem_set, problem_questions, requests_for
from skippy.evaluation.walk import Wanted, ask_at_once, ask_in_turn
from skippy.models.generation import Request
from skippy.models.prompts import template_arguments
from skippy.models.targets import find_targets
from skippy.models.vllm_server import choose_noise
from skippy.presets.reading import PRESETS
from skippy.resolve.subjects import Subject
from skippy.stores.checkpoints import Checkpoint
from skippy.stores.samples import SampleStore, read_samples
from skippy.training.plan import TrainRequest
from skippy.training.setup import build_run

SAMPLING = Sampling(1.0, 1.0, 40, 2.0, 256, "bench")
PROBLEMS, SAMPLES, WALKED, CHECKPOINTS = 240, 4, 60, 12
LIMITS = {"evaluation": 0.9, "walk": 4.0, "step": 3.0, "v4": 1.02, "24gb": 22.0}
STEPS, WARM_UP = 6, 2
SHARE = 0.6  # of the GPU, for the server and for the engine without one
PARTS = ("evaluation", "walk", "step")


def plan_for(base: Path, folder: Path, more: str = "") -> Plan:
    """Mathematics of the lab, asked of a model through a vLLM of our own."""
    problems = load_problem_set("lab", PROBLEMS)
    subject = Subject("bench", "base", base, DIGEST, str(base))
    options = f"--gpu-memory-utilization {SHARE} {more}"
    generator = Generator(
        VLLM, device="cuda", logs=folder / "engine", engine_options=options, noise=choose_noise()
    )
    return Plan(
        subject,
        load_character("skippy"),
        problems,
        problem_questions(problems, "plain"),
        SAMPLING,
        SAMPLES,
        generator=generator,
    )


def wanted_of(plan: Plan) -> dict[str, Any]:
    """Every sample of the plan."""
    return requests_for(plan.questions, plan.samples, plan.sampling, DIGEST, set())


def warm_requests(requests: list[Request]) -> list[Request]:
    """A few that nobody times."""
    return [replace(request, id=f"warm/{request.id}") for request in requests[:64]]


def evaluate_stage(base: Path, folder: Path, more: str = "") -> dict[str, float]:
    """Tokens a second of an evaluation, from the first request to the last sample in its file."""
    plan = plan_for(base, folder, more)
    wanted = wanted_of(plan)
    began = time.perf_counter()
    backend = open_backend(plan.generator, base, plan.sampling)
    try:
        asked = [request for _, request in wanted.values()]
        deque_all(backend.generate(warm_requests(asked), replace(SAMPLING, max_tokens=16)))
        started = time.perf_counter()
        with SampleStore(folder / "samples.jsonl") as store:
            fill(store, wanted, plan, DIGEST, backend)
        seconds = time.perf_counter() - started
    finally:
        close_backend(backend)
    tokens = sum(sample.tokens for sample in read_samples(folder / "samples.jsonl"))
    error = backend.effects["base"].error  # type: ignore[attr-defined]
    return {"tokens/s": tokens / seconds, "tokens": tokens, "start, s": started - began, "nats": error}


def evaluate_offline(base: Path, folder: Path) -> dict[str, float]:
    """The same requests in one call of vLLM's own engine."""
    from vllm import LLM, SamplingParams  # only here: nothing else of this needs it

    plan = plan_for(base, folder)
    requests = [request for _, request in wanted_of(plan).values()]
    began = time.perf_counter()
    options: dict[str, Any] = {"language_model_only": True} if has_vision(base) else {}
    engine = LLM(
        model=str(base),
        seed=0,
        generation_config="vllm",
        max_model_len=-1,
        gpu_memory_utilization=SHARE,
        **options,
    )
    arguments = template_arguments(engine.get_tokenizer())

    def run(asked: list[Request], length: int) -> int:
        settings = [
            SamplingParams(
                temperature=SAMPLING.temperature, top_p=SAMPLING.top_p, top_k=SAMPLING.top_k,
                presence_penalty=SAMPLING.presence_penalty, max_tokens=length, seed=each.seed & 0x7FFF_FFFF,
            )
            for each in asked
        ]  # fmt: skip
        messages: list[Any] = [list(each.messages) for each in asked]
        made = engine.chat(messages, settings, use_tqdm=False, chat_template_kwargs=arguments)
        return sum(len(each.outputs[0].token_ids) for each in made)

    run(warm_requests(requests), 16)
    started = time.perf_counter()
    tokens = run(requests, SAMPLING.max_tokens)
    return {
        "tokens/s": tokens / (time.perf_counter() - started),
        "tokens": tokens,
        "start, s": started - began,
    }


def has_vision(base: Path) -> bool:
    """Whether a checkpoint has a vision tower."""
    return "vision_config" in Checkpoint.open(base).config


def deque_all(made: Any) -> None:
    """Use an iterator up."""
    for _ in made:
        pass


def walk_asked(base: Path, folder: Path, count: int) -> tuple[Plan, dict[str, Wanted]]:
    """What a walk asks of the base and its first `count` checkpoints."""
    whole = plan_for(base, folder)
    problems = load_problem_set("lab", WALKED)
    questions = [*problem_questions(problems, "plain"), *banal_questions(whole.character, ("plain",))]
    subject = replace(whole.subject, variant="v3")
    plan = replace(whole, subject=subject, problems=problems, questions=questions, samples=1)
    names = [f"step_{number:06d}" for number in range(count + 1)]
    return plan, {name: requests_for(questions, 1, SAMPLING, name, set(), purpose="walk") for name in names}


def walked_base(base: Path) -> Any:
    """What a walk reads of a base."""
    return SimpleNamespace(path=base, digest=DIGEST, checkpoint=Checkpoint.open(base))


def walk_at_once(base: Path, folder: Path) -> dict[str, float]:
    """Seconds of a walk through one server, its start and the proof included."""
    plan, wanted = walk_asked(base, folder, CHECKPOINTS)
    began = time.perf_counter()
    with SampleStore(folder / "samples.jsonl") as store:
        ask_at_once(store, wanted, plan, walked_base(base), lambda name: folder.parent / name, [])
    seconds = time.perf_counter() - began
    samples = list(read_samples(folder / "samples.jsonl"))
    return {"s": seconds, "samples": len(samples), "tokens": sum(sample.tokens for sample in samples)}


def walk_in_turn(base: Path, folder: Path) -> dict[str, float]:
    """Seconds of one checkpoint of a walk that loads each here."""
    plan, wanted = walk_asked(base, folder, 1)
    wanted.pop("step_000000")
    began = time.perf_counter()
    with SampleStore(folder / "samples.jsonl") as store:
        ask_in_turn(store, wanted, plan, walked_base(base), lambda name: folder.parent / name, [])
    return {"s": time.perf_counter() - began}


def step(base: Path, folder: Path, vllm: str = "", preset: str = "recipe") -> dict[str, float]:
    """Milliseconds of a step of V4's rule on random directions, which cost what the top ones do."""
    checkpoint, character = Checkpoint.open(base), load_character("skippy")
    steps = STEPS if vllm else WARM_UP + 1
    scores = (rewards.personality, rewards.coherence, rewards.identity)
    began = time.perf_counter()
    run = build_run(
        TrainRequest(
            base_path=base,
            base_digest=DIGEST,
            variant="v4-random",
            prompts=[prompt.text for prompt in character.train_prompts],
            reward_functions=[partial(score, rules=character.rules) for score in scores],
            reward_names=("personality", "coherence", "identity"),
            settings=replace(PRESETS[preset], max_steps=steps, save_steps=10**6, vllm=vllm),
            output_dir=folder,
            device="cuda",
        ),
        Nowhere(),
        find_targets(checkpoint.config, checkpoint.shapes),
    )
    trainer, whole, watch = run.trainer, Steps(), Stopwatch(run.trainer.constraint)
    started = time.perf_counter() - began
    sampling = trainer._generate_single_turn = Timer(trainer._generate_single_turn)
    trainer.add_callback(whole)
    trainer.train()
    warm = WARM_UP if vllm else 1
    milliseconds = 1e3 * statistics.median(whole.seconds[warm:])
    projecting = 1e3 * statistics.median(watch.steps[warm:])
    return {
        "step, ms": milliseconds,
        "sampling, ms": 1e3 * statistics.median(sampling.seconds[warm:]),
        "projections, ms": projecting,
        "v4/v3": milliseconds / (milliseconds - projecting),
        "length": run.tracking.completion_statistics().mean_length,
        "peak, GiB": torch.cuda.max_memory_allocated() / 2**30,
        "reserved, GiB": torch.cuda.max_memory_reserved() / 2**30,
        "start, s": started,
    }


WAYS: dict[str, Any] = {
    "evaluation, stage": evaluate_stage,
    "evaluation, offline": evaluate_offline,
    "walk, one server": walk_at_once,
    "walk, one checkpoint here": walk_in_turn,
    "step, colocate": partial(step, vllm="colocate"),
    "step, generate": step,
    "step, 24gb": partial(step, preset="24gb"),
}


def measure(way: str, base: Path, scratch: Path, more: str = "") -> dict[str, float]:
    """One way in a process of its own; what it found."""
    folder = scratch / way.replace(", ", "-").replace(" ", "-")
    folder.mkdir()
    found = folder / "found.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.bench_engine",
        "--checkpoint",
        str(base),
        f"--options={more}",
    ]
    subprocess.run([*command, "--way", way, "--into", str(found)], check=True)
    values: dict[str, float] = json.loads(found.read_text())
    print(f"{way:28s}" + "   ".join(f"{name} {value:.4g}" for name, value in values.items()), flush=True)
    return values


def verdict(text: str, reached: float, limit: float, *, at_most: bool = False) -> bool:
    """Print a row against its limit; whether it is met."""
    met = reached <= limit if at_most else reached >= limit
    print(
        f"{text:60s} {reached:8.3f}   {'≤' if at_most else '≥'} {limit:g}   {'' if met else 'MISSED'}",
        flush=True,
    )
    return met


def run_parts(parts: list[str], base: Path, scratch: Path, least: float, more: str) -> bool:
    """Measure what was asked for; whether every limit is met."""
    met = True
    if "evaluation" in parts:
        stage = measure("evaluation, stage", base, scratch, more)
        if least:
            met &= verdict("tokens/s through the stage", stage["tokens/s"], least)
        offline = measure("evaluation, offline", base, scratch)
        ratio = stage["tokens/s"] / offline["tokens/s"]
        met &= verdict("stage / offline engine, same requests", ratio, LIMITS["evaluation"])
    if "walk" in parts:
        for number in range(1, CHECKPOINTS + 1):
            write_adapter_8b(scratch / f"step_{number:06d}", base, seed=number, device="cuda")
        torch.cuda.empty_cache()
        at_once = measure("walk, one server", base, scratch)["s"]
        in_turn = measure("walk, one checkpoint here", base, scratch)["s"]
        ratio = (CHECKPOINTS + 1) * in_turn / at_once
        met &= verdict("13 × one checkpoint loaded here / one server", ratio, LIMITS["walk"])
    if "step" in parts:
        fast = measure("step, colocate", base, scratch)
        slow = measure("step, generate", base, scratch)
        met &= verdict("step with generate / colocated", slow["step, ms"] / fast["step, ms"], LIMITS["step"])
        met &= verdict("V4 / V3, colocated", fast["v4/v3"], LIMITS["v4"], at_most=True)
        small = measure("step, 24gb", base, scratch)
        met &= verdict("preset 24gb, GiB reserved", small["reserved, GiB"], LIMITS["24gb"], at_most=True)
    return met


def main() -> None:
    """Print every way and the ratios; fail where one misses its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the evaluation alone")
    parser.add_argument("--device", default="cpu", help="cuda; on a cpu there is nothing to measure")
    parser.add_argument("--checkpoint", type=Path, help="base; without one, random weights of 8B's shapes")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--least", type=float, default=0, help="tokens/s that the evaluation must reach")
    parser.add_argument("--options", default="", help="further ones of vllm serve, for the evaluation")
    parser.add_argument("--way", choices=tuple(WAYS), help="only this, in this process")
    parser.add_argument("--into", type=Path, help="with --way: where its figures go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("skippy").setLevel(logging.INFO)
    if arguments.way:
        way = WAYS[arguments.way]
        more = {"more": arguments.options} if arguments.options else {}
        arguments.into.write_text(json.dumps(way(arguments.checkpoint, arguments.into.parent, **more)))
        return
    if arguments.device != "cuda" or not torch.cuda.is_available() or not importlib.util.find_spec("vllm"):
        print("nothing measured: this needs --device cuda, a GPU and vLLM")
        return
    parts = ["evaluation"] if arguments.quick else arguments.parts.split(",")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        base = arguments.checkpoint or write_checkpoint_8b(scratch / "base", device="cuda")
        if not run_parts(parts, base, scratch, arguments.least, arguments.options):
            sys.exit("a limit is missed")


if __name__ == "__main__":
    main()
