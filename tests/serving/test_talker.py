"""A served answer is the sample that an evaluation draws: same seed, same sampling, whatever else is being answered."""

from __future__ import annotations

import queue
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from skippy.core.sampling import PRESETS
from skippy.errors import BackendError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.generation import Request
from skippy.models.loading import load_model
from skippy.models.transformers_backend import TransformersBackend
from skippy.serving.talker import Piece, Talker
from skippy.serving.worker import Voice, build_app

LAB = replace(PRESETS["lab"], max_tokens=24)
QUESTIONS = ("How are you today?", "What is 3 + 4?", "Name a colour.", "Tell me about your weekend, slowly.")


def conversation(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def collect(talker: Talker, requests) -> list[list[Piece]]:
    """Every request's pieces, all asked at once."""
    boxes = [queue.Queue() for _ in requests]
    for (text, sampling, seed), box in zip(requests, boxes, strict=True):
        talker.ask(conversation(text), sampling, seed, box.put)
    told = []
    for box in boxes:
        pieces = [box.get(timeout=60)]
        while not pieces[-1].finish_reason:
            pieces.append(box.get(timeout=60))
        told.append(pieces)
    return told


@pytest.fixture(scope="module")
def backend(lab_voice: Voice) -> TransformersBackend:
    return TransformersBackend(load_model(LAB_CHECKPOINT), lab_voice.tokenizer)


def test_pieces_add_up_to_the_sample_of_an_evaluation(lab_voice: Voice, backend: TransformersBackend) -> None:
    penalised = replace(LAB, presence_penalty=1.0, temperature=1.2)
    asked = [(text, sampling, seed) for seed, text in enumerate(QUESTIONS) for sampling in (LAB, penalised)]
    for (text, sampling, seed), pieces in zip(asked, collect(lab_voice.talker, asked), strict=True):
        (alone,) = backend.generate([Request("r", conversation(text), seed)], sampling)
        assert "".join(piece.text for piece in pieces) == alone.text
        assert (pieces[-1].tokens, pieces[-1].finish_reason) == (alone.tokens, alone.finish_reason)
        assert len(pieces) > 2, "it comes in pieces"


def test_another_seed_is_another_answer(lab_voice: Voice) -> None:
    first, second = collect(lab_voice.talker, [(QUESTIONS[0], LAB, 1), (QUESTIONS[0], LAB, 2)])
    assert [piece.text for piece in first] != [piece.text for piece in second]


def test_a_cancelled_answer_stops_and_the_others_go_on(lab_voice: Voice) -> None:
    box: queue.Queue[Piece] = queue.Queue()
    ticket = lab_voice.talker.ask(conversation(QUESTIONS[0]), replace(LAB, max_tokens=1500), 3, box.put)
    box.get(timeout=60)
    ticket.cancel()
    (other,) = collect(lab_voice.talker, [(QUESTIONS[1], LAB, 1)])
    assert other[-1].finish_reason
    assert len(ticket.row.tokens) < 1500


def test_what_does_not_fit_into_the_context_is_refused(lab_voice: Voice) -> None:
    with pytest.raises(BackendError, match="do not fit") as refusal:
        lab_voice.talker.ask(conversation("x" * 3000), LAB, 0, print)
    assert "new conversation" in refusal.value.next_step


def test_the_pages_of_the_engine(lab_voice: Voice) -> None:
    with TestClient(build_app({"v4": lab_voice})) as client:
        body = {"model": "v4", "messages": list(conversation(QUESTIONS[0])), "seed": 5, "max_tokens": 24}
        whole = client.post("/v1/chat/completions", json=body).json()
        streamed = client.post(
            "/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
        ).text
        assert whole["choices"][0]["message"]["content"]
        assert (
            whole["usage"]["total_tokens"]
            == whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
        )
        assert streamed.endswith("data: [DONE]\n\n")
        assert f'"completion_tokens": {whole["usage"]["completion_tokens"]}' in streamed
        refused = client.post("/v1/chat/completions", json=body | {"logprobs": True})
        assert refused.status_code == 400
        assert "logprobs is not served here" in refused.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json=body | {"model": "v9"}).status_code == 404
        assert client.post("/v1/chat/completions", content=b"{").status_code == 400
