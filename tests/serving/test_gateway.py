"""MLflow's gateway before the served lab, as docs/serving.md sets it up, on the tracking server that we pin."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
}
QUESTION = {"messages": [{"role": "user", "content": "How are you today?"}], "seed": 3, "temperature": 0.8}


@pytest.fixture(scope="module")
def tracking_server(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--default-artifact-root",
        str(folder / "art"),
    ]
    environment = os.environ | SETTINGS | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *words],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while not is_up(url):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "the tracking server does not come up"
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(url: str, body: dict[str, Any]) -> str:
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return str(answer.read().decode())


def make_endpoint(server: str, champion: str) -> None:
    """What docs/serving.md says, call by call."""
    api = f"{server}/api/3.0/mlflow/gateway"
    secret = {
        "secret_name": "skippy",
        "provider": "openai",
        "secret_value": {"api_key": "unused"},
        "auth_config": {"api_base": champion},
    }
    made = json.loads(post(f"{api}/secrets/create", secret))["secret"]["secret_id"]
    model = {"name": "champion", "provider": "openai", "model_name": "champion", "secret_id": made}
    model_id = json.loads(post(f"{api}/model-definitions/create", model))["model_definition"][
        "model_definition_id"
    ]
    mapping = {"model_definition_id": model_id, "linkage_type": "PRIMARY", "weight": 1.0}
    post(f"{api}/endpoints/create", {"name": "skippy", "model_configs": [mapping], "usage_tracking": False})


def test_the_gateway_answers_with_the_champion(tracking_server: str, champion: str) -> None:
    make_endpoint(tracking_server, champion)
    direct = json.loads(post(f"{champion}/chat/completions", {"model": "champion", **QUESTION}))
    said = direct["choices"][0]["message"]["content"]
    asked = {"model": "skippy", **QUESTION}
    through = json.loads(post(f"{tracking_server}/gateway/mlflow/v1/chat/completions", asked))
    assert through["choices"][0]["message"]["content"] == said, "the same seed, the same words"
    passed = json.loads(post(f"{tracking_server}/gateway/openai/v1/chat/completions", asked))
    assert passed["choices"][0]["message"]["content"] == said
    events = post(f"{tracking_server}/gateway/mlflow/v1/chat/completions", {**asked, "stream": True})
    chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(pieces) == said
    assert len(pieces) > 3


def test_without_the_settings_a_loopback_address_is_refused(champion: str, monkeypatch) -> None:
    """The reason for the two variables in the docs: MLflow refuses such addresses by default."""
    from mlflow.environment_variables import (
        MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS,
        MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES,
    )

    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    assert MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES.get() == ["https"]
    assert not MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS.get()


def test_the_docs_say_what_the_test_does() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()
    for word in (
        *SETTINGS,
        "secrets/create",
        "model-definitions/create",
        "endpoints/create",
        '"provider": "openai"',
    ):
        assert word in text, word
