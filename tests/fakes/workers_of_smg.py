"""A model server as smg sees one: what it has, whether it is ready, and an answer that says who gave it."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class FakeWorker:
    """Use as a context manager."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.delay = 0.0
        """Seconds before each answer to a request."""
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        """Of what was asked with GET."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        worker = self
        info = {"model_path": self.model, "served_model_name": self.model, "is_generation": True, "version": "0.5.23"}
        answers = {
            "/v1/models": {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "sglang"}]},
            "/ready": {"status": "ok"},
            "/health": {"status": "ok"},
            "/model_info": info,
            "/server_info": {**info, "tp_size": 1, "dp_size": 1},
        }

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                worker.paths.append(path)
                self._send(200 if path in answers else 404, answers.get(path, {}))

            def do_POST(self) -> None:
                worker.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                time.sleep(worker.delay)
                message = {"role": "assistant", "content": worker.url}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
                kind = "chat.completion"
                body = {
                    "id": "1",
                    "object": kind,
                    "created": 1,
                    "model": worker.model,
                    "choices": [choice],
                    "usage": usage,
                }
                self._send(200, body)

            def _send(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
