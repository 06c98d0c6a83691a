"""A talk: what was said, who answers, and the commands a person types; no terminal in here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from skippy.errors import SkippyError, nearest
from skippy.serving.room import Offer, Room

HELP = """/model NAME    go on with another model; the talk stays
/models        what can be asked
/system TEXT   a system text from now on; without a text, none
/clear         begin anew
/save FILE     write the talk to FILE as JSON
/help          this list
/quit          end; so does Ctrl-D. Ctrl-C stops an answer"""


class Ended(Exception):
    """The person has had enough."""


@dataclass
class Conversation:
    """One talk."""

    room: Room  # who there is to talk to
    offer: Offer  # who answers
    system: str = ""  # system text; empty: none
    # what was said, by whom: role, content, and the model that answered
    turns: list[dict[str, str]] = field(default_factory=list)
    _asked: dict[str, int] = field(default_factory=dict)

    def ask(self, text: str, show: Callable[[str], None]) -> str:
        """Ask, show the answer as it comes, and remember both; an answer that breaks off is forgotten.

        A question asked again gets the next sample, as the samples of an evaluation follow one another.

        Raises:
            BackendError: there is no whole answer.
        """
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages += [{"role": turn["role"], "content": turn["content"]} for turn in self.turns]
        messages.append({"role": "user", "content": text})
        index = self._asked.get(text, 0)
        said = ""
        try:
            for piece in self.room.stream(self.offer, messages, index):
                said += piece
                show(piece)
        except KeyboardInterrupt:
            show(" …")
        self._asked[text] = index + 1
        self.turns.append({"role": "user", "content": text})
        self.turns.append({"role": "assistant", "content": said, "model": self.offer.name})
        return said

    def command(self, line: str) -> str:
        """Carry out a line that begins with a slash; what to tell the person.

        Raises:
            Ended: it was /quit.
        """
        word, _, rest = line.partition(" ")
        act = COMMANDS.get(word)
        if act is None:
            near = nearest(word, COMMANDS)
            return (
                f"There is no command {word}."
                + (f" Did you mean {near}?" if near else "")
                + " /help lists them."
            )
        try:
            return act(self, rest.strip())
        except SkippyError as error:
            return str(error)

    def _model(self, name: str) -> str:
        if not name:
            return f"{self.offer.name} answers. /model NAME takes another: {', '.join(self.room.choice)}"
        self.offer = self.room.offers([name])[0]
        return f"{self.offer.name} answers from now on" + (
            f" ({self.offer.source})" if self.offer.source else ""
        )

    def _models(self, _: str) -> str:
        return "\n".join(f"{'*' if name == self.offer.name else ' '} {name}" for name in self.room.choice)

    def _system(self, text: str) -> str:
        self.system = text
        return "The system text is set." if text else "There is no system text now."

    def _clear(self, _: str) -> str:
        self.turns.clear()
        self._asked.clear()
        return "Begun anew."

    def _save(self, path: str) -> str:
        if not path:
            return "Save where? /save talk.json"
        content = {"model": self.offer.name, "system": self.system, "messages": self.turns}
        target = Path(path).expanduser()
        try:
            target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            return f"{target} cannot be written: {error.strerror or error}. Choose another place."
        return f"{len(self.turns)} messages are in {target}."

    def _help(self, _: str) -> str:
        return HELP

    def _quit(self, _: str) -> str:
        raise Ended


COMMANDS: Mapping[str, Callable[[Conversation, str], str]] = {
    "/model": Conversation._model,
    "/models": Conversation._models,
    "/system": Conversation._system,
    "/clear": Conversation._clear,
    "/save": Conversation._save,
    "/help": Conversation._help,
    "/quit": Conversation._quit,
}
