"""Stands for vLLM: `vllm serve` as far as skippy talks to it, on the standard library alone.

What it is to do wrong stands in the JSON file that FAKE_VLLM names:
    says         printed at once
    dies         dies with this text before it is healthy
    stubborn     ignores SIGTERM, and leaves a child in its group
    dies_after   answers so many chats, then is killed; only as long as the file `alive` beside the JSON says so
    max_model_len  said of every model
    no_plugin    does not load skippy's
    logprobs     model → {prompt tokens as text → log-probabilities of its tokens but the first}
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PLAN_FILE = Path(os.environ.get("FAKE_VLLM", os.devnull))
PLAN = json.loads(PLAN_FILE.read_text() or "{}") if PLAN_FILE.is_file() else {}
LIMIT = {key: PLAN[key] for key in ("max_model_len",) if key in PLAN}
LOCK = threading.Lock()
answered = 0


def values_of(option):
    """The words behind an option, up to the next one."""
    words = sys.argv[sys.argv.index(option) + 1 :] if option in sys.argv else []
    ends = [index for index, word in enumerate(words) if word.startswith("--")]
    return words[: ends[0]] if ends else words


NAMES = values_of("--served-model-name") + [json.loads(item)["name"] for item in values_of("--lora-modules")]


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
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
        if self.path == "/health":
            self.reply(200, {})
        elif self.path == "/v1/models":
            self.reply(200, {"data": [{"id": name, "owned_by": "vllm"} | LIMIT for name in NAMES]})
        else:
            self.reply(404, {"error": {"message": "no such page"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] not in NAMES:
            self.reply(404, {"error": {"message": f"The model {body['model']} does not exist."}})
        elif self.path == "/v1/completions":
            known = PLAN.get("logprobs", {}).get(body["model"], {})
            found = [None, *known.get(json.dumps(body["prompt"]), [])]
            logprobs = {"token_logprobs": found, "tokens": [""] * len(found)}
            choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": logprobs}
            self.reply(
                200, {"id": "x", "object": "text_completion", "created": 0, "model": "", "choices": [choice]}
            )
        else:
            self.chat(body)

    def chat(self, body):
        global answered
        with LOCK:
            answered += 1
            alive = PLAN_FILE.with_name("alive")
            if "dies_after" in PLAN and answered > PLAN["dies_after"] and alive.is_file():
                if alive.read_text() == "once":
                    alive.unlink()
                say("RuntimeError: CUDA error: device-side assert triggered")
                os.kill(os.getpid(), signal.SIGKILL)
        asked = [body["model"], body["messages"][-1]["content"], body["seed"], body["max_tokens"]]
        text = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
        self.reply(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "", "choices": [choice],
                         "usage": usage})  # fmt: skip


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def main():
    say(PLAN.get("says", "INFO loading weights"))
    if os.environ.get("SKIPPY_VLLM_NOISE") == "counter" and not PLAN.get("no_plugin"):
        say("INFO skippy draws the tokens of seeded requests, all rows at once")
    if "dies" in PLAN:
        say(PLAN["dies"])
        sys.exit(1)
    if PLAN.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        worker = subprocess.Popen(["sleep", "60"])
        say(f"worker {worker.pid}")
    time.sleep(PLAN.get("seconds", 0))
    Server(("127.0.0.1", int(values_of("--port")[0])), Handler).serve_forever()


if __name__ == "__main__":
    main()
