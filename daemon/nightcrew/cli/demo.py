"""`nightcrew demo`: a real service, a real model, a small repository with a bug, and whatever comes of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, colourful, emit, examples, out, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nightcrew.cli.progress import Progress
    from nightcrew.config import Config
    from nightcrew.demo import Case
    from nightcrew.events import Recorded
    from nightcrew.journal.fold import TaskRecord

_DEMO = examples(
    "nightcrew demo                    one of the cases, another one each time",
    "nightcrew demo --list             which there are",
    "nightcrew demo --case all         one after the other",
)

_SMALL = (
    "This was the embedded 1.5B model: small, single-file repairs; point me at SGLang or any OpenAI-compatible server "
    "for real work"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog=_DEMO, short_help="Watch a real model repair a small repository.")(demo)


def demo(
    case: Annotated[str | None, typer.Option("--case", metavar="NAME", help="This one, or `all`.")] = None,
    list_them: Annotated[bool, typer.Option("--list", help="List the cases and do nothing.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the private clones too, to look into them.")] = False,
    json: JsonFlag = False,
) -> None:
    """Watch a real model repair a small repository with a failing test.

    A fresh repository is made under /tmp and stays there. The service is started, with the embedded model when no
    other endpoint is found on this machine (its weights are fetched when they are missing, 1.1 GB), and a task file is
    dropped into its inbox. Exits with 0 when the repair was delivered and verified.
    """
    import anyio

    from nightcrew.demo import list_cases

    cases = list_cases()
    if list_them:
        _list(cases, json=json)
        return
    chosen = _choose(cases, case)
    root = Path(tempfile.mkdtemp(prefix="nightcrew-demo-"))
    root.chmod(0o755)  # an unprivileged user's box must be able to reach what lies in it
    config = _config(root, keep=keep)
    say(f"everything is made in {root} and stays there; home {config.home}")
    _need_model(config)
    show = Show(config, root, chosen, tell=say if json else out)
    anyio.run(show.run)
    if json:
        emit({"ok": show.exit_code == 0, "home": str(config.home), "cases": show.results()})
    raise typer.Exit(show.exit_code)


class Show:
    """The cases one after the other through one service, and what is told about them."""

    def __init__(self, config: Config, root: Path, cases: list[Case], *, tell: Callable[[str], None]) -> None:
        from nightcrew.cli.running import make_progress

        self._config = config
        self._root = root
        self._cases = cases
        self._tell = tell
        self._progress: Progress = make_progress()
        self._tasks: dict[str, str] = {}
        """File name in the inbox to task id."""
        self._over: dict[str, str] = {}
        """File name to why it was rejected, empty for a task that has ended."""
        self._records: list[tuple[Case, TaskRecord | None]] = []

    @property
    def exit_code(self) -> int:
        """0 when every case was delivered, 130 when it was interrupted, else the first bad one's own."""
        from nightcrew.delivery.report import exit_code

        if len(self._records) < len(self._cases):
            return 130
        codes = [1 if record is None else exit_code(record) for _, record in self._records]
        return next((1 if code is None else code for code in codes if code != 0), 0)

    def results(self) -> list[dict[str, object]]:
        """For programs: each case with its repository and its report (null when its task file was rejected)."""
        from nightcrew.delivery import report_json

        return [
            {
                "case": case.name,
                "repository": str(self._root / case.name),
                "report": None if record is None else report_json(record, patch=self._patch(record)),
            }
            for case, record in self._records
        ]

    async def run(self) -> None:
        """Start the service, drop the task files, and stop it again."""
        import anyio

        from nightcrew.service import Service, serve
        from nightcrew.service.worker import open_worker

        service = Service(
            self._config,
            open_worker=open_worker,
            say=self._progress.say,
            on_event=self._on_event,
            on_reject=self._over.__setitem__,
        )

        async def drive() -> None:
            await service.started.wait()
            for case in self._cases:
                await self._one(case)
            service.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(drive)
            await serve(service, say)
            group.cancel_scope.cancel()

    async def _one(self, case: Case) -> None:
        """One case: a repository, a task file, and what becomes of them."""
        import anyio

        from nightcrew.demo import make_repository
        from nightcrew.journal import Journal

        repository = self._root / case.name
        await make_repository(case, repository)
        name = f"{case.name}.md"
        say(f"\n{case.name}: {case.about}\nrepository {repository}")
        # Written aside and renamed, so that it is never there by half.
        aside = self._config.inbox / f".{name}"
        aside.write_text(case.task_file(repository), encoding="utf-8")
        aside.rename(self._config.inbox / name)
        say(f"dropped {self._config.inbox / name}\n")
        while name not in self._over:  # noqa: ASYNC110 - it is told by callbacks, which know no events
            await anyio.sleep(0.05)
        record = None
        if self._over[name]:
            self._tell(f"The task file was rejected: {self._over[name]}")
        else:
            with Journal.open(self._config.journal, read_only=True) as journal:
                record = journal.record(self._tasks[name])
            conclude(self._config, record, self._patch(record), repository, tell=self._tell)
        self._records.append((case, record))

    def _on_event(self, recorded: Recorded) -> None:
        from nightcrew.events import ApprovalAsked, TaskEnded, TaskSubmitted

        self._progress.show(recorded)
        if isinstance(recorded.event, TaskSubmitted):
            self._tasks[recorded.event.origin.removeprefix("inbox:")] = recorded.task
        elif isinstance(recorded.event, TaskEnded | ApprovalAsked):
            self._over |= {name: "" for name, task in self._tasks.items() if task == recorded.task}

    def _patch(self, record: TaskRecord) -> str:
        from nightcrew.delivery import result_paths

        path = result_paths(self._config.outbox, record.name).patch
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def conclude(config: Config, record: TaskRecord, patch: str, repository: Path, *, tell: Callable[[str], None]) -> None:
    """Say what came of a case: branch, diff, checks before and after, report, and honest words."""
    from nightcrew.delivery import result_paths
    from nightcrew.delivery.findings import final_checks, verified
    from nightcrew.delivery.quoting import clean, one_line

    tell("")
    if record.delivered is not None and record.delivered.branch is not None:
        tell(f"branch  {record.delivered.branch} in {repository}")
    if patch:
        tell(f"\n{_coloured(clean(patch)).rstrip()}\n")
    for when, run in (("before", record.checks_before), ("after", final_checks(record))):
        for result in run.results if run else ():
            tell(f"check {when:<7}{'passed' if result.ok else 'failed'}  {one_line(result.check.command)}")
    tell(f"report  {result_paths(config.outbox, record.name).markdown}\n")
    reason = one_line(record.ended.reason, 300) if record.ended else ""
    small = record.opened is not None and record.opened.crew == "embedded"
    if record.waits_for_approval:
        tell(f"Verified, and it waits for a person's word: NIGHTCREW_HOME={config.home} nightcrew approve {record.id}")
    elif verified(record):
        tell(f"Delivered and verified: {reason}.")
        if small:
            tell("A small model found it by trying until the checks passed, so read the diff before you merge it.")
    else:
        tell(f"The model did not manage it: {reason}. No branch was delivered; the report says what was tried.")
        if small:
            tell(f"{_SMALL}.")


