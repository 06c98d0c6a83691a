"""The backend against real servers on loopback: one that misbehaves on request, and `transformers serve`."""

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from skippy.config import EvalConfig
from skippy.core.answers import extract_integer
from skippy.core.sampling import PRESETS, Sampling
from skippy.errors import BackendError
from skippy.lab.paths import LAB_CHECKPOINT
from skippy.models import openai_backend
from skippy.models.dialects import EXTENDED, PLAIN, TRANSFORMERS, VLLM
from skippy.models.generation import Request
from skippy.models.loading import load_model, load_tokenizer
from skippy.models.openai_backend import OpenAIBackend
from skippy.models.transformers_backend import TransformersBackend
from skippy.stages import evaluate

GREEDY = Sampling(temperature=0, max_tokens=40, name="greedy")


class Server(ThreadingHTTPServer):
    """Answers chat requests by echoing them; keeps what it was asked, and how many at once.

    `only` names the words of the requests that `refuse` and `reason` are about; without it, they are about all.
    """

    daemon_threads = True

    def __init__(self, owner="vllm", **answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.owner, self.answers = owner, answers
        self.asked, self.keys, self.in_flight, self.peak, self.connections = [], [], 0, 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.connections += 1

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        self.server.keys.append(self.headers["Authorization"])
        if self.path == "/v1/models":
            self.reply(200, {"data": [{"id": "m", "owned_by": self.server.owner}]})
        elif self.path == "/openapi.json" and self.server.owner == "transformers":
            self.reply(200, {"paths": {"/load_model": {}}})
        else:
            self.reply(404, {"error": {"message": "no such page"}})

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.keys.append(self.headers["Authorization"])
            number = len(server.asked)
            server.in_flight += 1
            server.peak = max(server.peak, server.in_flight)
        is_meant = server.answers.get("only", "") in body["messages"][-1]["content"]
        time.sleep(server.answers.get("seconds", 0.02))
        with server.lock:
            server.in_flight -= 1
        if number <= server.answers.get("failures", 0):
            self.reply(503, {"error": {"message": "overloaded"}})
        elif body["model"] != "m":
            self.reply(404, {"error": {"message": f"The model {body['model']} does not exist."}})
        elif "refuse" in server.answers and is_meant:
            self.reply(400, {"error": {"message": "bad request: " + server.answers["refuse"]}})
        else:
            text = body["messages"][-1]["content"] + f" #{body['seed']}"
            message = {"role": "assistant", "content": text} | server.answers.get("message", {})
            reason = server.answers.get("reason", "stop") if is_meant else "stop"
            choice = {"index": 0, "message": message, "finish_reason": reason}
            if "body" in server.answers and is_meant:
                self.reply(200, server.answers["body"])
                return
            usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
            answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            self.reply(200, answer | ({} if server.answers.get("no_usage") else {"usage": usage}))


@contextmanager
def serving(**options):
    server = Server(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def requests(count=6):
    return [Request(f"r{n}", ({"role": "user", "content": f"say {n}"},), seed=n) for n in range(count)]


def collect(backend, asked, sampling=GREEDY):
    made = list(backend.generate(asked, sampling))
    assert len({each.id for each in made}) == len(made)
    return {each.id: each for each in made}


def test_each_request_gets_its_own_answer_with_bounded_concurrency():
    with serving() as server:
        made = collect(OpenAIBackend(server.url, "m", concurrency=4), requests(20))
        assert {id_: each.text for id_, each in made.items()} == {f"r{n}": f"say {n} #{n}" for n in range(20)}
        assert {each.tokens for each in made.values()} == {5}
        assert 2 <= server.peak <= 4
        assert len(server.asked) == 20


def test_connections_are_kept():
    with serving(seconds=0) as server:
        collect(OpenAIBackend(server.url, "m", concurrency=3), requests(40))
        assert server.connections <= 3 + 1  # and one to ask who it is


def test_a_question_asked_again_is_rendered_once(tokenizer, monkeypatch):
    rendered = []
    render = openai_backend.render_prompt
    monkeypatch.setattr(
        openai_backend, "render_prompt", lambda *given: rendered.append(given) or render(*given)
    )
    with serving(seconds=0) as server:
        asked = [replace(one, id=f"{one.id}/{k}", seed=k) for one in requests(2) for k in range(5)]
        made = collect(OpenAIBackend(server.url, "m", tokenizer=tokenizer), asked)
    assert {each.text for each in made.values()} == {f"say {n} #{k}" for n in range(2) for k in range(5)}
    assert len(rendered) == 2


def test_streams_as_answers_come():
    with serving(seconds=0.1) as server:
        made = OpenAIBackend(server.url, "m", concurrency=1).generate(requests(50), GREEDY)
        next(made)
        assert len(server.asked) < 10
        made.close()
        asked = len(server.asked)
        time.sleep(0.3)
        assert len(server.asked) <= asked + 1, "closing did not stop the requests"


@pytest.mark.parametrize(
    ("owner", "dialect", "sampling", "is_supported", "sent"),
    [
        ("vLLM", VLLM, PRESETS["qwen3vl-instruct"], True, {"top_k": 40, "presence_penalty": 2.0}),
        (
            "vllm",
            VLLM,
            Sampling(),
            True,
            {"top_k": -1, "temperature": 1.0, "top_p": 1.0, "max_tokens": 256},
        ),
        ("sglang", EXTENDED, Sampling(top_k=7), True, {"top_k": 7}),
        ("someone", PLAIN, Sampling(top_p=0.9), True, {"top_p": 0.9, "max_tokens": 256}),
        ("someone", PLAIN, Sampling(top_k=7), False, {}),
        ("transformers", TRANSFORMERS, Sampling(top_k=7), True, {"max_tokens": 256}),
        ("transformers", TRANSFORMERS, Sampling(presence_penalty=1.0), False, {}),
    ],
)
def test_dialects(owner, dialect, sampling, is_supported, sent):
    with serving(owner=owner) as server:
        backend = OpenAIBackend(server.url, "m")
        assert backend.dialect is dialect
        assert backend.supports(sampling) == is_supported
        collect(backend, requests(1), sampling)
        assert sent.items() <= server.asked[0].items()
        assert server.asked[0]["seed"] == 0


@pytest.mark.parametrize(
    ("sampling", "config"),
    [
        (
            Sampling(0.6, 0.9, 7, max_tokens=30),
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 7},
        ),
        (Sampling(0.0, 0.9, 7, max_tokens=30), {"do_sample": False}),
    ],
)
def test_transformers_serve_is_told_by_a_generation_config(sampling, config):
    with serving(owner="transformers") as server:
        collect(OpenAIBackend(server.url, "m"), requests(1), sampling)
        assert json.loads(server.asked[0]["generation_config"]) == {"max_new_tokens": 30, **config}


def test_the_end_of_the_url_the_key_and_a_long_seed_are_what_servers_take():
    with serving() as server:
        asked = [replace(requests(1)[0], seed=(5 << 31) + 7)]
        backend = OpenAIBackend(server.url + "/", "m", api_key="secret")
        assert backend.dialect is VLLM
        collect(backend, asked)
        assert [body["seed"] for body in server.asked] == [(5 << 31) + 7]
        assert server.keys == ["Bearer secret"] * 2  # who it is, and one answer


def test_an_answer_that_was_cut_off_says_so():
    with serving(reason="length", only="say 1") as server:
        made = collect(OpenAIBackend(server.url, "m"), requests(3))
    assert [made[f"r{n}"].finish_reason for n in range(3)] == ["stop", "length", "stop"]


def test_failures_that_pass_are_retried():
    with serving(failures=2) as server:
        made = collect(OpenAIBackend(server.url, "m", concurrency=1, retries=3), requests(2))
        assert len(made) == 2
        assert len(server.asked) == 4


def test_failures_that_stay_are_an_error_after_bounded_retries():
    with serving(failures=10**6) as server:
        with pytest.raises(BackendError, match="overloaded"):
            collect(OpenAIBackend(server.url, "m", concurrency=1, retries=1), requests(5))
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("options", "model", "words"),
    [
        ({}, "ghost", "does not serve this model"),
        ({"refuse": "too long"}, "m", "too long"),
        ({"reason": "tool_calls"}, "m", "tool_calls"),
        ({"no_usage": True}, "m", "usage missing"),
        ({"reason": None}, "m", "finish_reason 'None'"),
        ({"reason": "eos"}, "m", "finish_reason 'eos'"),
        ({"message": {"content": 7}}, "m", "content 7"),
        ({"message": {"content": [{"type": "image_url"}]}}, "m", "part of type 'image_url'"),
        ({"body": []}, "m", "no chat completion"),
        ({"body": "sign in first"}, "m", "sign in first"),
        ({"body": {"choices": []}}, "m", "no choice"),
        ({"body": {"choices": [{"finish_reason": "stop"}]}}, "m", "no choice with a message"),
        ({"seconds": 2.0}, "m", "in time"),
    ],
)
def test_errors(options, model, words):
    with serving(**options) as server:
        backend = OpenAIBackend(server.url, model, retries=0, timeout_seconds=0.7)
        with pytest.raises(BackendError, match=words) as caught:
            collect(backend, requests(2))
        assert server.url in str(caught.value)


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    backend = OpenAIBackend(url, "m", retries=0)
    for act in (lambda: backend.supports(GREEDY), lambda: collect(backend, requests(1))):
        with pytest.raises(BackendError, match="cannot be reached"):
            act()


