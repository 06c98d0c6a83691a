"""A server on this machine that answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOK_SECONDS = 0.02
"""How often it looks whether it is to stop; the library's half second is waited for at the end of every test."""
Respond = Callable[[BaseHTTPRequestHandler, Any], tuple[int, Any]]


@contextmanager
def loopback(respond: Respond, content_type: Callable[[], str] = lambda: "application/json") -> Iterator[str]:
    """Its address, up to `/v1`.

    Args:
        respond: of a request (path, headers) and its JSON, None for a page, the status and what is sent: bytes as they
            are, anything else as JSON.
        content_type: of the answer.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers["Content-Length"] or 0)
            status, answer = respond(self, json.loads(self.rfile.read(length)) if length else None)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type())
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, args=(LOOK_SECONDS,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
