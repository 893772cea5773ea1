"""The HTTP client for URLs from a payload, guarded against server-side request forgery.

Its rules, for the first URL and again for each redirect:
- http and https only, no user:password in the URL;
- the name is resolved once, every address is checked, and the connection goes to the checked address itself (TLS and
  the Host header keep the name), so DNS rebinding has no effect. Odd spellings (decimal, octal, trailing dots, other
  scripts) need no extra rule: the resolved address is checked;
- only public unicast addresses are called, unless the operator allows the host or its network; an IPv4 address embedded
  in an IPv6 one is checked instead;
- request headers (an API key) are sent to the origin of the first URL only;
- one deadline for everything, including slow bodies; no proxy, no netrc, no cookies, no decompression.

    Refused       the URL is invalid, or its address is forbidden
    Unavailable   the network or the server fails; DeadlineExceeded, a subclass: the deadline is over

Only a GET is repeated, over a new connection, when the server closed a kept one without a response. Other requests are
sent once: the ledger decides about retries.

address_policy.py lists forbidden addresses, http_connection.py sends requests.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import h11
import httpcore2
import httpx2

from handlers.contract import Refused, Unavailable
from handlers.support.address_policy import AllowedAddresses, IPAddress, Resolver, resolve
from handlers.support.deadline import Deadline
from handlers.support.http_connection import HttpConnection, IdleConnections
from handlers.support.url import MAX_URL, PORTS

# For an operator's URL: all addresses, also private ones.
ANY_ADDRESS = ("0.0.0.0/0", "::/0")
MAX_REDIRECTS = 5
MAX_HOST = 253
# Valid DNS names: labels of letters, digits, - and _ (other scripts are encoded with these).
_HOST = re.compile(rb"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Response:
    """A response. Header names are lower-case; `body` is cut at the call's maximum."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Download:
    """A response with an unread body. Header names are lower-case; `url` is the last one after redirects."""

    def __init__(self, connection: HttpConnection, url: httpx2.URL) -> None:
        self.status = connection.status
        self.headers = connection.headers
        self.url = url
        self._connection = connection

    @property
    def length(self) -> int | None:
        """The body's announced length in bytes, or None."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it arrives, not decompressed. Raises Unavailable when it ends early or is too slow."""
        with translated_errors(self.url.host):
            yield from self._connection.chunks()


def default_tls() -> ssl.SSLContext:
    """Return a TLS context with the default CAs, independent of the environment."""
    return httpx2.create_ssl_context(trust_env=False)


class GuardedClient:
    """An HTTP client for public addresses and those the operator allows. Thread-safe.

    Opens nothing before its first call. `timeout`: maximum seconds of one network wait; each call also has a deadline.
    `connect_timeout`: maximum seconds for lookup and connecting, default `timeout`. `resolver`: replaces the system's.
    `make_tls`: creates the TLS context at the first https call.
    """

    def __init__(
        self,
        allowed: Sequence[str] = (),
        *,
        timeout: float = 30.0,
        connect_timeout: float | None = None,
        resolver: Resolver = resolve,
        make_tls: Callable[[], ssl.SSLContext] = default_tls,
    ) -> None:
        self._timeout = timeout
        self._connecting = timeout if connect_timeout is None else min(timeout, connect_timeout)
        self._allowed = AllowedAddresses(allowed)
        self._resolver = resolver
        self._make_tls = make_tls
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()
        self._sockets = httpcore2.SyncBackend()
        self._idle = IdleConnections()

    @contextmanager
    def get_stream(
        self, url: str, *, headers: Mapping[str, str] | None = None, deadline: Deadline
    ) -> Iterator[Download]:
        """GET `url`, following redirects; read the body inside the `with`, in the thread that opened it.

        `headers` are sent to the origin of `url` only. `deadline` covers everything including the body.
        Any status except a redirect is returned. Raises Refused and Unavailable.
        """
        target = parse_url(url)
        origin = _origin(target)
        for _ in range(MAX_REDIRECTS + 1):
            own_headers = headers if headers is not None and _origin(target) == origin else {}
            with self._exchange("GET", target, own_headers, None, deadline) as connection:
                location = connection.headers.get("location")
                if connection.status not in _REDIRECTS or location is None:
                    yield Download(connection, target)
                    return
            target = self._next(target, location)
        raise Refused(f"{origin[1]} redirects more than {MAX_REDIRECTS} times")

    def request(
        self,
        method: str,
        url: str | httpx2.URL,
        *,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline: Deadline,
        max_answer: int = 64 * 1024,
    ) -> Response:
        """Send one request and return the response, whatever its status. Redirects are not followed.

        `url`: a string, or a `parse_url` result for frequent calls. Reads at most `max_answer` bytes of the body.
        Raises Refused and Unavailable.
        """
        target = url if isinstance(url, httpx2.URL) else parse_url(url)
        with self._exchange(method, target, headers or {}, content, deadline) as connection:
            body = bytearray()
            with translated_errors(target.host):
                for chunk in connection.chunks():
                    body += chunk
                    if len(body) >= max_answer:
                        break
            return Response(connection.status, connection.headers, bytes(body[:max_answer]))

    def close(self) -> None:
        """Close the connections. The client can be used again."""
        idle, self._idle = self._idle, IdleConnections()
        idle.close()

    @contextmanager
    def _exchange(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None, deadline: Deadline
    ) -> Iterator[HttpConnection]:
        """Send a request and receive the head of the response; afterwards keep the connection or close it."""
        origin, idle = _origin(url), self._idle
        with translated_errors(url.host):
            request = _request(method, url, headers, content)
            deadline.remaining()
            kept = idle.take(origin)
            connection = kept or self._open(url, deadline)
        try:
            with translated_errors(url.host):
                try:
                    connection.exchange(request, content or b"", deadline)
                except (httpcore2.NetworkError, h11.RemoteProtocolError):
                    if method != "GET" or kept is None or not connection.unanswered:
                        raise
                    connection.close()
                    connection = self._open(url, deadline)
                    connection.exchange(request, b"", deadline)
            yield connection
        finally:
            idle.give_back(origin, connection)

    def _open(self, url: httpx2.URL, deadline: Deadline) -> HttpConnection:
        """Connect to the server of `url`. Raises Refused, Unavailable, and httpcore2's errors."""
        host = url.raw_host.decode("ascii")
        port = url.port or PORTS[url.scheme]
        tls = self._context() if url.scheme == "https" else None
        stream = self._connect(host, port, deadline)
        if tls is not None:
            try:
                stream = stream.start_tls(tls, host, self._left(deadline))
            except BaseException:
                stream.close()
                raise
        return HttpConnection(stream, self._timeout)

    def _connect(self, host: str, port: int, deadline: Deadline) -> httpcore2.NetworkStream:
        failure: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        until = time.monotonic() + self._connecting
        for address in self._safe_addresses(host, port, deadline):
            left = min(deadline.remaining(), until - time.monotonic())
            if left <= 0:
                break  # the timeout covers all addresses of the name together
            try:
                return self._sockets.connect_tcp(str(address), port, left)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore2.ConnectTimeout(f"{host}: connecting timed out")

    def _safe_addresses(self, host: str, port: int, deadline: Deadline) -> list[IPAddress]:
        """Return the addresses of `host` that may be called. Raises Refused or Unavailable when none may."""
        try:
            addresses = [ipaddress.ip_address(host.strip("[]"))]
        except ValueError:
            try:
                answers = self._resolver(host, port, self._left(deadline))
                addresses = [ipaddress.ip_address(answer) for answer in answers]
            except TimeoutError:
                raise Unavailable(f"{host}: the DNS lookup timed out") from None
            except (OSError, ValueError):
                raise Unavailable(f"{host}: its address was not found") from None
        safe = [address for address in addresses if not self._allowed.check(host, address, port)]
        if addresses and not safe:
            why = self._allowed.check(host, addresses[0], port)
            raise Refused(f"{host} is {why}; if intended, list it under allowed_addresses")
        if not safe:
            raise Unavailable(f"{host}: its address was not found")
        return safe

    def _left(self, deadline: Deadline) -> float:
        return min(self._connecting, deadline.remaining())

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = self._make_tls()
                self._tls.set_alpn_protocols(["http/1.1"])
            return self._tls

    def _next(self, target: httpx2.URL, location: str) -> httpx2.URL:
        following = parse_url(location, base=target)
        if target.scheme == "https" and following.scheme != "https":
            raise Refused(f"{target.host} redirects from https to http")
        return following


