"""The command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.records import (
    PATCH,
    candidate,
    delivered_events,
    opened,
    recorded,
    replied,
    submitted,
)
from fakes.repos import make_repository
from fakes.workers import FakeWorker
from nightcrew.cli.main import main
from nightcrew.cli.progress import Progress
from nightcrew.delivery import write_results
from nightcrew.domain import Usage
from nightcrew.events import CandidateTried, ModelReplied, TaskClaimed, TaskEnded, ToolRan
from nightcrew.journal import Journal
from nightcrew.journal.locks import ServiceLock
from nightcrew_tools.contract import Outcome, TaskRequest

pytestmark = pytest.mark.timeout(30)

COMMANDS = [
    "up",
    "run",
    "submit",
    "list",
    "show",
    "report",
    "diff",
    "cancel",
    "pause",
    "resume",
    "retry",
    "journal",
    "replay",
    "export",
    "import",
    "approve",
    "reject",
    "doctor",
    "demo",
    "model fetch",
]

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIGHTCREW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("NIGHTCREW_CONFIG", raising=False)
    monkeypatch.delenv("NIGHTCREW_DEBUG", raising=False)
    return tmp_path / "home"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo")


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> FakeWorker:
    """Stands in for the real one, which the commands import when they run."""
    fake = FakeWorker()
    monkeypatch.setitem(sys.modules, "nightcrew.service.worker", SimpleNamespace(open_worker=fake.open))
    return fake


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the console entry in this process."""

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run


def task_file(folder: Path, text: str, repo: object = None) -> Path:
    path = folder / "fix-login.md"
    path.write_text((f"---\nrepo: {repo}\n---\n" if repo else "") + text)
    return path


def ended_task(home: Path, *, outcome: Outcome = Outcome.DELIVERED, patch: str = PATCH) -> str:
    """A task in the journal and the outbox, without a service."""
    with Journal.open(home / "journal.sqlite") as journal:
        events = delivered_events()[1:-1] if outcome is Outcome.DELIVERED else [TaskClaimed(worker="w"), opened()]
        task = journal.submit(submitted().request, origin="cli", name_hint="fix-the-total").task
        journal.claim_task(task, "w")
        for event in [*events[1:], TaskEnded(outcome=outcome, reason="because")]:
            journal.append(task, journal.record(task).seq + 1, event)
        write_results(home / "outbox", journal.record(task), patch)
    return task


# --- help


def test_every_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from nightcrew.cli.main import app\n"
        "for words in sys.argv[1:]:\n"
        "    try: app([*words.split(), '--help'])\n"
        "    except SystemExit as ended: assert not ended.code, words\n"
        "heavy = {'mcp', 'httpx2', 'watchfiles', 'sqlite3', 'rich', 'pydantic', 'anyio', 'yaml'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMANDS, ""], capture_output=True, text=True, timeout=25, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["", "run", "model fetch"])
def test_help_costs_less_than_four_tenths_of_a_second_of_cpu(command: str) -> None:
    def cpu() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        script = [sys.executable, "-m", "nightcrew", *command.split(), "--help"]
        subprocess.run(script, check=True, capture_output=True, timeout=20)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu() for _ in range(2)) < 0.4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_and_every_command_speaks_json(cli: Cli, command: str) -> None:
    shown = cli(*command.split(), "--help")
    assert shown.code == 0
    assert "Examples:" in shown.out
    assert "--json" in shown.out


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.startswith("nightcrew 0.")


def test_an_unknown_command_is_bad_usage(cli: Cli) -> None:
    shown = cli("rnu")
    assert (shown.code, shown.out) == (2, "")
    assert "rnu" in shown.err


# --- run


@pytest.mark.parametrize(
    ("text", "code"), [("deliver", 0), ("fail", 1), ("crash", 1)], ids=["delivered", "unverified", "broken"]
)
def test_run_exits_with_how_the_task_ended(
    cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path, text: str, code: int
) -> None:
    shown = cli("run", task_file(tmp_path, text, repo))
    assert shown.code == code
    assert "report  " in shown.out and "fix-login.report.md" in shown.out
    assert "queued" in shown.err and "ended" in shown.err


