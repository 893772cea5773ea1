"""The HTTP client for Skyvern's API: it sends a call, retries it where that is safe, and returns its answer.

The calls are in requests.py, what their answers mean is in responses.py. The API key goes to the source's own origin
only: redirects are answers, never followed; proxies and .netrc files of the environment are ignored. A submit is
retried only where no run can have been created: the connection was refused, or 503 with Retry-After. Submits use
connections of their own, because a kept-alive connection that the server closes in that very moment would make an
answer ambiguous for nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Concatenate, ParamSpec
from urllib.parse import unquote, urlsplit

import httpx2

from receiver.errors import ConfigError
from receiver.runtime.background import start_thread
from receiver.skyvern import requests
from receiver.skyvern.requests import ApiCall
from receiver.skyvern.responses import Answer, Answered, Patience, Retries, Unreachable

P = ParamSpec("P")

# Seconds.
CONNECT_LIMIT = 5.0
# Connections to one API for reads, and as many for all else.
MAX_CONNECTIONS = 200
# Bytes. One output can be 100 MB.
ANSWER_CAP = 128 << 20

# What a field value may be (RFC 9110, 5.5).
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding")
)
_NOT_RELAYED = _HOP_BY_HOP | {"upgrade", "content-length", "set-cookie", "date", "server"}


class _Origin:
    """The base URL and key of one API: builds requests to it, and turns a client's exceptions into answers."""

    def __init__(self, base: str, api_key: str) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"api_base: {parts.hostname or 'it'} must be given as a URL like https://api.skyvern.com")
        if not api_key.isascii() or not api_key.isprintable():
            raise ConfigError("api_key: holds characters that no HTTP header can carry")
        self.base = base.rstrip("/")
        self.name = parts.netloc.rpartition("@")[2]
        self._key = api_key

    def request(self, client: httpx2.AsyncClient, call: ApiCall, limit: float) -> httpx2.Request | Unreachable:
        decoded = unquote(unquote(call.path)).replace("\\", "/")
        if not call.path.startswith("/") or {".", ".."} & set(decoded.split("/")):
            return Unreachable(False, "the path of the call is not one below the API's base", invalid=True)
        own = {"x-api-key": self._key, "accept-encoding": "identity"}
        url = self.base + call.path + ("?" + call.query if call.query else "")
        try:
            # As bytes: a caller's header is passed on unchanged. Headers were read as Latin-1.
            given = {**call.headers, **own}.items()
            headers = [(name.encode(), value.strip(" \t").encode("latin-1")) for name, value in given]
            if not all(_HEADER_VALUE.fullmatch(value) for _, value in headers):
                return Unreachable(False, "the call has a header that can't be passed on", invalid=True)
            timeout = httpx2.Timeout(limit, connect=min(CONNECT_LIMIT, limit))
            return client.build_request(call.method, url, headers=headers, content=call.body, timeout=timeout)
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            return Unreachable(False, "the call can't be put into a request", invalid=True)

    def failure(self, error: Exception, call: ApiCall) -> Unreachable:
        """Return the answer for `error`. Its reason is fixed text: a library's own could quote the key."""
        unsent = isinstance(
            error,
            httpx2.ConnectError
            | httpx2.ConnectTimeout
            | httpx2.PoolTimeout
            | httpx2.ProxyError
            | httpx2.UnsupportedProtocol,
        )
        if isinstance(error, httpx2.ConnectError):
            words = f"can't connect to {self.name}: {_reason_of(error)}"
        elif unsent:
            words = f"can't connect to {self.name}: no connection in time"
        elif isinstance(error, TimeoutError | httpx2.TimeoutException):
            words = f"{self.name} did not respond in time"
        elif isinstance(error, _TooLarge):
            words = f"{self.name} answered with more than {error.cap} bytes"
        elif isinstance(error, httpx2.ProtocolError):
            words = f"{self.name} closed the connection before its answer was whole, or answered no HTTP"
        else:
            words = f"the connection to {self.name} broke"
        return Unreachable(call.kind == "submit" and not unsent, words)


def _reason_of(error: BaseException | None) -> str:
    """Return why there is no connection, in the words of the system: libraries hide them behind their own."""
    reason = ""
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, socket.gaierror | ssl.SSLError):
            reason = str(error.strerror)
        elif isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return reason or "no connection"


class _TooLarge(Exception):
    def __init__(self, cap: int) -> None:
        super().__init__()
        self.cap = cap


_BROKEN = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, TimeoutError, OSError, _TooLarge)


def _answer(response: httpx2.Response, body: bytes) -> Answered:
    kept = {name.lower(): value for name, value in response.headers.items() if name.lower() not in _NOT_RELAYED}
    return Answered(response.status_code, body, kept)


