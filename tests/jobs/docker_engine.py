"""The API of a Docker engine, as far as MLflow asks it: it knows one image, and pushes it nowhere."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DIGEST = "sha256:" + "ab" * 32
PROGRAM = "#!/bin/sh\ntest $1 = info\n"
"""MLflow looks whether `docker info` works before it speaks to the engine itself."""


class Handler(BaseHTTPRequestHandler):
    """What MLflow asks, in its order: the image, a push of it, and its digest where it was pushed."""

    image: str
    calls: list[str]

    def do_GET(self) -> None:
        """Facts."""
        path = self.path.partition("?")[0]
        described = {"Id": DIGEST, "RepoTags": [self.image]}
        if path.endswith("/version"):
            self._answer({"ApiVersion": "1.44"})
        elif path.endswith("/images/json"):
            self._answer([described])
        elif "/distribution/" in path:
            self._answer({"Descriptor": {"digest": DIGEST}})
        else:
            self._answer(described)

    def do_POST(self) -> None:
        """Work: pull, build, push."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.calls.append(re.sub(r"^/v[\d.]+", "", self.path))
        self._answer({"status": "done"})

    def _answer(self, body: object) -> None:
        text = json.dumps(body).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@contextmanager
def docker(folder: Path, image: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The variables by which clients find the engine and the program, and what was asked of it."""
    folder.mkdir()
    (folder / "docker").write_text(PROGRAM)
    (folder / "docker").chmod(0o755)
    calls: list[str] = []
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (Handler,), {"image": image, "calls": calls})
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {"DOCKER_HOST": f"tcp://127.0.0.1:{server.server_port}", "PATH": str(folder)}, calls
    finally:
        server.shutdown()
        server.server_close()