def test_thinking_that_the_server_cut_out_is_put_back():
    with serving(message={"content": None, "reasoning_content": "hm"}, reason="length") as server:
        assert collect(OpenAIBackend(server.url, "m"), requests(1))["r0"].text == "<think>hm"
    with serving(message={"content": "42", "reasoning": "hm"}) as server:
        assert collect(OpenAIBackend(server.url, "m"), requests(1))["r0"].text == "<think>hm</think>42"


@pytest.mark.parametrize("only", ["say 0", "say 3"])
@pytest.mark.parametrize(
    ("refusing", "reason"),
    [
        ({"refuse": "prompt is too long"}, "refused"),
        ({"reason": "content_filter"}, "content_filter"),
        ({"reason": "tool_calls"}, "refused"),
    ],
)
def test_a_single_refusal_is_a_sample_without_text(refusing, reason, only, caplog):
    with serving(**refusing, only=only) as server:
        made = collect(OpenAIBackend(server.url, "m", concurrency=2, retries=0), requests())
    assert len(made) == 6
    silent = [each for each in made.values() if each.finish_reason != "stop"]
    assert [(each.id, each.text, each.finish_reason) for each in silent] == [(f"r{only[-1]}", "", reason)]
    assert extract_integer(silent[0].text).status == "no_answer"
    told = refusing.get("refuse", refusing.get("reason"))
    assert (told in caplog.text) == (reason == "refused")


