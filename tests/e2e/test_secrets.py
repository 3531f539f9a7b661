"""A real task with a secret in every place that may hold one, and a look into everything that was written of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.house import ACTING, BUGGY, FIX, JUDGING, PLANNING, TESTS, call, make_repository, plan
from fakes.scripted_server import Spawned, spawned

pytestmark = pytest.mark.timeout(120)

SECRETS = {
    "key file": "sk-file-1f0c55d07a",
    "environment": "sk-env-2b9ab9e1c4",
    "password of an endpoint": "basepass-3c71d1",
    "password of the proxy": "proxypass-4d02ee",
    "password of the environment": "envproxy-5a6b7c",
    "MCP token": "mcp-token-6f5e4d3c2b1a09",
    "password of a repository": "repopass-7e8f90",
}
QUOTED = " and ".join(SECRETS.values())


def script() -> dict:
    def answers(*replies) -> list[dict]:
        return [{"text": reply.text, "tool_calls": [list(one) for one in reply.tool_calls]} for reply in replies]

    loud = plan({"title": f"Repair mean() with {QUOTED}", "files": ["stats.py"]})
    return {
        "rules": [
            {"when": PLANNING, "answers": answers(loud)},
            {"when": ACTING, "answers": answers(call("read_file", path="notes.txt"), *FIX)},
            {"when": JUDGING, "answers": [{"text": json.dumps({"passed": True, "reason": f"fine, {QUOTED}"})}]},
        ]
    }


@pytest.fixture(scope="module")
def model() -> Iterator[Spawned]:
    with spawned(script()) as server:
        yield server


def prepared(root: Path, url: str, port: int) -> dict[str, str]:
    """Files with the secrets in them, and the service's environment."""
    keys = root / "keys"
    keys.mkdir(mode=0o700)
    (keys / "planner").write_text(SECRETS["key file"])
    (keys / "tokens").write_text(f"{SECRETS['MCP token']} full first\n")
    (keys / "tokens").chmod(0o600)
    login = url.replace("://", f"://ann:{SECRETS['password of an endpoint']}@")
    (keys / "config.toml").write_text(
        f"""
        crew = "one"
        [crews.one.planner]
        base_url = "{url}"
        api_key_file = "{keys}/planner"
        [crews.one.executor]
        base_url = "{url}"
        api_key_env = "EXECUTOR_KEY"
        [crews.one.verifier]
        base_url = "{login}"
        [network]
        allow = ["pip"]
        proxy = "http://ann:{SECRETS["password of the proxy"]}@127.0.0.1:9"
        [mcp]
        listen = "127.0.0.1:{port}"
        token_file = "{keys}/tokens"
        [log]
        level = "debug"
        [workspaces]
        path = "{root}/workspaces"
        """
    )
    make_repository(
        root / "repository", {"stats.py": BUGGY, "test_stats.py": TESTS, "notes.txt": f"of ours: {QUOTED}\n"}
    )
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "NIGHTCREW_HOME": str(root / "home"),
        "NIGHTCREW_CONFIG": str(keys / "config.toml"),
        "EXECUTOR_KEY": SECRETS["environment"],
        "https_proxy": f"http://ann:{SECRETS['password of the environment']}@127.0.0.1:9",
    }


def nightcrew(environ: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "nightcrew", *words]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return ran.stdout + ran.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ask_at_the_door(port: int) -> str:
    """A request that names the token where it does not belong, so that it would stand in a log of requests."""
    token = SECRETS["MCP token"]
    head = f"GET /{token} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.encode())
        return connection.recv(4096).decode()


def test_no_secret_is_in_a_log_a_report_a_prompt_or_a_journal(open_tmp: Path, model: Spawned) -> None:
    home, port = open_tmp / "home", free_port()
    environ = prepared(open_tmp, model.url, port)
    log = open_tmp / "log"
    with log.open("wb") as stream:
        service = subprocess.Popen(
            [sys.executable, "-m", "nightcrew", "up", "--json"], env=environ, stdout=stream, stderr=stream
        )
    try:
        inbox = home / "inbox"
        wait_for(inbox.is_dir, service)
        url = f"https://ann:{SECRETS['password of a repository']}@127.0.0.1:9/x.git"
        (inbox / "url.md").write_text(f"---\nrepo: {url}\n---\n# Fix\n")
        (inbox / "fix.md").write_text(f"---\nrepo: {open_tmp}/repository\n---\n# Fix mean()\n\nQuickly. {QUOTED}\n")
        wait_for((home / "outbox/fix.report.md").exists, service)
        wait_for(lambda: list((home / "rejected").glob("url*.report.md")), service)
        assert ask_at_the_door(port).startswith("HTTP/1.1 404")
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0
    finally:
        service.kill()
        service.wait()

    assert "Delivered and verified" in (home / "outbox/fix.report.md").read_text()
    written = {"the log": log.read_text()}
    for path in home.rglob("*"):
        # A person's own task file stays as it is, wherever it is moved.
        if path.is_file() and path != home / "rejected/url.md" and not path.is_relative_to(home / "inbox"):
            written[str(path)] = path.read_bytes().decode("utf-8", "replace")
    for words in ("list --json", "show fix --json", "journal fix", "report fix", "doctor --json"):
        written[words] = nightcrew(environ, *words.split())
    for number, request in enumerate(model.requests()):
        written[f"request {number}"] = request["body"]
    found = [(place, kind) for place, text in written.items() for kind, secret in SECRETS.items() if secret in text]
    assert found == []
    assert written["the log"].count("[hidden]") > 0
    assert any("[hidden]" in text for place, text in written.items() if place.startswith("request"))


def wait_for(condition, service: subprocess.Popen[bytes], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert service.poll() is None and time.monotonic() < deadline, "the service does not do it"
        time.sleep(0.05)
