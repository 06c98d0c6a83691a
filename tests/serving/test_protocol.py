"""What our engine reads of a request, and what it refuses by name."""

from __future__ import annotations

import pytest

from skippy.core.sampling import PRESETS
from skippy.errors import BackendError, ConfigError
from skippy.serving.protocol import NEUTRAL, read_request

DEFAULT = PRESETS["lab"]
HELLO = [{"role": "user", "content": "hello"}]


def read(**fields):
    return read_request({"model": "v4", "messages": HELLO, **fields}, DEFAULT, {"enable_thinking": False})


def test_what_a_request_leaves_out_is_as_in_an_evaluation() -> None:
    asked = read()
    assert asked.sampling == DEFAULT
    assert not asked.has_length
    assert asked.seed != read().seed, "an unseeded answer is drawn anew"


def test_what_a_request_says_is_taken() -> None:
    asked = read(temperature=0, top_p=0.5, top_k=-1, presence_penalty=1.5, max_completion_tokens=9, seed=7)
    sampling = asked.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0, 0.5, 0)
    assert (sampling.presence_penalty, sampling.max_tokens, asked.seed) == (1.5, 9, 7)
    assert asked.has_length


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 5),
        ("frequency_penalty", 0.5),
        ("repetition_penalty", 1.1),
        ("n", 2),
        ("stop", ["."]),
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("best_of", 3),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BackendError, match=f"{name} is not served here") as refusal:
        read(**{name: value})
    assert refusal.value.where == name


@pytest.mark.parametrize(("name", "values"), NEUTRAL.items())
def test_the_same_fields_pass_where_they_ask_for_nothing(name: str, values: tuple) -> None:
    assert read(**{name: values[0]}).sampling == read(**{name: None}).sampling == DEFAULT


def test_parts_of_text_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert read(messages=[{"role": "developer", "content": parts}]).messages == (
        {"role": "system", "content": "hello"},
    )
    with pytest.raises(BackendError, match="not text alone") as refusal:
        read(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])
    assert refusal.value.found == "image_url"


def test_half_a_surrogate_pair_becomes_what_can_be_written() -> None:
    assert read(messages=[{"role": "user", "content": "a\ud800"}]).messages[0]["content"] == "a\ufffd"


@pytest.mark.parametrize("messages", [None, [], "hello", [{"role": "tool", "content": "x"}], [7]])
def test_a_request_without_a_conversation_is_refused(messages: object) -> None:
    with pytest.raises(BackendError, match=r"no messages|no known role"):
        read(messages=messages)


def test_a_value_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="top_p"):
        read(top_p=2)
    with pytest.raises(BackendError, match="temperature is no number"):
        read(temperature="hot")