def test_a_server_that_refuses_its_first_batch_is_asked_wrongly():
    """The twin: nothing is handed out that would be kept as a sample."""
    with serving(refuse="no such parameter") as server:
        made = OpenAIBackend(server.url, "m", concurrency=3, retries=0).generate(requests(20), GREEDY)
        with pytest.raises(BackendError, match="no such parameter") as caught:
            next(made)
        assert caught.value.next_step
        assert len(server.asked) < 20


def test_a_filtered_answer_needs_no_number_of_tokens():
    with serving(reason="content_filter", no_usage=True) as server:
        made = collect(OpenAIBackend(server.url, "m"), requests(1))["r0"]
    assert (made.tokens, made.finish_reason) == (0, "content_filter")


def test_refusals_after_an_answer_never_stop_the_rest():
    with serving(refuse="too long", only="long") as server:
        backend = OpenAIBackend(server.url, "m", concurrency=1, retries=0)
        assert len(collect(backend, requests(1))) == 1
        long = [Request(f"l{n}", ({"role": "user", "content": "a long one"},), seed=n) for n in range(8)]
        assert {each.finish_reason for each in collect(backend, long).values()} == {"refused"}


@pytest.fixture
def thinker(tokenizer):
    opening = copy.deepcopy(tokenizer)
    opening.chat_template = tokenizer.chat_template + "<think>\n"
    return opening


@pytest.mark.parametrize(
    ("content", "reason", "is_opened", "status"),
    [
        ("it is 42.</think> \\boxed{42}", "stop", True, "boxed"),
        ("maybe \\boxed{42}, or", "length", True, "unclosed_think"),
        ("\\boxed{42}", "stop", False, "boxed"),  # the server dropped the thought
        ("<think>hm</think>\\boxed{42}", "length", False, "boxed"),
    ],
)
def test_a_thought_that_the_template_opened_is_open_in_the_completion(
    thinker, content, reason, is_opened, status
):
    with serving(message={"content": content}, reason=reason) as server:
        text = collect(OpenAIBackend(server.url, "m", tokenizer=thinker), requests(1))["r0"].text
    assert text == ("<think>" if is_opened else "") + content
    assert extract_integer(text).status == status


