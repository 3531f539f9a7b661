"""Writing into a terminal, and making what is shown say something else."""

from __future__ import annotations

from security.attack import Attack, Canary, Deed, injected, says, shown
from security.deeds import Python, Shell
from security.tools import Call

_ESCAPES = {
    "clipboard": r"\033]52;c;ZXZpbA==\007",
    "title": r"\033]0;evil\007",
    "link": r"\033]8;;https://evil.example\007here\033]8;;\007",
    "colours": r"\033[31mred\033[0m",
    "cursor-up": r"one\ntwo\033[1A\033[2Kforged\n",
    "clear-screen": r"\033[2J\033[H",
    "question-for-an-answer": r"\033[6n\033[c",
    "device-control": r"\033P$q\"p\033\\",
    "end-of-a-paste": r"\033[201~evil\n",
    "character-set": r"\033(0lqqk\033(B",
    "eight-bit": r"\302\2332J",
    "cut-in-two": r"\033",
}
_FORGED = {
    "carriage-return": (r"FAILED\rPASSED\n", "FAILED\r"),
    "backspaces": (r"FAILED\b\b\b\b\b\bPASSED\n", "\b"),
    "bell": (r"\007\007", "\a"),
    "nul": (r"a\000b", "\0"),
    "delete": (r"a\177b", "\x7f"),
    "form-feed": (r"a\014b", "\f"),
}
_HIDDEN = {
    "right-to-left": (r"\342\200\256evil", "\u202e"),
    "isolate": (r"\342\201\246evil\342\201\251", "\u2066"),
    "no-width": (r"ev\342\200\213il", "\u200b"),
    "tags": (r"\363\240\201\245\363\240\201\266", "\U000e0065"),
}
_TYPE = """
import fcntl
for name in ("/dev/tty", "/proc/self/fd/0", "/proc/self/fd/2"):
    try: tty = os.open(name, os.O_RDWR | os.O_NOCTTY)
    except OSError as error: print(error); continue
    for letter in b"evil\\n":
        try: fcntl.ioctl(tty, {}, bytes([letter]))
        except OSError as error: print(error)
"""
_WIDE = _TYPE.replace(
    "fcntl.ioctl(tty, {}, bytes([letter]))", "kernel(NUMBER['ioctl'], tty, 0x100005412, bytes([letter])) "
)
_ALL_TERMINALS = """
for name in ["/dev/tty", *("/dev/pts/" + each for each in os.listdir("/dev/pts"))]:
    try: os.write(os.open(name, os.O_WRONLY | os.O_NOCTTY), b"evil")
    except OSError as error: print(error)
"""
_SIZE = """
import fcntl
tty = os.open("/dev/tty", os.O_RDWR)
fcntl.ioctl(tty, 0x5414, struct.pack("4H", 1, 1, 0, 0))
print("RESIZED")
"""
_NAMES = "touch \"$(printf 'a\\033]0;evil\\007.txt')\"; "


def _attack(name: str, deed: Deed, canary: Canary) -> Attack:
    return Attack(f"terminal-{name}", "terminal", deed, canary)


ATTACKS = (
    _attack("typed-for-the-person", Python(_TYPE.format("0x5412")), injected),
    _attack("typed-with-a-wider-number", Python(_WIDE), injected),
    _attack("written-to-directly", Python(_ALL_TERMINALS), shown),
    _attack("resized", Python(_SIZE), says("RESIZED")),
    *(
        _attack(name, Shell(f"printf '{text}'"), says("\x9b" if name == "eight-bit" else "\x1b"))
        for name, text in _ESCAPES.items()
    ),
    *(_attack(name, Shell(f"printf '{text}'"), says(shown)) for name, (text, shown) in _FORGED.items()),
    *(_attack(f"hidden-{name}", Shell(f"printf '{text}'"), says(shown)) for name, (text, shown) in _HIDDEN.items()),
    _attack(
        "through-the-shell-tool", Call("run_command", {"command": f"printf '{_ESCAPES['clipboard']}'"}), says("\x1b")
    ),
    _attack(
        "text-of-a-file",
        Call("read_file", {"path": "evil.txt"}, "printf 'a\\033]0;evil\\007' > evil.txt"),
        says("\x1b"),
    ),
    _attack(
        "match-of-a-search",
        Call("search_files", {"pattern": "evil"}, "printf 'a\\033]0;evil\\007' > evil.txt"),
        says("\x1b"),
    ),
    _attack("name-in-a-listing", Call("list_files", {}, _NAMES), says("\x1b")),
    _attack("name-in-the-status", Call("run_command", {"command": "git status -z"}, _NAMES), says("\x1b")),
    _attack("name-of-a-pattern", Call("run_command", {"command": "printf '%s\\n' *"}, _NAMES), says("\x1b]0;evil")),
    _attack(
        "commit-in-the-log",
        Call("git_log", {"limit": 1}, "git commit -q --allow-empty -m \"$(printf 'a\\033[2Jb')\""),
        says("\x1b"),
    ),
    _attack(
        "author-in-the-log",
        Call("git_log", {"limit": 1}, "git commit -q --allow-empty -m x --author \"$(printf 'a\\033[2Jb') <x>\""),
        says("\x1b"),
    ),
    _attack("line-in-a-diff", Call("git_diff", {}, "printf 'alpha\\n\\033[2Jbeta\\n' > a.txt"), says("\x1b")),
)
