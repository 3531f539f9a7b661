"""Bad input at the door: each file is refused with a report that says why, and the service goes on."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fakes.house import config_for, git, make_repository, script
from fakes.scripted_server import ScriptedServer
from nightcrew.events import Recorded
from nightcrew.journal import Journal
from nightcrew.service import Service
from nightcrew.service.worker import open_worker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def bad_files(root: Path, repository: Path) -> dict[str, tuple[bytes, str]]:
    """Content by name, and a word that its report must have."""
    (root / "no-commit").mkdir()
    git(root / "no-commit", "init", "--quiet")
    (root / "plain").mkdir()

    def task(front: str, body: str = "# Do it\n") -> bytes:
        return f"---\n{front}\n---\n{body}".encode()

    bomb = "\n".join(["a: &a [x, x]", *(f"{c}: &{c} [*{p}, *{p}]" for p, c in zip("abcdefg", "bcdefgh", strict=True))])
    return {
        "binary.md": (b"\x00\x01\x02\xff" * 100, "binary"),
        "large.md": (task(f"repo: {repository}") + b"x" * (1 << 20), "1 MiB"),
        "latin.md": (task(f"repo: {repository}") + b"\xe9\n", "UTF-8"),
        "bomb.md": (task(bomb), "anchors"),
        "unknown.md": (task(f"repo: {repository}\npriorty: 3"), "priority"),
        "typed.md": (task(f"repo: {repository}\nlimits: soon"), "Line 3"),
        "later.md": (task(f"repo: {repository}\ndeliver: push"), "push"),
        "never.md": (task(f"repo: {repository}\nschedule: '0 3 31 2 *'"), "schedule"),
        "norepo.md": (task("priority: 1"), "repo"),
        "nowhere.md": (task(f"repo: {root}/nowhere"), "does not exist"),
        "plain.md": (task(f"repo: {root}/plain"), "git"),
        "nocommit.md": (task(f"repo: {root}/no-commit"), "commit"),
        "nobase.md": (task(f"repo: {repository}\nbase: mian"), "main"),
        "nocrew.md": (task(f"repo: {repository}\ncrew: nobodys"), "crew"),
        "nobody.md": (task(f"repo: {repository}", ""), "says nothing"),
        "notes.txt": (b"milk, eggs\n", ".md"),
    }


async def test_bad_task_files_are_rejected_with_a_report_and_the_service_goes_on(open_tmp: Path) -> None:
    repository = make_repository(open_tmp / "repository")
    async with ScriptedServer(script()) as server:
        config = config_for(open_tmp / "home", server.url)
        config.inbox.mkdir(parents=True)
        files = bad_files(open_tmp, repository)
        for name, (content, _) in files.items():
            (config.inbox / name).write_bytes(content)
        (config.inbox / "zz-good.md").write_text(f"---\nrepo: {repository}\n---\n# Fix mean()\n")

        def rejected() -> set[str]:
            return {path.name for path in config.rejected.glob("*.report.md")}

        def stop_at_the_end(recorded: Recorded) -> None:
            if recorded.event.kind == "task_ended":
                ended.set()

        ended = anyio.Event()
        async with anyio.create_task_group() as group:
            service = Service(config, open_worker=open_worker, say=lambda _: None, on_event=stop_at_the_end)
            group.start_soon(service.run)
            await ended.wait()
            while len(rejected()) < len(files):  # noqa: ASYNC110 - files are all there is to see
                await anyio.sleep(0.05)
            service.stop()
        for name, (content, word) in files.items():
            assert (config.rejected / name).read_bytes() == content
            assert word in (config.rejected / f"{name}.report.md").read_text(), name
        assert not list(config.inbox.glob("[!.]*"))
        with Journal.open(config.journal, read_only=True) as journal:
            assert [(view.name, view.outcome) for view in journal.tasks()] == [("zz-good", "delivered")]