# --- before the show


def _list(cases: Sequence[Case], *, json: bool) -> None:
    if json:
        emit([{"name": case.name, "about": case.about} for case in cases])
        return
    width = max(len(case.name) for case in cases)
    for case in cases:
        out(f"{case.name:<{width}}  {case.about}")


def _choose(cases: Sequence[Case], name: str | None) -> list[Case]:
    import secrets

    if name == "all":
        return list(cases)
    if name is None:
        return [secrets.choice(cases)]
    found = [case for case in cases if case.name == name]
    if not found:
        known = ", ".join(case.name for case in cases)
        raise typer.BadParameter(f"there is no case {name!r}; there are {known}, and `all`")
    return found


def _config(root: Path, *, keep: bool) -> Config:
    """The person's configuration, in a home of its own unless NIGHTCREW_HOME names one."""
    from nightcrew.config import environment, load_config

    config = load_config()
    changes: dict[str, object] = {} if environment().get("NIGHTCREW_HOME") else {"home": root / "home"}
    if keep:
        changes["workspaces"] = config.workspaces.model_copy(update={"keep": "all"})
    return config.model_copy(update=changes)


def _need_model(config: Config) -> None:
    """Fetch the embedded model's weights when nothing else is there to talk to.

    Raises `NoModel` when its runtime is not installed, `WeightsError` when no source has the weights.
    """
    import importlib.util

    import anyio

    from nightcrew.cli.models import fetch_weights
    from nightcrew.config import environment, models_dir
    from nightcrew.crew import settings_of
    from nightcrew.errors import EndpointDown
    from nightcrew.llm.discovery import discover
    from nightcrew.serving.embedded import INSTALL
    from nightcrew.serving.weights import present

    if config.crew is None:
        if anyio.run(discover):
            return
    elif settings_of(config.crew, config, environment()) is not None:
        return
    if importlib.util.find_spec("xllamacpp") is None:
        raise EndpointDown(
            "no model endpoint: nothing answers on the usual local ports, and the embedded model is not installed. "
            f"Start SGLang or any OpenAI-compatible server, or: {INSTALL}"
        )
    if present(models_dir(environment())) is None:
        say("no model endpoint on the usual local ports, so the embedded model is used; its weights come first, once")
        fetch_weights(None)


def _coloured(patch: str) -> str:
    if not colourful(error=False):
        return patch
    colours = {"+": "32", "-": "31", "@": "36"}
    return "\n".join(
        f"\x1b[{colours[line[0]]}m{line}\x1b[0m" if line[:1] in colours else line for line in patch.split("\n")
    )
