"""A server with the paths of SGLang's that a supervisor asks, which does what `act.json` in its model's directory says.

    {"log": ["a line"], "exit": 3}             says that and ends
    {"log": ["a line"], "hang": true}          says that and does nothing more
    {"kill_at_start": true}                    is killed
    {"lives": 1}                               ends with 7 after its warm-up, so many times (counted in `lives.txt`)
    {"deaf": true}                             does not heed SIGTERM, and has a child
    {"pool": 500}                              has less KV cache than it was told to have

Every request is written to `requests.jsonl` there, with the time, and so are its start and its end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("--model-path", "--served-model-name", "--host"):
    parser.add_argument(name)
for name in ("--port", "--context-length", "--max-total-tokens"):
    parser.add_argument(name, type=int)
parser.add_argument("--is-embedding", action="store_true")
parser.add_argument("--enable-priority-scheduling", action="store_true")
args, _ = parser.parse_known_args()
folder = Path(args.model_path)
act = json.loads((folder / "act.json").read_text()) if (folder / "act.json").exists() else {}


def note(what: str, **more: object) -> None:
    line = json.dumps({"at": time.monotonic(), "pid": os.getpid(), "what": what, **more}) + "\n"
    with (folder / "requests.jsonl").open("a") as file:
        file.write(line)


def lives_left() -> bool:
    file = folder / "lives.txt"
    used = int(file.read_text()) if file.exists() else 0
    file.write_text(str(used + 1))
    return used < act["lives"]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: object, status: int = 200) -> None:
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/ready":
            self.answer({})
        elif self.path == "/server_info":
            pool = act.get("pool", args.max_total_tokens)
            self.answer(
                {
                    "version": "0.0.fake",
                    "max_total_num_tokens": pool,
                    "max_req_input_len": min(pool, args.context_length) - 6,
                    "enable_priority_scheduling": args.enable_priority_scheduling,
                    "enable_cache_report": True,
                }
            )
        elif self.path == "/v1/models":
            self.answer({"data": [{"id": args.served_model_name, "max_model_len": args.context_length}]})
        elif self.path == "/metrics":
            self.answer(
                'sglang:num_running_reqs{model="x"} 2.0\nsglang:prompt_tokens_total{m="x"} 100.0\n'
                'sglang:cached_tokens_total{cache_source="device"} 60.0\n'
                'sglang:cached_tokens_total{cache_source="host"} 15\n'
            )
        else:
            self.answer({}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ids = body.get("input_ids") or body.get("input") or []
        note(self.path, tokens=len(ids))
        limit = min(act.get("pool", args.max_total_tokens), args.context_length) - 6
        if len(ids) >= limit:
            self.answer(
                {"error": f"Input length ({len(ids)} tokens) exceeds the maximum allowed length ({limit})"}, 400
            )
            return
        self.answer({})
        if self.path == "/flush_cache" and "lives" in act and lives_left():
            note("dies")
            os._exit(7)


def main() -> None:
    note("starts", argv=sys.argv[1:])
    for line in act.get("log", []):
        print(line, flush=True)
    if "exit" in act:
        os._exit(act["exit"])
    if "kill_at_start" in act:
        os.kill(os.getpid(), signal.SIGKILL)
    if "hang" in act:
        time.sleep(600)
    if "deaf" in act:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        note("child", child=child.pid)
        signal.signal(signal.SIGTERM, lambda *_: note("heard SIGTERM"))
    server = ThreadingHTTPServer((args.host, args.port), Handler)

    def stop(*_: object) -> None:
        note("ends")
        threading.Thread(target=server.shutdown).start()

    if "deaf" not in act:
        signal.signal(signal.SIGTERM, stop)
    print("[x] Load weight begin. avail mem=1.00 GB", flush=True)
    print("The server is fired up and ready to roll!", flush=True)
    server.serve_forever(poll_interval=0.02)


main()