def test_without_a_thought_in_the_template_a_cut_answer_is_an_answer(tokenizer):
    """The twin: being cut off is no sign of thinking by itself."""
    with serving(message={"content": "so \\boxed{42}, or"}, reason="length") as server:
        for known in (None, tokenizer):
            text = collect(OpenAIBackend(server.url, "m", tokenizer=known), requests(1))["r0"].text
            assert extract_integer(text).value == 42


def test_no_requests():
    assert collect(OpenAIBackend("http://127.0.0.1:1/v1", "m"), []) == {}


def write_language_model(directory):
    """The lab without its vision tower: `transformers serve` wants an image processor for the whole of it."""
    config = json.loads((LAB_CHECKPOINT / "config.json").read_text())["text_config"]
    rope = {"rope_type": "default", "rope_theta": config["rope_parameters"]["rope_theta"]}
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = (
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
    )
    kept = {name: config[name] for name in (*same, *more) if name in config}
    twin = Qwen3ForCausalLM(Qwen3Config(**{"tie_word_embeddings": True, **kept}, rope_parameters=rope))
    tensors = load_file(LAB_CHECKPOINT / "model.safetensors")
    text = {key.replace("language_model.", ""): each for key, each in tensors.items() if "visual" not in key}
    twin.load_state_dict({key: tensor.float() for key, tensor in text.items()}, strict=False)
    twin.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(LAB_CHECKPOINT / name, directory / name)
    return directory


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`transformers serve` on the lab's language model: its endpoint, and the model's name there."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "model").mkdir()
    path = str(write_language_model(folder / "model"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", path, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    program = "from transformers.cli.transformers import main; main()"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *command, "--dtype", "float32"],
            stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        try:
            _await(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}/v1", path
        finally:
            process.terminate()
            process.wait(20)


def test_transformers_serve_agrees_with_the_backend_in_process(served):
    url, name = served
    backend = OpenAIBackend(url, name, concurrency=2)
    questions = ("What is 17+5?", "What remains when 22*9+7 is divided by 7?", "How do I sleep better?")
    asked = [Request(f"r{n}", ({"role": "user", "content": q},), seed=n) for n, q in enumerate(questions)]
    assert backend.dialect is TRANSFORMERS
    made = collect(backend, asked)
    local = TransformersBackend(load_model(LAB_CHECKPOINT), load_tokenizer(LAB_CHECKPOINT))
    assert {id_: each.text for id_, each in made.items()} == {
        each.id: each.text for each in local.generate(asked, GREEDY)
    }
    assert {each.finish_reason for each in made.values()} <= {"stop", "length"}


def test_the_eval_stage_through_transformers_serve_is_the_one_in_process(served, tracker, monkeypatch):
    """Greedy answers in one precision: server or not, the samples are the same, and the tag says who made them."""
    # Shorter than the lab's context: an answer that rambles would take a minute.
    monkeypatch.setitem(PRESETS, "greedy", Sampling(temperature=0, max_tokens=100, name="greedy"))
    url, name = served
    asked = EvalConfig(suite="aime", limit=4, samples=1, sampling="greedy", device="cpu")
    through = replace(asked, backend="openai", base_url=url, served_model=name, concurrency=2)
    runs = {config.backend: evaluate.run(config, tracker) for config in (asked, through)}
    lines = {}
    for backend, result in runs.items():
        assert tracker.runs.get(result.run_id).tags["skippy.backend"] == backend
        lines[backend] = tracker.artifacts.path(result.run_id, "samples/aime.jsonl").read_text()
    assert lines["openai"].count("\n") == 4
    assert lines["openai"] == lines["transformers"]
    assert runs["openai"].metrics == runs["transformers"].metrics


def _await(url, process, log, seconds=400.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail("transformers serve did not start:\n" + log.read_text()[-3000:])


@pytest.fixture
def switching(tokenizer):
    made = copy.deepcopy(tokenizer)
    made.chat_template = tokenizer.chat_template + "{% if enable_thinking is defined %}quiet{% endif %}"
    return made


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_a_server_with_a_thinking_switch_is_told_to_leave_thinking_out(switching, tokenizer, owner):
    with serving(owner=owner) as server:
        collect(OpenAIBackend(server.url, "m", tokenizer=switching), requests(1))
        collect(OpenAIBackend(server.url, "m", tokenizer=tokenizer), requests(1))
    told = [asked.get("chat_template_kwargs") for asked in server.asked]
    assert told == [{"enable_thinking": False}, None]


def test_a_server_that_cannot_be_told_is_not_asked(switching):
    with serving(owner="someone") as server:
        with pytest.raises(BackendError, match="cannot be told to leave thinking out") as refusal:
            collect(OpenAIBackend(server.url, "m", tokenizer=switching), requests(1))
        assert "enable_thinking" in refusal.value.found
        assert not server.asked


def test_the_system_text_is_sent_as_the_template_takes_it(tokenizer):
    mistral = copy.deepcopy(tokenizer)
    mistral.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    asked = ({"role": "system", "content": "be brief."}, {"role": "user", "content": "say 0"})
    with serving() as server:
        for each in (mistral, tokenizer):
            collect(OpenAIBackend(server.url, "m", tokenizer=each), [Request("r", asked, 0)])
    assert [body["messages"] for body in server.asked] == [
        [{"role": "user", "content": "be brief.\n\nsay 0"}],
        list(asked),
    ]


def said(tokenizer=None, **options):
    with serving(**options) as server:
        return collect(OpenAIBackend(server.url, "m", tokenizer=tokenizer), requests(1))["r0"].text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "forty"}, {"type": "text", "text": "-two"}], "forty-two"),
        (["forty", "-two"], "forty-two"),
        ([{"type": "output_text", "text": "42"}], "42"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "42"}],
         "<think>hm</think>42"),
        ([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "42"}], "<think>hm</think>42"),
        ([], ""),
        (None, ""),
    ],
)  # fmt: skip
def test_content_in_parts_is_the_text_of_its_parts(content, text):
    assert said(message={"content": content}) == text


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("half \ud83d here", "half \ufffd here"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\udc00\ud800", "\ufffd\ufffd"),
    ],
)
def test_half_a_surrogate_pair_can_be_kept_and_read_again(tmp_path, sent, kept):
    text = said(message={"content": sent})
    assert text == kept
    assert text.encode("utf-8")


