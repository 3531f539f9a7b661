"""The secrets that this process knows, so that none is ever written: not to a log, a journal, a report, a prompt.

Whoever loads a key, a token or a URL with a password says so here; whoever writes something down has it looked through.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

HIDDEN = "[hidden]"
LEAST = 8
"""Characters of a secret that is looked for everywhere. A shorter one would be found in words that are none."""

_LOGIN = re.compile(r"(?<=://)[^/@\s\"'\\]+@")
_HEADER = re.compile(
    r"(?i)(authorization[\"']?\s*[:=,]\s*[\"']?(?:bearer|basic)\s+|\bbearer\s+(?=\S{16}))[^\s\"',)\\]+"
)
_SHORTEST = 20
_WORD = re.compile(rf"(\\*)([A-Za-z0-9._~+/=-]{{{_SHORTEST},}})")
"""What may be a token, with the backslashes before it: in JSON, and JSON within JSON, the rest of an escape follows."""


def without_login(text: str) -> str:
    """The text with the URLs in it as they are without a user's name and password."""
    return _LOGIN.sub("", text)


class Secrets:
    """What must not be written. Values are kept in memory only, tokens as their SHA-256."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._digests: set[bytes] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        """A key, a password. One of less than `LEAST` characters cannot be told from a word, and is not looked for."""
        forms = {value, json.dumps(value)[1:-1]} if len(value) >= LEAST else set[str]()
        if not forms <= self._values:
            self._values |= forms
            longest_first = sorted(self._values, key=len, reverse=True)
            self._pattern = re.compile("|".join(re.escape(one) for one in longest_first))

    def add_url(self, url: str) -> None:
        """A URL that may have a password in it, or a token for a name."""
        try:
            parts = urlsplit(url)
            login = (parts.username, parts.password)
        except ValueError:
            return
        for each in login if login[1] is not None else login[:1]:
            self.add(each or "")
            self.add(unquote(each or ""))

    def add_digests(self, digests: Iterable[bytes]) -> None:
        """Tokens of which only the SHA-256 is known."""
        self._digests.update(digests)

    def hide_values(self, text: str) -> str:
        """`text` without what was added. For what is somebody else's text: nothing more is touched."""
        if self._digests:
            text = _WORD.sub(lambda found: found[1] + self._hide_tokens(found[2], escaped=bool(found[1])), text)
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def hide(self, text: str) -> str:
        """`text` without those, and without logins in URLs and authorization headers. For words of ours."""
        return _HEADER.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", self.hide_values(text)))

    def _hide_tokens(self, word: str, *, escaped: bool) -> str:
        """`escaped`: the word may begin with the end of an escape, `n` or `u00e9`, which has to stay."""
        for start in (0, 1, 5) if escaped else (0,):
            if self._is_token(word[start:]):
                return word[: start or int(escaped)] + HIDDEN
        parts = re.split("([=/])", word)  # TOKEN=..., http://host/...
        return "".join(HIDDEN if len(part) >= _SHORTEST and self._is_token(part) else part for part in parts)

    def _is_token(self, word: str) -> bool:
        return any(
            hashlib.sha256(form.encode()).digest() in self._digests
            for form in {word, word.strip("."), word.rstrip("=")}
        )


SECRETS = Secrets()
"""Those of this process."""
