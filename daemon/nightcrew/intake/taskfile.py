"""A task file: Markdown with YAML front matter, into a `TaskRequest`. Pure apart from resolving `~` and `..`."""

from __future__ import annotations

import codecs
import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nightcrew.attachments import TASK_FILE
from nightcrew.errors import AttachmentRefused, TaskFileError
from nightcrew.intake.frontmatter import Listing, Mapping, Node, Scalar, describe, parse_mapping
from nightcrew.schedule import HINT as SCHEDULE_HINT
from nightcrew.schedule import parse_schedule
from nightcrew_tools.contract import Limits, TaskNetwork, TaskRequest
from nightcrew_workspaces.egress_rules import parse_rule

MAX_BYTES = 1024 * 1024
"""A longer task file is refused."""

_MAX_ITEMS = 100
_MAX_LINE = 4096
_FALLBACK_TITLE = 80
_HEADING_TITLE = 200

_URL = re.compile(r"(?:https?|ssh|git|file)://[^\s-]\S*")
_SCP_LIKE = re.compile(r"[A-Za-z0-9][\w.-]*@[A-Za-z0-9][\w.-]*:(?!:)\S+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}(?=[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*")


Attach = Callable[[tuple[str, ...]], tuple[str, ...]]
"""Raises `AttachmentRefused`."""


def nothing_attached(named: tuple[str, ...]) -> tuple[str, ...]:
    """`attach` of a file that comes alone."""
    if named:
        raise AttachmentRefused(
            f"pictures come in a folder: put them beside the text, call that `{TASK_FILE}`, and drop the folder"
        )
    return ()


