"""Thousands of mixed files into the inbox while its service is killed again and again: each is there once, and whole.

NIGHTCREW_CHAOS_FILES and NIGHTCREW_CHAOS_KILLS say how many, NIGHTCREW_CHAOS_SEED repeats what was dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from nightcrew.attachments import AttachmentStore
from nightcrew.config import Config
from nightcrew.intake.inbox import Intake
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord

FILES = int(os.environ.get("NIGHTCREW_CHAOS_FILES", "600"))
KILLS = int(os.environ.get("NIGHTCREW_CHAOS_KILLS", "5"))
SEED = int(os.environ.get("NIGHTCREW_CHAOS_SEED") or random.randrange(1 << 32))
LONGEST_LIFE = 1.2
"""Seconds that a service lives after it is up, at most."""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60 + FILES // 5)]

_SERVICE = """
import sys
from pathlib import Path
import anyio
from nightcrew.config import Config
from nightcrew.intake.inbox import Intake
from nightcrew.journal import Journal
config = Config(home=Path(sys.argv[1]))
with Journal.open(config.journal) as journal:
    print("up", flush=True)
    anyio.run(Intake(config, journal).run)
"""


@dataclass
class Wanted:
    """What has to be there in the end."""

    texts: dict[int, str] = field(default_factory=dict)
    """Of files that must be a task each."""
    perhaps: dict[int, str] = field(default_factory=dict)
    """Of files that were deleted or replaced: a task, whole, or none."""
    attached: dict[int, dict[str, str]] = field(default_factory=dict)
    """Digests by path of what has to be with a task."""
    rejected: dict[str, bytes | None] = field(default_factory=dict)
    """Content by name; None where it is no file."""
    left: set[str] = field(default_factory=set)
    """What must still be in the inbox: names that are no task's yet."""
    crews: dict[int, str] = field(default_factory=dict)
    files: Counter[str] = field(default_factory=Counter)


