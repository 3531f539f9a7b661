"""One endpoint over HTTP: a request out, a reply into its pieces, and every failure told apart."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import cast

import anyio
import httpx2
from pydantic import SecretStr

from nightcrew.config import RoleSettings
from nightcrew.errors import ConfigError, EndpointRefused, ModelError
from nightcrew.llm import faults
from nightcrew.llm.patience import Passing, read_retry_after
from nightcrew.llm.wire import (
    REPLY_CAP,
    Assembler,
    ErrorPayload,
    EventDecoder,
    JsonObject,
    TooLarge,
    as_list,
    as_object,
    as_text,
    error_sentence,
    error_status,
)

CONNECT_SECONDS = 10.0
LISTING_SECONDS = 30.0
INFO_SECONDS = 5.0
DRAIN_SECONDS = 2.0
"""How long the end of a stream may take after `[DONE]`; past it the connection is not used again."""
USAGE_SECONDS = 10.0
"""How long the usage may take after the model's last word."""
ERROR_CAP = 64 * 1024
"""Most bytes that are read of an error's body."""

_WRONG_ADDRESS = "is base_url that of an OpenAI-compatible API, with its /v1?"
_RESERVED = frozenset({"model", "messages", "prompt", "tools", "stream", "stream_options", "n"})


class Endpoint:
    """An OpenAI-compatible API at one address. Each method tries once.

    Raises `Passing` for what may pass, `EndpointRefused` or `ContextOverflow` for what will not, and `ConfigError` at
    construction when the address or the key cannot be one.
    """

    def __init__(self, settings: RoleSettings, api_key: SecretStr | None) -> None:
        self.url, login = _address(settings)
        self.place = faults.Place(
            url=self.url,
            model=settings.model,
            key_source=faults.key_source(settings),
            secret=api_key.get_secret_value() if api_key else "",
        )
        self._settings = settings
        self._http = open_http(self.url, headers=_headers(api_key, self.place), auth=login)
        self._names: list[str] | None = None
        self._entries: list[JsonObject] = []
        self._info: JsonObject | None = None

    async def aclose(self) -> None:
        await self._http.aclose()

    async def models(self) -> list[str]:
        """The models that it lists, as it names them; asked once."""
        if self._names is None:
            try:
                with anyio.fail_after(LISTING_SECONDS):
                    response, body = await self._get(f"{self.url}/models")
            except httpx2.RequestError as error:
                raise faults.fault_of_transport(error, connect_seconds=CONNECT_SECONDS) from error
            except TimeoutError as error:
                raise Passing(f"no list of models within {LISTING_SECONDS:g} s") from error
            if not response.is_success:
                fault = self._fault(response, body)
                raise EndpointRefused(f"{fault}; {_WRONG_ADDRESS}") if response.status_code == 404 else fault
            payload = _parsed(body)
            if payload is None:
                raise _nonsense(response, body)
            self._entries = [as_object(entry) for entry in as_list(payload.get("data"))]
            self._names = [name for entry in self._entries if (name := as_text(entry.get("id")))]
        return self._names

    async def server_info(self) -> JsonObject:
        """What an SGLang server says of itself at `/server_info`; empty for every other server. Asked once."""
        if self._info is None:
            self._info = {}
            with suppress(httpx2.HTTPError, TimeoutError):
                with anyio.fail_after(INFO_SECONDS):
                    response, body = await self._get(self.url.removesuffix("/v1") + "/server_info")
                self._info = (_parsed(body) if response.is_success else None) or {}
        return self._info

    async def listing(self) -> Sequence[JsonObject]:
        """The list of models with whatever the endpoint says of each. Raises as `models` does."""
        await self.models()
        return self._entries

    async def exchange(self, path: str, body: bytes, parts: Assembler, on_text: Callable[[str], None] | None) -> None:
        """One request, its reply taken into `parts`. Raises `Passing`, `EndpointRefused` or `ContextOverflow`."""
        try:
            # One scope from the first byte sent to the last one read; every token moves its deadline.
            with anyio.fail_after(self._settings.first_token_seconds) as scope:
                await self._send(path, body, _Progress(parts, scope, self._settings.idle_seconds, on_text))
        except httpx2.RequestError as error:
            if not parts.ended:
                raise faults.fault_of_transport(error, connect_seconds=CONNECT_SECONDS) from error
        except TimeoutError as error:
            if not parts.ended:
                raise self._too_slow(parts) from error
        except ErrorPayload as error:
            payload = error.payload
            raise faults.fault_of_status(self.place, error_status(payload), error_sentence(payload)) from None
        except TooLarge:
            raise EndpointRefused(f"{self.url}: sent a reply of more than {REPLY_CAP >> 20} MiB") from None
        if parts.finish_reason == "abort":
            raise Passing("the server aborted the request")
        if not (parts.ended or parts.full):
            raise Passing("the stream was cut before its end")

    async def _send(self, path: str, body: bytes, progress: _Progress) -> None:
        async with self._http.stream("POST", self.url + path, content=body) as response:
            if not response.is_success:
                raise await self._fault_of(response)
            kind = response.headers.get("content-type", "")
            async with aclosing(response.aiter_bytes()) as pieces:
                if kind.startswith("text/event-stream"):
                    decoder = EventDecoder()
                    async for piece in pieces:
                        if progress.take(decoder.feed(piece), response):
                            return
                    progress.take(decoder.close(), response)
                    return
                whole = bytearray()
                async for piece in pieces:
                    whole += piece
                    progress.alive()
                    if len(whole) > REPLY_CAP:
                        raise TooLarge
            progress.take_whole(bytes(whole), response)

    async def _get(self, url: str) -> tuple[httpx2.Response, bytes]:
        async with self._http.stream("GET", url) as response:
            return response, await read_some(response, REPLY_CAP)

    async def _fault_of(self, response: httpx2.Response) -> ModelError | Passing:
        fault = self._fault(response, await read_some(response, ERROR_CAP))
        if response.status_code == 404:
            self._names = None
            return await self._not_found(fault)
        return fault

    def _fault(self, response: httpx2.Response, body: bytes) -> ModelError | Passing:
        payload = _parsed(body)
        return faults.fault_of_status(
            self.place,
            response.status_code,
            body.decode("utf-8", "replace") if payload is None else error_sentence(payload),
            retry_after=read_retry_after(response.headers.get("retry-after")),
            location=response.headers.get("location", ""),
        )

    async def _not_found(self, fault: ModelError | Passing) -> ModelError | Passing:
        """A 404 says either that the model is unknown or that the address is wrong: the list of models tells which."""
        try:
            names = await self.models()
        except (Passing, ModelError):
            return EndpointRefused(f"{fault}; it lists no models either: {_WRONG_ADDRESS}")
        if self._settings.model in names:
            return fault
        there = ", ".join(names[:20]) or "none"
        wanted = f"the model {self._settings.model!r}" if self._settings.model else "its model any longer"
        return EndpointRefused(f"{self.url}: does not have {wanted}; it has: {self.place.quote(there)}")

    def _too_slow(self, parts: Assembler) -> Passing:
        if parts.started:
            seconds, name = self._settings.idle_seconds, "idle_seconds"
            return Passing(
                f"the stream stood still for {seconds:g} s", advice=f"If that is normal there, raise {name}."
            )
        seconds, name = self._settings.first_token_seconds, "first_token_seconds"
        return Passing(f"no token within {seconds:g} s", advice=f"If its prefill takes longer, raise {name}.")


