"""The URL of a caller's own webhook: whether it can ever be called. Uses no network, and no name server.

Skyvern refuses a webhook_url that it could not call before it creates a run, with a 400; so do we, in its words. The
checks are those of the call itself, so that nothing is refused here that would be called later.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from handlers.contract import Refused
from handlers.support.address_policy import AllowedAddresses, literal_addresses
from handlers.support.guarded_client import parse_url
from handlers.support.url import MAX_URL, PORTS, split_userinfo


class InvalidWebhookURL(ValueError):
    """The URL can never be called. The message shows at most its host: the rest may be secret."""


def normalize(given: str) -> str:
    """Return `given` without surrounding white space, and with the https:// that Skyvern puts before an address without
    a scheme. "" stays "". Raises InvalidWebhookURL."""
    if len(given) > 2 * MAX_URL:  # white space or not: the longest one is looked at no further
        raise InvalidWebhookURL(f"Invalid URL: the address is longer than {MAX_URL} characters")
    text = given.strip()
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise InvalidWebhookURL("Invalid URL: it holds characters that no URL has")
    try:
        return "https://" + text if text and not urlsplit(text).scheme else text
    except ValueError:
        raise InvalidWebhookURL("Invalid URL: not an address") from None


def check(url: str, allowed: AllowedAddresses) -> None:
    """Raises InvalidWebhookURL for a URL that can never be called: no http(s), no host, too long, or an IP address that
    is neither public nor one of `allowed`. A host name is resolved, and checked, when it is called."""
    try:
        parsed = parse_url(split_userinfo(url)[0])
    except ValueError:
        raise InvalidWebhookURL("Invalid URL: not an address. HTTP and HTTPS URLs are supported.") from None
    except Refused as problem:
        raise InvalidWebhookURL(f"Invalid URL: {problem}. HTTP and HTTPS URLs are supported.") from None
    host = parsed.raw_host.decode("ascii")
    found = literal_addresses(host)
    port = parsed.port or PORTS[parsed.scheme]
    if found and all(allowed.check(host, address, port) for address in found):
        raise InvalidWebhookURL(f"The host in your url is blocked: {host}")
