"""A sample is a function of its request alone: not of the batch, its order, or what joined and left."""

import copy
import random

import pytest
import torch
from transformers import GenerationConfig

from skippy.core.answers import extract_integer
from skippy.core.sampling import Sampling
from skippy.errors import BackendError
from skippy.models.decoding import DecodingBatch, Row
from skippy.models.generation import Completion, Request
from skippy.models.transformers_backend import (
    CPU_CACHE_BYTES,
    TransformersBackend,
    _fitting_tokens,
    decode_answer,
)

SAMPLING = Sampling(temperature=0.9, top_k=20, top_p=0.95, max_tokens=16, name="test")
WORDS = ("why", "is", "the sky", "blue,", "what", "2+3", "tell me", "a tale", "of rain", "a cat.", "sing!")


def requests(count: int = 12) -> list[Request]:
    chance = random.Random(0)
    made = []
    for index in range(count):
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 8)))
        messages = [{"role": "user", "content": text}]
        if index % 3 == 0:
            messages.insert(0, {"role": "system", "content": "be brief."})
        made.append(Request(f"r{index}", tuple(messages), seed=index * 7919))
    return made


def generate(model, tokenizer, asked, sampling=SAMPLING, batch_tokens=None) -> dict[str, Completion]:
    made = list(TransformersBackend(model, tokenizer, batch_tokens).generate(asked, sampling))
    assert len(made) == len(asked)
    return {completion.id: completion for completion in made}


def test_batch_composition_and_order_change_nothing(model, tokenizer):
    asked = requests()
    alone = {}
    for request in asked:
        alone |= generate(model, tokenizer, [request])
    assert len({completion.text for completion in alone.values()}) > 8
    for batch_tokens in (200, 700):
        assert generate(model, tokenizer, asked, batch_tokens=batch_tokens) == alone
    assert generate(model, tokenizer, asked[::-1]) == alone
    assert generate(model, tokenizer, asked[3:7]) == {request.id: alone[request.id] for request in asked[3:7]}


def test_seed_alone_decides(model, tokenizer):
    """The twin: other seeds give other samples, the same seed the same one, within one batch."""
    message = ({"role": "user", "content": "why is it?"},)
    asked = [Request(f"r{index}", message, seed=index // 2) for index in range(12)]
    made = generate(model, tokenizer, asked)
    texts = [made[f"r{index}"].text for index in range(12)]
    assert texts[::2] == texts[1::2]
    assert len(set(texts)) == 6


def test_both_reasons_to_finish(model, tokenizer):
    made = generate(model, tokenizer, requests(40), Sampling(temperature=1.5, max_tokens=16))
    reasons = {completion.finish_reason for completion in made.values()}
    assert reasons == {"stop", "length"}
    for completion in made.values():
        assert "<end>" not in completion.text
        assert completion.tokens >= len(completion.text) + (completion.finish_reason == "stop")
        assert (completion.finish_reason == "length") <= (completion.tokens == 16)


def test_greedy_agrees_with_generate_of_transformers(model, tokenizer):
    asked = requests(4)
    made = generate(model, tokenizer, asked, Sampling(temperature=0, max_tokens=12))
    for request in asked:
        text = tokenizer.apply_chat_template(
            list(request.messages), add_generation_prompt=True, tokenize=False
        )
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        config = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=0)
        with torch.no_grad():
            expected = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), generation_config=config
            )
        words = tokenizer.decode(expected[0, tokens.shape[1] :], skip_special_tokens=True)
        assert made[request.id].text == words


def test_greedy_with_presence_penalty_repeats_no_token_while_others_are_near(model, tokenizer):
    free = generate(model, tokenizer, requests(6), Sampling(temperature=0, max_tokens=12))
    held = Sampling(temperature=0, max_tokens=12, presence_penalty=2.0)
    penalised = generate(model, tokenizer, requests(6), held)
    assert penalised == generate(model, tokenizer, requests(6), held, batch_tokens=150)

    def distinct(made):
        return sum(len(set(completion.text)) for completion in made.values())

    assert distinct(penalised) > distinct(free)


def test_streams_as_rows_finish(model, tokenizer):
    """The first completion is out long before the last request has been looked at by the model."""
    asked = requests(20)
    made = TransformersBackend(model, tokenizer, batch_tokens=200).generate(iter(asked), SAMPLING)
    assert isinstance(next(made), Completion)
    made.close()


def test_model_is_left_as_it_was(model, tokenizer):
    modes = []
    handle = next(model.children()).register_forward_pre_hook(lambda module, _: modes.append(module.training))
    model.train()
    generate(model, tokenizer, requests(3))
    assert model.training
    model.eval()
    generate(model, tokenizer, requests(3))
    assert not model.training
    handle.remove()
    assert set(modes) == {False}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    generate(model, tokenizer, requests(3))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_no_requests(model, tokenizer):
    assert generate(model, tokenizer, []) == {}


def test_what_does_not_fit_the_context_is_refused(model, tokenizer):
    backend = TransformersBackend(model, tokenizer)
    assert backend.supports(SAMPLING)
    assert backend.supports(Sampling(max_tokens=127))
    assert not backend.supports(Sampling(max_tokens=128))
    words = tokenizer.apply_chat_template(list(requests(1)[0].messages), add_generation_prompt=True)
    room = 128 - len(words["input_ids"])
    assert len(list(backend.generate(requests(1), Sampling(max_tokens=room)))) == 1
    with pytest.raises(BackendError, match="do not fit"):
        list(backend.generate(requests(1), Sampling(max_tokens=room + 1)))
    with pytest.raises(BackendError, match=r"do not fit.*\n.*r0"):
        list(backend.generate(requests(1), Sampling(max_tokens=126)))