def parse_url(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    """Return `text` as an http(s) URL without its fragment. Raises Refused, whose message never shows the query."""
    if len(text) > MAX_URL:
        raise Refused(f"the address is longer than {MAX_URL} characters")
    try:
        url = httpx2.URL(text) if base is None else base.join(text)
        _ = url.host, url.netloc.decode("ascii"), url.raw_path  # httpx accepts these, but they fail later
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise Refused("not an address") from None
    if url.scheme not in ("http", "https"):
        raise Refused(f"{url.scheme or 'an address without a scheme'}: only http and https are fetched")
    if not url.host:
        raise Refused("an address without a host")
    if ":" not in url.host and not _HOST.fullmatch(url.raw_host):
        raise Refused("an address whose host is not a valid name")
    if len(url.host) > MAX_HOST or (url.port is not None and not 0 < url.port < 65536):
        raise Refused("an address whose host or port can't exist")
    if url.userinfo:
        raise Refused(f"{url.host}: an address with a user name or password in it is not called")
    return url.copy_with(fragment=None)


def _request(method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None) -> h11.Request:
    """Return the head of a request. Raises h11.LocalProtocolError for what HTTP does not allow."""
    common = {"host": url.netloc.decode(), "accept": "*/*", "accept-encoding": "identity", "user-agent": "runhook"}
    common.update((name.lower(), value) for name, value in headers.items())
    if content is not None:
        common["content-length"] = str(len(content))
    try:
        lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in common.items()]
    except UnicodeEncodeError:
        raise h11.LocalProtocolError("a header has characters that HTTP does not allow") from None
    return h11.Request(method=method, target=url.raw_path, headers=lines)


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    """Return the scheme, host and port of a URL's server."""
    return url.scheme, url.host, url.port or PORTS[url.scheme]


@contextmanager
def translated_errors(host: str) -> Iterator[None]:
    """Raise Refused or Unavailable for connection errors inside."""
    try:
        yield
    except httpcore2.TimeoutException:
        raise Unavailable(f"{host} did not respond in time") from None
    except httpcore2.ConnectError as error:
        raise Unavailable(f"{host}: {_why_not_reached(error)}") from None
    except h11.LocalProtocolError:
        raise Refused(f"{host}: a header or address that HTTP does not allow") from None
    except (httpcore2.NetworkError, h11.RemoteProtocolError, OSError):
        raise Unavailable(f"{host}: the connection broke") from None


def _why_not_reached(error: BaseException) -> str:
    if "CERTIFICATE" in str(error).upper():
        return "its certificate does not hold"
    if getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return "no more files may be open here: allow more (ulimit -n, or LimitNOFILE of systemd), or lower concurrency"
    return "it can't be reached"
