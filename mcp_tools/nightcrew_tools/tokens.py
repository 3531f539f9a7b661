"""Bearer tokens of the HTTP door: what each may do, read from a file that only its owner reads.

# comment
TOKEN                    everything that the server offers
TOKEN read-only NAME     tools that change nothing
TOKEN tasks-only NAME    the task tools alone
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Scope = Literal["full", "read-only", "tasks-only"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_LEAST_CHARACTERS = 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")


class TokenFileError(ValueError):
    """A token file cannot be used: says file, line, and what to do."""


@dataclass(frozen=True)
class Token:
    """One token, kept as the SHA-256 of it: a printed or leaked object tells nothing."""

    digest: bytes
    scope: Scope
    name: str
    """For the audit log, and whose a session is."""


class Tokens:
    """The tokens that a door accepts."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens
        self.scopes = frozenset(token.scope for token in tokens)
        self.digests = frozenset(token.digest for token in tokens)

    def find(self, presented: str) -> Token | None:
        """The token that a client presented. Takes the same time whichever it is, and for one that is none."""
        digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
        found: Token | None = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file. Raises `TokenFileError`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(handle, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise TokenFileError(f"{path}: others may read it; make it yours alone (chmod 600 {path})")
            lines = file.read(1024 * 1024).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{path}: cannot be read: {error}") from error
    tokens = tuple(_token(path, number, line.split()) for number, line in enumerate(lines, 1) if _is_entry(line))
    if not tokens:
        raise TokenFileError(f"{path}: there is no token in it; write one on a line of its own")
    if len({token.digest for token in tokens}) < len(tokens):
        raise TokenFileError(f"{path}: the same token stands there twice, so what it may do is not clear")
    if len({token.name for token in tokens}) < len(tokens):
        raise TokenFileError(f"{path}: two tokens have the same name; a session belongs to one of them")
    return Tokens(tokens)


def make_token_file(path: Path) -> None:
    """Write a file with one new token of scope `full`; one that is there already is left alone. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{secrets.token_urlsafe(32)} full first\n")


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _token(path: Path, number: int, words: list[str]) -> Token:
    where = f"{path}, line {number}"
    defaults = ["", "full", f"line-{number}"]
    value, scope, name = [*words, *defaults[len(words) :]][:3]
    if len(words) > 3 or scope not in SCOPES or not _NAME.fullmatch(name):
        raise TokenFileError(f"{where}: write TOKEN, or TOKEN SCOPE NAME with one of {', '.join(SCOPES)}")
    if len(value) < _LEAST_CHARACTERS:
        raise TokenFileError(f"{where}: a token has {_LEAST_CHARACTERS} characters at least (openssl rand -hex 32)")
    return Token(hashlib.sha256(value.encode()).digest(), scope, name)
