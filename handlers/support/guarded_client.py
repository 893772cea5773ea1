"""The HTTP client for URLs from a payload, guarded against server-side request forgery.

Its rules, for the first URL and again for each redirect:
- http and https only, no user:password in the URL;
- the name is resolved once, every address is checked, and the connection goes to the checked address itself (TLS and
  the Host header keep the name), so DNS rebinding between check and connect gains nothing. Odd spellings of an address
  (decimal, octal, trailing dots, other scripts) need no rule of their own: what they resolve to is checked;
- only what is global unicast by IANA's registries is called, unless the operator allows the host or its network; an
  IPv6 address that stands for an IPv4 one is judged as that;
- request headers (an API key) are sent to the origin of the first URL only;
- one deadline over everything, also over a body that trickles; no proxy, no netrc, no cookies, no decompression.

    Refused       the URL is invalid, or its address is forbidden
    Unavailable   the network or the server fails; DeadlineExceeded, a subclass: the deadline is over

This file knows HTTP; address_policy.py knows which addresses are forbidden. It knows no sink and no run. It uses
httpcore2, httpx2's own engine, because the check has to happen between name resolution and connect.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpcore2
import httpx2

from handlers.contract import Refused, Unavailable
from handlers.support.address_policy import AllowedAddresses, Resolver, resolve
from handlers.support.address_registries import IPAddress

# What a client for an operator's own URL allows: all addresses, private ones too.
ANY_ADDRESS = ("0.0.0.0/0", "::/0")
MAX_REDIRECTS = 5
MAX_URL = 8192
MAX_HOST = 253
READ_SIZE = 256 * 1024
# What a name server can be asked for: labels of letters, digits, - and _ (other scripts are encoded with these).
_HOST = re.compile(rb"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class DeadlineExceeded(Unavailable):
    """The deadline is over. It does not say what took the time."""


class Deadline:
    """The point in time, `seconds` from now, by which everything in one send must end."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def extended(self, seconds: float) -> Deadline:
        """Return a deadline that is `seconds` later, for waiting until others have reported their own timeout."""
        other = Deadline(self.seconds)
        other._end = self._end + seconds
        return other

    def remaining(self) -> float:
        """Return the seconds that are left. Raises DeadlineExceeded when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"not done within {self.seconds:g} s")
        return left


class _Stream(httpcore2.NetworkStream):
    """A connection on which no wait outlasts the deadline of the call that uses it."""

    def __init__(self, inner: httpcore2.NetworkStream, calls: threading.local) -> None:
        self._inner = inner
        self._calls = calls

    def _wait(self, timeout: float | None) -> float:
        left: float = self._calls.deadline.remaining()
        return left if timeout is None else min(timeout, left)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max(max_bytes, READ_SIZE), self._wait(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._wait(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, self._wait(timeout)), self._calls)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    """Opens connections: resolves once, checks, and connects to the checked address."""

    def __init__(self, allowed: AllowedAddresses, resolver: Resolver, calls: threading.local) -> None:
        self._allowed = allowed
        self._resolver = resolver
        self._calls = calls
        self._inner = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        until = time.monotonic() + timeout if timeout is not None else float("inf")
        for address in self.safe_addresses(host, port, timeout):
            left = min(self._calls.deadline.remaining(), until - time.monotonic())
            if left <= 0:
                break  # all addresses together have the time, or a name with many of them would have many times it
            try:
                inner = self._inner.connect_tcp(str(address), port, left, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(inner, self._calls)
        raise failure or httpcore2.ConnectTimeout(f"{host} was not connected to in time")

    def safe_addresses(self, host: str, port: int, timeout: float | None) -> list[IPAddress]:
        """Return the addresses of `host` that may be called. Raises Refused or Unavailable when none may."""
        try:
            found = [ipaddress.ip_address(host.strip("[]"))]
        except ValueError:
            left = self._calls.deadline.remaining()
            try:
                answers = self._resolver(host, port, left if timeout is None else min(timeout, left))
                found = [ipaddress.ip_address(answer) for answer in answers]
            except TimeoutError:
                raise Unavailable(f"{host}: its address was not found in time") from None
            except (OSError, ValueError):
                raise Unavailable(f"{host}: its address was not found") from None
        safe = [address for address in found if not self._allowed.check(host, address, port)]
        if found and not safe:
            why = self._allowed.check(host, found[0], port)
            raise Refused(f"{host} is {why}; list it under allowed_addresses if that is meant")
        if not safe:
            raise Unavailable(f"{host}: its address was not found")
        return safe


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was read whole. Header names are lower-case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Download:
    """A response whose body is still to be read. Header names are lower-case; `url` is the last one after redirects."""

    def __init__(self, response: httpcore2.Response, url: httpx2.URL) -> None:
        self.status = response.status
        self.headers = _headers_of(response)
        self.url = url
        self._response = response

    @property
    def length(self) -> int | None:
        """The body's length in bytes as the server announced it, or None."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, not decompressed. Raises Unavailable when it ends early or is too slow."""
        with _translated_errors(self.url.host):
            yield from self._response.iter_stream()


