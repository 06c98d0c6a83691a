"""A talk: what is sent, the commands, what a person may mistype."""

from __future__ import annotations

import json

import pytest

from skippy.core.sampling import PRESETS
from skippy.errors import BackendError
from skippy.serving.conversation import COMMANDS, Conversation, Ended
from skippy.serving.room import Offer, Room

OFFERS = [
    Offer("v3", "http://x/v1", PRESETS["lab"]),
    Offer("v4", "http://x/v1", PRESETS["lab"], "models:/skippy/4"),
]


class ScriptedRoom(Room):
    """Answers with its name and what it was asked; remembers how."""

    def __init__(self) -> None:
        super().__init__(OFFERS)
        self.heard: list[tuple[list[dict[str, str]], int]] = []

    def stream(self, offer, messages, index=0):
        self.heard.append(([dict(message) for message in messages], index))
        yield f"{offer.name}: "
        if messages[-1]["content"] == "stop me":
            raise KeyboardInterrupt
        if messages[-1]["content"] == "fail":
            raise BackendError("v4 gave no whole answer.")
        yield messages[-1]["content"]


@pytest.fixture
def talk() -> Conversation:
    return Conversation(ScriptedRoom(), OFFERS[0])


def test_the_talk_is_sent_with_every_question(talk: Conversation) -> None:
    shown: list[str] = []
    talk.command("/system You are a beer can.")
    assert talk.ask("hello", shown.append) == "v3: hello"
    talk.command("/model v4")
    talk.ask("and now?", shown.append)
    messages, _ = talk.room.heard[-1]
    assert [message["content"] for message in messages] == [
        "You are a beer can.",
        "hello",
        "v3: hello",
        "and now?",
    ]
    assert shown == ["v3: ", "hello", "v4: ", "and now?"]


def test_the_same_question_again_draws_the_next_sample(talk: Conversation) -> None:
    for text in ("hello", "hello", "other"):
        talk.ask(text, lambda _: None)
    assert [index for _, index in talk.room.heard] == [0, 1, 0]


def test_an_answer_that_is_stopped_is_kept_and_one_that_fails_is_not(talk: Conversation) -> None:
    assert talk.ask("stop me", lambda _: None) == "v3: "
    with pytest.raises(BackendError):
        talk.ask("fail", lambda _: None)
    assert [turn["content"] for turn in talk.turns] == ["stop me", "v3: "]


def test_every_command_answers(talk: Conversation, tmp_path) -> None:
    talk.ask("hello", lambda _: None)
    assert all(word in talk.command("/help") for word in COMMANDS)
    assert "v4 answers from now on (models:/skippy/4)" in talk.command("/model v4")
    assert talk.command("/models") == "  v3\n* v4"
    assert "v4 answers" in talk.command("/model")
    assert talk.command(f"/save {tmp_path}/talk.json").startswith("2 messages")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [turn["content"] for turn in saved["messages"]] == ["hello", "v3: hello"]
    assert saved["messages"][1]["model"] == "v3"
    assert talk.command("/save") == "Save where? /save talk.json"
    assert "cannot be written" in talk.command("/save /nowhere/at/all.json")
    assert talk.command("/clear") == "Begun anew."
    assert talk.turns == []
    with pytest.raises(Ended):
        talk.command("/quit")


def test_what_is_mistyped_is_answered(talk: Conversation) -> None:
    assert talk.command("/modle v4") == "There is no command /modle. Did you mean /model? /help lists them."
    assert talk.command("/xyzzy") == "There is no command /xyzzy. /help lists them."
    refused = talk.command("/model v5")
    assert "The server does not serve 'v5'" in refused
    assert "skippy serve --arms v3,v4,v5" in refused
    assert talk.offer.name == "v3", "who answered goes on"


def test_a_room_of_our_own_loads_what_it_lacks_together() -> None:
    loaded: list[list[str]] = []

    def load(names):
        loaded.append(list(names))
        return [Offer(name, "http://x/v1") for name in names]

    room = Room([], load, loadable=["base", "champion"])
    assert Conversation(room, Offer("v3", "")).command("/models") == "  base\n  champion"
    assert [offer.name for offer in room.offers(["base", "v4"])] == ["base", "v4"]
    room.offers(["v4", "base"])
    room.offers(["v3", "v4"])
    assert loaded == [["base", "v4"], ["v3"]]
