"""A thousand files that are wrong in every way that a grammar of wrongs can think of: each gets its report, with the
reason and the line, and the service neither stops, nor waits, nor grows."""

from __future__ import annotations

import itertools
import os
import random
import stat
import string
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from fakes.inbox import House
from nightcrew.config import Config
from nightcrew.intake.dropfolder import DropFolder
from nightcrew.intake.inbox import DOUBTFUL_SECONDS, UNNAMED_SECONDS
from nightcrew.journal import Journal

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

COUNT = 1000
SEED = int(os.environ.get("NIGHTCREW_CHAOS_SEED") or random.randrange(1 << 32))


@dataclass
class Wrong:
    """One wrong thing and what its report must say."""

    words: str
    """All of them, apart by ` & `."""
    content: bytes | Callable[[Path], object]
    """What is written, or what makes it at a path."""
    line: int | None = None
    suffix: str = ".md"


Make = Callable[[random.Random], Wrong]


def front(text: str, *, body: str = "# Do it\n", repo: str = "repo: /src/app\n") -> bytes:
    """A task file with these lines of front matter; they begin on line 3, or on line 2 without the repository."""
    return f"---\n{repo}{text}\n---\n{body}".encode("utf-8", "surrogateescape")


def prose(rng: random.Random, lines: int) -> str:
    words = ["the", "total", "of", "every", "basket", "is", "rounded", "once", "half", "up", "and", "not", "before"]
    return "".join(" ".join(rng.choices(words, k=rng.randrange(1, 9))) + "\n" for _ in range(lines))


# --- bytes and encodings


