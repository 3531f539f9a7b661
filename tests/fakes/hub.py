"""The hub on the loopback, as far as its client asks: a repository's listing, and its files, with ranges.

with FakeHub({"org/name": {"config.json": b"{}", …}}) as hub: ... HF_ENDPOINT=hub.url ...

Large files (safetensors here) are named by their SHA-256, as with Git LFS; the others by git's own SHA-1.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

Repo = dict[str, bytes]


def safetensors(size: int = 64, seed: int = 1) -> bytes:
    """A file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + (bytes(range(seed, 251)) * (size // (251 - seed) + 1))[:size]


def model(shards: int = 1, size: int = 64, **more: bytes) -> Repo:
    """A repository as makers publish one, with what nobody needs to serve it."""
    repo: Repo = {
        "config.json": b'{"model_type": "qwen3"}',
        "tokenizer.json": b'{"model": {}}',
        "README.md": b"# A model",
        ".gitattributes": b"*.safetensors filter=lfs",
        "original/consolidated.00.pth": b"x" * 50,
        "model.gguf": b"x" * 50,
    }
    names = [f"model-{number:05}-of-{shards:05}.safetensors" for number in range(1, shards + 1)]
    repo |= {name: safetensors(size, seed) for seed, name in enumerate(names, 3)}
    repo["model.safetensors.index.json"] = json.dumps({"weight_map": {f"w{name}": name for name in names}}).encode()
    return repo | {name.replace("__", "."): content for name, content in more.items()}


def commit(repo: Repo) -> str:
    return hashlib.sha1(json.dumps(sorted((name, len(content)) for name, content in repo.items())).encode()).hexdigest()


@dataclass
class FakeHub:
    """Use as a context manager."""

    repos: dict[str, Repo]
    gated: dict[str, str] = field(default_factory=dict)
    """Repository to the token that may read it."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """File name to the bytes after which its answers break off, one for each of the first answers."""
    lies: dict[str, bytes] = field(default_factory=dict)
    """File name to what is sent instead, of the same length."""
    holds: dict[str, int] = field(default_factory=dict)
    """File name to the bytes after which its first answer waits for `released`."""
    released: threading.Event = field(default_factory=threading.Event)
    strange: list[str] = field(default_factory=list)
    """Paths that are neither a listing nor a file."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range header of each request for a file."""

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def listing(self, name: str) -> dict:
        siblings = []
        for file, content in self.repos[name].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": file, "size": len(content), "blobId": blob}
            if file.endswith((".safetensors", ".pth", ".gguf")):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"_id": "1", "id": name, "modelId": name, "sha": commit(self.repos[name]), "siblings": siblings}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                if path.startswith("/api/models/"):
                    name = "/".join(path.split("/")[3:5])
                    self._listing(name)
                elif path.count("/") < 4:
                    hub.strange.append(path)
                    self._send(404, b"")
                else:
                    org, repo, resolve, revision, *file = path.strip("/").split("/")
                    assert resolve == "resolve" and revision == commit(hub.repos[f"{org}/{repo}"])
                    self._file(f"{org}/{repo}", "/".join(file))

            def _allowed(self, name: str) -> bool:
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                if name not in hub.repos:
                    self._send(401 if not token else 404, b"{}", **{"X-Error-Code": "RepoNotFound"})
                elif hub.gated.get(name, token) != token:
                    self._send(403 if token else 401, b"{}", **{"X-Error-Code": "GatedRepo"})
                else:
                    return True
                return False

            def _listing(self, name: str) -> None:
                if self._allowed(name):
                    self._send(200, json.dumps(hub.listing(name)).encode(), **{"Content-Type": "application/json"})

            def _file(self, name: str, file: str) -> None:
                wanted = self.headers.get("Range")
                hub.requests.append((file, wanted))
                if not self._allowed(name):
                    return
                content = hub.lies.get(file, hub.repos[name][file])
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
                body = content[start:]
                extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
                cut = hub.cuts[file].pop(0) if hub.cuts.get(file) else None
                hold = hub.holds.pop(file, None)
                self._send(206 if start else 200, body, cut=cut, hold=hold, **extra)

            def _send(
                self, status: int, body: bytes, *, cut: int | None = None, hold: int | None = None, **headers: str
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if cut is not None:
                    self.close_connection = True
                if hold is not None:
                    self.wfile.write(body[:hold])
                    hub.released.wait()
                    return
                self.wfile.write(body[:cut])

            def log_message(self, *_: object) -> None:
                pass

        return Handler
