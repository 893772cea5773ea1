"""PUBLIC_URL as Skyvern sees it: a public host, a valid certificate, and Runhook's response to an unsigned request.

The request carries no signature, so the receiver keeps nothing of it. It is made from here: a network that does not let
its own hosts reach its public address fails it, though Skyvern may get through.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from handlers.support.address_policy import resolve, why_forbidden
from handlers.support.url import PORTS
from receiver.checks.config import path_remedy, refused_url
from receiver.checks.finding import Finding
from receiver.checks.report import StatusReport
from receiver.domain.durations import ago
from receiver.errors import NotFound, Unauthorized

# Seconds for a name and for an answer; Skyvern itself waits 30 s for one.
_RESOLVING, _ANSWERING = 5.0, 10.0
# Seconds before its end from which on a certificate should be renewed.
EXPIRES_SOON: Final = 14 * 86_400.0
_BODY: Final = b'{"probe": "runhook doctor"}'


class _Answer(NamedTuple):
    """A response to the probe. `code`: of a Runhook error, or ""; `valid_until`: None without TLS."""

    status: int
    code: str
    location: str
    valid_until: float | None


def of_answers(
    report: StatusReport,
    *,
    resolve: Callable[[str, int, float], Sequence[str]] = resolve,
    expires_soon: float = EXPIRES_SOON,
) -> Iterator[Finding]:
    """Yield the addresses and the certificate of PUBLIC_URL, and its responses, if it is set.

    `resolve`: returns the addresses of a host. `expires_soon`: see EXPIRES_SOON.
    """
    public_url = report.settings.public_url
    if report.config is None or not public_url:
        return
    parts = urlsplit(public_url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        addresses = resolve(host, port, _RESOLVING)
    except OSError as error:
        what = f"{host} can't be resolved: {error.strerror or error}"
        yield Finding("public_url.host", what, "set its DNS record, or fix PUBLIC_URL")
        return
    if refused_url(public_url) is None:  # else `of_public_url` reports that
        yield _host(host, addresses)
    for number, source in enumerate(report.config.sources):
        try:
            answer = _probe(parts.scheme, host, port, f"{parts.path}/webhooks/{source}")
        except ssl.SSLCertVerificationError as error:
            what = f"the certificate of {host} is not valid: {error.verify_message}"
            todo = (
                "install a certificate for that name in the proxy, with intermediate certificates: Skyvern verifies it"
            )
            yield Finding("public_url.tls", what, todo)
            return
        except OSError as error:
            what = f"{public_url} can't be reached from here: {error.strerror or str(error) or type(error).__name__}"
            todo = "start `runhook serve` and the proxy in front of it; open the port in the firewall"
            yield Finding("public_url.answer", what, todo)
            return
        if not number:
            yield _certificate(host, answer, expires_soon)
        yield _judged(f"{public_url}/webhooks/{source}", source, answer)


def _host(host: str, addresses: Sequence[str]) -> Finding:
    """Return whether Skyvern calls a host with these addresses."""
    what = f"{host} is {', '.join(addresses)}" if [host] != list(addresses) else host
    for each in addresses:
        if why := why_forbidden(ipaddress.ip_address(each.partition("%")[0])):
            todo = f"{each} is {why}, which Skyvern refuses to call: give the name a public address; your own Skyvern "
            return Finding("public_url.host", what, f"{todo}accepts it with {host} in its ALLOWED_HOSTS")
    return Finding("public_url.host", what)


def _probe(scheme: str, host: str, port: int, path: str) -> _Answer:
    """Post a request without a signature. Raises OSError."""
    import http.client  # which no other check needs

    connection = (
        http.client.HTTPSConnection(host, port, timeout=_ANSWERING, context=ssl.create_default_context())
        if scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_ANSWERING)
    )
    try:
        connection.connect()
        valid_until = None
        if isinstance(connection.sock, ssl.SSLSocket) and (certificate := connection.sock.getpeercert()):
            valid_until = float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
        headers = {"Content-Type": "application/json", "User-Agent": "runhook-doctor"}
        connection.request("POST", path, _BODY, headers)
        answer = connection.getresponse()
        return _Answer(answer.status, _code(answer.read(65536)), answer.headers.get("Location", ""), valid_until)
    except http.client.HTTPException as error:
        raise OSError(str(error) or type(error).__name__) from error
    finally:
        connection.close()


def _code(body: bytes) -> str:
    """Return the code of an error as the receiver answers it; "" for anything else."""
    with suppress(ValueError, TypeError, KeyError, RecursionError):
        return str(json.loads(body)["error"]["code"])
    return ""


def _certificate(host: str, answer: _Answer, expires_soon: float) -> Finding:
    if answer.valid_until is None:
        return Finding("public_url.tls", "http: bodies and signatures travel in the clear, which Skyvern allows")
    left = answer.valid_until - time.time()
    todo = "renew it now: without it no webhook arrives" if left < expires_soon else ""
    return Finding("public_url.tls", f"the certificate of {host} is valid for {ago(left)}", todo)


def _judged(url: str, source: str, answer: _Answer) -> Finding:
    """Return a finding for the response to an unsigned request: 401 with Runhook's code is right."""
    what = f"{url} answers {answer.status}"
    if (answer.status, answer.code) == (Unauthorized.status, Unauthorized.code):
        return Finding("public_url.answer", f"{what} to a request without signature, as it should")
    if (answer.status, answer.code) == (NotFound.status, NotFound.code):
        path = urlsplit(url).path.removesuffix(f"/webhooks/{source}")
        todo = f"the receiver there has no source {source}: it runs with another config, or with an older file"
        if path:
            todo = path_remedy(path)
    elif 300 <= answer.status < 400:
        todo = f"it redirects to {answer.location[:200]}, which Skyvern does not follow: set PUBLIC_URL to that URL"
    elif answer.status in (502, 503, 504):
        todo = "the receiver is down or too busy, or the proxy in front can't reach it: `runhook status`"
    elif answer.status < 300:
        todo = "another server responds there: it accepts unsigned requests. Fix PUBLIC_URL, or the proxy's routes"
    else:
        todo = "the response is not the receiver's: configure the proxy to pass /webhooks/ on unchanged"
    return Finding("public_url.answer", what, todo)
