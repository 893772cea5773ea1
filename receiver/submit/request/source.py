"""A source as the submit API sees it: its API, and where its webhooks reach us."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from handlers.support.address_policy import AllowedAddresses
from receiver.domain.callback import lane_of
from receiver.skyvern import SkyvernAPI
from receiver.submit.replies import Refusal, error
from receiver.submit.request import webhook_url


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the submit API sees it. `callbacks`: where its webhooks reach us, without the token, or "".
    `allowed`: what callers' webhooks may reach although it is private."""

    name: str
    api: SkyvernAPI
    callbacks: str = ""
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    allowed: AllowedAddresses = field(default_factory=AllowedAddresses)

    def callback(self, submission_id: str) -> str:
        """The callback URL of a submission, or "" without a public URL."""
        return f"{self.callbacks}/{submission_id}" if self.callbacks else ""

    def webhook(self, given: str) -> str:
        """The caller's own webhook as it is kept, "" for none. Raises Refusal for one that can never be called.

        Who gives our own address gets no webhook of us: that would only come back here.
        """
        try:
            url = webhook_url.written_out(given)
            if not url or self.is_ours(url):
                return ""
            webhook_url.check(url, self.allowed)
        except webhook_url.BadAddress as problem:
            raise Refusal(error(400, str(problem))) from None
        return url

    def is_ours(self, url: str) -> bool:
        """Whether `url` is where this source's webhooks reach us, with a token or without, however it is spelt."""
        return bool(self.callbacks) and f"{_place(url)}/".startswith(f"{_place(self.callbacks)}/")


def _place(url: str) -> str:
    """The origin and path of an address: no user, default port, dot behind the host, or case of it. "" for none."""
    try:
        path = urlsplit(url.strip()).path
    except ValueError:
        return ""
    return lane_of(url) + path
