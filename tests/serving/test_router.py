"""The door: our names, the key, streams as they come, a swap that loses nothing, an engine that dies."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from skippy.errors import BackendError, ConfigError
from skippy.serving.router import Door, build_router, claim_port, is_loopback, require_key
from skippy.serving.routes import Routes


class FakeEngine:
    """Answers with its own word, in two pieces; waits between them until it is allowed to go on."""

    def __init__(self, word: str) -> None:
        self.word, self.is_running, self.stopped = word, True, 0
        self.gate, self.has_begun = threading.Event(), threading.Event()
        self.gate.set()
        self.asked: list[dict] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                engine.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in (f"data: {engine.word}\n\n", "data: [DONE]\n\n"):
                    self.wfile.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
                    self.wfile.flush()
                    engine.has_begun.set()
                    engine.gate.wait(20)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def stop(self) -> None:
        self.stopped += 1
        self._server.shutdown()
        self._server.server_close()

    def fault(self, how: str) -> BackendError:
        return BackendError(f"{self.word} {how}.")


@contextmanager
def open_door(routes: Routes, **options: str) -> Iterator[httpx2.Client]:
    listener = claim_port("127.0.0.1", 0)
    door = Door(build_router(routes, **options), listener)
    door.open()
    try:
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", trust_env=False
        ) as client:
            yield client
    finally:
        door.close()
        routes.close()


def ask(client: httpx2.Client, model: str | None = "v4") -> httpx2.Response:
    return client.post("/v1/chat/completions", json={"model": model, "messages": []})


def test_each_name_reaches_its_engine_and_the_list_says_what_each_is() -> None:
    routes, three, four = Routes(), FakeEngine("three"), FakeEngine("four")
    routes.put(three, {"v3": {"owned_by": "skippy"}})
    routes.put(four, {"v4": {"owned_by": "vllm", "source": "models:/skippy/4"}})
    with open_door(routes) as client:
        assert "three" in ask(client, "v3").text
        assert "four" in ask(client, "v4").text
        listed = client.get("/v1/models").json()["data"]
        assert [(one["id"], one["owned_by"]) for one in listed] == [("v3", "skippy"), ("v4", "vllm")]
        assert client.get("/health").json()["models"] == ["v3", "v4"]
        assert routes.requests() == {"v3": 1, "v4": 1}
        unknown = ask(client, "v5")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["message"] == "There is no model 'v5' here. Served: v3, v4."
        assert unknown.json()["error"]["code"] == "model_not_found"
        assert ask(client, None).status_code == 404, "with two models one has to be named"
        assert client.post("/v1/chat/completions", content=b"no json").status_code == 400
        assert client.post("/v1/audio/speech", json={"input": "x"}).status_code == 404
    assert (three.stopped, four.stopped) == (1, 1)
    assert three.asked[0]["model"] == "v3"


def test_a_base_under_a_prompt_gets_it_before_every_request() -> None:
    routes, engine = Routes(), FakeEngine("base")
    routes.put(engine, {"base": {}, "prompt": {"system_prompt": "Be rude."}})
    talk = [{"role": "user", "content": "Hello"}]
    with open_door(routes) as client:

        def sent(name: str, messages: object) -> object:
            answer = client.post("/v1/chat/completions", json={"model": name, "messages": messages})
            return (
                engine.asked.pop()["messages"]
                if answer.status_code == 200
                else answer.json()["error"]["message"]
            )

        assert sent("base", talk) == talk
        assert sent("prompt", talk) == [{"role": "system", "content": "Be rude."}, *talk]
        own = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
        assert sent("prompt", [own, *talk])[0]["content"] == "Be rude.\n\nBe brief.", (
            "as an evaluation has it"
        )
        twice = [{"role": "system", "content": "Be rude.\n\nBe brief."}, *talk]
        assert sent("prompt", twice) == twice, "an evaluation through the server has put it there"
        assert "The request has no messages." in sent("prompt", [])
        assert "not text alone" in sent("prompt", [{"role": "user", "content": [{"type": "image_url"}]}])
        assert sent("base", []) == [], "the engine refuses that itself"
        bare = client.post("/v1/completions", json={"model": "prompt", "prompt": "Hello"})
        assert bare.status_code == 400
        assert "its base under a system prompt" in bare.json()["error"]["message"]
        assert client.post("/v1/completions", json={"model": "base", "prompt": "Hello"}).status_code == 200
        assert routes.in_flight() == 0
        listed = {one["id"]: one.get("system_prompt") for one in client.get("/v1/models").json()["data"]}
        assert listed == {"base": None, "prompt": "Be rude."}


def test_a_request_without_the_key_is_refused_and_health_needs_none() -> None:
    routes = Routes()
    routes.put(FakeEngine("four"), {"v4": {}})
    with open_door(routes, api_key="open sesame") as client:
        assert ask(client).status_code == 401
        assert client.get("/v1/models").json()["error"]["code"] == "invalid_api_key"
        assert client.get("/health").status_code == 200
        client.headers["authorization"] = "Bearer open sesame"
        assert ask(client).status_code == 200
        client.headers["authorization"] = "Bearer open"
        assert ask(client).status_code == 401


def test_a_stream_passes_piece_by_piece() -> None:
    routes, engine = Routes(), FakeEngine("four")
    routes.put(engine, {"v4": {}})
    engine.gate.clear()
    with (
        open_door(routes) as client,
        client.stream("POST", "/v1/chat/completions", json={"model": "v4"}) as answer,
    ):
        pieces = answer.iter_text()
        assert next(pieces) == "data: four\n\n", "before the engine has finished"
        assert routes.in_flight() == 1
        engine.gate.set()
        assert "".join(pieces) == "data: [DONE]\n\n"
    assert routes.in_flight() == 0


def test_a_client_that_goes_away_is_not_waited_for() -> None:
    routes, engine = Routes(), FakeEngine("four")
    routes.put(engine, {"v4": {}})
    engine.gate.clear()
    with open_door(routes) as client:
        with client.stream("POST", "/v1/chat/completions", json={"model": "v4"}) as answer:
            next(answer.iter_text())
        until = time.monotonic() + 10
        while routes.in_flight() and time.monotonic() < until:
            time.sleep(0.02)
        assert routes.in_flight() == 0
        engine.gate.set()


def test_a_swap_finishes_what_is_in_flight_and_sends_the_next_request_to_the_new_one() -> None:
    routes, old, new = Routes(), FakeEngine("old"), FakeEngine("new")
    routes.put(old, {"champion": {"source": "models:/skippy/1"}})
    old.gate.clear()
    with open_door(routes) as client:
        texts: list[str] = []
        asking = threading.Thread(target=lambda: texts.append(ask(client, "champion").text))
        asking.start()
        assert old.has_begun.wait(20)
        routes.put(new, {"champion": {"source": "models:/skippy/2"}})
        assert routes.retire() == 1, "the old engine still answers"
        assert old.stopped == 0
        assert "new" in ask(client, "champion").text
        old.gate.set()
        asking.join(20)
        assert texts == ["data: old\n\ndata: [DONE]\n\n"], "nothing of it is lost"
        until = time.monotonic() + 10
        while routes.retire() and time.monotonic() < until:
            time.sleep(0.02)
        assert (old.stopped, new.stopped) == (1, 0)
        assert client.get("/v1/models").json()["data"][0]["source"] == "models:/skippy/2"
        assert routes.requests() == {"champion": 2}


def test_an_engine_that_died_is_told_of() -> None:
    routes, engine = Routes(), FakeEngine("four")
    routes.put(engine, {"v4": {}})
    with open_door(routes) as client:
        assert routes.dead() is None
        engine.stop()
        engine.is_running = False
        answer = ask(client)
        assert answer.status_code == 503
        assert "v4 does not answer" in answer.json()["error"]["message"]
        assert client.get("/health").status_code == 503
        assert routes.dead() is engine
        assert routes.in_flight() == 0


def test_speech_is_handed_on_to_the_voice() -> None:
    voice, routes = FakeEngine("RIFF"), Routes()
    with open_door(routes, voice_url=voice.url) as client:
        assert "RIFF" in client.post("/v1/audio/speech", json={"input": "hello"}).text
        assert client.get("/health").json()["voice"] is True
    assert voice.asked == [{"input": "hello"}]
    voice.stop()


def test_a_taken_port_names_who_listens_and_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BackendError, match=f"Nothing can listen on port {port}") as refusal:
            claim_port("127.0.0.1", port)
    assert "process" in refusal.value.found
    proposed = int(refusal.value.next_step.split("port=")[1].split(",")[0])
    claim_port("127.0.0.1", proposed).close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.168.1.5", False)],
)
def test_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_address_that_is_none_or_not_ours_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="The host has no address") as refusal:
        require_key("nonsense.invalid", "")
    assert refusal.value.found.startswith("host=nonsense.invalid: ")
    with pytest.raises(ConfigError, match="Without an API key"):
        require_key("0.0.0.0", "")
    require_key("0.0.0.0", "a key")
    with pytest.raises(BackendError) as refusal:
        claim_port("192.0.2.1", 8000)  # set aside for documentation: no machine has it
    assert refusal.value.next_step == "pass host=127.0.0.1, or another address of this machine"