def not_utf8(rng: random.Random) -> Wrong:
    lines = rng.randrange(20)
    bad = rng.choice((b"\xff", b"\xc3(", b"\xe9\n", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf", b"\x80"))
    return Wrong("not valid UTF-8", front("", body=prose(rng, lines)) + bad, 5 + lines)


def binary(rng: random.Random) -> Wrong:
    lines = rng.randrange(20)
    after = rng.choice((b"\x7fELF\x02\0\0", b"\x1f\x8b\x08\0\0", b"PK\x03\x04\0", b"a\0b", b"\0" * 5000))
    return Wrong("is binary", front("", body=prose(rng, lines)) + after, 5 + lines)


def wide(rng: random.Random) -> Wrong:
    mark, encoding = rng.choice(
        ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe\0\0", "utf-32-le"))
    )
    return Wrong("UTF-16", mark + front("").decode().encode(encoding), 1)


def empty(rng: random.Random) -> Wrong:
    return Wrong(
        "is empty", rng.choice((b"", b"\n" * 9, b" \t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\n", b"\x0b\x0c"))
    )


def huge(rng: random.Random) -> Wrong:
    size = rng.choice((1 << 20, 1 << 30, 1 << 40))

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(front(""))
            file.truncate(size + 1)

    return Wrong("larger than 1 MiB", make)


# --- YAML


def bomb(rng: random.Random) -> Wrong:
    names = string.ascii_lowercase[: rng.randrange(3, 20)]
    lines = [
        f"{names[0]}: &{names[0]} [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}]" for a, b in itertools.pairwise(names)),
    ]
    return Wrong("anchors and aliases", front("\n".join(lines)), 3)


def alias(rng: random.Random) -> Wrong:
    return Wrong("", front(rng.choice(("base: *x", "<<: *x", "limits: {<<: *x}", "checks: [*x]"))), 3)


def tag(rng: random.Random) -> Wrong:
    name = rng.choice(("!!python/object/apply:os.system", "!!binary", "!x", "!!set", "!!omap", "!<tag:evil>"))
    return Wrong("the YAML tag & is not allowed", front(f"base: {name} x"), 3)


def deep(rng: random.Random) -> Wrong:
    depth = rng.choice((9, 50, 1000, 12_000))
    left, right = rng.choice((("[", "]"), ("{a: ", "}")))
    return Wrong("nested more than 8 deep", front("checks: " + left * depth + right * depth), 3)


def indented(rng: random.Random) -> Wrong:
    depth = rng.randrange(9, 200)
    lines = "\n".join(" " * level + "a:" for level in range(1, depth))
    return Wrong("nested more than 8 deep", front("limits:\n" + lines + " x"), 11)


def not_yaml(rng: random.Random) -> Wrong:
    broken = (
        *(
            "base: [a",
            "base: {a: b",
            'base: "a',
            "base: 'a",
            "base: a: b",
            "\tbase: a",
            "base: @a",
            "base: `a`",
            "base: %a",
        ),
        *(
            "- a",
            "base: |a",
            "? a\n? b:",
            "base: >9x",
            'base: "\\q"',
            'base: "\\UFFFFFFFF"',
            'base: "\\xZZ"',
            "}",
            "base:\n\ta",
        ),
        *("%YAML 9.9", "base: !", "&", "base: ]"),
    )
    return Wrong("", front(rng.choice(broken)))


def twice(rng: random.Random) -> Wrong:
    lines = rng.randrange(5)
    filler = "".join(f"# {number}\n" for number in range(lines))
    return Wrong("given twice & line 3", front(f"base: a\n{filler}base: b"), 4 + lines)


def documents(rng: random.Random) -> Wrong:
    return Wrong("", front(rng.choice(("--- a", "base: a\n--- b: c", "--- !x a"))))


def no_mapping(rng: random.Random) -> Wrong:
    text = rng.choice(("just words", "- a\n- b", "5", "[repo, x]", "true", '"repo"'))
    return Wrong("must be lines of `field: value`", front(text, repo=""), 2)


def odd_key(rng: random.Random) -> Wrong:
    return Wrong("", front(rng.choice(("[a]: b", "{a: b}: c", "? - a\n: b", "? {a: 1}\n: 2"))), 3)


def long_front(rng: random.Random) -> Wrong:
    return Wrong("longer than 64 KiB", front("# x\n" * rng.randrange(17_000, 90_000)), 2)


def control(rng: random.Random) -> Wrong:
    sign = rng.choice("\x01\x07\x08\x1b\x7f\x9b")
    return Wrong("", front(rng.choice((f"base: a{sign}b", f"crew: {sign}", f"checks: ['{sign}']"))), 3)


def hidden_control(rng: random.Random) -> Wrong:
    sign = rng.choice(("\\x1b", "\\0", "\\u2028", "\\x07", "\\uD800", "\\x9b"))
    return Wrong("", front(rng.choice((f'crew: "a{sign}b"', f'checks: ["a{sign}b"]'))), 3)


def unclosed(rng: random.Random) -> Wrong:
    return Wrong("no closing `---`", b"---\nrepo: /src/app\n" + prose(rng, rng.randrange(50)).encode(), 1)


# --- fields

_TYPES = {
    "repo": ("5", "[a]", "{a: b}", "true", "1.5"),
    "base": ("[a]", "{a: b}", "true", "'a b'", "-x", "a..b", "'a~1'", "'a^'", '"a:b"'),
    "crew": ("5", "[a]", "{a: b}", "true", "-x", '"a\\nb"'),
    "priority": ("high", "101", "-101", "1.5", "[1]", "true", "1e9", "'5'", "99999999999999999999", "0x10", "1_0_1"),
    "checks": ("5", "{a: b}", "[5]", "[[a]]", "[true]", "['']", "['a', 7]"),
    "setup": ("5", "{a: b}", "[{a: b}]", "[null]"),
    "limits": ("5", "soon", "[5]", "true"),
    "network": (
        "5",
        "{during: loop}",
        "{hosts: [a.example], during: ever}",
        "[5]",
        "['http://x/y']",
        "[a, '*']",
        "{x: 1}",
    ),
    "deliver": ("push", "5", "[branch]", "mail", "true"),
    "images": ("5", "{a: b}", "[a.png]", "[5]", "'/etc/passwd'"),
    "id": ("[a]", "'../x'", "A", "'a b'", "a..b", "'.a'", "{a: b}", "true", "x" * 65),
}
_LIMITS = {
    "minutes": ("-1", "0", ".inf", ".nan", "1e400", "ninety", "[5]", "10081", "true", "'5'", "1:30"),
    "tokens": ("0", "-5", "1.5", "many", "{a: 1}", "1e6"),
    "attempts": ("0", "51", "1.5", "[3]", "three", "-1"),
}


def wrong_type(rng: random.Random) -> Wrong:
    field = rng.choice(list(_TYPES))
    value = rng.choice(_TYPES[field])
    if field == "repo":
        return Wrong("`repo`", front(f"repo: {value}", repo=""), 2)
    return Wrong(f"`{field}", front(f"{field}: {value}"), 3)


def wrong_limit(rng: random.Random) -> Wrong:
    field = rng.choice(list(_LIMITS))
    value = rng.choice(_LIMITS[field])
    if rng.random() < 0.5:
        return Wrong(f"`limits.{field}`", front(f"limits: {{{field}: {value}}}"), 3)
    return Wrong(f"`limits.{field}`", front(f"limits:\n  # so much\n  {field}: {value}"), 5)


def unknown(rng: random.Random) -> Wrong:
    near = {"priorty": "priority", "chekcs": "checks", "rpo": "repo", "Limits": "limits", "netwrok": "network"}
    name = rng.choice([*near, "".join(rng.choices(string.ascii_letters, k=rng.randrange(10, 300)))])
    words = f"no field & {near.get(name, '')}"
    return Wrong(words, front(f"{name}: {rng.choice(('a', '5', '[a]', '{a: b}', ''))}"), 3)


def unknown_inside(rng: random.Random) -> Wrong:
    group, name = rng.choice((("limits", "hours"), ("limits", "Tokens"), ("network", "host"), ("limits", "x" * 200)))
    return Wrong(f"no field `{group}.", front(f"{group}: {{{name}: 5}}"), 3)


def too_many(rng: random.Random) -> Wrong:
    items = ", ".join(f"c{number}" for number in range(rng.randrange(101, 400)))
    return Wrong("100 is the most", front(f"{rng.choice(('checks', 'setup'))}: [{items}]"), 3)


def too_long(rng: random.Random) -> Wrong:
    return Wrong("characters", front(f"{rng.choice(('base', 'crew'))}: {'x' * rng.randrange(4097, 9000)}"), 3)


def no_repository(rng: random.Random) -> Wrong:
    said = rng.choice((b"# Just prose\n\nDo it.\n", front("", repo=""), front("repo:", repo=""), b"---\n---\nDo it.\n"))
    return Wrong("no repository is named", said)


def bad_repository(rng: random.Random) -> Wrong:
    said = rng.choice(("ext::sh -c x", "ftp://host/x", "app", "./app", "../app", "fd::7", "s3://x/y", "~nobody-here/x"))
    return Wrong("`repo`", front(f'repo: "{said}"', repo=""), 2)


def says_nothing(rng: random.Random) -> Wrong:
    return Wrong("says nothing", front("", body=rng.choice(("", "\n", " \n\t\n", "\r\n" * 9))), 5)


# --- what is no task file


def suffix(rng: random.Random) -> Wrong:
    ending = rng.choice((".txt", ".json", ".yaml", "", ".md2", ".html", ".docx", ".mdx", ".MD.bak"))
    return Wrong("end in `.md`", front(""), suffix=ending)


def link(rng: random.Random) -> Wrong:
    target = rng.choice(("/etc/passwd", "/nowhere", "/dev/zero", "/", ".", "../..", "itself", "/proc/self/mem"))
    return Wrong("symbolic link", lambda path: path.symlink_to(path.name if target == "itself" else target))


def special(rng: random.Random) -> Wrong:
    makers: list[Callable[[Path], object]] = [os.mkfifo, lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)]
    if os.geteuid() == 0:
        makers.append(lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)))  # /dev/zero
    return Wrong("pipe, socket or device", rng.choice(makers))


