"""The pages of the console as values, what a page is asked for, and links to runs, events and files."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from receiver.api import cursor
from receiver.api.endpoint import Endpoint, P, R_co
from receiver.api.models import Page
from receiver.api.service import Actor, Service
from receiver.ledger.lists.filters import LIMIT

# Where the console is.
PATH: Final = "/console"
# Minimum seconds for which a link is valid; the same link is made for a while, so that browsers keep the file.
GOOD_FOR: Final = 3600
_SAME_FOR: Final = 600

# The part of what a request may wait for the ledger after which the page shows what is known without it.
SHARE: Final = 0.55

Query = Sequence[tuple[str, str]]
PageValues = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request of a person. `names`: from the path. `query`: the query or the form, without empty fields."""

    service: Service
    actor: Actor
    names: Mapping[str, str]
    query: Query

    def call(self, endpoint: Endpoint[P, R_co], **parameters: Any) -> R_co:
        """Call the API for the person. Raises RequestError."""
        return endpoint.call(self.service, self.actor, endpoint.validated(parameters))

    def call_as_asked(self, endpoint: Endpoint[P, R_co]) -> R_co:
        """Call the API with the parameters of the path and the query. Raises RequestError."""
        return endpoint.call(self.service, self.actor, endpoint.parse(self.names, self.query))


class PageLink(NamedTuple):
    """A link to a page among the others. `key`: after g, on the keyboard. `group`: under which heading it stands."""

    name: str
    key: str
    group: str


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """A page. `path`: below PATH. `load`: returns the values of its template; runs in a thread, and raises
    RequestError. `all_sources`: only for people who may see all sources.
    """

    path: str
    template: str
    load: Callable[[PageRequest], PageValues]
    link: PageLink | None = None
    all_sources: bool = False


def run_path(source: str, run_id: str) -> str:
    """Return the path of a run's page."""
    return f"{PATH}/runs/{quote(run_id, safe='')}?{urlencode({'source': source}, errors='replace')}"


def event_path(event_id: str) -> str:
    """Return the path of an event's page."""
    return f"{PATH}/events/{quote(event_id, safe='')}"


def filled(fields: Query) -> list[tuple[str, str]]:
    """Return the fields that are not empty: a form sends empty ones too."""
    return [(name, value) for name, value in fields if value]


class NextPage(NamedTuple):
    """The link to the next page of a list. `is_short`: this page is not full, because the next match is far away.
    `searched_to`: the time back to which the list was searched; None where it has another order."""

    path: str
    is_short: bool
    searched_to: float | None


def next_page_of(path: str, given: Query, page: Page[Any]) -> NextPage | None:
    """Return the link to the page after `page`, which was requested with `given`; None for the last page."""
    if not page.next:
        return None
    limit = int(dict(given).get("limit", LIMIT))
    query = urlencode([*((name, value) for name, value in given if name != "after"), ("after", page.next)])
    return NextPage(f"{PATH}{path}?{query}", len(page.items) < limit, cursor.moment_of(page.next))


class FileLinks:
    """Makes and checks links to files of runs: signed, and valid for a while, so that players and colleagues open them.
    `secret`: what all hosts share."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"runhook console files", "sha256")

    def path(self, person: str, source: str, run_id: str, name: str, now: float) -> str:
        """Return the path of a file, which opens what `person` may see."""
        until = (int(now + GOOD_FOR) // _SAME_FOR + 1) * _SAME_FOR
        signed = {"source": source, "run_id": run_id, "by": person, "until": str(until)}
        return f"{PATH}/files/{quote(name, safe='')}?{urlencode({**signed, 'signature': self._mac(name, signed)})}"

    def person(self, name: str, given: Mapping[str, str], now: float) -> str | None:
        """Return the person who made a link; None for an invalid or expired link."""
        signed = {key: given.get(key, "") for key in ("source", "run_id", "by", "until")}
        signature = given.get("signature", "").encode("utf-8", "replace")
        is_ours = hmac.compare_digest(signature, self._mac(name, signed).encode())
        return signed["by"] if is_ours and now <= int(signed["until"]) else None

    def _mac(self, name: str, signed: Mapping[str, str]) -> str:
        return hmac.digest(self._key, urlencode({"name": name, **signed}, errors="replace").encode(), "sha256").hex()
