"""A web server with one file, which can break off, move, forget how to resume, or answer with an error."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


@dataclass
class FileServer:
    """Serves `data` at every path. Use as a context manager."""

    data: bytes
    cuts: list[int] = field(default_factory=list)
    """Bytes after which an answer breaks off, one for each of the first answers."""
    ranges: bool = True
    status: int = 200
    redirect: bool = False
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of each request."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
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
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                server.requests.append((self.path, wanted))
                if server.redirect and not self.path.startswith("/moved"):
                    self._head(302, 0, Location=f"{server.url}/moved{self.path}")
                    return
                if server.status != 200:
                    self._head(server.status, 0)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
                body = server.data[start:]
                size = len(server.data)
                extra = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}
                self._head(206 if start else 200, len(body), **extra)
                if server.cuts:
                    body = body[: server.cuts.pop(0)]
                    self.close_connection = True
                self.wfile.write(body)

            def _head(self, status: int, length: int, **headers: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
