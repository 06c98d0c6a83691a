"""Who there is to talk to; and that a talk and an evaluation through a server draw the samples of an evaluation."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from entrypoints import talking
from entrypoints.__main__ import cli
from skippy.characters.loader import load_character
from skippy.config import ServeConfig
from skippy.core.sampling import PRESETS
from skippy.errors import BackendError, ConfigError
from skippy.evaluation.suites import banal_questions, requests_for
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models.loading import load_model
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.transformers_backend import TransformersBackend
from skippy.resolve.files import check_files, require_urls
from skippy.serving.room import Room, offers_at
from skippy.serving.router import claim_port
from tests.loopback import loopback

DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def evaluated(lab_voice) -> dict[str, str]:
    """Prompt → its first sample in an evaluation, in process."""
    questions = banal_questions(load_character("skippy"), ("plain",))[:3]
    wanted = requests_for(questions, 1, PRESETS["lab"], "digest", set())
    backend = TransformersBackend(load_model(LAB_CHECKPOINT), lab_voice.tokenizer)
    prompts = {request.id: question.prompt for question, request in wanted.values()}
    made = backend.generate([request for _, request in wanted.values()], PRESETS["lab"])
    return {prompts[one.id]: one.text for one in made}


def test_a_held_out_prompt_in_a_chat_is_the_sample_of_the_evaluation(champion: str, evaluated) -> None:
    (offer,) = offers_at(champion)
    assert (offer.name, offer.source, offer.sampling) == ("champion", "lab", PRESETS["lab"])
    room = Room([offer])
    for prompt, text in evaluated.items():
        messages = [{"role": "user", "content": prompt}]
        assert "".join(room.stream(offer, messages)) == text
        assert "".join(room.stream(offer, messages, 1)) != text, "the next sample is another"


def test_an_evaluation_through_the_server_is_the_evaluation(champion: str, lab_voice, evaluated) -> None:
    questions = banal_questions(load_character("skippy"), ("plain",))[:3]
    wanted = requests_for(questions, 1, PRESETS["lab"], "digest", set())
    backend = OpenAIBackend(champion, "champion", 4, lab_voice.tokenizer)
    assert backend.supports(replace(PRESETS["lab"], presence_penalty=1.0))
    made = {one.id: one.text for one in backend.generate([r for _, r in wanted.values()], PRESETS["lab"])}
    assert sorted(made.values()) == sorted(evaluated.values())


def test_a_conversation_that_is_too_long_is_one_message(champion: str) -> None:
    (offer,) = offers_at(champion)
    with pytest.raises(BackendError, match="champion gave no whole answer") as refusal:
        list(Room([offer]).stream(offer, [{"role": "user", "content": "x" * 4000}]))
    assert "do not fit into the model's context" in refusal.value.found


def page(status: int, body: bytes):
    """A server that answers everything alike."""
    return loopback(lambda request, asked: (status, body))


def closed_port() -> str:
    listener = claim_port("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    return f"http://127.0.0.1:{port}/v1"


def test_who_listens_is_told_from_nobody() -> None:
    assert offers_at(closed_port()) is None
    for status, body, text in [
        (401, b"{}", "SKIPPY_API_KEY"),
        (200, b"<html>", "--url"),
        (200, b"{}", "--url"),
    ]:
        with page(status, body) as url, pytest.raises(BackendError, match="serves no models") as refusal:
            offers_at(url)
        assert text in refusal.value.next_step
    with page(200, json.dumps({"data": [{"id": "m", "sampling": {"heat": 1}}]}).encode()) as url:
        assert offers_at(url)[0].sampling is None, "of another version"


@contextmanager
def no_room(finder, backend, device):
    yield Room([], lambda names: pytest.fail(f"{names} would be loaded"))


@pytest.mark.parametrize(
    ("wanted", "given", "is_server"),
    [([], True, True), (["champion"], False, True), (["v9"], False, False), (["v9"], True, True)],
)
def test_a_running_server_is_asked_where_it_has_what_is_wanted(
    champion: str, project, monkeypatch, capsys, wanted, given: bool, is_server: bool
) -> None:
    monkeypatch.setattr("skippy.serving.room.own_room", no_room)
    monkeypatch.setattr(talking, "HOME", champion)
    with talking.room_for(wanted, champion if given else "", "lab", "auto", "cpu") as room:
        assert (room.names == ["champion"]) is is_server
    said = capsys.readouterr().err.splitlines()
    if is_server:
        assert said == [f"the server at {champion} is asked"]
    else:
        assert said == [
            f"the server at {champion} serves champion, and not v9; "
            "skippy serve --arms champion,v9 would keep them loaded",
            "loading v9 here …",
        ]


def test_a_server_that_is_named_and_not_there_is_refused() -> None:
    with (
        pytest.raises(BackendError, match="Nobody answers there") as refusal,
        talking.room_for([], closed_port(), "lab", "auto", "cpu"),
    ):
        pass
    assert "skippy serve starts one" in refusal.value.next_step


def test_ask_and_chat_through_a_server(champion: str, evaluated, tmp_path: Path) -> None:
    prompt, text = next(iter(evaluated.items()))
    asked = CliRunner().invoke(
        cli, ["ask", prompt, "--arms", "champion", "--url", champion], terminal_width=200
    )
    assert asked.exit_code == 0, asked.output
    assert text.split()[0] in asked.output
    lines = f"{prompt}\n/save {tmp_path}/talk.json\n/bye\n/quit\nnever read\n"
    talked = CliRunner().invoke(cli, ["chat", "--url", champion], input=lines)
    assert talked.exit_code == 0, talked.output
    assert f"champion {text}" in talked.output
    assert "There is no command /bye" in talked.output
    assert json.loads((tmp_path / "talk.json").read_text())["messages"][1]["content"] == text


def test_nobody_asked_is_refused() -> None:
    asked = CliRunner().invoke(cli, ["ask", "hello", "--arms", ""])
    assert asked.exit_code == 2
    assert "name an arm" in asked.output
    assert CliRunner().invoke(cli, ["ask", "hello", "--arms", " , "]).exit_code == 1


@pytest.mark.parametrize(
    ("url", "is_address"),
    [
        ("nonsense", False),
        ("127.0.0.1:8000", False),
        ("ftp://host/v1", False),
        ("http://", False),
        ("http://host:port/v1", False),
        ("http://host:8000/v1", True),
        ("https://host/v1", True),
        ("http://[::1]:8000/v1", True),
    ],
)
def test_what_is_no_address_is_refused_by_name(url: str, is_address: bool) -> None:
    if is_address:
        require_urls(url, "voice_url")
        return
    with pytest.raises(ConfigError, match="This is no address of a server") as refusal:
        check_files(ServeConfig(voice_url=url))
    assert (refusal.value.where, refusal.value.found) == ("voice_url", repr(url))
    with pytest.raises(ConfigError, match="This is no address of a server"):
        offers_at(url)


def test_every_command_of_the_page_has_the_options_it_is_given() -> None:
    lines = [
        line.split("#")[0].strip() for line in DOCS.read_text().splitlines() if line.startswith("    skippy ")
    ]
    assert len(lines) > 8
    for line in lines:
        _, name, *words = shlex.split(line)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, line
        command.make_context(name, words)  # refuses what it does not have
