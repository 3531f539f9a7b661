"""What an endpoint's failure means: may it pass, and what is a person to be told?

Every sentence names the endpoint and says what to do. No sentence carries a key: neither in the address, nor quoted
back by a server.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import httpx2

from nightcrew.config import RoleSettings
from nightcrew.errors import ContextOverflow, EndpointDown, EndpointRefused, ModelError
from nightcrew.llm.patience import Passing, Patience

SENTENCE_CAP = 500
"""Most characters of a server's words in an error."""

MAY_PASS = frozenset({408, 409, 425, 429})

_OVERFLOW = re.compile(
    "|".join(
        (
            r"context_length_exceeded",  # OpenAI's code
            r"exceed_context_size",  # llama.cpp's type
            r"available context size",  # llama.cpp
            r"context (size|length|window) (has been |was )?exceeded",  # llama.cpp and MLX in a stream
            r"maximum context length",  # OpenAI, vLLM, SGLang, Mistral, Ollama
            r"(longer|greater|larger) than the (model's )?(maximum |max )?(model|context) (length|size|window)",
            r"exceeds? (the |this |your )?(model's )?(maximum |max )?context",  # Ollama and others
            r"max_model_len",  # vLLM
            r"requested token count exceeds",  # SGLang
            r"maximum allowed (input )?length",  # SGLang
            r"when (the )?context (the )?overflows",  # LM Studio
            r"context length of only",  # LM Studio
            r"prompt (is )?too long",
        )
    ),
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """The endpoint as its errors name it."""

    url: str
    """Without user and password."""
    model: str
    """As configured; empty when the endpoint's first one is used."""
    key_source: str
    secret: str = field(default="", repr=False)

    def quote(self, text: str) -> str:
        """A server's words on one line, capped, without the key."""
        text = " ".join(text.split())
        text = text.replace(self.secret, "***") if self.secret else text
        text = "".join(char if char.isprintable() else "?" for char in text)
        return text if len(text) <= SENTENCE_CAP else text[: SENTENCE_CAP - 1] + "…"


def key_source(settings: RoleSettings) -> str:
    """Where a role's key comes from, for the errors that are about it."""
    if settings.api_key_file is not None:
        return f"its key comes from api_key_file = {str(settings.api_key_file)!r}"
    if settings.api_key_env is not None:
        return f"its key comes from api_key_env = {settings.api_key_env!r}"
    return "the role names no key: set api_key_env or api_key_file"


def fault_of_status(
    place: Place, status: int, sentence: str, *, retry_after: float | None = None, location: str = ""
) -> ModelError | Passing:
    """What a status other than 2xx means. `sentence` is the server's own, as it came."""
    words = place.quote(sentence) or "it gave no reason"
    if _OVERFLOW.search(sentence):
        advice = "give the server a longer context, or ask for fewer max_tokens"
        return ContextOverflow(f"{place.url}: the prompt does not fit into the model's context: {words} ({advice})")
    if status >= 500 or status in MAY_PASS:
        return Passing(f"answered {status}: {words}", retry_after=retry_after)
    if status in (401, 403):
        return EndpointRefused(f"{place.url}: refused the key ({status}: {words}); {place.key_source}")
    if 300 <= status < 400:
        return EndpointRefused(f"{place.url}: redirects to {place.quote(location)}; set base_url to the right address")
    return EndpointRefused(f"{place.url}: refused the request ({status}: {words})")


def fault_of_transport(error: httpx2.RequestError, *, connect_seconds: float) -> ModelError | Passing:
    """What a failure below HTTP means."""
    if isinstance(error, httpx2.ConnectTimeout):
        return Passing(f"no connection within {connect_seconds:g} s")
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return EndpointRefused(f"the request cannot be sent: {type(error).__name__}; check base_url and the key")
    if isinstance(error, httpx2.ConnectError | httpx2.ProxyError):
        return Passing(_connect_words(error))
    if isinstance(error, httpx2.DecodingError):
        return Passing("sent a body that its content-encoding does not fit", nonsense=True)
    return Passing(f"the connection was cut ({type(error).__name__})")


def down(place: Place, fault: Passing, patience: Patience) -> EndpointDown:
    """The error that ends a wait."""
    tries = f"{patience.tries} tries in {patience.waited:.0f} s" if patience.tries > 1 else "one try"
    if fault.retry_after is not None and patience.waited + fault.retry_after > patience.seconds:
        tries += f", and it asks to wait {fault.retry_after:.0f} s more"
    advice = (
        fault.advice or "Is the model server running there? base_url says where, patience_seconds how long to wait."
    )
    return EndpointDown(f"{place.url}: {fault.seen} (given up after {tries}). {advice}")


def _connect_words(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "no such host name"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({cause.reason or 'no reason given'})"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return f"no connection ({cause.strerror.lower()})"
    return "no connection"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
                yield from _causes(inner)
        yield error
        error = error.__cause__ or error.__context__
