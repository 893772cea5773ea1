"""The address of a caller's own webhook: whether it can ever be called. Asks no network, and no name server.

Skyvern refuses a webhook_url that it could not call before it makes a run, with a 400; so do we, in its words. What is
looked at is what the call itself will look at, so that nothing is refused here that would be called there.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from handlers.contract import Refused
from handlers.support.address_policy import AllowedAddresses, literal_addresses
from handlers.support.guarded_client import parse_url
from handlers.support.url import PORTS, split_userinfo


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


def check(url: str, allowed: AllowedAddresses) -> None:
    """Raises BadAddress for a URL that can never be called: no http(s), no host, too long, or the address itself of a
    network that is neither public nor one of `allowed`. A name is looked up, and judged, when it is called."""
    try:
        parsed = parse_url(split_userinfo(url)[0])
    except ValueError:
        raise BadAddress("Invalid URL: not an address. HTTP and HTTPS URLs are supported.") from None
    except Refused as problem:
        raise BadAddress(f"Invalid URL: {problem}. HTTP and HTTPS URLs are supported.") from None
    host = parsed.raw_host.decode("ascii")
    found = literal_addresses(host)
    port = parsed.port or PORTS[parsed.scheme]
    if found and all(allowed.check(host, address, port) for address in found):
        raise BadAddress(f"The host in your url is blocked: {host}")
