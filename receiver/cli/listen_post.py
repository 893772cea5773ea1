"""Posting an event to a developer's own server, as its caller gets it in production. Knows no terminal."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass
from typing import Final

import httpx2

from handlers.support.url import http_parts
from receiver.delivery.callback_sink import signed_headers
from receiver.domain.callback import CALLBACK
from receiver.domain.event import delivery_id
from receiver.errors import UsageError

# Seconds that the developer's server has to answer, as in production.
TIMEOUT: Final = 30.0
# Bytes of an answer that are kept to be shown.
_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class LocalPost:
    """One post. `status`: of the answer, 0 for none; then `problem` says why. `answer`: the beginning of its body."""

    event_id: str
    url: str
    headers: dict[str, str]
    body: bytes
    status: int
    seconds: float
    problem: str = ""
    answer: bytes = b""

    @property
    def accepted(self) -> bool:
        """Whether the answer was 2xx."""
        return 200 <= self.status < 300


def target_url(target: str, *, anywhere: bool = False) -> str:
    """Return where to post: of "3000" or "3000/hook", that port of this machine; else a URL. Raises UsageError.

    `anywhere`: also an address that is not this machine's.
    """
    port, slash, path = target.partition("/")
    url = f"http://127.0.0.1:{port}{slash}{path}" if port.isdecimal() else target
    parts = http_parts(url)
    if parts is None:
        raise UsageError(f"{target}: must be a port (3000), with a path (3000/hook), or a URL")
    if not anywhere and not _is_here(parts.hostname or ""):
        raise UsageError(f"{target}: is not this machine; --anywhere posts results there all the same")
    return url if parts.path else f"{url}/"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class LocalPoster:
    """Posts to one URL. `secret`: what the developer's server checks signatures with. Close it after use."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self._secret = secret
        self._http = httpx2.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)

    def post(self, event_id: str, body: bytes) -> LocalPost:
        """Post the body of an event. The same event again has the same webhook-id, as a retry in production."""
        headers = signed_headers(delivery_id(event_id, CALLBACK), event_id, self._secret, body, time.time())
        status, problem, kept = 0, "", b""
        began = time.monotonic()
        try:
            with self._http.stream("POST", self.url, content=body, headers=headers) as answer:
                status = answer.status_code
                for piece in answer.iter_bytes(_KEPT):
                    kept = (kept + piece)[:_KEPT]
                    if len(kept) == _KEPT or time.monotonic() - began > TIMEOUT:
                        break
        except httpx2.ConnectError:
            problem = "nothing listens there"
        except httpx2.TimeoutException:
            problem = f"no answer within {TIMEOUT:g} s"
        except httpx2.HTTPError as error:
            problem = f"no answer: {error or type(error).__name__}"
        return LocalPost(event_id, self.url, headers, body, status, time.monotonic() - began, problem, kept)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
