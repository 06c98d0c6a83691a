"""Evaluation through vLLM, with a stand-in for the server: proven, restarted, stopped, whatever it does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from benchmarks.adapter_files import write_adapter
from skippy.config import EvalConfig
from skippy.core.sampling import PRESETS
from skippy.core.spectral.lora import LoraFactors
from skippy.errors import AdapterError, BackendError, ConfigError
from skippy.evaluation.asking import identify_asking
from skippy.evaluation.backends import close_backend, open_backend
from skippy.evaluation.generator import Generator
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models import vllm_server
from skippy.models.effect import expect, fixed_prompts, logprobs_of
from skippy.models.generation import Request
from skippy.models.loading import attach_adapter, load_model, load_tokenizer
from skippy.models.targets import find_targets
from skippy.models.vllm_backend import VllmBackend
from skippy.report.pairing import find_mismatch
from skippy.results import Arm, Evaluation, ProblemScore
from skippy.stages import evaluate
from skippy.stores.checkpoints import Checkpoint
from tests.evaluation import test_walk as walking

FAKE = Path(__file__).parents[1] / "models" / "fake_vllm"
SAMPLING = replace(PRESETS["lab"], max_tokens=8)
STEPS = ("step_000010", "step_000020")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> dict[str, Path]:
    """Two adapters of the lab, with an effect that can be seen."""
    checkpoint = Checkpoint.open(LAB_CHECKPOINT)
    targets = find_targets(checkpoint.config, checkpoint.shapes)
    made = {}
    for number, name in enumerate(STEPS):
        generator = torch.Generator().manual_seed(number)
        factors = {
            target.name: LoraFactors(
                A=torch.randn(2, target.in_, generator=generator) / target.in_**0.5,
                B=torch.randn(target.out, 2, generator=generator) * 0.02,
                scale=2.0,
            )
            for target in targets
        }
        made[name] = write_adapter(tmp_path_factory.mktemp(name) / "adapter", factors)
    return made


@pytest.fixture(scope="module")
def truth(adapters) -> dict[str, dict[str, list[float]]]:
    """What a server that applies everything says, model by model, prompt by prompt."""
    expected = expect(LAB_CHECKPOINT, adapters, "base", "cpu")
    prompts = fixed_prompts(load_tokenizer(LAB_CHECKPOINT))
    sizes = [len(prompt) - 1 for prompt in prompts]
    return {
        name: {
            json.dumps(list(prompt)): part.tolist()
            for prompt, part in zip(prompts, values.split(sizes), strict=True)
        }
        for name, values in expected.items()
    }


def test_what_is_expected_is_what_peft_says(adapters):
    """The proof rests on it: two ways to put an adapter on a base agree to rounding."""
    prompts = fixed_prompts(load_tokenizer(LAB_CHECKPOINT))
    expected = expect(LAB_CHECKPOINT, {"a": adapters[STEPS[0]]}, "base", "cpu")
    adapted = attach_adapter(load_model(LAB_CHECKPOINT), adapters[STEPS[0]])
    assert torch.allclose(expected["a"], logprobs_of(adapted, prompts), atol=1e-3)
    assert not torch.allclose(expected["a"], expected["base"], atol=1e-2)


@pytest.fixture
def server(tmp_path, monkeypatch, truth):
    """Writes what the stand-in is to do; it is found as vLLM from then on."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_VLLM", str(tmp_path / "plan.json"))

    def behave(**plan) -> None:
        (tmp_path / "plan.json").write_text(json.dumps({"logprobs": truth} | plan))

    behave()
    return behave


@pytest.fixture
def generator(tmp_path) -> Generator:
    return Generator("vllm", concurrency=4, logs=tmp_path / "engine")


def requests(count: int = 30, models: tuple[str, ...] = ("",)) -> list[Request]:
    return [
        Request(f"{model}/q{n}/0", ({"role": "user", "content": f"say {n}"},), seed=n, model=model)
        for n in range(count)
        for model in models
    ]


def collect(backend, asked) -> dict[str, str]:
    made = list(backend.generate(asked, SAMPLING))
    assert len({each.id for each in made}) == len(made), "nothing is made twice"
    return {each.id: each.text for each in made}


