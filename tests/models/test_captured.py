"""Decoding in fixed buffers makes the very samples of the ordinary batch, and keeps to what a graph can hold."""

import copy
import random

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from skippy.core.sampling import Sampling
from skippy.models import captured
from skippy.models.captured import COLUMN_STEP, FixedBatch, gains_from_recording
from skippy.models.decoding import DecodingBatch, Row
from skippy.models.generation import Request
from skippy.models.transformers_backend import TransformersBackend
from tests.models.tape import record

SAMPLINGS = [
    Sampling(temperature=0.9, top_k=20, top_p=0.95, max_tokens=24),
    Sampling(temperature=1.4, max_tokens=24, presence_penalty=2.0),
    Sampling(temperature=0, max_tokens=24),
]
HOST_READS = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.lift_fresh.default"}


def rows(count, seed=1):
    chance = random.Random(seed)
    return [
        Row(f"r{index}", tuple(chance.choices(range(5, 40), k=chance.randint(1, 30))), seed=index * 7919)
        for index in range(count)
    ]


def decode(batch, waiting, joining=12):
    made = {}
    while waiting or batch.rows:
        if waiting and len(batch.rows) <= joining // 2:
            batch.join([waiting.pop() for _ in range(min(len(waiting), joining - len(batch.rows)))])
        made |= {row.id: (row.tokens, row.is_stopped) for row in batch.step()}
    return made


def fixed(model, sampling, slots=12, **more):
    return FixedBatch(model, sampling, {1}, 0, slots=slots, columns=54, **more)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_samples_are_those_of_the_ordinary_batch(model, sampling):
    expected = decode(DecodingBatch(model, sampling, {1}, 0), rows(40))
    assert {is_stopped for _, is_stopped in expected.values()} == {True, False}
    assert decode(fixed(model, sampling), rows(40)) == expected
    assert decode(fixed(model, sampling, slots=40), rows(40), joining=40) == expected
    assert decode(fixed(model, sampling, slots=40), rows(40)[::-1], joining=3) == expected


@pytest.fixture
def taped(monkeypatch):
    """Steps are recorded once and replayed, as on a GPU."""
    monkeypatch.setattr(FixedBatch, "_record", record)
    started = FixedBatch.__init__

    def start(self, *args, **more):
        started(self, *args, **more)
        self._records = True

    monkeypatch.setattr(FixedBatch, "__init__", start)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_recorded_step_makes_the_same_samples(model, sampling, taped):
    expected = decode(DecodingBatch(model, sampling, {1}, 0), rows(40))
    batch = fixed(model, sampling)
    assert decode(batch, rows(40)) == expected
    graph = batch._graph
    assert decode(batch, rows(40)[::-1], joining=5) == expected
    assert batch._graph is graph, "recorded once"


def test_a_recorded_step_sees_factors_that_moved_in_place_and_none_that_were_replaced(model, taped):
    """The second half is the twin: the tape is blind where a graph is."""
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, target_modules=r".*(q|v|down)_proj"))
    adapted.eval()
    batch = fixed(adapted, SAMPLINGS[0])
    before = decode(batch, rows(12))
    factors = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
    for parameter in factors:
        parameter.data.normal_(std=0.3)
    ordinary = decode(DecodingBatch(adapted, SAMPLINGS[0], {1}, 0), rows(12))
    assert decode(batch, rows(12)) == ordinary != before
    for parameter in factors:
        parameter.data = torch.zeros_like(parameter)
    firsts = {name: tokens[0] for name, (tokens, _) in decode(batch, rows(12)).items()}
    assert firsts == {name: tokens[0] for name, (tokens, _) in before.items()}, "prompts are never recorded"
    assert decode(batch, rows(12)) != before


def test_another_seed_makes_another_sample(model):
    """The twin: equality above is not that of constants."""
    first = decode(fixed(model, SAMPLINGS[0]), rows(8))
    moved = [Row(row.id, row.prompt, row.seed + 1) for row in rows(8)]
    other = decode(fixed(model, SAMPLINGS[0]), moved)
    assert sum(first[name] != other[name] for name in first) >= 6


def test_a_used_slot_leaves_nothing_to_the_next_row(model):
    batch = fixed(model, SAMPLINGS[1], slots=3)
    first = decode(batch, rows(9), joining=3)
    batch.join(rows(3, seed=5))
    batch.step()
    batch.clear()
    assert not batch.rows
    assert decode(batch, rows(9), joining=3) == first


