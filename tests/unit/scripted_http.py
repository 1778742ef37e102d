"""A real HTTP server that is told what to answer, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scripted_triton import ensemble, response

Reply = tuple[int, dict[str, str], bytes]


def config(name: str = "demo") -> dict[str, Any]:
    parameters = {key: {"string_value": value.string_value} for key, value in ensemble(name).parameters.items()}
    return {"name": name, "platform": "ensemble", "parameters": parameters}


def good_answer() -> Reply:
    """What Triton answers in its binary form."""
    made = response([3.0, 1.0, 0.0, -1.0])
    outputs, body = [], b""
    for output, raw in zip(made.outputs, made.raw_output_contents, strict=True):
        size = {"binary_data_size": len(raw)}
        outputs.append({"name": output.name, "datatype": output.datatype, "shape": [*output.shape], "parameters": size})
        body += raw
    head = json.dumps({"model_name": "demo", "outputs": outputs}).encode()
    return 200, {"Inference-Header-Content-Length": str(len(head))}, head + body


def said(status: int, error: str) -> Reply:
    return status, {}, json.dumps({"error": error}).encode()


@dataclass
class Scripted:
    """What the server answers to an inference, and what it was asked."""

    infer: Callable[[], Reply] = good_answer
    models: list[str] = field(default_factory=lambda: ["demo"])
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""
    num_connections: int = 0

    def answer(self, method: str, path: str) -> Reply:
        if path == "/v2/models/stats":
            return 200, {}, json.dumps({"model_stats": [{"name": name} for name in self.models]}).encode()
        if path.endswith("/config"):
            name = path.split("/")[3]
            if name not in self.models:
                return said(404, f"Request for unknown model: '{name}' is not found")
            return 200, {}, json.dumps(config(name)).encode()
        return self.infer()


@contextmanager
def running(scripted: Scripted) -> Iterator[Scripted]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            scripted.num_connections += 1
            super().setup()

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            scripted.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
            status, headers, answer = scripted.answer(self.command, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer[: len(answer) // 2] if "X-Cut" in headers else answer)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a caller that goes is no error here
        scripted.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield scripted
        finally:
            server.shutdown()
            thread.join()