class Dropper(threading.Thread):
    """Drops the files, some of them slowly, in an order that the seed gives."""

    def __init__(self, home: Path, count: int, seed: int) -> None:
        super().__init__()
        self.inbox = home / "inbox"
        self.aside = home / "aside"
        self.wanted = Wanted()
        self.go = threading.Semaphore(0)
        self.failure: BaseException | None = None
        self._count = count
        self._rng = random.Random(seed)
        self._later: list[tuple[float, Iterator[None]]] = []
        self._kinds = {
            self._written: 30,
            self._paused: 10,
            self._renamed: 14,
            self._from_part: 8,
            self._in_a_crews_folder: 6,
            self._folder: 5,
            self._slow_folder: 3,
            self._same_id: 4,
            self._edited: 3,
            self._deleted: 2,
            self._bad: 8,
            self._no_task: 4,
            self._link: 1,
            self._junk: 2,
        }

    def run(self) -> None:
        try:
            for number in range(self._count):
                self.go.acquire()
                (kind,) = self._rng.choices(list(self._kinds), list(self._kinds.values()))
                self.wanted.files[kind.__name__.strip("_")] += 1
                self._begin(kind(number))
                self._go_on()
            while self._later:
                time.sleep(0.01)
                self._go_on()
        except BaseException as failure:  # noqa: BLE001 - the test raises it
            self.failure = failure

    def _begin(self, steps: Iterator[None]) -> None:
        if next(steps, self) is None:
            self._later.append((time.monotonic() + self._rng.uniform(0.05, 0.9), steps))

    def _go_on(self) -> None:
        clock = time.monotonic()
        due = [steps for moment, steps in self._later if moment <= clock]
        self._later = [(moment, steps) for moment, steps in self._later if moment > clock]
        for steps in due:
            self._begin(steps)

    # --- contents

    def _task(self, number: int, *, front: str = "") -> bytes:
        lines = 20_000 if self._rng.random() < 0.01 else self._rng.randrange(200)
        body = f"# Task {number}\n\n" + "a line of what is wanted\n" * lines + f"end of {number}"
        self.wanted.texts[number] = body
        return f"---\nrepo: /src/app\n{front}---\n{body}\n".encode()

    def _bytes(self) -> bytes:
        return self._rng.randbytes(self._rng.choice((0, 10, 5_000, 200_000)))

    # --- ways of dropping; each yields where it pauses

    def _written(self, number: int) -> Iterator[None]:
        (self.inbox / f"{number}.md").write_bytes(self._task(number))
        yield from ()

    def _paused(self, number: int) -> Iterator[None]:
        data = self._task(number)
        cut = self._rng.randrange(len(data))
        with (self.inbox / f"{number}.md").open("wb") as file:
            file.write(data[:cut])
            file.flush()
            yield
            file.write(data[cut:])

    def _renamed(self, number: int) -> Iterator[None]:
        aside = self.aside / f"{number}.md"
        aside.write_bytes(self._task(number))
        aside.rename(self.inbox / aside.name)
        yield from ()

    def _from_part(self, number: int) -> Iterator[None]:
        part = self.inbox / f"{number}.md.part"
        part.write_bytes(self._task(number))
        yield
        part.rename(self.inbox / f"{number}.md")

    def _in_a_crews_folder(self, number: int) -> Iterator[None]:
        folder = self.inbox / "embedded"
        folder.mkdir(exist_ok=True)
        self.wanted.crews[number] = "embedded"
        (folder / f"{number}.md").write_bytes(self._task(number))
        yield from ()

    def _files_of(self, number: int) -> dict[str, bytes]:
        files = {name: self._bytes() for name in ("a.png", "logs/b.txt", "c d.bin")}
        self.wanted.attached[number] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        return {**files, "task.md": self._task(number)}

    def _folder(self, number: int) -> Iterator[None]:
        aside = self.aside / str(number)
        for name, data in self._files_of(number).items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(data)
        aside.rename(self.inbox / str(number))
        yield from ()

    def _slow_folder(self, number: int) -> Iterator[None]:
        place = self.inbox / str(number)
        files = self._files_of(number)
        with contextlib.ExitStack() as stack:  # as a copier: the next file is open before the last one is closed
            for name in sorted(files, key=lambda name: name != "task.md"):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((place / name).open("wb"))
                file.write(files[name][: len(files[name]) // 2])
                file.flush()
            yield
            for file, name in zip(list_of(stack), sorted(files, key=lambda name: name != "task.md"), strict=True):
                file.write(files[name][len(files[name]) // 2 :])

    def _same_id(self, number: int) -> Iterator[None]:
        data = self._task(number, front=f"id: same-{number}\n")
        (self.inbox / f"{number}.md").write_bytes(data)
        yield
        (self.inbox / f"{number}-again.md").write_bytes(data)

    def _edited(self, number: int) -> Iterator[None]:
        first = self._task(number)
        self.wanted.perhaps[number] = self.wanted.texts.pop(number)
        (self.inbox / f"{number}.md").write_bytes(first)
        yield
        aside = self.aside / f"{number}.md"
        aside.write_bytes(self._task(number + 10_000_000))
        aside.rename(self.inbox / aside.name)

    def _deleted(self, number: int) -> Iterator[None]:
        path = self.inbox / f"{number}.md"
        path.write_bytes(self._task(number))
        self.wanted.perhaps[number] = self.wanted.texts.pop(number)
        yield
        path.unlink(missing_ok=True)

    def _bad(self, number: int) -> Iterator[None]:
        wrongs = (b"", b"\0binary", b"---\nrepo: /src\npriorty: 1\n---\nx\n", b"---\nrepo: /src\n---\n", b"\xff\xfe")
        data = self._rng.choice(wrongs)
        self.wanted.rejected[f"{number}.md"] = data
        (self.inbox / f"{number}.md").write_bytes(data)
        yield from ()

    def _no_task(self, number: int) -> Iterator[None]:
        data = self._bytes()
        self.wanted.rejected[f"{number}.txt"] = data
        (self.inbox / f"{number}.txt").write_bytes(data)
        yield from ()

    def _link(self, number: int) -> Iterator[None]:
        self.wanted.rejected[f"{number}.md"] = None
        (self.inbox / f"{number}.md").symlink_to("/etc/passwd")
        yield from ()

    def _junk(self, number: int) -> Iterator[None]:
        name = self._rng.choice((f".{number}.md", f"{number}.md~", f"{number}.tmp", f"#{number}.md#"))
        self.wanted.left.add(name)
        (self.inbox / name).write_bytes(b"half")
        yield from ()


def list_of(stack: contextlib.ExitStack) -> list:
    """The files that a stack holds, in order."""
    return [callback.__self__ for _, callback in stack._exit_callbacks]  # type: ignore[attr-defined]


def one_life(home: Path, dropper: Dropper, files: int, rng: random.Random) -> None:
    """Start a service, let so many files be dropped around it, and kill it at some moment."""
    argv = [sys.executable, "-c", _SERVICE, str(home)]
    log = (home / "service.log").open("ab")
    with log, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log) as service:
        assert service.stdout is not None
        for _ in range(files // 3):
            dropper.go.release()  # some wait for it when it starts
        try:
            assert service.stdout.readline() == b"up\n"
            for _ in range(files - files // 3):
                dropper.go.release()
            time.sleep(rng.uniform(0, LONGEST_LIFE))  # how far it gets is the point, and may differ
        finally:
            service.send_signal(signal.SIGKILL)


async def finish(config: Config, left: set[str]) -> None:
    """A last service, which nobody kills, until there is nothing to be done."""

    def to_do() -> list[str]:
        here = {path.name for path in config.inbox.iterdir()} ^ {".claimed", ".accepted", "embedded", *left}
        claimed = [*(config.inbox / ".claimed").glob("[!@]*"), *(config.inbox / ".claimed").glob("@*/*")]
        return sorted({*here, *(path.name for path in (*claimed, *(config.inbox / "embedded").glob("*")))})

    with Journal.open(config.journal) as journal:
        async with anyio.create_task_group() as group:
            group.start_soon(Intake(config, journal).run)
            until = time.monotonic() + 60 + FILES / 20
            while undone := to_do():
                assert time.monotonic() < until, f"{len(undone)} are not taken: {undone[:20]}"
                await anyio.sleep(0.5)
            group.cancel_scope.cancel()


async def test_no_file_is_lost_doubled_or_cut_when_the_service_is_killed_again_and_again(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    config = Config(home=tmp_path / "home")
    for path in (config.inbox / "embedded", tmp_path / "home" / "aside"):
        path.mkdir(parents=True, mode=0o700)
    dropper = Dropper(config.home, FILES, SEED)
    dropper.start()
    begun = time.monotonic()
    for number in range(KILLS):
        share = FILES * (number + 1) // KILLS - FILES * number // KILLS
        await anyio.to_thread.run_sync(one_life, config.home, dropper, share, rng)
    await anyio.to_thread.run_sync(dropper.join)
    if dropper.failure is not None:
        raise dropper.failure
    waiting = len(list(config.inbox.glob("[!.]*")))
    await finish(config, dropper.wanted.left)
    found = {"seed": SEED, "kills": KILLS, "seconds": round(time.monotonic() - begun, 1), "waited": waiting}
    found |= check(config, dropper.wanted)
    print(json.dumps(found))
    assert (found["lost"], found["twice"], found["cut"], found["strange"]) == ([], [], [], []), found


def check(config: Config, wanted: Wanted) -> dict[str, object]:
    """What became of it all."""
    with Journal.open(config.journal) as journal:
        records = [journal.record(view.id) for view in journal.tasks()]
    by_number: dict[int, list[TaskRecord]] = {}
    for record in records:
        number = int(record.request.text.split(None, 3)[2])
        by_number.setdefault(number, []).append(record)
    cut: list[object] = [
        number
        for number, found in by_number.items()
        if any(one.request.text != (wanted.texts | wanted.perhaps).get(number) for one in found)
    ]
    store = AttachmentStore(config.attachments)
    for number, files in wanted.attached.items():
        for record in by_number.get(number, ()):
            kept = store.of(record.id, record.request)
            there = {} if kept is None else {name: digest(kept / name) for name in files}
            listed = {one.path: one.sha256 for one in record.request.attachments}
            cut += [number] if not there == listed == files else []
    for number, crew in wanted.crews.items():
        cut += [number] if any(one.request.crew != crew for one in by_number.get(number, ())) else []
    rejected = {path.name for path in config.rejected.iterdir() if not path.name.startswith(".")}
    expected = set(wanted.rejected) | {f"{name}.report.md" for name in wanted.rejected}
    cut += [
        name
        for name, data in wanted.rejected.items()
        if data is not None and name in rejected and (config.rejected / name).read_bytes() != data
    ]
    store.sweep({record.id for record in records}.__contains__, older_than=0)
    with_files = {record.id for record in records if record.request.attachments}
    accepted = len(list((config.inbox / ".accepted").iterdir()))
    doubles = wanted.files["same_id"]
    return {
        "files": sum(wanted.files.values()),
        "mix": dict(wanted.files),
        "tasks": len(records),
        "rejected": len(wanted.rejected),
        "lost": [*(wanted.texts.keys() - by_number.keys()), *sorted(expected - rejected)],
        "twice": [number for number, found in by_number.items() if len(found) > 1],
        "cut": cut,
        "strange": [
            *sorted(rejected - expected),
            *(by_number.keys() - wanted.texts.keys() - wanted.perhaps.keys()),
            *({path.name for path in config.attachments.iterdir()} ^ with_files),
            *([f"{accepted} accepted"] if accepted != len(records) + doubles else []),
        ],
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