def servers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "serve" in p.cmdline()]


@pytest.fixture
def opened(generator, server):
    """Backends that are closed at the end, and leave no process."""
    made: list[VllmBackend] = []

    def open_(adapters=None, **given) -> VllmBackend:
        made.append(open_backend(replace(generator, **given), LAB_CHECKPOINT, SAMPLING, adapters or {}))
        return made[-1]

    yield open_
    for backend in made:
        close_backend(backend)
    assert not servers()


def test_base_and_adapters_are_answered_by_one_server_each_proven(opened, adapters):
    backend = opened(adapters)
    texts = collect(backend, requests(5, ("", *STEPS)))
    assert len(texts) == 15
    assert len(set(texts.values())) == 15, "each by its own model"
    assert len(servers()) == 2, "one server and its guardian"
    assert set(backend.effects) == {"base", *STEPS}
    assert all(effect.error < 1e-6 for effect in backend.effects.values())
    assert min(backend.effects[name].share for name in STEPS) == pytest.approx(1)
    assert collect(backend, requests(2)).items() <= texts.items(), "the second suite asks the same server"


def test_an_adapter_that_is_not_applied_is_refused_before_anything_is_sampled(
    opened, server, adapters, truth
):
    server(logprobs=truth | {STEPS[1]: truth["base"]})
    with pytest.raises(BackendError, match=f"answers for {STEPS[1]} and does not apply it"):
        collect(opened(adapters), requests(1, STEPS))
    assert not servers()


def test_other_weights_under_the_right_name_are_refused(opened, server, truth):
    server(logprobs={"base": truth[STEPS[0]]})
    with pytest.raises(BackendError, match="with the weights it was given"):
        collect(opened(), requests(1))


def test_samples_are_drawn_with_the_noise_that_the_record_names(opened, server):
    named = replace(Generator("vllm"), noise="counter")
    assert (named.name, Generator("vllm").name, Generator().name) == ("vllm counter", "vllm", "transformers")
    whole = collect(opened(), requests(3))
    assert collect(opened(noise="counter"), requests(3)) == whole
    server(no_plugin=True)
    assert collect(opened(), requests(3)) == whole
    with pytest.raises(BackendError, match="vLLM's own noise"):
        collect(opened(noise="counter"), requests(3))


def test_samples_of_two_noises_are_two_evaluations(monkeypatch):
    """Not continued, not taken over, not compared; scored again, they keep their name."""
    plan = walking.planned()
    plans = [replace(plan, generator=Generator("vllm", noise=noise)) for noise in ("", "counter", "runner2")]
    assert len({identify_asking(each) for each in plans}) == 3
    scores = (ProblemScore("a", 1, 1), ProblemScore("b", 0, 1))
    theirs, ours = (
        Arm("v4", "V4", (Evaluation(0, "", "", "", scores, backend=each.generator.name),))
        for each in plans[:2]
    )
    assert "generated by backend 'vllm counter' and not 'vllm'" in find_mismatch(theirs, ours)
    record = SimpleNamespace(tags={"skippy.backend": "vllm counter"})
    assert evaluate._noise(EvalConfig(backend="vllm"), record) == "counter"
    monkeypatch.setattr(vllm_server, "choose_noise", lambda: "runner2")
    assert evaluate._noise(EvalConfig(backend="vllm"), None) == "runner2"
    assert evaluate._noise(EvalConfig(backend="vllm", base_url="http://x/v1"), None) == ""
    assert evaluate._noise(EvalConfig(), None) == ""


def test_a_server_that_keeps_its_log_probabilities_to_itself_is_refused(opened, server):
    server(logprobs={})
    with pytest.raises(BackendError, match="nothing shows what it answers with"):
        collect(opened(), requests(1))


def test_one_that_dies_is_started_once_more_and_nothing_is_made_twice(opened, server, tmp_path, caplog):
    whole = collect(opened(), requests())
    server(dies_after=10)
    (tmp_path / "alive").write_text("once")
    with caplog.at_level("WARNING", "skippy"):
        assert collect(opened(), requests()) == whole
    assert "started once more" in caplog.text


