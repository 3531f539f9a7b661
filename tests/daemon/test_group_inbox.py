"""The inbox as a drop box of a group, with real accounts: one runs the service, another drops. As root only."""

from __future__ import annotations

import grp
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nightcrew.config import Config, InboxSettings
from nightcrew.errors import JournalError
from nightcrew.intake.shared import open_to_group

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other accounts"),
]

SERVICE, MEMBER = 61001, 61002
GROUP = grp.getgrgid(100) if any(each.gr_gid == 100 for each in grp.getgrall()) else grp.getgrall()[-1]
TASK = "---\\nrepo: /src/app\\n---\\n# Fix it\\n"

_SWEEP = """
import json, logging, os, sys
from pathlib import Path
import anyio
from nightcrew.config import Config, InboxSettings
from nightcrew.intake import inbox
from nightcrew.journal import Journal
inbox.known = lambda *_: []  # a crew is a file beside the code
inbox.DOUBTFUL_SECONDS = inbox.UNNAMED_SECONDS = 0.2

async def nothing():
    await anyio.sleep(0)

anyio.run(nothing)  # so that all is imported: the account may not be able to read the interpreter's own files
os.setgroups([int(sys.argv[3])])
os.setresgid(*[int(sys.argv[2])] * 3)
os.setresuid(*[int(sys.argv[2])] * 3)
os.umask(0o077)
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("nightcrew.intake").addHandler(handler)
config = Config(home=Path(sys.argv[1]), inbox=InboxSettings(group=sys.argv[4]))
with Journal.open(config.journal) as journal:
    anyio.run(lambda: inbox.Intake(config, journal).run(once=True))
    print(json.dumps({"tasks": sorted(task.name for task in journal.tasks()), "said": said}))
"""


class Box:
    """A home of the service's account that members can pass through."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.home.mkdir()
        os.chown(self.home, SERVICE, GROUP.gr_gid)
        self.home.chmod(0o710)
        self.inbox = self.home / "inbox"

    def sweep(self) -> dict[str, list[str]]:
        """The service, for as long as there is something to do."""
        argv = [sys.executable, "-c", _SWEEP, str(self.home), str(SERVICE), str(GROUP.gr_gid), GROUP.gr_name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def member(self, script: str, *, umask: str = "027") -> subprocess.CompletedProcess[str]:
        """A member of the group does something in the inbox."""
        who = ["setpriv", f"--reuid={MEMBER}", f"--regid={MEMBER}", f"--groups={GROUP.gr_gid}"]
        argv = [*who, "/bin/sh", "-c", f"umask {umask}; cd {self.inbox} && {script}"]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def report(self, name: str) -> str:
        return (self.home / "rejected" / f"{name}.report.md").read_text()


@pytest.fixture
def box(open_tmp: Path) -> Box:
    return Box(open_tmp)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_member_drops_files_and_folders_and_reads_the_reports_and_nobody_takes_away_what_is_anothers(box: Box):
    assert box.sweep() == {"tasks": [], "said": []}
    assert (mode(box.inbox), box.inbox.stat().st_gid) == (0o3770, GROUP.gr_gid)
    assert mode(box.home / "outbox") == mode(box.home / "rejected") == 0o2750

    assert box.member(f"printf %b '{TASK}' > a.md && echo x > notes.txt").returncode == 0
    assert (
        box.member(f"mkdir shots && printf %b '{TASK}' > shots/task.md && echo x > shots/b.txt", umask="007").returncode
        == 0
    )
    assert box.member(f"printf %b '{TASK}' > closed.md", umask="077").returncode == 0
    found = box.sweep()
    assert found["tasks"] == ["a", "shots"]
    assert "`chmod g+r` does that" in box.report("closed.md")
    assert box.member("cat ../rejected/notes.txt.report.md").stdout.startswith("# `notes.txt` was not taken")

    for harm in (
        "mv .claimed gone",
        "rmdir .accepted",
        "ls .claimed",
        "rm -rf .accepted/*--a.md",
        "cat ../journal.sqlite",
    ):
        box.member(harm)
    assert (box.inbox / ".claimed").is_dir()
    assert len(list((box.inbox / ".accepted").iterdir())) == 2
    assert "denied" in box.member("cat ../journal.sqlite").stderr


def test_a_folder_that_the_service_may_not_move_gets_a_report_and_is_taken_when_its_mode_is_right(box: Box):
    box.sweep()
    assert box.member(f"mkdir shots && printf %b '{TASK}' > shots/task.md", umask="022").returncode == 0
    assert box.sweep()["tasks"] == []
    assert (box.inbox / "shots").is_dir()
    assert "chmod -R g+rwX shots" in box.report("shots")
    assert "taken as soon as" in box.report("shots")
    assert box.member("chmod -R g+rwX shots").returncode == 0
    assert box.sweep()["tasks"] == ["shots"]


def test_what_a_member_puts_in_the_place_of_the_services_own_folder_is_not_used(box: Box):
    box.inbox.mkdir()
    os.chown(box.inbox, 0, GROUP.gr_gid)
    box.inbox.chmod(0o2770)  # an administrator's: members may rename what is in it
    assert box.member(f"printf %b '{TASK}' > a.md").returncode == 0
    assert box.sweep()["tasks"] == ["a"]
    assert mode(box.inbox) == 0o2770
    target = box.home / "target"
    target.mkdir()
    target.chmod(0o777)
    for put in (f"ln -s {target} .claimed", "mkdir -m 777 .claimed"):
        assert box.member(f"mv .claimed old-$$ ; {put}; printf %b '{TASK}' > b.md").returncode == 0
        found = box.sweep()
        assert found["tasks"] == ["a"]
        assert any("cannot be worked" in said for said in found["said"])
        assert list(target.iterdir()) == []
        assert (box.inbox / "b.md").exists()
        assert box.member("rm -rf .claimed").returncode == 0
    box.member("rm -rf old-*")
    assert box.sweep()["tasks"] == ["a", "b"]


def test_what_keeps_members_out_is_said_with_the_command_that_lets_them_in(open_tmp: Path, tmp_path: Path):
    settings = InboxSettings(group=GROUP.gr_name)
    closed = open_tmp / "closed"
    closed.mkdir(mode=0o700)
    config = Config(home=closed / "home", inbox=settings)
    config.inbox.mkdir(parents=True)
    remarks = open_to_group(GROUP.gr_name, config)
    assert any(f"chgrp {GROUP.gr_name} {closed} && chmod g+x {closed}" in remark for remark in remarks)
    with pytest.raises(JournalError, match="groupadd nobodys-group"):
        open_to_group("nobodys-group", config)
