"""A page of a list of the ledger, as the API returns it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from receiver.api import cursor
from receiver.api.models import FilterParameters, Page, Result
from receiver.api.names import check_names
from receiver.api.service import Actor, Service
from receiver.ledger import Connection
from receiver.ledger.filters import Filter

T = TypeVar("T", bound=Result)

# (connection, filter, after, limit) → (rows, next): see receiver.ledger.lists.
Listing = Callable[[Connection, Filter, tuple[Any, ...] | None, int], tuple[Sequence[Any], tuple[Any, ...] | None]]


def listed(
    service: Service,
    actor: Actor,
    listing: Listing,
    wanted: FilterParameters,
    row: type[T],
    key: Sequence[type[Any]],
) -> Page[T]:
    """Return the page of `listing` that is wanted. `key`: of what its positions are made.

    Raises Invalid, also when the filter names what is not there and `actor` may see all sources.
    """
    name = listing.__name__
    after = cursor.decode(name, wanted.after, key)

    def read(connection: Connection) -> tuple[Sequence[Any], tuple[Any, ...] | None]:
        page, rest = listing(connection, wanted.filter(), after, wanted.limit)
        if not wanted.after and not actor.source:
            check_names(lambda: service.config, connection, wanted.filter(), empty=not page and rest is None)
        return page, rest

    found, rest = service.ledger.read(read)
    return Page(items=[row.model_validate(each) for each in found], next=cursor.encode(name, rest))