class _Progress:
    """Takes pieces of a reply in and moves the deadline of the request with them."""

    def __init__(
        self, parts: Assembler, scope: anyio.CancelScope, idle: float, on_text: Callable[[str], None] | None
    ) -> None:
        self._parts = parts
        self._scope = scope
        self._idle = idle
        self._on_text = on_text

    def alive(self, most: float | None = None) -> None:
        self._scope.deadline = anyio.current_time() + (self._idle if most is None else min(self._idle, most))

    def take(self, events: Sequence[str], response: httpx2.Response) -> bool:
        """Take events in; True when nothing of what follows is wanted."""
        parts = self._parts
        for data in events:
            if parts.done:
                continue
            if data.strip() == "[DONE]":
                parts.done = True
                # Reading to the end lets the next request use this connection.
                self.alive(DRAIN_SECONDS)
                continue
            payload = _parsed(data)
            if payload is None:
                raise _nonsense(response, data.encode())
            text = parts.add(payload)
            if text and self._on_text:
                self._on_text(text)
            if parts.started:
                self.alive(USAGE_SECONDS if parts.finish_reason else None)
        return parts.full

    def take_whole(self, body: bytes, response: httpx2.Response) -> None:
        """Take a body in that is not declared a stream: one JSON object, or a stream all the same."""
        if body.lstrip().startswith(b"data:"):
            decoder = EventDecoder()
            self.take([*decoder.feed(body), *decoder.close()], response)
            return
        payload = _parsed(body)
        if payload is None:
            raise _nonsense(response, body)
        text = self._parts.add(payload)
        if not as_list(payload.get("choices")):
            raise _nonsense(response, body)
        self._parts.done = True
        if text and self._on_text:
            self._on_text(text)