def test_run_prints_nothing_but_json_on_standard_output(
    cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path
) -> None:
    shown = cli("run", task_file(tmp_path, "deliver", repo), "--json")
    view = json.loads(shown.out)
    assert (view["outcome"], view["exit_code"], view["name"]) == ("delivered", 0, "fix-login")
    assert view["branch"].startswith("nightcrew/")


def test_quiet_says_nothing_but_the_result(cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path) -> None:
    assert cli("run", "-q", task_file(tmp_path, "deliver", repo)).err == ""


def test_run_without_an_endpoint_exits_with_4(cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path) -> None:
    assert cli("run", task_file(tmp_path, "deliver", repo), "--crew", "embedded").code == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "fix-login.md: the file is empty"),
        ("---\nrepoo: /x\n---\nfix", "fix-login.md: line 2: there is no field `repoo`; did you mean `repo`?"),
        ("fix it", "no repository is named"),
        ("---\nrepo: /does/not/exist\n---\nfix", "`repo`: /does/not/exist does not exist"),
        ("---\nrepo: {repo}\nbase: nope\n---\nfix", "nope"),
        ("---\nrepo: {repo}\ncrew: nobody\n---\nfix", "no crew is called 'nobody'; there are: "),
    ],
)
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_bad_task_is_one_sentence_and_exit_code_2(
    cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path, command: str, text: str, said: str
) -> None:
    shown = cli(command, task_file(tmp_path, text.replace("{repo}", str(repo))))
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("nightcrew: ") and said in shown.err
    assert "Traceback" not in shown.err
    assert worker.ran == []


def test_a_missing_task_file_is_named(cli: Cli) -> None:
    shown = cli("run", "nowhere.md")
    assert (shown.code, shown.err) == (2, "nightcrew: nowhere.md: there is no such file\n")


def test_the_command_line_comes_before_the_file(cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path) -> None:
    shown = cli("run", task_file(tmp_path, "deliver", "/elsewhere"), "--repo", repo, "--json")
    assert json.loads(shown.out)["repo"] == str(repo)


def test_a_path_in_a_task_file_is_meant_from_where_the_file_lies(
    cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path
) -> None:
    shown = cli("run", task_file(tmp_path, "deliver", "./repo"), "--json")
    assert json.loads(shown.out)["repo"] == str(repo)


def test_run_reads_standard_input_when_asked(tmp_path: Path, repo: Path, home: Path) -> None:
    done = nightcrew("submit", "-", "--repo", str(repo), "--json", stdin="# From a pipe\n")
    assert json.loads(done.stdout)["title"] == "From a pipe"


def test_run_does_not_wait_on_a_terminal(home: Path, repo: Path) -> None:
    leader, follower = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nightcrew", "run", "-", "--repo", str(repo)],
            stdin=follower,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert done.returncode == 2
    assert "standard input is a terminal" in done.stderr


def test_a_wrong_configuration_is_one_sentence_and_exit_code_2(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("concurency = 3\n")
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(tmp_path / "c.toml"))
    shown = cli("list")
    assert shown.code == 2
    assert "concurency: unknown key" in shown.err and "Traceback" not in shown.err


