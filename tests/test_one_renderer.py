"""Training, measuring, evaluating, judging and a stored model see the same tokens for the same words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skippy.core.sampling import Sampling
from skippy.models import openai_backend, transformers_backend
from skippy.models.dialects import EXTENDED
from skippy.models.generation import Request
from skippy.models.hooks import reading_of
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.prompts import conversation, prompt_ids
from skippy.models.targets import find_targets
from skippy.models.transformers_backend import TransformersBackend
from skippy.stores.checkpoints import Checkpoint
from skippy.tracking.pyfunc_loader import TextGenerator
from skippy.training.setup import build_run
from tests.training.tiny_run import TEMPLATE, RecordingRun, make_model, make_request, make_tokenizer

SWITCH = "{% if enable_thinking is defined and not enable_thinking %}no{% else %}think aloud{% endif %}"
PROMPT = "what is rain?"
SAMPLING = Sampling(max_tokens=4)


@pytest.fixture(scope="module", params=["", SWITCH], ids=["plain", "with a switch"])
def base(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = make_tokenizer()
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.chat_template = TEMPLATE + request.param
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What a server of our own would be sent."""
    bodies: list[dict] = []

    class Client:
        def __init__(self, *_: object) -> None:
            pass

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def ask(self, body: dict):
            bodies.append(body)
            raise LookupError("enough seen")

    monkeypatch.setattr(openai_backend, "ChatClient", Client)
    return bodies


def trained(folder: Path, tmp_path: Path) -> tuple[int, ...]:
    checkpoint = Checkpoint.open(folder)
    request = make_request(folder, None, tmp_path, variant="v3")
    built = build_run(request, RecordingRun(), find_targets(checkpoint.config, checkpoint.shapes))
    return tuple(built.trainer._tokenize_prompts([conversation(PROMPT)])[0][0])


def measured(folder: Path) -> tuple[int, ...]:
    reading = reading_of(load_tokenizer(folder), conversation(PROMPT), "rain", 0)
    return tuple(reading.ids[: -reading.answer])


def generated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    seen: list[tuple[int, ...]] = []

    class Batch:
        def __init__(self, *_: object) -> None:
            self.rows: list = []

        def join(self, rows: list) -> None:
            seen.extend(row.prompt for row in rows)

        def step(self) -> list:
            return []

    monkeypatch.setattr(transformers_backend, "DecodingBatch", Batch)
    backend = TransformersBackend(load_model(folder), load_tokenizer(folder))
    assert list(backend.generate([Request("r", tuple(conversation(PROMPT)), 0)], SAMPLING)) == []
    return seen[0]


def stored(folder: Path) -> tuple[int, ...]:
    model = TextGenerator(str(folder))
    return tuple(model._tokenizer(model._render(PROMPT), add_special_tokens=False)["input_ids"])


def as_served(folder: Path, body: dict) -> tuple[int, ...]:
    """The tokens that a server makes of what it is sent: its own rendering, with what the request says."""
    arguments = body.get("chat_template_kwargs", {})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = load_tokenizer(folder).chat_template
    text = tokenizer.apply_chat_template(
        body["messages"], add_generation_prompt=True, tokenize=False, **arguments
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def asked(backend: Callable[[], object], served: list[dict]) -> dict:
    with pytest.raises(LookupError, match="enough seen"):
        backend()
    return served[-1]


def test_all_see_the_same_tokens(base, tmp_path, served, monkeypatch) -> None:
    expected = prompt_ids(load_tokenizer(base), conversation(PROMPT))
    text = make_tokenizer().decode(expected)
    assert PROMPT in text
    assert "think aloud" not in text
    assert trained(base, tmp_path) == expected
    assert measured(base) == expected
    assert generated(base, monkeypatch) == expected
    assert stored(base) == expected
    backend = OpenAIBackend("http://x/v1", "m", tokenizer=load_tokenizer(base))
    backend.__dict__["dialect"] = EXTENDED
    request = Request("r", tuple(conversation(PROMPT)), 0)
    body = asked(lambda: list(backend.generate([request], SAMPLING)), served)
    assert as_served(base, body) == expected
