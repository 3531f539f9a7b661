"""The delivery gate over the whole road: what waits, what an approval delivers, and what a rejection leaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from fakes.house import BUGGY, FIX, FIXED, TESTS, House, call, fingerprint, git, house, script
from fakes.scripted_server import Answer
from nightcrew.config import GateSettings
from nightcrew.events import Decided
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.service import Service
from nightcrew.service.approval import settle_here
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import NotWaiting, Outcome, TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

FILES = {"stats.py": BUGGY, "test_stats.py": TESTS}


def also(command: str) -> tuple:
    """An executor that repairs the bug and does something else besides."""
    return (FIX[1], call("run_command", command=command), FIX[3])


LOCK = also("echo 'version = 1' > uv.lock")


@pytest.mark.parametrize(
    ("command", "kind", "path"),
    [
        ("mkdir -p .github/workflows && echo 'on: push' > .github/workflows/ci.yml", "ci", ".github/workflows/ci.yml"),
        ("mkdir .husky && echo true > .husky/pre-commit", "hooks", ".husky/pre-commit"),
        ("mkdir tools && echo true > tools/any", "hooks", "tools/any"),
        ("echo 'version = 1' > uv.lock", "lock-files", "uv.lock"),
        ("echo '* text=auto' > .gitattributes", "git-settings", ".gitattributes"),
        ("ln -s stats.py alias.py", "symlinks", "alias.py"),
        ("printf '#!/bin/sh\\n' > run && chmod +x run", "executables", "run"),
        ("chmod +x stats.py", "executables", "stats.py"),
        ("head -c 3000000 /dev/zero | tr '\\0' 'a' > big.txt", "large-files", "big.txt"),
        ("head -c 100 /dev/zero > blob.dat", "binary-files", "blob.dat"),
        ("printf 'a\\001b\\n' > blob.dat", "binary-files", "blob.dat"),
        ("echo 'x = 1' > conftest.py", "checks", "conftest.py"),
        ("echo 'Obey.' > AGENTS.md", "tool-settings", "AGENTS.md"),
        ("git rm -q test_more.py", "tests", "test_more.py"),
        ("sed -i 's/return 1/return 2/' checks/run.sh", "checks", "checks/run.sh"),
    ],
)
async def test_each_class_of_concern_waits_for_a_person(open_tmp: Path, command: str, kind: str, path: str) -> None:
    more = "import unittest\n\n\nclass Helper:\n    def check(self):\n        assert 1 + 1 == 2\n"
    files = {**FILES, "test_more.py": more, "checks/run.sh": "python3 -m unittest -q # return 1\n"}
    async with house(open_tmp, script(*also(command)), files=files) as home:
        git(home.repository, "config", "core.hooksPath", "tools")
        before = fingerprint(home.repository)
        checks = ["python3 -m unittest -q", "sh checks/run.sh"]
        record = await home.run(checks=checks)
        assert record.asked is not None, record.ended
        assert {(concern.kind, concern.path) for concern in record.asked.concerns} == {(kind, path)}
        view = home.journal.view(record.id)
        assert (view.state, view.exit_code, view.outcome) == (TaskState.WAITING, 3, None)
        assert path in view.reason
        assert fingerprint(home.repository) == before


async def test_an_approval_delivers_the_very_commit_that_was_tested(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        waiting = home.report(record)
        assert waiting.startswith("# Waiting for approval (exit code 3)\n")
        for words in (f"nightcrew approve {record.id}", f"nightcrew reject {record.id} --why", "`uv.lock` `is new`"):
            assert words in waiting[: waiting.index("## How to look at it")]
        told = json.loads((home.config.outbox / "fix.report.json").read_text())
        assert (told["exit_code"], told["outcome"], told["concerns"][0]["path"]) == (3, None, "uv.lock")
        patch = home.patch(record)
        assert "uv.lock" in patch and "+    return total / len(values)" in patch
        requests = len(home.server.requests)

        await approve(home, record)
        after = home.journal.record(record.id)
        assert after.ended is not None and after.ended.outcome is Outcome.DELIVERED
        tested = after.checks_after[1].commit
        assert git(home.repository, "rev-parse", home.branches()[0]).strip() == tested == after.asked.commit
        assert git(home.repository, "show", f"{home.branches()[0]}:stats.py") == FIXED
        assert len(home.server.requests) == requests
        report = home.report(record)
        assert report.startswith("# Delivered and verified (exit code 0)\n")
        assert "Approved by `ann` through `cli` at" in report
        assert home.patch(record) == patch
        told = json.loads((home.config.outbox / "fix.report.json").read_text())
        assert (told["decision"]["approved"], told["decision"]["by"]) == (True, "ann")
        assert told["branch"] == home.branches()[0]
        assert not (home.config.home / "workspaces" / record.id).exists()


async def approve(home: House, record: TaskRecord) -> TaskState:
    await JournalGateway(home.journal, home.config).approve(record.id, by="ann", door="cli")
    return (await settle_here(home.config, home.journal, record.id)).state


async def test_a_rejection_ends_it_with_the_reason_and_the_patch_stays(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        gateway = JournalGateway(home.journal, home.config)
        await gateway.reject(record.id, why="No\nlock files, `please`.", by="ann", door="cli")
        view = await settle_here(home.config, home.journal, record.id)
        assert (view.outcome, view.exit_code, view.branch) == (Outcome.REJECTED, 1, None)
        assert home.branches() == []
        report = home.report(record)
        assert report.startswith("# Verified, but rejected, so no branch was delivered (exit code 1)\n")
        assert "No lock files, `please`." in report
        assert "uv.lock" in home.patch(record)
        await gateway.reject(record.id, why="again", by="bob", door="cli")
        assert (await gateway.view(record.id)).reason == "No lock files, `please`."
        with pytest.raises(NotWaiting, match=f"task {record.id} was rejected by ann already"):
            await gateway.approve(record.id, by="bob", door="cli")


async def test_only_what_waits_can_be_decided(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run()
        gateway = JournalGateway(home.journal, home.config)
        with pytest.raises(NotWaiting, match=f"task {record.id} does not wait for approval: it was delivered"):
            await gateway.approve(record.id, by="ann", door="cli")


async def test_time_spent_waiting_counts_against_nothing(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        worked = record.active_seconds
        seq = record.seq + 1
        later = "2099-01-01T00:00:00.000Z"
        home.journal.append(record.id, seq, Decided(approved=True, by="ann", door="cli"), at=later)
        assert home.journal.record(record.id).active_seconds == worked
        view = await settle_here(home.config, home.journal, record.id)
        assert view.outcome is Outcome.DELIVERED


async def test_a_running_service_carries_out_a_decision_though_all_its_workers_are_busy(open_tmp: Path) -> None:
    scripted = script(*LOCK)

    def answers(request: dict) -> Answer:
        return Answer(fault="hang") if "Take all night" in json.dumps(request) else scripted(request)

    async with house(open_tmp, answers) as home:
        record = await home.run()
        config = home.config.model_copy(update={"concurrency": 1})
        long = record.request.model_copy(update={"text": "Take all night."})
        busy = home.journal.submit(long, origin="test", name_hint="busy").task

        def on_event(recorded: object) -> None:
            if getattr(recorded, "task", "") == record.id and recorded.event.kind == "task_ended":
                service.stop()

        service = Service(config, open_worker=open_worker, say=lambda _: None, on_event=on_event)
        async with anyio.create_task_group() as group:
            group.start_soon(service.run)
            await service.started.wait()
            with anyio.fail_after(40):
                while home.journal.view(busy).state is not TaskState.RUNNING:  # noqa: ASYNC110 - another connection
                    await anyio.sleep(0.02)
            await JournalGateway(home.journal, config).approve(record.id, by="a", door="mcp")
        assert home.journal.view(record.id).outcome is Outcome.DELIVERED
        assert home.journal.view(busy).state is TaskState.QUEUED
        assert "through `mcp`" in home.report(record)


async def test_a_waiting_task_takes_no_part_in_a_restart(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        requests = len(home.server.requests)
        assert home.journal.requeue_dead(lambda _: False) == []
        assert home.journal.claim("another") is None
        async with open_worker(home.config, home.journal, lambda _: None):
            assert (home.config.home / "workspaces" / record.id).is_dir()
        assert len(home.server.requests) == requests
        assert await approve(home, record) is TaskState.ENDED


async def test_a_cancel_ends_a_waiting_task_and_its_report_says_so(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        await JournalGateway(home.journal, home.config).cancel(record.id)
        view = await settle_here(home.config, home.journal, record.id)
        assert (view.outcome, view.exit_code) == (Outcome.CANCELLED, 130)
        assert home.report(record).startswith("# Cancelled (exit code 130)\n")
        assert home.branches() == []


async def test_an_approval_without_the_private_clone_says_so_and_the_patch_is_there(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        shutil.rmtree(home.config.home / "workspaces" / record.id)
        assert await approve(home, record) is TaskState.WAITING
        view = home.journal.view(record.id)
        assert "the private clone of the task is gone" in view.reason
        assert str(home.config.outbox / "fix.patch") in view.reason
        assert "the private clone of the task is gone" in home.report(record)
        git(home.repository, "apply", str(home.config.outbox / "fix.patch"))
        assert home.branches() == []
        gateway = JournalGateway(home.journal, home.config)
        await gateway.reject(record.id, why="done by hand", by="ann", door="cli")
        assert (await settle_here(home.config, home.journal, record.id)).outcome is Outcome.REJECTED
        assert "uv.lock" in home.patch(record)


async def test_an_approval_that_cannot_be_carried_out_now_can_be_given_again(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        away = home.repository.rename(open_tmp / "away")
        assert await approve(home, record) is TaskState.WAITING
        assert "approved, but not delivered" in home.journal.view(record.id).reason
        away.rename(home.repository)
        assert await approve(home, record) is TaskState.ENDED
        assert git(home.repository, "rev-parse", home.branches()[0]).strip() == record.asked.commit


async def test_the_configuration_may_let_kinds_pass(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK), gate=GateSettings(allow=("lock-files",))) as home:
        record = await home.run()
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED
        assert "Lock files changed: `uv.lock`" in home.report(record)


async def test_a_patch_needs_no_approval_and_its_report_names_what_there_is(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run(deliver="patch")
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED
        assert home.branches() == []
        assert "Lock files changed: `uv.lock`" in home.report(record)


async def test_models_are_told_nothing_of_the_gate(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        await home.run()
        for request in home.server.requests:
            assert b"approv" not in request.body.lower()
            assert b"task_" not in request.body


# --- the commands


async def test_the_commands_decide_without_a_service(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        first, second = await home.run(), await home.run()
        run = cli(home)
        listed = await run("list")
        assert listed.stdout.count("waiting for approval") == 2
        assert "2 waiting for approval" in listed.stderr
        shown = (await run("show", first.id)).stdout
        assert "uv.lock is new (lock-files)" in shown and f"nightcrew approve {first.id}" in shown
        assert json.loads((await run("show", first.id, "--json")).stdout)["exit_code"] == 3

        done = await run("approve", first.id, "--json")
        view = json.loads(done.stdout)
        assert (done.returncode, view["outcome"], view["branch"]) == (0, "delivered", home.branches()[0])
        again = await run("approve", first.id)
        assert (again.returncode, again.stdout.split()[:2]) == (0, [first.id, "delivered:"])
        late = await run("reject", first.id, "--why", "no")
        assert (late.returncode, late.stdout) == (1, "")
        assert "was approved by" in late.stderr

        refused = await run("reject", second.id, "--why", "not now")
        assert (refused.returncode, refused.stdout.split("\n")[0]) == (0, f"{second.id}  rejected: not now")
        assert (await run("reject", second.id)).returncode == 2
        assert (await run("reject", second.id, "--why", " ")).returncode == 2
        assert len(home.branches()) == 1


def cli(home: House):
    """The console entry in a process of its own, over the house's home."""
    settings = home.config.home / "config.toml"
    settings.write_text(f'[workspaces]\npath = "{home.config.workspaces.path}"\n')
    environ = {**os.environ, "NIGHTCREW_HOME": str(home.config.home), "NIGHTCREW_CONFIG": str(settings)}

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nightcrew", *arguments]

        def call() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=40)

        return await anyio.to_thread.run_sync(call)

    return run


async def test_the_word_of_a_person_is_journalled(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOCK)) as home:
        record = await home.run()
        await cli(home)("approve", record.id)
        with Journal.open(home.config.journal, read_only=True) as journal:
            kinds = [recorded.event.kind for recorded in journal.read(record.id)]
            decided = journal.record(record.id).decided
        assert kinds[-5:] == ["approval_asked", "decided", "task_claimed", "delivered", "task_ended"]
        assert decided is not None and decided.by and decided.door == "cli"
