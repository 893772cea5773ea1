"""What a page of the console is, and its place among the links."""

from __future__ import annotations

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