@pytest.mark.parametrize(("listed", "stops"), [(None, {1}), (1, {1}), ([9, 12], {1, 9, 12})])
def test_the_model_and_the_tokenizer_both_say_what_ends_an_answer(
    model, tokenizer, monkeypatch, listed, stops
):
    monkeypatch.setattr(model.generation_config, "eos_token_id", listed)
    made = generate(model, tokenizer, requests(40), Sampling(temperature=1.5, max_tokens=16)).values()
    assert {completion.finish_reason for completion in made} == {"stop", "length"}
    unspoken = tokenizer.decode(sorted(stops - {1}))
    assert not any(letter in completion.text for completion in made for letter in unspoken)


def test_a_batch_stays_within_its_tokens_and_is_refilled_before_it_is_empty(model, tokenizer, monkeypatch):
    rows, joined = [], []
    step, join = DecodingBatch.step, DecodingBatch.join
    monkeypatch.setattr(DecodingBatch, "step", lambda self: rows.append(len(self.rows)) or step(self))
    monkeypatch.setattr(
        DecodingBatch, "join", lambda self, new: joined.append(len(self.rows)) or join(self, new)
    )
    asked = [Request(f"r{index}", ({"role": "user", "content": "why?"},), seed=index) for index in range(40)]
    prompt = len("why?") + 3  # its role, its end, and the assistant's turn
    generate(
        model, tokenizer, asked, Sampling(temperature=1.5, max_tokens=16), batch_tokens=12 * (prompt + 16)
    )
    assert max(rows) == 12
    assert max(joined) > 0


def test_a_batch_holds_the_keys_and_values_that_fit(model):
    """Two layers, keys and values of two heads of eight numbers, four bytes each."""
    assert _fitting_tokens(model) == CPU_CACHE_BYTES // (2 * 2 * 2 * 8 * 4)


@pytest.mark.parametrize("penalty", [0, 2.0])
def test_rows_that_join_late_take_free_slots(model, tokenizer, penalty):
    """Steps with every kind of change: growth of the columns, moving together, joining in between."""
    chance = random.Random(1)
    waiting = [
        Row(f"r{index}", tuple(chance.choices(range(5, 40), k=chance.randint(1, 30))), seed=index)
        for index in range(12)
    ]
    sampling = Sampling(temperature=1.2, max_tokens=40, presence_penalty=penalty)
    expected = {}
    for row in waiting:
        alone = DecodingBatch(model, sampling, {1}, 0)
        alone.join([Row(row.id, row.prompt, row.seed)])
        while alone.rows:
            expected |= {done.id: done.tokens for done in alone.step()}
    batch, made = DecodingBatch(model, sampling, {1}, 0), {}
    while waiting or batch.rows:
        if waiting and (not batch.rows or chance.random() < 0.15):
            count = min(len(waiting), chance.randint(1, 4))
            batch.join([waiting.pop() for _ in range(count)])
        made |= {done.id: done.tokens for done in batch.step()}
    assert made == expected


def test_a_batch_that_shrinks_with_every_column_taken_still_has_room(model, tokenizer, monkeypatch):
    """Seen on the lab: the window filled all columns at the very step at which rows left."""
    sampling = Sampling(temperature=1.5, max_tokens=100)
    asked = [Request(f"r{index}", ({"role": "user", "content": "why?"},), seed=index) for index in range(40)]
    expected = generate(model, tokenizer, asked, sampling)
    assert max(completion.tokens for completion in expected.values()) > 64
    monkeypatch.setattr("skippy.models.decoding.KEPT_SHARE", 1.0)
    assert generate(model, tokenizer, asked, sampling) == expected


@pytest.mark.parametrize(
    ("ending", "is_open"), [("<think>\n", True), ("<think>\n\n</think>\n\n", False), ("", False)]
)
def test_a_thought_that_the_template_opened_is_open_in_the_completion(model, tokenizer, ending, is_open):
    thinker = copy.deepcopy(tokenizer)
    thinker.chat_template = tokenizer.chat_template + ending
    made = generate(model, thinker, requests(3))
    assert all(completion.text.startswith("<think>") == is_open for completion in made.values())


def test_a_guess_in_a_thought_that_never_ended_is_no_answer(model, tokenizer, monkeypatch):
    thinker = copy.deepcopy(tokenizer)
    monkeypatch.setattr(type(thinker), "decode", lambda *_, **__: "maybe \\boxed{42}, or")
    assert extract_integer(generate(model, thinker, requests(1))["r0"].text).value == 42
    thinker.chat_template = tokenizer.chat_template + "<think>\n"
    assert extract_integer(generate(model, thinker, requests(1))["r0"].text).value is None


@pytest.mark.parametrize("tag", ["[THINK]", "<|begin_of_thought|>"])
def test_a_thought_marked_by_special_tokens_stays_one(tokenizer, tag):
    thinker = copy.deepcopy(tokenizer)
    thinker.add_special_tokens({"additional_special_tokens": [tag]}, replace_extra_special_tokens=False)
    mark = thinker.convert_tokens_to_ids(tag)
    told = tuple(thinker("abc", add_special_tokens=False)["input_ids"])
    end = thinker.eos_token_id
    assert decode_answer(thinker, (mark, *told, end)) == tag + "abc"
    assert decode_answer(thinker, (*told, end)) == "abc", "every other special token goes"
    plain = thinker.decode((mark, *told, end), skip_special_tokens=True)
    assert tag not in plain, "the twin: plain decoding loses the tag, and a guess would count"