def _no_cookies() -> CookieJar:
    """Return a cookie jar that stores nothing: one caller's answer must leave no trace in another's request."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


class BrokenOff(Exception):
    """The connection broke, or timed out, before an answer was complete."""


async def _chunks(response: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except _BROKEN:
        raise BrokenOff from None


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer whose body is still being received: read `chunks`, then call `aclose`, whatever happened.

    Each chunk must come within the time limit of a read; their number is not bounded. `chunks` raises BrokenOff.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)
    aclose: Callable[[], Awaitable[None]] = field(repr=False)


def _awaited(make: Callable[P, ApiCall]) -> Callable[Concatenate[SkyvernAPI, P], Coroutine[Any, Any, Answer]]:
    """Return the method that makes a call of requests.py."""

    async def call(self: SkyvernAPI, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return await self.send(make(*args, **kwargs))

    return call


def _now(make: Callable[P, ApiCall]) -> Callable[Concatenate[SkyvernReader, P], Answer]:
    """Return the method that makes a call of requests.py, and waits for its answer."""

    def call(self: SkyvernReader, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return self._send(make(*args, **kwargs))

    return call


class SkyvernAPI:
    """The API of one source, for the event loop that first uses it. Calls never raise: see Answer.

    `base`: such as https://api.skyvern.com; `answer_cap`: bytes of the largest answer that is read. Raises ConfigError
    for a base without http(s) or a key that is not a valid header.
    """

    def __init__(
        self, base: str, api_key: str, *, patience: Patience | None = None, answer_cap: int = ANSWER_CAP
    ) -> None:
        self._origin = _Origin(base, api_key)
        self._patience = patience or Patience()
        self._cap = answer_cap
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._origin.name})"

    submit = _awaited(requests.submit)
    get_run = _awaited(requests.get_run)
    list_runs = _awaited(requests.list_runs)
    forward = _awaited(requests.forward)

    async def stream(
        self, method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None
    ) -> Streamed | Unreachable:
        """Like `forward` for a GET or HEAD, but the body comes in chunks and is not capped. Not retried."""
        call = requests.forward(method, path, query, headers or {}, b"")
        client = self._client(keep_alive=True)
        request = self._origin.request(client, call, call.limit)
        if isinstance(request, Unreachable):
            return request
        try:
            response = await client.send(request, stream=True)
        except _BROKEN as error:
            return self._origin.failure(error, call)
        head = _answer(response, b"")
        return Streamed(head.status, head.headers, _chunks(response), response.aclose)

    async def upload(self, path: str, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> Answer:
        """Like `forward` for a POST whose body is passed on while it is received. Not retried.

        Raises what `body` raises; then Skyvern has got no whole request.
        """
        call = requests.upload(path, query, headers, body)
        client = self._client(keep_alive=False)
        request = self._origin.request(client, call, call.limit)
        return request if isinstance(request, Unreachable) else await self._attempt(client, request, call, call.limit)

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def send(self, call: ApiCall) -> Answer:
        """Return the answer to a call of requests.py."""
        limit = self._patience.limit or call.limit
        client = self._client(keep_alive=call.kind == "read")
        request = self._origin.request(client, call, limit)
        if isinstance(request, Unreachable):
            return request
        retries = Retries(call.kind, self._patience)
        while True:
            answer = await self._attempt(client, request, call, limit)
            pause = retries.pause_after(answer, random.random())
            if pause is None:
                return answer
            await asyncio.sleep(pause)

    async def _attempt(
        self, client: httpx2.AsyncClient, request: httpx2.Request, call: ApiCall, limit: float
    ) -> Answer:
        try:
            async with asyncio.timeout(limit + min(CONNECT_LIMIT, limit)):
                response = await client.send(request, stream=True)
                try:
                    body = bytearray()
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > self._cap:
                            raise _TooLarge(self._cap)
                finally:
                    await response.aclose()
        except _BROKEN as error:
            return self._origin.failure(error, call)
        return _answer(response, bytes(body))

    def _client(self, *, keep_alive: bool) -> httpx2.AsyncClient:
        if keep_alive not in self._clients:
            idle = 20 if keep_alive else 0
            limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=idle, keepalive_expiry=4)
            self._clients[keep_alive] = httpx2.AsyncClient(
                limits=limits, trust_env=False, follow_redirects=False, cookies=_no_cookies()
            )
        return self._clients[keep_alive]


class SkyvernReader:
    """The reading half of the API for code without an event loop: a SkyvernAPI in a thread of its own, which the first
    call starts. Threads may share one."""

    def __init__(
        self, base: str, api_key: str, *, patience: Patience | None = None, answer_cap: int = ANSWER_CAP
    ) -> None:
        self._api = SkyvernAPI(base, api_key, patience=patience, answer_cap=answer_cap)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._under_way = 0
        self._closed = False

    get_run = _now(requests.get_run)
    list_runs = _now(requests.list_runs)
    list_agents = _now(requests.list_agents)
    get_agent = _now(requests.get_agent)
    update_agent = _now(requests.update_agent)  # the one call of this class that changes something
    get_details = _now(requests.get_details)
    artifacts = _now(requests.artifacts)

    def close(self) -> None:
        """Close the connections: at once, or when the last call that is under way has ended."""
        with self._lock:
            self._closed = True
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._under_way and self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._api.aclose(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def _send(self, call: ApiCall) -> Answer:
        with self._lock:
            if self._closed:
                return Unreachable(ambiguous=False, reason="the process is stopping")
            if self._loop is None:
                loop = asyncio.new_event_loop()
                try:
                    start_thread("skyvern", partial(_run, loop))
                except RuntimeError:  # a call to a loop that does not run would never end
                    loop.close()
                    return Unreachable(ambiguous=False, reason="this process can start no thread now")
                self._loop = loop
            answer = asyncio.run_coroutine_threadsafe(self._api.send(call), self._loop)
            self._under_way += 1
        try:
            return answer.result()
        finally:
            answer.cancel()  # of a call that was interrupted
            with self._lock:
                self._under_way -= 1
                self._close_unused()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()
