"""A source as the submit API sees it: its API client, and the URL at which its webhooks reach us; and who calls for it.

A caller's own webhook URL that Skyvern could not call it refuses before it creates a run, with a 400; so do we, in its
words and without a name server. The checks are those of the call itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from handlers.contract import Refused
from handlers.support.address_policy import AllowedAddresses, literal_addresses
from handlers.support.guarded_client import parse_url
from handlers.support.url import MAX_URL, PORTS, split_userinfo
from receiver.domain.agent_url import where
from receiver.ledger.access.api_keys import Key
from receiver.skyvern.client import SkyvernAPI
from receiver.submit.replies import NO_SECRETS, SecretScan
from receiver.web.responses import Refusal, error


@dataclass(frozen=True, slots=True)
class Source:
    """`callback_base`: the URL at which its webhooks reach us, without the token, or "". `secrets`: what no answer may
    hold, of all sources. `allowed`: the private addresses that callers' webhooks may have."""

    name: str
    api: SkyvernAPI
    callback_base: str = ""
    secrets: SecretScan = NO_SECRETS
    allowed: AllowedAddresses = field(default_factory=lambda: AllowedAddresses(()))

    def callback_url(self, submission_id: str) -> str:
        """Return Runhook's URL, which Skyvern calls for a submission; "" without a public URL."""
        return f"{self.callback_base}/{submission_id}" if self.callback_base else ""

    def webhook_url(self, given: str) -> str:
        """Return the caller's webhook URL as it is kept, "" for none. Raises Refusal for one that can never be called.

        Runhook's own callback URL counts as absent: the webhook would only come back here.
        """
        url = _normalized(given)
        if where(url, self.callback_base) != "elsewhere":
            return ""
        self._check(url)
        return url

    def _check(self, url: str) -> None:
        """Raise Refusal for a URL that can never be called: no http(s), no host, too long, or an IP address that is
        neither public nor allowed. A host name is resolved, and checked, when it is called."""
        try:
            parsed = parse_url(split_userinfo(url)[0])
        except (ValueError, Refused) as problem:
            why = problem if isinstance(problem, Refused) else "not an address"
            raise _refusal(f"Invalid URL: {why}. HTTP and HTTPS URLs are supported.") from None
        host = parsed.raw_host.decode("ascii")
        addresses = literal_addresses(host)
        port = parsed.port or PORTS[parsed.scheme]
        if addresses and all(self.allowed.check(host, address, port) for address in addresses):
            raise _refusal(f"The host in your url is blocked: {host}")


class Caller(NamedTuple):
    """Who makes a call: the API key, and the source that it is for."""

    source: Source
    key: Key


def _refusal(words: str) -> Refusal:
    """Return the refusal of a URL. The words show at most its host: the rest may be secret."""
    return Refusal(error(400, words))


def _normalized(given: str) -> str:
    """Return `given` without surrounding white space, and with the https:// that Skyvern puts before an address without
    a scheme. "" stays "". Raises Refusal."""
    if len(given) > 2 * MAX_URL:  # white space or not: the longest one is looked at no further
        raise _refusal(f"Invalid URL: the address is longer than {MAX_URL} characters")
    text = given.strip()
    if "\0" in text or any("\ud800" <= each <= "\udfff" for each in text):
        raise _refusal("Invalid URL: it holds characters that no URL has")
    try:
        return "https://" + text if text and not urlsplit(text).scheme else text
    except ValueError:
        raise _refusal("Invalid URL: not an address") from None
