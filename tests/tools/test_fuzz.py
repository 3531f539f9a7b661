"""Calls that no model should make: every tool, with arguments of the right and of any other kind, by hypothesis.

Whatever is sent, the answer is a text within its size with a code that is documented, or facts that match the tool's
schema; nothing outside of the roots is read or changed; and the server goes on. `make fuzz` makes 10,000 calls with a
seed of its own, `make test` always the same thousand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mcp.client import Client

from fakes.gateway import FakeGateway
from fakes.roots import open_roots
from nightcrew_tools import git_errors, output, shell, tasks
from nightcrew_tools.contract import TaskRequest
from nightcrew_tools.files import FileTools
from nightcrew_tools.git import GitTools
from nightcrew_tools.grants import FAMILIES, TOOLS, Grants
from nightcrew_tools.morefiles import MEDIA_BYTES, MoreFileTools
from nightcrew_tools.output import MOST_BYTES
from nightcrew_tools.reply import FACTS_BYTES
from nightcrew_tools.schema import ToolSpec
from nightcrew_tools.server import build_server
from nightcrew_tools.shell import ShellTools
from nightcrew_tools.tasks import TaskTools
from nightcrew_workspaces.errors import FILE_CODES, BackgroundCode
from nightcrew_workspaces.user import box_user

STANDARD = 1000
CALLS = int(os.environ.get("NIGHTCREW_FUZZ_CALLS", STANDARD))
pytestmark = pytest.mark.timeout(60 if CALLS == STANDARD else CALLS)

SECRET = "canary-6c1f09"
"""Stands in files outside of the roots alone."""
SLOW_SECONDS = 45
"""Longer than a command may run here, and less than the file helper gives a request."""
INSTALLED = str(Path(output.__file__).parents[2])
DOCUMENTED = (
    FILE_CODES
    | set(get_args(BackgroundCode))
    | {code for module in (output, git_errors) for code in re.findall(r"`([a-z_]+)`", module.__doc__ or "")}
)
FAMILY_TYPES = (FileTools, MoreFileTools, GitTools, ShellTools, TaskTools)
SPECS: dict[str, ToolSpec] = {
    value.__tool__.name: value.__tool__
    for family in FAMILY_TYPES
    for value in vars(family).values()
    if hasattr(value, "__tool__")
}

HOSTILE = [
    "", " ", ".", "..", "/", "~", "-", "--", "--help", "-rf", "--output=x", "--upload-pack=touch x", "$(id)", "`id`",
    "a\nb", "a\r\nb", "a\tb", "\x1b[31m", "\x7f", "\u202e", "\ufeff", "\ud800", "a\0b", "e\u0301", "\U0001f600",
    "'", '"',
    '"a\\nb"', "%s%n", "{}", "[", "[]", '["a"]', "null", "true", "1e999", "0x10", "NaN", "ä" * 5000, "x" * 100_000,
    "a/" * 3000 + "a", "\n" * 3000, "error[ok]: x",
]  # fmt: skip
PATHS = [
    "a.txt", "./a.txt", "src/deep/b.py", "src", ".", "", "new.txt", "new/deep/er.txt", "binary", "latin", "empty",
    "../outside/secret", "../../../etc/passwd", "{outside}/secret", "{outside}", "{top}/shop",
    "{top}/shop/../outside/secret",
    "out/secret", "out", "dangling", "loop", "/etc/shadow", "/proc/self/environ", "/proc/self/root/etc/passwd",
    "/dev/zero",
    "/dev/stdin", ".git", ".git/config", ".git/hooks/pre-commit", "src/../.git/HEAD", ".GIT/config", "a.txt/",
    "a.txt/x",
    "//{top}/shop/a.txt", "file:///etc/passwd", "-n", ":(top)", ":/", ":!a.txt", "*", "**", "pipe",
]  # fmt: skip
REFS = [
    "HEAD", "main", "topic", "HEAD~1", "HEAD^", "HEAD:a.txt", "HEAD:../outside/secret", ":a.txt", "@{-1}",
    "stash@{0}",
    "v1", "0" * 40, "main..topic", "a b", "x.lock", "../x", "refs/heads/main", "-d", "--all", "--output=/tmp/x",
    "FETCH_HEAD",
    "origin", "bad", "origin/main", "{outside}/repo.git", "ext::sh -c id",
]  # fmt: skip
PATTERNS = [
    "a",
    "(",
    "(a+)+$",
    ".*",
    "[",
    "\\",
    "^",
    "(?i)A",
    "\\p{L}",
    "a{1000000}",
    "**/*",
    "*.py",
    "[!",
    "{a,b",
    "!a",
]
TEXTS = {"a.txt": "one\ntwo\nthree\n", "src/deep/b.py": "a = 1\n" * 300}
COMMANDS = [
    "true", "echo hi", "exit 7", "cat", "cat {outside}/secret", "cat out/secret ../outside/secret", "sleep 5",
    "ls -la /",
    "echo x > {outside}/secret", "rm -rf {outside} ../outside out/*", "ln -sfn {outside} out2; cat out2/secret",
    "yes | head -c 300000", "printf '\\377\\376\\0'", "kill -9 $$", "printf '#!/bin/sh\\n' > .git/hooks/x",
    "no-such", "env",
]  # fmt: skip
KEYED: dict[str, list[str]] = {
    **dict.fromkeys(("path", "to", "cwd", "repo", "paths"), PATHS),
    **dict.fromkeys(("revision", "branch", "name", "new_name", "base", "target", "source", "start", "remote"), REFS),
    **dict.fromkeys(("pattern", "glob", "search"), PATTERNS),
    "command": COMMANDS,
    "handle": ["p1", "p2", "p3", "p0", "p99999999999999999999"],
    "task": ["t1", "t2", "t9", "../t1"],
    "after": ["t1", "t2"],
    "cursor": ["a.txt", "a.txt:1", "zzz", "src/deep/b.py:0", "a.txt:-1", "a.txt:99999999999999999999"],
    "old": ["one", "two\n", "a", "ä"],
    "content": ["one\n", "one\r\ntwo\r\n", "ä\n"],
}
NUMBERS: list[Any] = [0, 1, 2, -1, 7, 2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, "3", "-2", "1.0", "1e3"]
WRONG: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from(HOSTILE), max_size=3),
    st.dictionaries(st.sampled_from(HOSTILE[:20]), st.integers(), max_size=2),
    st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=2), max_leaves=20),
)


def texts(name: str) -> st.SearchStrategy[Any]:
    likely = KEYED.get(name, [])
    anything = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
    return st.one_of(st.sampled_from(likely), st.sampled_from(likely), anything) if likely else anything


def values(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What the schema asks for, mostly of a kind that leads somewhere."""
    match schema:
        case {"enum": choices}:
            return st.sampled_from(choices)
        case {"type": "array", "items": {"type": "object", "properties": fields}}:
            return st.lists(st.fixed_dictionaries({key: values(key, each) for key, each in fields.items()}), max_size=4)
        case {"type": "array"}:
            return st.lists(texts(name), max_size=60)
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer"}:
            return st.one_of(st.integers(-2, 300), st.sampled_from(NUMBERS))
        case {"type": "number"}:
            return st.one_of(st.floats(0.01, 0.3), st.sampled_from(NUMBERS))
        case _:
            return texts(name)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """One call: mostly arguments as they should be; now and then one that is missing, of another kind, or unknown."""
    spec = SPECS[draw(st.sampled_from(sorted(SPECS)))]
    arguments: dict[str, Any] = {}
    for each in spec.parameters:
        if draw(st.integers(0, 25)) == 0:
            arguments[each.name] = draw(WRONG)
        elif (each.required and draw(st.integers(0, 30))) or draw(st.integers(0, 3)) == 0:
            arguments[each.name] = draw(values(each.name, each.kind.schema))
    if draw(st.integers(0, 25)) == 0:
        arguments[draw(st.sampled_from(HOSTILE))] = draw(WRONG)
    return spec.name, arguments


