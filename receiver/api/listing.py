"""A page of a list of the ledger, as the API returns it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from receiver.api import cursor
from receiver.api.models import FilterParameters, Page, Result
from receiver.api.service import Service
from receiver.ledger import Connection
from receiver.ledger.filters import Filter

T = TypeVar("T", bound=Result)

# (connection, filter, after, limit) → (rows, next): see receiver.ledger.lists.
Listing = Callable[[Connection, Filter, tuple[Any, ...] | None, int], tuple[Sequence[Any], tuple[Any, ...] | None]]


def listed(
    service: Service, listing: Listing, wanted: FilterParameters, row: type[T], key: Sequence[type[Any]]
) -> Page[T]:
    """Return the page of `listing` that is wanted. `key`: of what its positions are made. Raises Invalid."""
    name = listing.__name__
    after = cursor.decode(name, wanted.after, key)
    found, rest = service.ledger.read(lambda connection: listing(connection, wanted.filter(), after, wanted.limit))
    return Page(items=[row.model_validate(each) for each in found], next=cursor.encode(name, rest))
