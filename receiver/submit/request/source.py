"""A source as the submit API sees it: its API client, and the URL at which its webhooks reach us."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from handlers.support.address_policy import AllowedAddresses
from receiver.domain.callback import origin_of
from receiver.skyvern import SkyvernAPI
from receiver.submit.request import webhook_url
from receiver.submit.secret_scan import NO_SECRETS, SecretScan
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
        try:
            url = webhook_url.normalize(given)
            if not url or self._is_ours(url):
                return ""
            webhook_url.check(url, self.allowed)
        except webhook_url.InvalidWebhookURL as problem:
            raise Refusal(error(400, str(problem))) from None
        return url

    def _is_ours(self, url: str) -> bool:
        """Return whether `url` is this source's callback URL, with a token or without, however it is spelt."""
        ours = _origin_and_path(self.callback_base)
        return bool(self.callback_base) and f"{_origin_and_path(url)}/".startswith(f"{ours}/")


def _origin_and_path(url: str) -> str:
    """Return the normalized origin and the path of `url`, "" for no URL."""
    try:
        path = urlsplit(url.strip()).path
    except ValueError:
        return ""
    return origin_of(url) + path
