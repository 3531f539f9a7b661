"""Real git repositories for tests, made by the git command line without anybody's configuration."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "LC_ALL": "C.UTF-8",
}


def git(*arguments: str, at: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> str:
    """Run plain git, unhardened, and return what it says."""
    command = ["git", "-c", "safe.directory=*", "-C", str(at), *arguments]
    environment = {**_ENVIRONMENT, **(env or {})}
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def commit(at: Path, files: Mapping[str, str | bytes | None], message: str = "change") -> str:
    """Write files (None removes one) and commit all there is; returns the commit."""
    for name, content in files.items():
        path = at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    git("add", "--all", at=at)
    git("commit", "--quiet", "--allow-empty", "-m", message, at=at)
    return git("rev-parse", "HEAD", at=at)


def make(at: Path, files: Mapping[str, str | bytes | None] | None = None, *options: str) -> Path:
    """A repository on branch `main` with one commit."""
    at.mkdir(parents=True)
    git("init", "--quiet", "--initial-branch=main", *options, at=at)
    commit(at, files if files is not None else {"calc.py": "def add(a, b):\n    return a - b\n"}, "first")
    return at


def everything(at: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, mtime in ns and content hash of every file, link and directory below a path, `.git` included."""
    found: dict[str, tuple[int, int, str]] = {}
    for folder, folders, files in os.walk(at):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            changed = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
            found[str(path.relative_to(at))] = (status.st_mode, changed, hashlib.sha256(content).hexdigest())
    return found