def test_one_that_dies_again_is_an_error_that_keeps_what_was_made(opened, server, tmp_path, monkeypatch):
    server(dies_after=10)
    (tmp_path / "alive").write_text("always")
    made = []
    with pytest.raises(BackendError, match="died twice") as refusal:
        made += opened().generate(requests(), SAMPLING)
    assert "device-side assert" in refusal.value.found
    assert "finished samples are kept" in refusal.value.next_step
    assert not servers()


def test_endpoints_share_the_samples_and_do_not_change_them(opened, generator, server):
    """By key, so that a resumed run or another number of servers asks for the same answers."""
    own = [opened() for _ in range(3)]
    whole = collect(own[0], requests())
    urls = [backend._open(8) for backend in own]
    assert collect(opened(base_url=",".join(urls)), requests()) == whole
    assert collect(opened(base_url=urls[1], served_model="base"), requests()) == whole
    with pytest.raises(BackendError, match="does not have this model") as refusal:
        collect(opened(base_url=urls[0], served_model="bass"), requests())
    assert refusal.value.next_step == "did you mean base? "
    assert refusal.value.found == "base"


def test_what_cannot_be_served_is_refused_before_a_server_starts(opened, adapters, tmp_path):
    wide = tmp_path / "wide"
    target = "model.language_model.layers.0.self_attn.q_proj"
    out, in_ = Checkpoint.open(LAB_CHECKPOINT).shapes[f"{target}.weight"]
    factors = {target: LoraFactors(A=torch.randn(513, in_), B=torch.randn(out, 513), scale=1.0)}
    write_adapter(wide, factors)
    with pytest.raises(BackendError, match="rank of an adapter is above"):
        opened({"wide": wide})
    config = wide / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"alpha_pattern": {"q_proj": 1}}))
    with pytest.raises(AdapterError, match="would not apply"):
        opened({"wide": wide})


def test_a_context_too_short_for_the_answers_is_refused(opened, server):
    server(max_model_len=8)
    with pytest.raises(BackendError, match="no room for a completion of this length") as refusal:
        collect(opened(), requests(1))
    assert refusal.value.expected == "a context of more than 8 positions"


def test_out_of_memory_is_told_and_nothing_is_left(opened, server):
    server(dies="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB.")
    with pytest.raises(BackendError, match="out of GPU memory") as refusal:
        collect(opened(), requests(1))
    assert "gpus=2" in refusal.value.next_step


def test_a_walk_asks_all_checkpoints_of_one_server(server, adapters, generator, tmp_path, truth):
    tracker = SimpleNamespace(
        store=SimpleNamespace(root=tmp_path),
        artifacts=SimpleNamespace(
            files=lambda run_id, path: [f"adapters/{name}/adapter_config.json" for name in STEPS],
            path=lambda run_id, path: adapters[path.split("/")[1]],
        ),
    )
    base = SimpleNamespace(**vars(walking.make_base()) | {"path": LAB_CHECKPOINT})
    run = walking.Run()
    plan = replace(walking.planned(), generator=generator)
    figures = walking.walk(plan, base, tracker, run)
    assert set(figures) == {f"frontier/persona/{step}" for step in (10, 20)}
    lines = [json.loads(line) for line in run.texts[walking.FRONTIER].splitlines()]
    digests = {line["model_digest"] for line in lines}
    assert digests == {f"{walking.DIGEST}@{step}" for step in (0, 10, 20)}
    by_model = [{line["completion"] for line in lines if line["model_digest"] == each} for each in digests]
    assert not by_model[0] & by_model[1], "each answers for itself"
    assert len({len(texts) for texts in by_model}) == 1
    assert not servers()


@pytest.mark.parametrize("given", [{"gpus": 2}, {"engine_options": "--quantization fp8"}])
def test_what_only_an_engine_of_ours_reads_is_refused_elsewhere(given):
    with pytest.raises(ConfigError, match="Nobody reads this parameter") as refusal:
        evaluate.resolve(EvalConfig(**given), None)
    assert refusal.value.where == next(iter(given))
