"""Saved views: pages of the console, with all that their address says, by name. Each has its owner; one that is shared
is visible to callers with the rights of its owner."""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict, replace
from typing import Annotated, Final
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, Field

from receiver.api.audit import record_action
from receiver.api.endpoint import call
from receiver.api.models import Moment, Page, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Conflict, Forbidden, NotFound
from receiver.ledger import Connection, saved_views
from receiver.ledger.database_clock import database_now
from receiver.ledger.saved_views import SavedView

# Views that one owner may have.
MOST_OF_ONE: Final = 100
_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]*")


def _path(value: str) -> str:
    """Return the path of a view, without the cursor of a list."""
    if not _PATH.fullmatch(value):
        raise ValueError("must be a path below /console, such as /runs?status=failed")
    path, found, query = value.partition("?")
    kept = [(name, given) for name, given in parse_qsl(query, keep_blank_values=True) if given and name != "after"]
    return f"{path}?{urlencode(kept)}" if found and kept else path


def _name(value: str) -> str:
    name = " ".join(value.split())
    if not name or not name.isprintable():
        raise ValueError("must have letters, and only what can be seen")
    return name


ViewName = Annotated[str, AfterValidator(_name), Field(max_length=60, description="What it is called.")]


class SavedViewRow(Result):
    """A saved view."""

    id: str
    name: str
    path: str = Field(description="Below /console, with its query.")
    shared: bool = Field(description="Whether callers with the owner's rights see it.")
    owner: str
    own: bool = Field(description="Whether it is the caller's.")
    saved_at: Moment


class SaveViewParameters(Scoped):
    """What is saved, and under which name; the caller's own view of that name is replaced.

    `source`: callers who may see it see a shared view.
    """

    name: ViewName
    path: Annotated[str, AfterValidator(_path)] = Field(
        max_length=2000, description="Of a page of the console, below /console, with its query."
    )
    shared: bool = Field(False, description="Callers with the same rights see it too; needs operate.")


class ViewParameters(Scoped):
    """Which view."""

    id: str = Field(max_length=50, description="The view's id.")


class RenameViewParameters(ViewParameters):
    """Which view, and its new name."""

    name: ViewName


def list_views(service: Service, actor: Actor, parameters: Scoped) -> Page[SavedViewRow]:
    """List the caller's saved views, then those that others share."""
    owner = _owner(actor)
    found = service.ledger.read(lambda it: saved_views.seen_by(it, owner, parameters.source))
    return Page(items=[_row(each, owner) for each in found])


def save_view(service: Service, actor: Actor, parameters: SaveViewParameters) -> SavedViewRow:
    """Save a page of the console, with all that its address says, under a name."""
    if parameters.shared:
        actor.require(OPERATE)
    owner = _owner(actor)

    def save(connection: Connection) -> SavedView:
        before = saved_views.find(connection, owner=owner, source=parameters.source, name=parameters.name)
        if before is None and saved_views.count(connection, owner) >= MOST_OF_ONE:
            raise Conflict(f"{MOST_OF_ONE} views are the most that one may have; remove one first")
        view_id = before.id if before else f"view_{secrets.token_hex(8)}"
        view = SavedView(**parameters.model_dump(), id=view_id, owner=owner, saved_at=database_now(connection))
        saved_views.put(connection, view)
        _record(connection, actor, "view.save", view)
        return view

    return _row(service.ledger.write(save), owner)


def rename_view(service: Service, actor: Actor, parameters: RenameViewParameters) -> SavedViewRow:
    """Give a saved view another name."""

    def rename(connection: Connection) -> SavedView:
        view = _changeable(connection, actor, parameters)
        other = saved_views.find(connection, owner=view.owner, source=view.source, name=parameters.name)
        if other is not None and other.id != view.id:
            raise Conflict(f"there is another view called {parameters.name}")
        renamed = replace(view, name=parameters.name)
        saved_views.put(connection, renamed)
        _record(connection, actor, "view.rename", renamed)
        return renamed

    return _row(service.ledger.write(rename), _owner(actor))


def remove_view(service: Service, actor: Actor, parameters: ViewParameters) -> SavedViewRow:
    """Remove a saved view."""

    def remove(connection: Connection) -> SavedView:
        view = _changeable(connection, actor, parameters)
        saved_views.remove(connection, view.id)
        _record(connection, actor, "view.remove", view)
        return view

    return _row(service.ledger.write(remove), _owner(actor))


def _owner(actor: Actor) -> str:
    return f"{actor.kind}:{actor.key_id or actor.name}"


def _changeable(connection: Connection, actor: Actor, parameters: ViewParameters) -> SavedView:
    """Return a view that `actor` may change: their own, or with operate a shared one that they see. Raises NotFound,
    and Forbidden."""
    view = saved_views.find(connection, id=parameters.id)
    own = view is not None and view.owner == _owner(actor)
    if view is None or not (own or view.shared) or parameters.source not in ("", view.source):
        raise NotFound(f"view {parameters.id}: not found")
    if not own and OPERATE not in actor.scopes:
        raise Forbidden(f"view {parameters.id}: it is another's; to change it needs the scope operate")
    return view


def _record(connection: Connection, actor: Actor, action: str, view: SavedView) -> None:
    facts = {"name": view.name, "path": view.path, "shared": view.shared}
    record_action(connection, actor, action, facts, 1, source=view.source, detail=view.id)


def _row(view: SavedView, owner: str) -> SavedViewRow:
    shown = {"owner": view.owner.partition(":")[2], "own": view.owner == owner}
    return SavedViewRow.model_validate(asdict(view) | shown)


LIST_VIEWS: Final = call("GET", "/views", VIEW, list_views)
SAVE_VIEW: Final = call("POST", "/views", VIEW, save_view)
RENAME_VIEW: Final = call("POST", "/views/{id}/rename", VIEW, rename_view)
REMOVE_VIEW: Final = call("POST", "/views/{id}/remove", VIEW, remove_view)