@dataclass
class Target:
    """A server over a repository in `top/shop`; `top/outside` is what nobody may see or change."""

    top: Path
    client: Any = None
    portal: Any = None

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.portal.call(self.client.call_tool, name, arguments)

    def refresh(self) -> None:
        """Bring back what earlier calls may have thrown away, so that later ones have something to work on."""
        for path, content in TEXTS.items():
            self.call("write_file", {"path": path, "content": content})
        self.call("git_switch", {"branch": "main"})

    def outside(self) -> dict[str, tuple[int, bytes]]:
        """Everything outside of the root, with modes."""
        return {
            str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in sorted((self.top / "outside").rglob("*"))
        }

    def named(self, value: Any) -> Any:
        """`value` with the real places in it."""
        if isinstance(value, str):
            return value.replace("{outside}", f"{self.top}/outside").replace("{top}", str(self.top))
        if isinstance(value, list):
            return [self.named(each) for each in value]
        if isinstance(value, dict):
            return {key: self.named(each) for key, each in value.items()}
        return value

    def fill(self) -> None:
        shop, outside = self.top / "shop", self.top / "outside"
        (shop / "src/deep").mkdir(parents=True)
        (outside / "folder").mkdir(parents=True)
        for path in (outside / "secret", outside / "folder/secret"):
            path.write_text(SECRET)
        for path, content in TEXTS.items():
            (shop / path).write_text(content)
        (shop / "binary").write_bytes(bytes(range(256)))
        (shop / "latin").write_bytes("ä\r\nö\r\n".encode("latin-1"))
        (shop / "empty").write_bytes(b"")
        (shop / "out").symlink_to(outside)
        (shop / "dangling").symlink_to("/nowhere")
        (shop / "loop").symlink_to("loop")
        os.mkfifo(shop / "pipe")
        self._git(outside, "init", "-q", "-b", SECRET, "repo")
        self._git(outside / "repo", "commit", "-q", "--allow-empty", "-m", SECRET)
        self._git(outside, "clone", "-q", "--bare", "repo", "repo.git")
        self._git(shop, "init", "-q", "-b", "main")
        self._git(shop, "add", "a.txt", "src", "binary", "latin")
        self._git(shop, "commit", "-q", "-m", "First")
        self._git(shop, "branch", "topic")
        self._git(shop, "tag", "v1")
        self._git(shop, "remote", "add", "bad", str(outside / "repo.git"))
        user = box_user(None)
        for path in (shop, *shop.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
        for path in (outside, *outside.rglob("*")):  # the box's user could read and write here, if it were shown
            os.chown(path, user.uid, user.gid, follow_symlinks=False)

    def _git(self, where: Path, *words: str) -> None:
        identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        subprocess.run(["git", *identity, *words], cwd=where, check=True, env={"PATH": os.environ["PATH"]})


@asynccontextmanager
async def client_of(root: Path) -> Any:
    gateway = FakeGateway()
    for title in ("First", "Second"):
        await gateway.submit(TaskRequest(title=title, text=title, repo="/r"), origin="test")
    gateway.reports["t1"] = "# Report\n" * 5000
    gateway.diffs["t1"] = "+ä\n" * 20_000
    everything = Grants(FAMILIES, allow=frozenset(TOOLS))
    async with open_roots(root) as workspace:
        server = build_server(everything, workspace=workspace, gateway=gateway, facts="always")
        async with Client(server) as client:
            await client.list_tools()
            yield client


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    target = Target(Path(tempfile.mkdtemp(prefix="nightcrew-test-", dir="/tmp")))
    target.top.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in [
            (shell, "_FIRST_LOOK_SECONDS"), (shell, "_WAIT_SECONDS"), (shell, "_LONGEST_WAIT_SECONDS"),
            (tasks, "LONGEST_WAIT"),
        ]:  # fmt: skip
            patch.setattr(module, name, 0.02)
        try:
            target.fill()
            with (
                start_blocking_portal() as portal,
                portal.wrap_async_context_manager(client_of(target.top / "shop")) as client,
            ):
                target.client, target.portal = client, portal
                yield target
        finally:
            shutil.rmtree(target.top, ignore_errors=True)


def check(result: Any, name: str) -> None:
    """Raises `AssertionError` where an answer is not what every answer has to be."""
    text = result.content[0].text
    assert len(text.encode()) <= MOST_BYTES + 100
    assert SECRET not in result.model_dump_json()
    assert "Traceback (most recent" not in text
    assert INSTALLED not in text
    told = re.match(r"error\[([a-z_]+)\]: \S", text)
    if result.is_error:
        assert told, text
        assert told[1] in DOCUMENTED, text
        assert told[1] != "internal", text
        assert len(result.content) == 1
    else:
        facts = json.dumps(result.structured_content, ensure_ascii=False)
        assert len(facts.encode()) <= FACTS_BYTES, name
        assert SPECS[name].facts is None or isinstance(result.structured_content, dict)
        for part in result.content[1:]:
            data = part.data if part.type == "image" else part.resource.blob
            assert len(data) <= MEDIA_BYTES * 4 / 3 + 4


def test_every_tool_is_fuzzed():
    assert set(SPECS) == set(TOOLS)


def test_no_call_breaks_the_server_or_leaves_the_roots(target):
    before = target.outside()
    worked: set[str] = set()
    wrong: list[str] = []
    made = count()

    @settings(
        max_examples=CALLS,
        deadline=None,
        database=None,
        derandomize=CALLS == STANDARD,
        phases=(Phase.generate,),  # the repository has moved on: a call that failed cannot be tried again smaller
        suppress_health_check=list(HealthCheck),
    )
    @given(calls())
    def one(call: tuple[str, dict[str, Any]]) -> None:
        if next(made) % 25 == 0:
            target.refresh()
        name, arguments = call[0], target.named(call[1])
        begun = time.monotonic()
        try:
            result = target.call(name, arguments)
            check(result, name)
            assert time.monotonic() - begun < SLOW_SECONDS
        except Exception as error:  # noqa: BLE001 - all of what is wrong is shown at the end
            wrong.append(f"{name} {arguments!s:.300}: {type(error).__name__} {error!s:.400}")
        else:
            worked.update(() if result.is_error else (name,))

    one()
    assert not wrong, "\n".join(wrong[:30])
    assert target.outside() == before
    assert len(worked) > len(TOOLS) / 2, set(TOOLS) - worked
    answer = target.call("run_command", {"command": "echo still here"})
    assert "still here" in answer.content[0].text
