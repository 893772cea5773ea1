"""Lists of the API, page by page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.models import FilterParameters, Page, PageParameters, Result
from receiver.api.names import check_names
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.ledger import Connection
from receiver.ledger.lists.filters import Filter

F = TypeVar("F", bound=FilterParameters)
T = TypeVar("T", bound=Result)

# (connection, filter, after, limit) → (rows, next): see receiver.ledger.lists.
Listing = Callable[[Connection, Filter, tuple[Any, ...] | None, int], tuple[Sequence[Any], tuple[Any, ...] | None]]


class ListEndpoint(Endpoint[F, Page[T]], Generic[F, T]):
    """A call that lists rows of the ledger.

    `row`: model of a row. `parameters`: its filter. `page`: reads a page; its name is that of the call. `key`: types of
    the values of its cursor. `about`: what it lists, in which order.
    """

    def __init__(self, row: type[T], parameters: type[F], page: Listing, key: Sequence[type[Any]], about: str) -> None:
        def read(service: Service, actor: Actor, filters: F) -> Page[T]:
            return listed(service, actor, page, filters, row, key)

        read.__doc__, read.__module__ = about, parameters.__module__
        name, result = page.__name__, Page[row]  # type: ignore[valid-type]
        super().__init__(name, "GET", "/" + name.removeprefix("list_"), VIEW, parameters, result, read)


def listed(
    service: Service,
    actor: Actor,
    page: Listing,
    filters: FilterParameters,
    row: type[T],
    key: Sequence[type[Any]],
) -> Page[T]:
    """Return a page. `key`: types of the values of its cursor.

    Raises Invalid, also when the filter names what does not exist and `actor` may see all sources.
    """
    name = page.__name__
    after = cursor.decode(name, filters.after, key)

    def read(connection: Connection) -> tuple[Sequence[Any], tuple[Any, ...] | None]:
        found, rest = page(connection, filters.filter(), after, filters.limit)
        if not filters.after:
            check_names(service, actor, connection, filters.filter(), empty=not found and rest is None)
        return found, rest

    found, rest = service.ledger.read(read)
    items = [row.model_validate(each, context=service.give_up_after) for each in found]
    return Page(items=items, next=cursor.encode(name, rest))


def paged(
    service: Service, name: str, parameters: PageParameters, read: Callable[..., Sequence[Any]], **key: type[Any]
) -> tuple[Sequence[Any], str | None]:
    """Return a page of a short list, and its `next`. `name`: of the list, in cursors.

    `read`: given the connection and a limit, and by name the only `source`, and the place `after` which to begin.
    `key`: the attributes that are a row's place, with their types.
    """
    after = cursor.decode(name, parameters.after, tuple(key.values()))
    found = service.ledger.read(lambda it: read(it, parameters.limit + 1, source=parameters.source, after=after))
    shown = found[: parameters.limit]
    place = [getattr(shown[-1], each) for each in key] if len(found) > parameters.limit else None
    return shown, cursor.encode(name, place)
