"""What a page of the console is, and its place among the links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from receiver.api.service import Actor, Service

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


def next_path(path: str, given: Query, after: str | None) -> str | None:
    """Return the path of a list's next page, or None."""
    if not after:
        return None
    return f"{PATH}{path}?{urlencode([*((name, value) for name, value in given if name != 'after'), ('after', after)])}"