def test_a_traceback_is_shown_when_it_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightcrew.errors import TaskFileError

    monkeypatch.setenv("NIGHTCREW_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["nightcrew", "run", "nowhere.md"])
    with pytest.raises(TaskFileError):
        main()


# --- submit


def test_submit_works_without_a_service_and_says_what_to_do(cli: Cli, home: Path, repo: Path) -> None:
    shown = cli("submit", "-m", "Fix the login", "--repo", repo)
    assert shown.code == 0
    assert "fix-the-login: queued" in shown.out
    assert "start `nightcrew up`" in shown.err
    assert "Fix the login" in cli("list").out


def test_submit_beside_a_service_does_not_ask_for_one(cli: Cli, home: Path, repo: Path) -> None:
    with ServiceLock(home):
        shown = cli("submit", "-m", "Fix", "--repo", repo)
    assert "nightcrew up" not in shown.err and "nightcrew show" in shown.err


@pytest.mark.parametrize("arguments", [[], ["x.md", "-m", "Fix"]])
def test_submit_wants_a_file_or_a_message(cli: Cli, arguments: list[str]) -> None:
    shown = cli("submit", *arguments)
    assert shown.code == 2 and "-m TEXT" in shown.err


def test_a_message_needs_a_repository(cli: Cli) -> None:
    shown = cli("submit", "-m", "Fix")
    assert shown.code == 2 and "--repo" in shown.err


def test_waiting_exits_as_the_task_ended_long_ago(cli: Cli, worker: FakeWorker, tmp_path: Path, repo: Path) -> None:
    file = task_file(tmp_path, f"---\nrepo: {repo}\nid: nightly\n---\nfail")
    assert cli("run", file).code == 1
    shown = cli("submit", file, "--wait", "--json")
    assert (shown.code, json.loads(shown.out)["outcome"]) == (1, "unverified")


def test_waiting_shows_what_another_process_does_and_ends_with_it(home: Path, repo: Path) -> None:
    with Journal.open(home / "journal.sqlite") as journal, ServiceLock(home), waiting(repo) as wait:
        task = poll(lambda: [view.id for view in journal.tasks()])[0]
        journal.claim_task(task, "w")
        journal.append(task, 3, opened())
        journal.append(task, 4, TaskEnded(outcome=Outcome.LIMITS, reason="used 2 of 2 minutes"))
        out, err = wait.communicate(timeout=20)
    assert wait.returncode == 5
    assert json.loads(out)["outcome"] == "limits reached"
    assert "clone" in err and "used 2 of 2 minutes" in err


def test_interrupting_the_waiting_leaves_the_task_alone(home: Path, repo: Path) -> None:
    with Journal.open(home / "journal.sqlite") as journal, waiting(repo) as wait:
        assert wait.stderr is not None
        assert "no service is running" in wait.stderr.readline()
        assert "queued" in wait.stderr.readline()
        wait.send_signal(signal.SIGINT)
        out, err = wait.communicate(timeout=20)
        assert [view.state for view in journal.tasks()] == ["queued"]
    assert (wait.returncode, out) == (130, "")
    assert "the task goes on" in err and "Traceback" not in err


# --- looking


def test_a_task_is_found_by_the_beginning_of_its_id_and_by_its_name(cli: Cli, home: Path) -> None:
    task = ended_task(home)
    for name in (task, task[:5], "fix-the-total"):
        assert json.loads(cli("show", name, "--json").out)["id"] == task


def test_show_tells_what_happened(cli: Cli, home: Path) -> None:
    shown = cli("show", ended_task(home))
    assert "delivered" in shown.out and "verdict" in shown.out and "edit_file" in shown.out


def test_list_shows_the_newest_first(cli: Cli, home: Path) -> None:
    first, second = ended_task(home), ended_task(home, outcome=Outcome.FAILED)
    rows = cli("list").out.splitlines()
    assert rows[0].startswith(second) and rows[1].startswith(first)
    assert [task["exit_code"] for task in json.loads(cli("list", "--json").out)] == [1, 0]
    assert len(cli("list", "-n", 1).out.splitlines()) == 1


def test_an_empty_home_has_no_tasks_and_gets_no_journal(cli: Cli, home: Path) -> None:
    assert json.loads(cli("list", "--json").out) == []
    shown = cli("show", "abc")
    assert (shown.code, shown.out) == (1, "") and "no tasks yet" in shown.err
    assert not home.exists()


def test_an_unknown_or_ambiguous_id_says_so(cli: Cli, home: Path) -> None:
    tasks = [ended_task(home), ended_task(home)]
    # The first characters are the time in seconds.
    assert "2 tasks begin with" in cli("show", tasks[0][:3]).err
    assert "no task has" in cli("report", "zzzz").err


def test_report_prints_the_markdown_or_the_json(cli: Cli, home: Path) -> None:
    task = ended_task(home)
    assert cli("report", task).out.startswith("# Delivered and verified (exit code 0)\n")
    assert json.loads(cli("report", task, "--json").out)["schema_name"] == "nightcrew.report"


def test_diff_prints_a_patch_that_can_be_applied(cli: Cli, home: Path) -> None:
    task = ended_task(home)
    assert cli("diff", task).out == PATCH
    shown = json.loads(cli("diff", task, "--json").out)
    assert [file["path"] for file in shown["files"]] == ["cart.py", "tests/test_cart.py"]
    assert shown["verified"] is True


def test_a_diff_of_nothing_says_so_on_standard_error(cli: Cli, home: Path) -> None:
    shown = cli("diff", ended_task(home, outcome=Outcome.FAILED, patch=""))
    assert (shown.code, shown.out, shown.err) == (0, "", "it changed nothing\n")


def test_cancel_ends_a_queued_task(cli: Cli, home: Path, repo: Path) -> None:
    cli("submit", "-m", "Fix", "--repo", repo)
    assert cli("cancel", "fix").out.rstrip().endswith("cancelled")
    assert json.loads(cli("show", "fix", "--json").out)["exit_code"] == 130


def test_cancelling_a_task_between_two_runs_leaves_a_report(cli: Cli, home: Path) -> None:
    with Journal.open(home / "journal.sqlite") as journal:
        request = TaskRequest(title="Fix", text="Fix", repo="/r")
        task = journal.submit(request, origin="cli", name_hint="fix").task
        journal.claim_task(task, "w")
        journal.release(task, "w")
    cli("cancel", task)
    assert cli("report", task).out.startswith("# Cancelled (exit code 130)")


def test_a_broken_pipe_is_quiet(home: Path) -> None:
    for _ in range(3):
        ended_task(home)
    script = f"{sys.executable} -m nightcrew list --json | head -c 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.stdout, done.stderr) == ("[", "")


# --- progress


def lines(*events: object, **options: object) -> list[str]:
    written: list[str] = []
    progress = Progress(written.append, **options)
    for one in recorded(*events):
        progress.show(one)
    return written


def test_a_whole_task_reads_line_by_line() -> None:
    written = lines(*delivered_events())
    words = [line.split()[1] for line in written]
    assert words[:2] == ["queued", "started"] and words[-2:] == ["delivered", "ended"]
    assert any(
        "checks" in line and "before: python3 -m pytest -q: failed (exit 1, 1 failing)" in line for line in written
    )
    assert any("1. Return the plain sum (done when the tests pass)" in line for line in written)
    assert written[-1].startswith("   +36.0s  ended")


def test_many_candidates_share_a_line_and_the_one_that_passed_has_its_own() -> None:
    tried: list[CandidateTried] = [candidate(passed=False, index=index) for index in range(23)]
    written = lines(submitted(), *tried, candidate(passed=True, index=23), candidate(passed=False, rung="rewrite"))
    assert [line.split(None, 2)[2] for line in written[1:]] == [
        "10 × infill cart.py line 2: failed",
        "10 × infill cart.py line 2: failed",
        "3 × infill cart.py line 2: failed",
        "infill cart.py line 2: passed",
    ]


def test_a_tool_call_shows_its_name_and_short_arguments() -> None:
    call = {
        "role": "assistant",
        "tool_calls": [
            {"id": "c1", "function": {"name": "edit_file", "arguments": json.dumps({"path": "a.py", "old": "x" * 500})}}
        ],
    }
    reply = ModelReplied(
        conversation="executor",
        message=json.dumps(call),
        finish_reason="tool_calls",
        usage=Usage(),
        seconds=1,
    )
    ran = ToolRan(
        conversation="executor",
        call_id="c1",
        name="edit_file",
        message=json.dumps({"role": "tool", "content": "no match"}),
        is_error=True,
        tree=None,
        seconds=0.1,
    )
    [_, line] = lines(submitted(), reply, ran)
    assert "edit_file a.py xxx" in line and line.endswith(": no match")
    assert len(line) < 200


def test_calls_of_the_same_number_in_two_tasks_are_told_apart() -> None:
    def events(path: str) -> tuple[object, ...]:
        asked = {"id": "call_0", "function": {"name": "read_file", "arguments": json.dumps({"path": path})}}
        message = json.dumps({"role": "assistant", "tool_calls": [asked]})
        ran = json.dumps({"role": "tool", "content": ""})
        return (
            ModelReplied(conversation="executor", message=message, finish_reason="", usage=Usage(), seconds=1),
            ToolRan(
                conversation="executor",
                call_id="call_0",
                name="read_file",
                message=ran,
                is_error=False,
                tree=None,
                seconds=0.1,
            ),
        )

    written: list[str] = []
    progress = Progress(written.append)
    one, other = recorded(*events("a.py"), task="aaa"), recorded(*events("b.py"), task="bbb")
    for event in (one[0], other[0], one[1], other[1]):
        progress.show(event)
    assert [line.split()[-1] for line in written] == ["a.py", "b.py"]


@pytest.mark.parametrize("message", ["", "null", "[]", '{"tool_calls": 3}', '{"tool_calls": [{"id": 1}]}', "\ud800{"])
def test_a_message_of_any_shape_can_be_shown(message: str) -> None:
    assert len(lines(submitted(), replied().model_copy(update={"message": message}))) == 2


def test_hostile_text_cannot_move_the_cursor_or_begin_a_line() -> None:
    events = [
        submitted(title="a\x1b[2Jb\rc\nd\u202e"),
        TaskEnded(outcome=Outcome.FAILED, reason="x\n+0.0s  ended delivered"),
    ]
    for line in lines(*events):
        assert not any(ord(letter) < 32 or letter == "\u202e" for letter in line)


def test_colours_are_for_terminals_only() -> None:
    assert not any("\x1b" in line for line in lines(*delivered_events()))
    assert any("\x1b[32m" in line for line in lines(*delivered_events(), colour=True))


def test_several_tasks_are_told_apart_by_name() -> None:
    assert all("fix-the-total" in line for line in lines(*delivered_events(), names=True))


# --- processes


def nightcrew(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-m", "nightcrew", *arguments]
    return subprocess.run(script, input=stdin, capture_output=True, text=True, timeout=20, check=True)


@pytest.mark.timeout(90)
def test_up_serves_as_a_process_and_stops_on_sigterm(home: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCREW_MODELS", str(home / "models"))
    script = [sys.executable, "-m", "nightcrew", "up", "--json"]
    with Journal.open(home / "journal.sqlite") as journal:
        request = TaskRequest(title="Fix", text="Fix", repo=str(repo), crew="embedded")
        task = journal.submit(request, origin="cli", name_hint="fix").task
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
            try:
                poll(lambda: [r.event.kind for r in journal.read(task) if r.event.kind == "waiting"])
                poll(lambda: [view.id for view in journal.tasks() if view.state == "queued"])
                shown = nightcrew("list")
                service.send_signal(signal.SIGTERM)
                out, err = service.communicate(timeout=20)
            finally:
                service.kill()
    assert service.returncode == 0, err
    assert "queued" in shown.stdout and "no model endpoint" in shown.stdout
    assert [json.loads(line)["event"]["kind"] for line in out.splitlines()][:2] == ["task_claimed", "waiting"]
    assert str(home / "inbox") in err and "Traceback" not in err


class waiting:
    """`nightcrew submit --wait` in a process of its own."""

    def __init__(self, repo: Path) -> None:
        script = [sys.executable, "-m", "nightcrew", "submit", "-m", "Fix", "--repo", str(repo), "--wait", "--json"]
        self.process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


def poll(ask: Callable[[], list[str]], seconds: float = 25) -> list[str]:
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found