def folder(rng: random.Random) -> Wrong:
    def nothing(path: Path) -> None:
        path.mkdir()
        (path / "notes.md").write_bytes(front(""))

    def bad_task(path: Path) -> None:
        path.mkdir()
        (path / "task.md").write_bytes(front("priorty: 1"))

    def bad_file(path: Path) -> None:
        path.mkdir()
        (path / "task.md").write_bytes(front(""))
        rng.choice((os.mkfifo, lambda there: there.symlink_to("/etc/passwd")))(path / "x.png")

    make, words, line = rng.choice(
        (
            (nothing, "no crew and no repository", None),
            (bad_task, "no field `priorty`", 3),
            (bad_file, "x.png is a", None),
        )
    )
    return Wrong(words, make, line, suffix="")


def unreadable(rng: random.Random) -> Wrong:
    def make(path: Path) -> None:
        path.write_bytes(front(""))
        path.chmod(rng.choice((0o000, 0o200, 0o333)))

    return Wrong("cannot be read & chmod g+r", make) if os.geteuid() else link(rng)


MAKERS: tuple[Make, ...] = (
    *(not_utf8, binary, wide, empty, huge, bomb, alias, tag, deep, indented, not_yaml, twice, documents, no_mapping),
    *(
        odd_key,
        long_front,
        control,
        hidden_control,
        unclosed,
        wrong_type,
        wrong_type,
        wrong_type,
        wrong_limit,
        wrong_limit,
    ),
    *(unknown, unknown_inside, too_many, too_long, no_repository, bad_repository, says_nothing),
    *(suffix, link, special, folder, unreadable),
)


