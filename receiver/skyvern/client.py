"""Sending calls to Skyvern's API and bringing back how they ended. The calls themselves are in calls.py, what answers
mean is in answers.py.

The API key goes to the source's own origin only: redirects are answers, never followed; proxies and .netrc files of the
environment are not looked at. A submit is tried again only where no run can have been created: the connection was
refused, or 503 with Retry-After. Submits travel on connections of their own, because a kept connection that the server
closes in that very moment would make an answer ambiguous for nothing.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import unquote, urlsplit

import httpx2

from receiver.errors import ConfigError
from receiver.skyvern import requests
from receiver.skyvern.requests import ApiCall
from receiver.skyvern.responses import Answer, Answered, Patience, Unreachable, pause_before_retry

CONNECT_LIMIT = 5.0
ANSWER_CAP = 128 << 20
"""Bytes. One output can be 100 MB."""

_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding")
)
_NOT_RELAYED = _HOP_BY_HOP | {"upgrade", "content-length", "set-cookie", "date", "server"}


class _Origin:
    """One API's base and key, and how a call becomes a request to it and an error becomes a reason."""

    def __init__(self, base: str, api_key: str) -> None:
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"api_base: {parts.hostname or 'it'} must be given as a URL like https://api.skyvern.com")
        if not api_key.isascii() or not api_key.isprintable():
            raise ConfigError("api_key: holds characters that no HTTP header can carry")
        self.base = base.rstrip("/")
        self.name = parts.netloc.rpartition("@")[2]
        self._key = api_key

    def request(self, client: httpx2.AsyncClient | httpx2.Client, call: ApiCall) -> httpx2.Request | Unreachable:
        decoded = unquote(unquote(call.path)).replace("\\", "/")
        if not call.path.startswith("/") or {".", ".."} & set(decoded.split("/")):
            return Unreachable(False, "the path of the call is not one below the API's base")
        headers = {**call.headers, "x-api-key": self._key, "accept-encoding": "identity"}
        url = self.base + call.path + ("?" + call.query if call.query else "")
        try:
            return client.build_request(call.method, url, headers=headers, content=call.body)
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            return Unreachable(False, "the call can't be put into a request")

    def failure(self, error: Exception, call: ApiCall) -> Unreachable:
        """The reason is made of fixed words: a library's own could quote a header, and so the key."""
        unsent = isinstance(
            error,
            httpx2.ConnectError
            | httpx2.ConnectTimeout
            | httpx2.PoolTimeout
            | httpx2.ProxyError
            | httpx2.UnsupportedProtocol,
        )
        if isinstance(error, httpx2.ConnectError):
            words = f"can't connect to {self.name}: {str(error) or 'no connection'}"
        elif unsent:
            words = f"can't connect to {self.name}: no connection in time"
        elif isinstance(error, TimeoutError | httpx2.TimeoutException):
            words = f"{self.name} did not answer in time"
        elif isinstance(error, _TooLarge):
            words = f"{self.name} answered with more than {error.cap} bytes"
        elif isinstance(error, httpx2.ProtocolError):
            words = f"{self.name} closed the connection before its answer was whole, or answered no HTTP"
        else:
            words = f"the connection to {self.name} broke"
        return Unreachable(call.kind == "submit" and not unsent, words)


class _TooLarge(Exception):
    def __init__(self, cap: int) -> None:
        super().__init__()
        self.cap = cap


_BROKEN = (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, TimeoutError, OSError, _TooLarge)


def _answer(response: httpx2.Response, body: bytes) -> Answered:
    kept = {name.lower(): value for name, value in response.headers.items() if name.lower() not in _NOT_RELAYED}
    return Answered(response.status_code, body, kept)