def open_http(
    base_url: str, *, headers: Mapping[str, str] | None = None, auth: tuple[str, str] | None = None
) -> httpx2.AsyncClient:
    """An HTTP client for one endpoint: no redirects, no read time-out of its own, and no proxy before this machine."""
    local = _is_loopback(httpx2.URL(base_url).host)
    # Loading the certificate authorities costs 20 ms of CPU, and nothing speaks TLS to http:// here.
    plain = local and base_url.startswith("http://")
    return httpx2.AsyncClient(
        headers=dict(headers or {}),
        auth=auth,
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True,
        trust_env=not local,
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=60.0),
    )


async def read_some(response: httpx2.Response, most: int) -> bytes:
    """The body, or its beginning when it is longer than `most` bytes."""
    body = bytearray()
    async with aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > most:
                break
    return bytes(body[:most])


def chat_models(names: Sequence[str]) -> list[str]:
    """The names that may be chat models, as far as a name tells: not those that embed, rerank, transcribe or speak."""
    others = ("embed", "rerank", "whisper", "bge-", "gte-", "tts-")
    return [name for name in names if not any(word in name.lower() for word in others)]


def _address(settings: RoleSettings) -> tuple[str, tuple[str, str] | None]:
    """Base URL without user and password, and those. Raises `ConfigError`."""
    if wrong := sorted(_RESERVED & settings.extra_body.keys()):
        raise ConfigError(f"extra_body must not set {', '.join(wrong)}: the requests set that themselves")
    try:
        url = httpx2.URL(settings.base_url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"base_url is no URL: {error}") from None
    if not url.host or not 0 < (url.port or 80) < 65536:
        raise ConfigError(f"base_url names no {'port' if url.host else 'host'} that there can be")
    login = (url.username, url.password) if url.username or url.password else None
    return str(url.copy_with(username=None, password=None, query=None, fragment=None)).rstrip("/"), login


def _headers(api_key: SecretStr | None, place: faults.Place) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "User-Agent": "nightcrew"}
    if api_key is not None:
        key = api_key.get_secret_value()
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(
                f"{place.url}: the key has spaces, line ends or characters beyond ASCII; {place.key_source}"
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parsed(text: str | bytes) -> JsonObject | None:
    """A JSON object, or None where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("JsonObject", value) if isinstance(value, dict) else None


def _nonsense(response: httpx2.Response, body: bytes) -> Passing:
    kind = response.headers.get("content-type", "no content type")
    start = " ".join(body[:200].decode("utf-8", "replace").split())[:80]
    return Passing(
        f"answered what is no reply of an OpenAI-compatible API ({kind}: {start!r})",
        advice="Check base_url: is it that API, with its /v1?",
        nonsense=True,
    )