def test_a_question_with_half_a_surrogate_pair_is_asked(tokenizer):
    asked = Request("r", ({"role": "user", "content": "half \ud83d"},), 0)
    with serving() as server:
        collect(OpenAIBackend(server.url, "m"), [asked])
    assert server.asked[0]["messages"][0]["content"] == "half \ufffd"


def test_an_answer_that_is_no_answer_loses_none_that_came_before():
    with serving(only="say 3", body={"choices": []}) as server:
        made = OpenAIBackend(server.url, "m", concurrency=1, retries=0).generate(requests(), GREEDY)
        assert [next(made).id for _ in range(3)] == ["r0", "r1", "r2"]
        with pytest.raises(BackendError, match="finished samples are kept"):
            next(made)


MIND = "maybe \\boxed{13}"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (MIND + "</think>It is \\boxed{42}.", "stop"),
        (MIND, "length"),
        (MIND + "</think>", "stop"),
        (MIND + "</think>It is", "length"),
    ],
)
def test_a_reasoning_parser_changes_no_verdict(thinker, raw, reason):
    """`raw` is what the model wrote after the template's opening tag: as it stands, and as a parser hands it over."""
    thought, _, content = raw.partition("</think>")
    parsed = {"content": content or None, "reasoning_content": thought}
    texts = [
        "<think>" + raw,  # in this process
        said(thinker, message={"content": raw}, reason=reason),
        said(thinker, message=parsed, reason=reason),
        said(thinker, message={"content": content or None, "reasoning": thought}, reason=reason),
    ]
    verdicts = {(extract_integer(text).value, extract_integer(text).status) for text in texts}
    assert len(verdicts) == 1
    assert (42 in {value for value, _ in verdicts}) == ("42" in raw)


@pytest.mark.parametrize(("opening", "closing"), [("[THINK]", "[/THINK]"), ("<think>", "</think>")])
def test_the_tag_that_the_template_opened_is_the_one_put_back(tokenizer, opening, closing):
    opened = copy.deepcopy(tokenizer)
    opened.chat_template = tokenizer.chat_template + opening
    assert said(opened, message={"content": f"hm{closing}42"}) == f"{opening}hm{closing}42"
    assert said(opened, message={"content": "hm"}, reason="length") == f"{opening}hm"
    assert said(opened, message={"content": "42"}) == "42"
