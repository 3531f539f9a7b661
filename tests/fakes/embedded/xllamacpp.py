"""Stands in for the runtime in the embedded server's process. What it does is written in the file of weights."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace


class CommonParams(SimpleNamespace):
    """Takes any setting."""

    def __init__(self) -> None:
        super().__init__(
            model=SimpleNamespace(path=""), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace(), api_keys=[]
        )


class Server:
    """Answers every GET that has the key with the settings it was started with."""

    def __init__(self, params: CommonParams) -> None:
        act = Path(params.model.path).read_text(encoding="utf-8")
        if act == "hang":
            time.sleep(600)
        if act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if act.startswith("E "):
            sys.stderr.write(f"{act}\n")
            sys.stderr.flush()
            raise RuntimeError("Failed to init server, please check the input params.")
        os.write(1, b"a library that prints to the standard output\n")
        if act == "chatter":
            # As C++ does it: what does not go into the log any more is lost, and nobody minds.
            with contextlib.suppress(OSError):
                while True:
                    os.write(2, b"words, words\n" * 10_000)
        self._http = ThreadingHTTPServer((params.hostnames[0], params.port), _handler(params))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{self._http.server_address[1]}"


def _handler(params: CommonParams) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ok = self.headers.get("Authorization") in [f"Bearer {key}" for key in params.api_keys]
            body = json.dumps(
                vars(params), default=lambda value: sorted(value) if isinstance(value, set) else vars(value)
            )
            self.send_response(200 if ok else 401)
            self.end_headers()
            self.wfile.write(body.encode() if ok else b"")

        def log_message(self, *_: object) -> None:
            pass

    return Handler
