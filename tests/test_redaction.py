"""What is a secret, what only looks like one, and that none reaches a message."""

import logging

import pytest

from skippy.errors import SkippyError
from skippy.redaction import (
    CREDENTIALS_VARIABLE,
    RedactingFilter,
    hide_credentials,
    known_secrets,
    redact,
    redact_known,
    reveal_credentials,
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (
        "OPENAI_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        CREDENTIALS_VARIABLE,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUDGE_API_KEY", "correct-horse")
    monkeypatch.setenv("DATABASE", "postgresql://ada:b%40ttery-staple@host/db")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://ada:word@host:80/v1", "http://***@host:80/v1"),
        ("http://ada:w@rd@host/", "http://***@host/"),
        (
            "postgresql+psycopg2://ada:word@host/db?sslmode=require",
            "postgresql+psycopg2://***@host/db?sslmode=require",
        ),
        ("https://token@host/x", "https://***@host/x"),
        (
            "at https://h/x?api_key=abc&limit=3&X-Amz-Signature=ff",
            "at https://h/x?api_key=***&limit=3&X-Amz-Signature=***",
        ),
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer ***"),
        ("the key sk-abcdefghijklmnop1234 is", "the key *** is"),
        ("sent correct-horse to it", "sent *** to it"),
        ("b@ttery-staple and b%40ttery-staple", "*** and ***"),
    ],
)
def test_secrets_are_hidden(text, clean):
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "models:/skippy@champion", "http://host:8000/v1?max_tokens=256", "ada@example.org", "a user@host word",
        "16 tokens, the key question", "http://host/a@b", "",
    ],
)  # fmt: skip
def test_what_only_looks_like_one_stays(text):
    """The twin."""
    assert redact(text) == text


def test_what_models_said_keeps_all_but_the_secrets_of_this_process():
    said = "log in at http://ada:word@host with correct-horse"
    assert redact_known(said) == "log in at http://ada:word@host with ***"


def test_only_secrets_of_the_environment_are_known():
    found = known_secrets(
        {
            "HF_TOKEN": "long-enough", "TOKENIZERS_PARALLELISM": "perhaps-not", "X_TOKEN": "short",
            "MAX_TOKEN": "262144",
            "AWS_SECRET_ACCESS_KEY": "aws-secret-key", "SECRET_FILE": "/run/secret", "PATH": "/usr/bin:/bin",
        }
    )  # fmt: skip
    assert found == ["aws-secret-key", "long-enough"]


def test_a_variable_that_another_thread_takes_away_meanwhile_is_passed_over():
    """A training on a GPU died of it: MLflow's telemetry removes one of its own."""

    class Vanishing(dict):
        def items(self):
            raise KeyError("_MLFLOW_TELEMETRY_SESSION_ID")

        def get(self, name, default=None):
            return default if name == "GONE" else super().get(name, default)

    assert known_secrets(Vanishing({"GONE": "x", "HF_TOKEN": "long-enough"})) == ["long-enough"]


def test_no_part_of_an_error_holds_one():
    error = SkippyError(
        "http://a:word@h", where="correct-horse", expected="x", found="?token=abcd", next_step="y"
    )
    assert str(error) == "http://***@h\n  where: ***\n  expected: x\n  found: ?token=***\n  next: y"
    assert (error.what, error.where, error.found) == ("http://***@h", "***", "?token=***")


def test_nor_a_log_line(caplog):
    record = logging.LogRecord("x", logging.INFO, "f", 1, "asking %s", ("http://a:word@h",), None)
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "asking http://***@h"


def test_a_child_gets_what_was_typed_by_another_way(monkeypatch):
    typed = {"judge_url": "http://ada:word@h/v1", "base_url": "http://bob:other@h/v1", "k": "16"}
    hidden, variables = hide_credentials(typed)
    assert hidden == {"judge_url": "http://***@h/v1", "base_url": "http://***@h/v1", "k": "16"}
    monkeypatch.setenv(CREDENTIALS_VARIABLE, variables[CREDENTIALS_VARIABLE])
    assert reveal_credentials(hidden) == typed
    assert hide_credentials({"k": "16"})[1] == variables, "a child hands them on"
