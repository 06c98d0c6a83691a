"""One reader of lists that people type, and the grammar of one and many."""

from __future__ import annotations

import pytest

from skippy.errors import ConfigError
from skippy.words import counted, shortened, split_list


@pytest.mark.parametrize(
    ("text", "entries"), [("", ()), ("  ", ()), ("a", ("a",)), (" b , a ", ("b", "a")), ("A,a", ("A", "a"))]
)
def test_a_list_is_read_in_its_order(text: str, entries: tuple[str, ...]) -> None:
    assert split_list(text, "arms") == entries


@pytest.mark.parametrize(
    ("text", "fault", "step"),
    [
        (",", "is blank", "leave arms out, or name one"),
        ("a,", "is blank", "pass arms=a"),
        ("a,,b", "is blank", "pass arms=a,b"),
        ("b, a, b", "is there twice", "pass arms=b,a"),
    ],
)
def test_blanks_and_repetitions_are_refused_by_name(text: str, fault: str, step: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        split_list(text, "arms")
    assert str(refusal.value).splitlines() == [
        f"An entry of the list {fault}.",
        "  where: arms",
        "  expected: entries with commas between, each once",
        f"  found: {text!r}",
        f"  next: {step}",
    ]


def test_what_entries_mean_decides_whether_two_are_one() -> None:
    assert split_list("0.5,0.5", "adapter_weights", float, key=None) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="is there twice"):
        split_list("http://a/v1,http://a/v1/", "base_url", lambda url: url.rstrip("/"))
    with pytest.raises(ValueError, match="could not convert"):
        split_list("0.5,x", "adapter_weights", float)


def test_one_and_many() -> None:
    said = [counted(number, "entry", "entries") for number in (0, 1, 2, 1200)]
    assert said == ["0 entries", "1 entry", "2 entries", "1,200 entries"]
    assert counted(3, "older one") == "3 older ones"


def test_ids_are_as_short_as_tells_them_apart() -> None:
    one, other = "0123456789abcdef" * 2, "0123456789" + "f" * 22
    assert shortened(f"{one} (eval base)") == "01234567 (eval base)"
    assert shortened(f"{one}: {other}, {one}") == "0123456789a: 0123456789f, 0123456789a"
    assert shortened("seed 1234567890, a deadbeef") == "seed 1234567890, a deadbeef", "neither is an id"