def parse(
    data: bytes,
    *,
    name: str,
    default_repo: str | None = None,
    base_dir: Path | None = None,
    default_limits: Limits | None = None,
    attach: Attach = nothing_attached,
) -> TaskRequest:
    """Read a task file.

    `name` is the file's, for a task whose text gives no title. `default_repo` stands in where the file names none.
    Relative paths are relative to `base_dir`, and refused where that is None. `default_limits` fill what `limits:`
    leaves out. `attach` makes of what `images:` names the attachments that models are shown. Raises `TaskFileError`,
    and nothing else, with the reason and the line in the file.
    """
    front, front_line, body, body_line = _split(_decode(data))
    fields = parse_mapping(front, first_line=front_line)
    for key in fields.fields:
        if key not in _READERS:
            raise _unknown(key, tuple(_READERS), fields.lines[key])
    values: dict[str, Any] = {"limits": default_limits or Limits()}
    for key, read in _READERS.items():
        node = fields.fields.get(key)
        if node is not None and not (isinstance(node, Scalar) and node.kind == "nothing"):
            values[key] = read(key, node)
    try:
        values["images"] = attach(values.get("images", ()))
    except AttachmentRefused as error:
        raise TaskFileError(f"`images`: {error}", line=fields.lines.get("images")) from None
    if values.get("schedule") and values.get("after"):
        raise TaskFileError(
            "a scheduled task comes after no others: leave `after` or `schedule` out", line=fields.lines["after"]
        )
    values["limits"] = _limits(fields, values["limits"], default_limits or Limits())
    values["repo"] = _repo(values.get("repo"), fields, default_repo, base_dir)
    text = body.strip()
    if not text:
        raise TaskFileError("the task says nothing: write what is to be done below the front matter", line=body_line)
    try:
        return TaskRequest(title=_title(body, name), text=text, **values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = str(problem["loc"][0]) if problem["loc"] else ""
        raise TaskFileError(f"`{where}`: {problem['msg']}", line=fields.lines.get(where)) from None


# --- the file


def _decode(data: bytes) -> str:
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise TaskFileError("the file is empty: write a task into it")
    if len(data) > MAX_BYTES:
        raise TaskFileError("the file is larger than 1 MiB: a task is a text; name big files by their path in it")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TaskFileError("the file is UTF-16: save it as UTF-8", line=1)
    if b"\0" in data:
        at = data.index(b"\0")
        raise TaskFileError(f"the file is binary (a NUL byte at offset {at}): a task is a text", line=_line(data, at))
    mark = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = data[mark:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + mark
        raise TaskFileError(
            f"byte {data[at]:#04x} at offset {at} is not valid UTF-8: save the file as UTF-8", line=_line(data, at)
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


def _split(text: str) -> tuple[str, int, str, int]:
    """Front matter and body, each with the line it begins on."""
    lines = text.split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines[start].rstrip() != "---":
        return "", 1, text, 1
    for end in range(start + 1, len(lines)):
        if lines[end].rstrip() in ("---", "..."):
            return "\n".join(lines[start + 1 : end]), start + 2, "\n".join(lines[end + 1 :]), end + 2
    raise TaskFileError("the front matter has no closing `---` line: add one below its last field", line=start + 1)


def _title(text: str, name: str) -> str:
    lines = text.split("\n")
    prose = _outside_fences(lines)
    for number in prose:
        line = lines[number]
        if title := _heading(line):
            return title
        underlined = number + 1 in prose and _UNDERLINE.fullmatch(lines[number + 1])
        if underlined and _is_paragraph(line):
            return _clean(line, _HEADING_TITLE)
    first = (title for number in prose if (title := _clean(lines[number], _FALLBACK_TITLE)))
    return next(first, None) or _clean(name, _FALLBACK_TITLE) or "task"


def _heading(line: str) -> str:
    match = _HEADING.match(line)
    if match is None:
        return ""
    title = line[match.end() :].strip()
    opened = title.rstrip("#")  # `# Title ##` is closed, `# C#` is not
    return _clean(opened if not opened or opened[-1].isspace() else title, _HEADING_TITLE)


def _outside_fences(lines: list[str]) -> dict[int, None]:
    """Numbers of the lines that are in no code fence, in order."""
    outside: dict[int, None] = {}
    fence = ""
    for number, line in enumerate(lines):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            outside[number] = None
    return outside


def _is_paragraph(line: str) -> bool:
    return bool(_clean(line, 1)) and not line.startswith(("    ", "\t")) and line.lstrip()[0] not in "#>-*+=|"


def _clean(text: str, limit: int) -> str:
    """One line of printable text: a title goes to terminals and commit messages."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(printable.split())[:limit].rstrip()


# --- the fields


def _wrong(key: str, node: Node, wanted: str, hint: str = "") -> TaskFileError:
    return TaskFileError(f"`{key}` must be {wanted}; found {describe(node)}{hint}", line=node.line)


def _unknown(key: str, known: tuple[str, ...], line: int, prefix: str = "") -> TaskFileError:
    near = difflib.get_close_matches(key[:80].lower(), known, n=1, cutoff=0.5)
    shown = _clean(key, 40)
    hint = f"did you mean `{prefix}{near[0]}`?" if near else f"the fields are {', '.join(known)}"
    return TaskFileError(f"there is no field `{prefix}{shown}`; {hint}", line=line)


def _text(node: Node, key: str, wanted: str) -> str:
    if not isinstance(node, Scalar) or node.kind != "text":
        colon = "; a text with `: ` in it stands in quotes" if isinstance(node, Mapping) else ""
        quotes = "; put it in quotes if it is meant as text" if isinstance(node, Scalar) else ""
        raise _wrong(key, node, wanted, colon or quotes)
    text = node.text.strip()
    if not text or len(text) > _MAX_LINE:
        raise TaskFileError(f"`{key}` must be {wanted}; found {len(text)} characters", line=node.line)
    if _CONTROL.search(text):
        raise TaskFileError(f"`{key}` has a control character; remove it", line=node.line)
    return text


def _texts(wanted: str) -> Callable[[str, Node], tuple[str, ...]]:
    def read(key: str, node: Node) -> tuple[str, ...]:
        items = node.items if isinstance(node, Listing) else (node,)
        if len(items) > _MAX_ITEMS:
            raise TaskFileError(f"`{key}` has {len(items)} entries; {_MAX_ITEMS} is the most", line=node.line)
        return tuple(_text(item, key, wanted) for item in items)

    return read


def _one_line(wanted: str) -> Callable[[str, Node], str]:
    def read(key: str, node: Node) -> str:
        text = _text(node, key, wanted)
        if "\n" in text or text.startswith("-"):
            raise TaskFileError(f"`{key}` must be {wanted}, on one line and without a leading `-`", line=node.line)
        return text

    return read


def _base(key: str, node: Node) -> str:
    # A commit such as 1234567 or a tag such as 1.10 is a number to YAML; what was written is what is meant.
    if isinstance(node, Scalar) and node.kind == "number":
        node = Scalar(node.line, node.text, "text")
    text = _one_line("the text of a branch, tag or commit, such as `base: main`")(key, node)
    if re.search(r"[\s~^:?*\[\\]|\.\.|@\{", text):
        raise TaskFileError(f"`{key}`: {text!r} is no name of a branch, tag or commit", line=node.line)
    return text


def _id(key: str, node: Node) -> str:
    if not isinstance(node, Scalar) or node.kind not in ("text", "number"):
        raise _wrong(key, node, "a short text such as `id: nightly-2031-05-04`")
    if not _SLUG.fullmatch(node.text) or ".." in node.text:
        raise TaskFileError(
            f"`{key}`: {_clean(node.text, 80)!r} cannot be one; it has 1 to 64 lower-case letters, digits, "
            "`-`, `_` and single `.`, a letter or digit first",
            line=node.line,
        )
    return node.text


def _after(key: str, node: Node) -> tuple[str, ...]:
    items = node.items if isinstance(node, Listing) else (node,)
    # An id such as 20310504 is a number to YAML.
    texts = [
        Scalar(one.line, one.text, "text") if isinstance(one, Scalar) and one.kind == "number" else one for one in items
    ]
    names = _texts("a list of ids or names of tasks as text, such as `after: [nightly]`")(
        key, Listing(node.line, tuple(texts))
    )
    for name in names:
        if not _SLUG.fullmatch(name):
            raise TaskFileError(f"`{key}`: {_clean(name, 80)!r} is no id and no name of a task", line=node.line)
    return tuple(dict.fromkeys(names))


def _schedule(key: str, node: Node) -> str:
    text = " ".join(_one_line(f"the text of a schedule, {SCHEDULE_HINT}")(key, node).split())
    try:
        parse_schedule(text)
    except ValueError as error:
        raise TaskFileError(f"`{key}`: {error}", line=node.line) from None
    return text


def _number(key: str, node: Node, wanted: str, *, whole: bool) -> float | int:
    if not isinstance(node, Scalar) or node.kind != "number":
        raise _wrong(key, node, wanted)
    plain = node.text.replace("_", "")
    pattern = r"[+-]?[0-9]{1,15}" if whole else r"[+-]?[0-9]{1,15}(?:\.[0-9]{0,15})?"
    if not re.fullmatch(pattern, plain):
        raise _wrong(key, node, wanted)
    return int(plain) if whole else float(plain)


def _priority(key: str, node: Node) -> int:
    wanted = "a whole number from -100 to 100, such as `priority: 10`"
    number = _number(key, node, wanted, whole=True)
    if not -100 <= number <= 100:
        raise _wrong(key, node, wanted)
    return int(number)


def _deliver(key: str, node: Node) -> Literal["branch", "patch"]:
    text = node.text.strip().lower() if isinstance(node, Scalar) else ""
    if text == "push":
        raise TaskFileError(
            "`deliver: push` is not supported yet: a result stays on this machine; write `deliver: branch` "
            "and push the branch yourself",
            line=node.line,
        )
    if text not in ("branch", "patch"):
        raise _wrong(key, node, "`branch` or `patch`")
    return "branch" if text == "branch" else "patch"


_NETWORK = "`true` or a list of hosts and groups as text, such as `network: [pip, files.example.org]`"
_LIMITS = {
    "minutes": (False, "a number of minutes above 0, at most a week, such as `minutes: 90`"),
    "wall_minutes": (False, "a number of minutes above 0, at most a year, such as `wall_minutes: 600`"),
    "tokens": (True, "a whole number of tokens from 1, such as `tokens: 2000000`"),
    "attempts": (True, "a whole number from 1 to 50, such as `attempts: 3`"),
}


def _limit_values(key: str, node: Node) -> dict[str, float | int]:
    if not isinstance(node, Mapping):
        raise _wrong(key, node, "a group of fields, such as `limits: {minutes: 90, attempts: 3}`")
    values: dict[str, float | int] = {}
    for name, value in node.fields.items():
        if name not in _LIMITS:
            raise _unknown(name, tuple(_LIMITS), node.lines[name], prefix="limits.")
        if not (isinstance(value, Scalar) and value.kind == "nothing"):
            whole, wanted = _LIMITS[name]
            values[name] = _number(f"limits.{name}", value, wanted, whole=whole)
    return values


def _network(key: str, node: Node) -> TaskNetwork | None:
    if not isinstance(node, Mapping):
        hosts, wanted = _hosts(key, node)
        return TaskNetwork(hosts=hosts) if wanted else None
    for name, line in node.lines.items():
        if name not in ("hosts", "during"):
            raise _unknown(name, ("hosts", "during"), line, prefix="network.")
    if "hosts" not in node.fields:
        raise _wrong(key, node, _NETWORK)
    hosts, wanted = _hosts("network.hosts", node.fields["hosts"])
    during = node.fields.get("during", Scalar(node.line, "setup", "text"))
    text = during.text.strip().lower() if isinstance(during, Scalar) else ""
    if text not in ("setup", "loop"):
        raise _wrong("network.during", during, "`setup`, or `loop` for while a model works too")
    return TaskNetwork(hosts=hosts, during="loop" if text == "loop" else "setup") if wanted else None


def _hosts(key: str, node: Node) -> tuple[tuple[str, ...] | None, bool]:
    """Hosts, None for all that the machine allows; and whether any network is wanted."""
    if isinstance(node, Scalar) and node.kind == "boolean":
        return None, node.text.strip().lower() in ("true", "yes", "on")
    hosts = _texts(_NETWORK)(key, node)
    for host in hosts:
        try:
            parse_rule(host)
        except ValueError as error:
            raise TaskFileError(f"`{key}`: {error}", line=node.line) from None
    return hosts, bool(hosts)


def _limits(fields: Mapping, given: object, default: Limits) -> Limits:
    node = fields.fields.get("limits")
    if not isinstance(given, dict) or not isinstance(node, Mapping):
        return default
    try:
        return Limits.model_validate({**default.model_dump(), **given})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise _wrong(f"limits.{name}", node.fields.get(name, node), _LIMITS[name][1]) from None


def _repo(given: str | None, fields: Mapping, default: str | None, base_dir: Path | None) -> str:
    line = fields.lines.get("repo") if given else None
    repo = given or default
    if not repo:
        raise TaskFileError(
            "no repository is named: add `repo: /path/to/repository` between two `---` lines at the top",
            line=fields.lines.get("repo", 1),
        )
    if _URL.fullmatch(repo) or _SCP_LIKE.fullmatch(repo):
        return repo
    if "://" in repo or re.match(r"\w+::", repo):
        raise TaskFileError(
            f"`repo`: {repo!r} cannot be fetched; "
            "write a path, an http, https, ssh, git or file URL, or user@host:path",
            line=line,
        )
    try:
        path = Path(repo).expanduser()
    except RuntimeError:
        raise TaskFileError(
            f"`repo`: the home folder in {repo!r} is not known; write the whole path", line=line
        ) from None
    if path.is_absolute():
        return str(path)
    if base_dir is None:
        raise TaskFileError(
            f"`repo`: {repo!r} is a relative path, and it is not known relative to what; write the whole path",
            line=line,
        )
    return os.path.realpath(base_dir / path)


_READERS: dict[str, Callable[[str, Node], Any]] = {
    "repo": _one_line("the text of a path or URL, such as `repo: /home/me/project`"),
    "base": _base,
    "crew": _one_line("the text of a crew's name, such as `crew: local`"),
    "priority": _priority,
    "checks": _texts('a list of commands, such as `checks: ["pytest -q"]`'),
    "setup": _texts('a list of commands, such as `setup: ["npm ci"]`'),
    "limits": _limit_values,
    "network": _network,
    "after": _after,
    "deliver": _deliver,
    "images": _texts("a list of image files as text, such as `images: [screenshot.png]`"),
    "schedule": _schedule,
    "id": _id,
}
