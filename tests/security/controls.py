"""Deeds with nothing wrong in them. Their canaries sing in both halves: so silence in a box is not deafness."""

from __future__ import annotations

from security.attack import Attack, changed, says
from security.deeds import Python, Shell
from security.results import Poison, objects
from security.tools import Call
from security.verdicts import Verdict

CONTROLS = (
    Attack("honest-command", "terminal", Shell("cat a.txt"), says("alpha")),
    Attack("honest-command-of-root", "terminal", Shell("cat a.txt"), says("alpha"), "root"),
    Attack(
        "honest-second-command", "persistence", Shell("cat left", before="echo STILL-HERE > left"), says("STILL-HERE")
    ),
    Attack(
        "honest-program", "kernel surface", Python("reach(NUMBER['ioctl'], 1, 0, past={'ENOTTY'})"), says("REACHED")
    ),
    Attack("honest-write", "links", Shell("echo evil > own"), changed("/workspace/own", to="evil")),
    Attack("honest-reading", "path traversal", Call("read_file", {"path": "src/../a.txt"}), says("alpha")),
    Attack("honest-link", "links", Call("read_file", {"path": "link"}, "ln -s a.txt link"), says("alpha")),
    Attack("honest-log", "git arguments", Call("git_log", {"limit": 1}), says("first")),
    Attack(
        "honest-log-of-a-client",
        "git arguments",
        Call("git_log", {"revision": "HEAD"}, plain=("git", "log"), outside=True),
        says("first"),
    ),
    Attack("honest-commit", "git objects", objects('evil(with_old(("100644", "new", blob())))'), says("DELIVERED")),
    Attack(
        "honest-link-in-a-commit",
        "git objects",
        objects('evil(with_old(("120000", "new", blob(b"a.txt"))))'),
        says("DELIVERED"),
    ),
    Attack("honest-change", "git config and hooks", Poison("echo changed >> a.txt"), says("changed")),
    Attack("honest-repair", "state tampering", Verdict("sed -i s/-/+/ src/sums.py"), says("VERDICT 0")),
    Attack("no-repair", "state tampering", Verdict("echo changed >> a.txt"), says("VERDICT 1")),
)
