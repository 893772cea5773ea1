"""The API keys, never their hashes."""

from __future__ import annotations

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.models import Moment, Page, PageParameters, Result
from receiver.api.service import Actor, Service
from receiver.domain import api_key
from receiver.domain.api_key import VIEW
from receiver.ledger import api_keys
from receiver.ledger.api_keys import Key


class KeyRow(Result):
    """A key."""

    id: str
    name: str
    hint: str = Field(description="How the key begins.")
    scopes: list[str] = Field(description=f"Of {', '.join(api_key.ALL_SCOPES)}.")
    source: str = Field(description=f"Whose things it is for; {api_key.ALL_SOURCES}: all sources.")
    rate: str | None = Field(description="Most calls in a time, such as 10/s.")
    created_at: Moment
    used_at: Moment | None
    revoked_at: Moment | None
    expires_at: Moment | None = Field(None, description="From when on it is refused; null: never.")
    expired: bool = Field(False, description="Whether that is past, by the clock of the ledger.")
    replaced_by: str = Field("", description="The id of the key that it was rotated to.")

    @classmethod
    def of(cls, key: Key) -> KeyRow:
        """Return the row of a key."""
        names = cls.model_fields.keys() - {"scopes"}
        return cls(scopes=in_order(key.scopes), **{name: getattr(key, name) for name in names})


def in_order(scopes: frozenset[str]) -> list[str]:
    """Return scopes in their usual order."""
    return [scope for scope in api_key.ALL_SCOPES if scope in scopes]


def list_keys(service: Service, _actor: Actor, wanted: PageParameters) -> Page[KeyRow]:
    """List the API keys, revoked and expired ones too, the oldest first."""
    position = cursor.decode("keys", wanted.after, (float, str))
    after = (position[0], position[1]) if position else None
    found = service.ledger.read(lambda it: api_keys.page(it, wanted.limit, source=wanted.source, after=after))
    last = (found[-1].created_at, found[-1].id) if len(found) == wanted.limit else None
    return Page(items=[KeyRow.of(key) for key in found], next=cursor.encode("keys", last))


LIST_KEYS = Endpoint("list_keys", "GET", "/keys", VIEW, PageParameters, Page[KeyRow], list_keys)
ENDPOINTS = (LIST_KEYS,)