def names(rng: random.Random) -> Iterator[str]:
    """Names of files, some of them as wrong as what is in them."""
    for number in range(COUNT):
        odd = rng.choice(
            ("", "", "", "ü", "a b", "é" * 60, "\N{RIGHT-TO-LEFT OVERRIDE}", "\n", "\x1b[31m", "--", "'\"`$(x)")
        )
        yield f"{number}{odd}" if rng.random() < 0.95 else f"{number}{os.fsdecode(bytes([0xE9, 0xFF]))}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    config = Config(home=tmp_path / "home")
    with Journal.open(config.journal) as journal:
        DropFolder(config.inbox, config.rejected).prepare()
        yield House(config, journal)


async def test_a_thousand_malformed_files_have_a_report_each_with_reason_and_line(house: House) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    wanted: dict[str, Wrong] = {}
    for number, name in enumerate(names(rng)):
        wrong = MAKERS[number % len(MAKERS)](rng)
        path = house.config.inbox / f"{name}{wrong.suffix}"
        if callable(wrong.content):
            wrong.content(path)
        else:
            path.write_bytes(wrong.content)
        wanted[path.name] = wrong
    (house.config.inbox / "good.md").write_bytes(front(""))
    with anyio.fail_after(60):
        await house.settle()
        await house.sweep(after=UNNAMED_SECONDS)
    assert house.inbox == []
    assert house.hidden(".claimed") == []
    assert house.titles == ["Do it"], "the one good file among them"
    assert len(house.rejections) == COUNT
    for name, wrong in wanted.items():
        assert os.path.lexists(house.config.rejected / name), name
        report = house.report(name)
        said = report.split("\n\n", 1)[1].split("## What to do")[0]
        assert len(said.strip()) > 20, (name, report)
        for words in wrong.words.split(" & "):
            assert words in said, (name, wrong.content, report)
        if wrong.line is not None:
            assert said.startswith(f"Line {wrong.line}: "), (name, wrong.content, report)
        assert len(report) < 4096
        assert report.replace("\n", "").isprintable(), report


async def test_large_deep_and_dense_files_are_refused_in_little_memory(house: House) -> None:
    for number, make in enumerate((huge, deep, bomb, indented, long_front, binary) * 4):
        wrong = make(random.Random(number))
        path = house.config.inbox / f"{number}.md"
        if callable(wrong.content):
            wrong.content(path)
        else:
            path.write_bytes(wrong.content)
    await house.sweep()
    tracemalloc.start()
    try:
        await house.sweep(after=DOUBTFUL_SECONDS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(house.rejections) == 24
    assert peak < 24 * 2**20, f"{peak / 2**20:.1f} MiB"