def _no_cookies() -> CookieJar:
    """A jar that keeps nothing: one caller's answer must leave no trace in another's request."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _timeout(limit: float) -> httpx2.Timeout:
    return httpx2.Timeout(limit, connect=min(CONNECT_LIMIT, limit))


class BrokenOff(Exception):
    """The connection broke, or fell silent, before an answer was whole."""


async def _chunks(response: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except _BROKEN:
        raise BrokenOff from None


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer whose body is still on its way: read `chunks`, then call `aclose`, whatever happened.

    Each piece must come within the limit of a read; how many there are is not bounded. `chunks` raises BrokenOff.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes] = field(repr=False)
    aclose: Callable[[], Awaitable[None]] = field(repr=False)


class SkyvernAPI:
    """The API of one source, for the event loop that first uses it. Calls never raise: see Answer.

    `base`: such as https://api.skyvern.com; `answer_cap`: bytes of the largest answer that is read.
    Raises ConfigError for a base that is no http(s) URL or a key that no header can carry.
    """

    def __init__(
        self, base: str, api_key: str, *, patience: Patience | None = None, answer_cap: int = ANSWER_CAP
    ) -> None:
        self._origin = _Origin(base, api_key)
        self._patience = patience or Patience()
        self._cap = answer_cap
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    def __repr__(self) -> str:
        return f"SkyvernAPI({self._origin.name})"

    async def submit(self, path: str, body: bytes, headers: Mapping[str, str] | None = None, query: str = "") -> Answer:
        """A call that makes a run, such as POST /v1/run/tasks. Read the answer with `submitted`.

        `headers`: the caller's, filtered here. `path` and `query` as they stand on the wire.
        """
        return await self._send(requests.submit(path, body, headers or {}, query))

    async def get_run(self, run_id: str) -> Answer:
        """GET /v1/runs/{id}: 404 when there is no such run."""
        return await self._send(requests.get_run(run_id))

    async def list_runs(
        self,
        page: int = 1,
        page_size: int = 100,
        status: Sequence[str] = (),
        run_type: Sequence[str] = (),
        search_key: str | None = None,
    ) -> Answer:
        """GET /v1/runs, newest first. Read the answer with `listed_runs`."""
        return await self._send(requests.list_runs(page, page_size, status, run_type, search_key))

    async def artifacts(self, run_id: str) -> Answer:
        """GET /v1/runs/{id}/artifacts, with fresh signed URLs. Read the answer with `listed_artifacts`."""
        return await self._send(requests.artifacts(run_id))

    async def cancel(self, run_id: str) -> Answer:
        """POST /v1/runs/{id}/cancel. Answers after the webhook was tried, which can take minutes."""
        return await self._send(requests.cancel(run_id))

    async def cancel_many(self, run_ids: Sequence[str]) -> Answer:
        """POST /v1/runs/cancel, for 100 runs at the most."""
        return await self._send(requests.cancel_many(run_ids))

    async def retry_webhook(self, run_id: str, webhook_url: str | None = None) -> Answer:
        """POST /v1/runs/{id}/retry_webhook. A delivery that failed is still a 200, with `error` in the body."""
        return await self._send(requests.retry_webhook(run_id, webhook_url))

    async def forward(
        self, method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Pass a caller's request on and bring the raw answer back. `path` and `query` as they stand on the wire.

        Any POST may create a run, as far as is known here, so only a GET or HEAD is tried again.
        """
        return await self._send(requests.forward(method, path, query, headers or {}, body))

    async def stream(
        self, method: str, path: str, query: str = "", headers: Mapping[str, str] | None = None
    ) -> Streamed | Unreachable:
        """Like `forward` for a GET or HEAD, but the body comes in pieces and is not capped. Tried once."""
        call = requests.forward(method, path, query, headers or {}, b"")
        client = self._client(keep=True)
        request = self._origin.request(client, call)
        if isinstance(request, Unreachable):
            return request
        request.extensions = {**request.extensions, "timeout": _timeout(call.limit).as_dict()}
        try:
            response = await client.send(request, stream=True)
        except _BROKEN as error:
            return self._origin.failure(error, call)
        head = _answer(response, b"")
        return Streamed(head.status, head.headers, _chunks(response), response.aclose)

    async def aclose(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def _send(self, call: ApiCall) -> Answer:
        client = self._client(keep=call.kind == "read")
        request = self._origin.request(client, call)
        if isinstance(request, Unreachable):
            return request
        tries, waited = 0, 0.0
        while True:
            answer = await self._once(client, request, call)
            tries += 1
            pause = pause_before_retry(call.kind, answer, tries, waited, self._patience, random.random())
            if pause is None:
                return answer
            await asyncio.sleep(pause)
            waited += pause

    async def _once(self, client: httpx2.AsyncClient, request: httpx2.Request, call: ApiCall) -> Answer:
        limit = self._patience.limit or call.limit
        request.extensions = {**request.extensions, "timeout": _timeout(limit).as_dict()}
        try:
            async with asyncio.timeout(limit + CONNECT_LIMIT):
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

    def _client(self, *, keep: bool) -> httpx2.AsyncClient:
        if keep not in self._clients:
            limits = httpx2.Limits(max_connections=100, max_keepalive_connections=20 if keep else 0, keepalive_expiry=4)
            self._clients[keep] = httpx2.AsyncClient(
                limits=limits, trust_env=False, follow_redirects=False, cookies=_no_cookies()
            )
        return self._clients[keep]


class SkyvernReader:
    """The reading half of the API for code without an event loop. Threads may share one; opens nothing before use."""

    def __init__(
        self, base: str, api_key: str, *, patience: Patience | None = None, answer_cap: int = ANSWER_CAP
    ) -> None:
        self._origin = _Origin(base, api_key)
        self._patience = patience or Patience()
        self._cap = answer_cap
        self._client: httpx2.Client | None = None
        self._opening = threading.Lock()

    def __repr__(self) -> str:
        return f"SkyvernReader({self._origin.name})"

    def get_run(self, run_id: str) -> Answer:
        """GET /v1/runs/{id}: 404 when there is no such run."""
        return self._send(requests.get_run(run_id))

    def list_runs(
        self,
        page: int = 1,
        page_size: int = 100,
        status: Sequence[str] = (),
        run_type: Sequence[str] = (),
        search_key: str | None = None,
    ) -> Answer:
        """GET /v1/runs, newest first. Read the answer with `listed_runs`."""
        return self._send(requests.list_runs(page, page_size, status, run_type, search_key))

    def artifacts(self, run_id: str) -> Answer:
        """GET /v1/runs/{id}/artifacts, with fresh signed URLs. Read the answer with `listed_artifacts`."""
        return self._send(requests.artifacts(run_id))

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _send(self, call: ApiCall) -> Answer:
        client = self._opened()
        request = self._origin.request(client, call)
        if isinstance(request, Unreachable):
            return request
        tries, waited = 0, 0.0
        while True:
            answer = self._once(client, request, call)
            tries += 1
            pause = pause_before_retry(call.kind, answer, tries, waited, self._patience, random.random())
            if pause is None:
                return answer
            time.sleep(pause)
            waited += pause

    def _opened(self) -> httpx2.Client:
        with self._opening:
            if self._client is None:
                limits = httpx2.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=4)
                self._client = httpx2.Client(
                    limits=limits, trust_env=False, follow_redirects=False, cookies=_no_cookies()
                )
            return self._client

    def _once(self, client: httpx2.Client, request: httpx2.Request, call: ApiCall) -> Answer:
        limit = self._patience.limit or call.limit
        deadline = time.monotonic() + limit
        request.extensions = {**request.extensions, "timeout": _timeout(limit).as_dict()}
        try:
            response = client.send(request, stream=True)
            try:
                body = bytearray()
                for chunk in response.iter_raw():
                    body += chunk
                    if len(body) > self._cap:
                        raise _TooLarge(self._cap)
                    if time.monotonic() > deadline:
                        raise TimeoutError
            finally:
                response.close()
        except _BROKEN as error:
            return self._origin.failure(error, call)
        return _answer(response, bytes(body))