class GuardedClient:
    """An HTTP client that reaches public addresses and those that the operator allows. Safe to use from many threads.

    Opens nothing before its first call. `timeout`: seconds that one wait for the network may take; each call has its
    own deadline for the whole. `connect_timeout`: seconds that finding a server's address and connecting may take,
    `timeout` when absent. `resolver`: used in place of the system's. `tls`: an SSL context, for private
    authorities and client certificates.
    """

    def __init__(
        self,
        allowed: Sequence[str] = (),
        *,
        timeout: float = 30.0,
        connect_timeout: float | None = None,
        max_redirects: int = MAX_REDIRECTS,
        max_connections: int = 64,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._calls = threading.local()
        self._timeout = timeout
        self._connect_timeout = timeout if connect_timeout is None else min(timeout, connect_timeout)
        self._max_redirects = max_redirects
        self._max_connections = max_connections
        self._tls = tls
        self._backend = _Backend(AllowedAddresses(allowed), resolver, self._calls)
        self._lock = threading.Lock()
        self._pool: httpcore2.ConnectionPool | None = None

    @contextmanager
    def get_stream(
        self, url: str, *, headers: Mapping[str, str] | None = None, deadline: Deadline | float
    ) -> Iterator[Download]:
        """GET `url`, following redirects; read the body inside the `with`, in the thread that opened it.

        `headers` are sent to the origin of `url` only. `deadline` (or seconds) covers everything including the body.
        Any status that is no redirect is returned. Raises Refused and Unavailable.
        """
        self._calls.deadline = deadline if isinstance(deadline, Deadline) else Deadline(deadline)
        target = parse_url(url)
        origin = _origin(target)
        for _ in range(self._max_redirects + 1):
            given = headers if headers is not None and _origin(target) == origin else {}
            with _translated_errors(target.host):
                response = self._open("GET", target, given, None)
            location = _headers_of(response).get("location")
            if response.status in _REDIRECTS and location is not None:
                with _translated_errors(target.host):
                    response.close()
                target = self._next(target, location)
                continue
            try:
                yield Download(response, target)
            finally:
                response.close()
            return
        raise Refused(f"{origin[1]} redirects more than {self._max_redirects} times")

    def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline: Deadline | float,
        max_answer: int = 64 * 1024,
    ) -> Response:
        """Send one request and return the response, whatever its status. Redirects are not followed.

        At most `max_answer` bytes of the response body are read. Raises Refused and Unavailable.
        """
        self._calls.deadline = deadline if isinstance(deadline, Deadline) else Deadline(deadline)
        target = parse_url(url)
        with _translated_errors(target.host):
            response = self._open(method, target, headers or {}, content)
            try:
                body = bytearray()
                for chunk in response.iter_stream():
                    body += chunk
                    if len(body) >= max_answer:
                        break
            finally:
                response.close()
        return Response(response.status, _headers_of(response), bytes(body[:max_answer]))

    def post(self, url: str, *, content: bytes, deadline: Deadline | float, **rest: Any) -> Response:
        """Send a POST; see `request`."""
        return self.request("POST", url, content=content, deadline=deadline, **rest)

    def close(self) -> None:
        """Close the connections. The client can be used again."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def _next(self, target: httpx2.URL, location: str) -> httpx2.URL:
        following = parse_url(location, base=target)
        if target.scheme == "https" and following.scheme != "https":
            raise Refused(f"{target.host} redirects from https to http")
        return following

    def _open(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None
    ) -> httpcore2.Response:
        sent = {"host": url.netloc.decode(), "accept": "*/*", "accept-encoding": "identity"}
        sent["user-agent"] = "runhook"
        if content is not None:
            sent["content-length"] = str(len(content))
        sent.update((name.lower(), value) for name, value in headers.items())
        waits = {"connect": self._connect_timeout, "read": self._timeout, "write": self._timeout}
        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in sent.items()],
            content=content,
            extensions={"timeout": {**waits, "pool": self._calls.deadline.remaining()}},
        )
        return self._connections().handle_request(request)

    def _connections(self) -> httpcore2.ConnectionPool:
        with self._lock:
            if self._pool is None:
                self._pool = httpcore2.ConnectionPool(
                    ssl_context=self._tls or httpx2.create_ssl_context(trust_env=False),
                    max_connections=self._max_connections,
                    max_keepalive_connections=self._max_connections,
                    keepalive_expiry=5.0,
                    network_backend=self._backend,
                )
            return self._pool


def parse_url(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """Return `text` as an http(s) URL without its fragment. Raises Refused, whose message never shows the query."""
    if len(text) > MAX_URL:
        raise Refused(f"the address is longer than {MAX_URL} characters")
    try:
        url = httpx2.URL(text) if base is None else base.join(text)
        _ = url.host, url.netloc.decode("ascii"), url.raw_path  # these fail late on odd input
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise Refused("not an address") from None
    if url.scheme not in ("http", "https"):
        raise Refused(f"{url.scheme or 'an address without a scheme'}: only http and https are fetched")
    if not url.host:
        raise Refused("an address without a host")
    if ":" not in url.host and not _HOST.fullmatch(url.raw_host):
        raise Refused("an address whose host is no name")
    if len(url.host) > MAX_HOST or (url.port is not None and not 0 < url.port < 65536):
        raise Refused("an address whose host or port can't exist")
    if url.userinfo:
        raise Refused(f"{url.host}: an address with a user name or password in it is not called")
    return url.copy_with(fragment=None)


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _headers_of(response: httpcore2.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


@contextmanager
def _translated_errors(host: str) -> Iterator[None]:
    """Raise Refused or Unavailable for the engine's errors inside."""
    try:
        yield
    except httpcore2.TimeoutException:
        raise Unavailable(f"{host} did not answer in time") from None
    except httpcore2.ConnectError as error:
        kind = "its certificate does not hold" if "CERTIFICATE" in str(error).upper() else "it can't be reached"
        raise Unavailable(f"{host}: {kind}") from None
    except httpcore2.LocalProtocolError:
        raise Refused(f"{host}: a header or address that HTTP does not allow") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
        raise Unavailable(f"{host}: the connection broke") from None
