"""The git helper: runs INSIDE a box and starts there what the git tools ask for, one command after the other.

A box that stays up costs one start of git per command instead of one of bubblewrap and git. When a command has ended
or is stopped, every other process of the box is killed before the answer goes out: nothing that a repository's settings
started outlives the command that started it.

A request is a frame: four bytes of length, big-endian, then a JSON object with `op` and its arguments. An answer is
such a frame, followed for `run` by as many bytes of standard output and error as it says. Bytes of names that are not
UTF-8 travel as lone surrogates. The first frame is a greeting. Standard library only, and little of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import time
from typing import Any

from nightcrew_workspaces.boxd_wire import close_to_others, receive, send

GREETING = "nightcrew git 1"
_LARGEST_REQUEST = 16 * 1024 * 1024
_CHUNK = 64 * 1024
_LARGEST_ERROR = 16 * 1024
_LARGEST_NOTE = 4096
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGINT)


class Window:
    """Of a stream the bytes from `skip` on, `keep` of them; all are counted."""

    def __init__(self, skip: int, keep: int) -> None:
        self.data = bytearray()
        self.total = 0
        self._skip = skip
        self._keep = keep

    def feed(self, chunk: bytes) -> None:
        start = max(self._skip - self.total, 0)
        self.total += len(chunk)
        room = self._keep - len(self.data)
        if room > 0 and start < len(chunk):
            self.data += chunk[start : start + room]


def run(
    argv: list[str],
    cwd: str,
    env: dict[str, str],
    stdin: str,
    seconds: float,
    skip: int,
    keep: int,
    most: int,
) -> tuple[dict[str, Any], bytes, bytes]:
    """Run a command to its end, which more than `seconds` or more than `most` bytes of output bring about."""
    output, errors = Window(skip, keep), Window(0, _LARGEST_ERROR)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    source = _memory_file(os.fsencode(stdin))
    try:
        os.chdir(cwd)
        child = os.posix_spawn(
            argv[0],
            argv,
            {**os.environ, **env},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((source, out_write, err_write))],
            setsid=True,
            setsigdef=_DEFAULT_SIGNALS,
        )
    except OSError as error:
        os.close(out_read)
        os.close(err_read)
        return {"failed": error.strerror or "it could not be started"}, b"", b""
    finally:
        for fd in (source, out_write, err_write):
            os.close(fd)
    ended = _follow(child, {out_read: output, err_read: errors}, seconds, most)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended == "exited" and code < 0:
        ended, code = "signal", 128 - code
    header = {"ended": ended, "exit_code": code if ended in ("exited", "signal") else None, "total": output.total}
    return header, bytes(output.data), bytes(errors.data)


def look(path: str, names: list[str]) -> dict[str, Any]:
    """Where the repository of a directory is, found as git finds it, and the contents of small files in its `.git`.

    `top` is the directory that holds `.git`, or a bare repository itself. `lost` is where a `.git` file points to when
    nothing is there. Of `names` those that exist are in `found`, with the content of regular files.
    """
    if not os.path.isdir(path):
        return {"top": None, "exists": os.path.lexists(path)}
    top = path
    while (git := _git_folder(top)) is None:
        if (parent := os.path.dirname(top)) == top:
            return {"top": None, "exists": True}
        top = parent
    if not os.path.isdir(git):
        return {"top": top, "git": git, "lost": True}
    common = os.path.normpath(os.path.join(git, (_content(os.path.join(git, "commondir")) or ".").strip()))
    places = dict.fromkeys((git, common))
    found: dict[str, str] = {}
    for name in names:
        for place in places:
            content = _content(os.path.join(place, name))
            if content is not None:
                found.setdefault(name, content)
    return {"top": top, "git": git, "common": common, "bare": git == top, "found": found}


def _git_folder(folder: str) -> str | None:
    """The git directory that belongs to `folder`, none when it is not the top of a repository."""
    inner = os.path.join(folder, ".git")
    if os.path.isdir(inner):
        return inner if os.path.lexists(os.path.join(inner, "HEAD")) else None
    if (text := _content(inner)) is not None and text.startswith("gitdir:"):
        return os.path.normpath(os.path.join(folder, text.removeprefix("gitdir:").strip()))
    bare = all(os.path.lexists(os.path.join(folder, name)) for name in ("HEAD", "objects", "refs"))
    return folder if bare else None


def _content(path: str) -> str | None:
    """The beginning of a regular file, nothing of anything else that is there, None when nothing is."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ""
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return os.fsdecode(file.read(_LARGEST_NOTE))
    except OSError:
        return None


def _follow(child: int, streams: dict[int, Window], seconds: float, most: int) -> str:
    """Take in what a command writes until it ends or has to; then kill all that is left in this box."""
    deadline = time.monotonic() + seconds
    gone = os.pidfd_open(child)
    poll = select.poll()
    for fd in (gone, *streams):
        poll.register(fd, select.POLLIN)
    ended = ""
    while not ended:
        left = deadline - time.monotonic()
        for fd, _ in poll.poll(max(left, 0) * 1000):
            if fd == gone:
                ended = "exited"
            elif not _take(fd, streams[fd]):
                poll.unregister(fd)
        if not ended and left <= 0:
            ended = "timeout"
        if not ended and any(window.total > most for window in streams.values()):
            ended = "output"
    _kill_others()
    for fd, window in streams.items():
        while _take(fd, window):  # to the end: whoever could write to it is dead
            pass
        os.close(fd)
    os.close(gone)
    return ended


def _take(fd: int, window: Window) -> bool:
    chunk = os.read(fd, _CHUNK)
    window.feed(chunk)
    return bool(chunk)


def _kill_others() -> None:
    """All processes of the box but its init and this one, at once: a fork in between does not get away."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("stdin")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def serve() -> None:
    """Answer requests until standard input ends."""
    os.umask(0o022)
    _send({"ok": GREETING})
    while header := receive(4):
        size = int.from_bytes(header, "big")
        if size > _LARGEST_REQUEST:
            return
        request: dict[str, Any] = json.loads(receive(size))
        if request.pop("op") == "run":
            answer, output, errors = run(**request)
            _send({**answer, "stdout": len(output), "stderr": len(errors)}, output, errors)
        else:
            _send(look(**request))


def _send(message: dict[str, Any], *more: bytes) -> None:
    send(json.dumps(message).encode(), *more)


def main() -> None:
    """Serve one workspace or several roots."""
    close_to_others()
    serve()
