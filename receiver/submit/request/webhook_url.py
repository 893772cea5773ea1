"""The address of a caller's own webhook: whether it can ever be called. Asks no network, and no name server.

Skyvern refuses a webhook_url that it could not call before it makes a run, with a 400; so do we, in its words. What is
looked at is what the call itself will look at, so that nothing is refused here that would be called there.
"""

from __future__ import annotations

import base64
from typing import Final
from urllib.parse import unquote, urlsplit

from handlers.contract import Refused
from handlers.support.address_policy import Allowed, literal_addresses
from handlers.support.guarded_client import parse_url

_PORTS: Final = {"http": 80, "https": 443}


class BadAddress(ValueError):
    """The address can never be called. The message shows at most its host: the rest may be secret."""


def written_out(given: str) -> str:
    """`given` without white space around it, and with the https:// that Skyvern puts before an address without a
    scheme. "" stays, and stands for none. Raises BadAddress."""
    text = given.strip()
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise BadAddress("Invalid URL: it holds characters that no URL has")
    try:
        return "https://" + text if text and not urlsplit(text).scheme else text
    except ValueError:
        raise BadAddress("Invalid URL: not an address") from None


def check(url: str, allowed: Allowed) -> None:
    """Raises BadAddress for a URL that can never be called: no http(s), no host, too long, or the address itself of a
    network that is neither public nor one of `allowed`. A name is looked up, and judged, when it is called."""
    try:
        parsed = parse_url(split(url)[0])
    except Refused as problem:
        raise BadAddress(f"Invalid URL: {problem}. HTTP and HTTPS URLs are supported.") from None
    host = parsed.raw_host.decode("ascii")
    found = literal_addresses(host)
    port = parsed.port or _PORTS[parsed.scheme]
    if found and all(allowed.check(host, address, port) for address in found):
        raise BadAddress(f"The host in your url is blocked: {host}")


def split(url: str) -> tuple[str, dict[str, str]]:
    """The address without user:password, and the header that they become. Raises Refused."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Refused("the caller's address is none") from None
    user, mark, host = parts.netloc.rpartition("@")
    if not mark:
        return url, {}
    name, _, password = user.partition(":")
    pair = f"{unquote(name)}:{unquote(password)}".encode()
    return parts._replace(netloc=host).geturl(), {"authorization": "Basic " + base64.b64encode(pair).decode()}
