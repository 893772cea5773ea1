"""What a page of the console is, its place among the links, and the links to what pages are about."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from receiver.api import cursor
from receiver.api.models import Page
from receiver.api.service import Actor, Service
from receiver.ledger.filters import LIMIT

# Where the console is.
PATH: Final = "/console"
# Minimum seconds for which a link is valid; the same link is made for a while, so that browsers keep the file.
GOOD_FOR: Final = 3600
_SAME_FOR: Final = 600

# The part of what a request may wait for the ledger after which the page shows what is known without it.
SHARE: Final = 0.55

Query = Sequence[tuple[str, str]]
Load = Callable[[Service, Actor, Mapping[str, str], Query], Mapping[str, Any]]


class PageLink(NamedTuple):
    """A link to a page among the others. `key`: after g, on the keyboard. `group`: under which heading it stands."""

    name: str
    key: str
    group: str


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """A page. `path`: below PATH. `load`: its values, by the names in the path and the query; runs in a thread, and
    raises RequestError. `all_sources`: only for people who may see all sources.
    """

    path: str
    template: str
    load: Load
    link: PageLink | None = None
    all_sources: bool = False


def run_path(source: str, run_id: str) -> str:
    """Return the path of a run's page."""
    return f"{PATH}/runs/{quote(run_id, safe='')}?{urlencode({'source': source}, errors='replace')}"


def event_path(event_id: str) -> str:
    """Return the path of an event's page."""
    return f"{PATH}/events/{quote(event_id, safe='')}"


def given_of(query: Query) -> list[tuple[str, str]]:
    """Return what a query gives: a form sends its empty fields too."""
    return [(name, value) for name, value in query if value]


class Further(NamedTuple):
    """Where a list continues. `path`: of its next page. `is_short`: this one is not full, because the next matching
    row is far away. `searched_to`: the time down to which it looked; None where the list has another order."""

    path: str
    is_short: bool
    searched_to: float | None


def further(path: str, given: Query, page: Page[Any]) -> Further | None:
    """Return where the list continues of which `page` was asked for with `given`, or None at its end."""
    if not page.next:
        return None
    limit = int(dict(given).get("limit", LIMIT))
    query = urlencode([*((name, value) for name, value in given if name != "after"), ("after", page.next)])
    return Further(f"{PATH}{path}?{query}", len(page.items) < limit, cursor.moment_of(page.next))


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
        """Return by whom a link was made; None for an invalid or expired one."""
        signed = {key: given.get(key, "") for key in ("source", "run_id", "by", "until")}
        signature = given.get("signature", "").encode("utf-8", "replace")
        is_ours = hmac.compare_digest(signature, self._mac(name, signed).encode())
        return signed["by"] if is_ours and now <= int(signed["until"]) else None

    def _mac(self, name: str, signed: Mapping[str, str]) -> str:
        return hmac.digest(self._key, urlencode({"name": name, **signed}, errors="replace").encode(), "sha256").hex()
