"""`nightcrew demo` with a service that is real and a worker that is not: what it drops, shows and answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.repos import make_repository
from fakes.workers import FakeWorker
from nightcrew.cli import demo
from nightcrew.cli.main import main

pytestmark = pytest.mark.timeout(30)

Cli = Callable[..., SimpleNamespace]


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    task = "deliver"
    repo = ""

    def task_file(self, repository: Path) -> str:
        return f"---\nrepo: {self.repo or repository}\n---\n# Make the test pass\n\n{self.task}\n"


async def make(case: Case, directory: Path) -> None:
    make_repository(directory, {"case": case.name})


CASES = [Case("mean", "divides by one too few"), Case("total", "adds one too many")]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The console entry with two cases, in a temporary folder, and no look for models."""
    worker = FakeWorker()
    module = SimpleNamespace(list_cases=lambda: CASES, make_repository=make)
    monkeypatch.setitem(sys.modules, "nightcrew.demo", module)
    monkeypatch.setitem(sys.modules, "nightcrew.service.worker", SimpleNamespace(open_worker=worker.open))
    monkeypatch.setattr(demo, "_need_model", lambda _config: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("NIGHTCREW_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", "demo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err, worker=worker)

    return run


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "task", "fail")


def test_the_task_comes_through_the_inbox_and_ends_with_branch_diff_and_report(cli: Cli, tmp_path: Path) -> None:
    shown = cli("--case", "mean")
    assert shown.code == 0
    [root] = tmp_path.glob("nightcrew-demo-*")
    assert (root / "mean" / "case").read_text() == "mean"
    assert len(list((root / "home/inbox/.accepted").iterdir())) == 1
    assert f"dropped {root}/home/inbox/mean.md" in shown.err and "queued" in shown.err
    assert "branch  nightcrew/" in shown.out
    assert "+    return sum(prices)" in shown.out
    assert f"report  {root}/home/outbox/mean.report.md" in shown.out
    assert root.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("failing")
def test_a_model_that_did_not_manage_it_is_said_honestly(cli: Cli) -> None:
    shown = cli("--case", "mean")
    assert shown.code == 1
    assert "The model did not manage it: a check fails. No branch was delivered" in shown.out


def test_all_cases_run_one_after_the_other(cli: Cli) -> None:
    shown = cli("--case", "all", "--json")
    result = json.loads(shown.out)
    assert (shown.code, result["ok"]) == (0, True)
    assert [case["case"] for case in result["cases"]] == ["mean", "total"]
    assert [case["report"]["outcome"] for case in result["cases"]] == ["delivered", "delivered"]
    assert shown.worker.most_at_once == 1


def test_without_a_name_one_case_is_chosen(cli: Cli) -> None:
    shown = cli("--json")
    assert json.loads(shown.out)["cases"][0]["case"] in ("mean", "total")


def test_a_task_file_that_is_rejected_ends_the_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "repo", "/does/not/exist")
    shown = cli("--case", "mean")
    assert shown.code == 1
    assert "The task file was rejected: `repo`: /does/not/exist does not exist" in shown.out


def test_the_cases_are_listed_and_nothing_is_made(cli: Cli, tmp_path: Path) -> None:
    assert cli("--list").out == "mean   divides by one too few\ntotal  adds one too many\n"
    assert json.loads(cli("--list", "--json").out)[1] == {"name": "total", "about": "adds one too many"}
    assert list(tmp_path.glob("nightcrew-demo-*")) == []


def test_an_unknown_case_names_those_there_are(cli: Cli) -> None:
    shown = cli("--case", "median")
    assert shown.code == 2
    assert "mean, total" in shown.err


def test_a_home_that_is_named_is_used(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCREW_HOME", str(tmp_path / "mine"))
    cli("--case", "mean")
    assert (tmp_path / "mine/outbox/mean.report.md").exists()