def test_an_adapter_that_moves_between_steps_is_seen(model):
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=4, target_modules=r".*(q|v|down)_proj"))
    adapted.eval()
    batch = fixed(adapted, SAMPLINGS[0])
    before = decode(batch, rows(12))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    after = decode(batch, rows(12))
    assert after != before
    assert after == decode(DecodingBatch(adapted, SAMPLINGS[0], {1}, 0), rows(12))


def test_barred_tokens_are_never_chosen(model):
    usual = decode(fixed(model, SAMPLINGS[0]), rows(40))
    often = {token for tokens, _ in usual.values() for token in tokens} - {1}
    barred = sorted(often)[:5]
    made = decode(fixed(model, SAMPLINGS[0], barred=barred), rows(40))
    assert not {token for tokens, _ in made.values() for token in tokens} & set(barred)


class Recorder(TorchDispatchMode):
    """The name of every operation."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_step_reads_nothing_back_and_moves_no_buffer(model, sampling):
    """What recording needs: no value goes to the host or comes from it, and every address stays."""
    batch = fixed(model, sampling)
    batch.join(rows(12))
    buffers = {
        **batch._state,
        **{
            f"{n}.{name}": getattr(layer, name)
            for n, layer in enumerate(batch._cache.layers)
            for name in ("keys", "values")
        },
    }
    addresses = {name: tensor.data_ptr() for name, tensor in buffers.items()}
    with Recorder() as seen, torch.inference_mode():
        batch._advance()
    assert "aten.copy_.default" in seen.names
    assert not seen.names & HOST_READS
    now = {**batch._state} | {
        f"{n}.{name}": getattr(layer, name)
        for n, layer in enumerate(batch._cache.layers)
        for name in ("keys", "values")
    }
    assert {name: tensor.data_ptr() for name, tensor in now.items()} == addresses
    with Recorder() as seen:
        batch.step()
    assert seen.names  # and the ordinary batch does read back, which the same check sees:
    ordinary = DecodingBatch(model, sampling, {1}, 0)
    ordinary.join(rows(12))
    with Recorder() as seen:
        ordinary.step()
    assert seen.names & HOST_READS


def test_a_row_may_fill_its_slot(model):
    sampling = Sampling(temperature=1.0, max_tokens=COLUMN_STEP - 10)
    prompt = [Row("a", tuple(range(5, 15)), 3)]
    expected = decode(DecodingBatch(model, sampling, set(), 0), list(prompt))
    again = [Row("a", tuple(range(5, 15)), 3)]
    batch = FixedBatch(model, sampling, set(), 0, slots=1, columns=COLUMN_STEP)
    assert batch.columns == COLUMN_STEP
    assert decode(batch, again) == expected


def test_the_backend_makes_the_same_completions_in_fixed_buffers(model, tokenizer):
    asked = [
        Request(f"r{index}", ({"role": "user", "content": "why " * (1 + index % 5)},), seed=index)
        for index in range(30)
    ]
    sampling = SAMPLINGS[0]
    expected = {each.id: each for each in TransformersBackend(model, tokenizer).generate(asked, sampling)}
    backend = TransformersBackend(model, tokenizer, 700, fixed=True)
    assert {each.id: each for each in backend.generate(asked, sampling)} == expected
    _, batch = backend._recorded
    assert {each.id: each for each in backend.generate(asked[:20], sampling)} == {
        each.id: expected[each.id] for each in asked[:20]
    }
    assert backend._recorded[1] is batch, "recorded once"
    list(backend.generate(asked[:20], Sampling(temperature=0, max_tokens=5)))
    assert backend._recorded[1] is not batch, "another sampling is another step"


def test_recording_is_for_small_models_on_a_gpu_that_nobody_switched_off(model, monkeypatch):
    assert not gains_from_recording(model)

    class OnGpu(torch.nn.Module):
        config = model.config

        def parameters(self):
            return iter([type("Parameter", (), {"device": torch.device("cuda"), "numel": lambda _: 1000})()])

    assert gains_from_recording(OnGpu())
    monkeypatch.setenv(captured.SWITCH, "0")
    assert not gains_from_recording(OnGpu())
    monkeypatch.delenv(captured.SWITCH)
    monkeypatch.setattr(captured, "MOST_PARAMETERS", 999)
    assert not gains_from_recording(OnGpu())
