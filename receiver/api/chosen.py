"""The selection of an action on many: ids, or all matches of the filter, guarded by an earlier count.

With `dry_run` the response has the count, a few examples, and `until`. The same call with that `until`, and the count
as `expect`, takes exactly these, or fails with the new count.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from receiver.api.audit import record_action
from receiver.api.models import Filtered, Moment, Result, Scoped
from receiver.api.names import check_id, check_names, whole_id
from receiver.api.operations import OperationRow
from receiver.api.service import Actor, Service
from receiver.errors import Invalid, NotFound
from receiver.ledger import Connection, actions
from receiver.ledger.actions import Operation
from receiver.ledger.database_clock import database_now
from receiver.ledger.filters import FULL_ID, VISIBLE, Filter, id_trouble
from receiver.ledger.selection import Action, Selection

# Members of the filter whose name in the ledger's is another.
_IN_LEDGER: Final = {"run": "run_id", "label": "labels"}
# Parameters that are not part of the filter.
_NO_FILTER: Final = frozenset({"ids", "dry_run", "expect", "force", "rate", "into"})

# Maximum ids of a call, and examples of a preview.
MOST_IDS: Final = 1000
EXAMPLES: Final = 5


def _checked(identifier: str) -> str:
    if trouble := id_trouble(identifier):
        raise ValueError(trouble)
    return identifier


Id = Annotated[str, AfterValidator(_checked), Field(max_length=200, json_schema_extra={"pattern": VISIBLE.pattern})]


class Guarded(Scoped):
    """Base of the parameters of an action on many, which a dry run counts first."""

    ids: tuple[Id, ...] = Field(
        (),
        max_length=MOST_IDS,
        description="Only these: ids of events (evt_…); of deliveries also their own (dlv_…), and ids of runs.",
    )
    dry_run: bool = Field(False, description="Change nothing: return the count, and what would change.")
    expect: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="Number that dry_run counted; 409 if another number matches. Required without ids.",
    )

    def require_count(self) -> None:
        """Raise Invalid for a change without ids and `expect`: it might be larger than intended."""
        if not (self.dry_run or self.ids) and self.expect is None:
            raise Invalid("expect: give the exact number, which the same call with dry_run counts; or give ids")


class Chosen(Guarded, Filtered):
    """Base of the parameters of an action on many: ids, or all matches of the filter."""


class TakenResult(Result):
    """The selection of an action, or with dry_run a preview of it."""

    dry_run: bool
    count: int
    examples: list[dict[str, Any]] = Field(description="Of a dry run: the first few.")
    until: Moment | None = Field(description="Give it with `expect`: later rows are then not selected.")
    operation: OperationRow | None = Field(
        description="The operation that does it; null for a dry run or if it is done."
    )
    left: dict[str, int] = Field(
        default_factory=dict, description="Of a dry run without matches: by state, the deliveries that match otherwise."
    )
    sinks: dict[str, int] = Field(default_factory=dict, description="Of a dry run: the count by sink.")
    orphaned: int = Field(0, description="Of a dry run: more that match, whose sinks are not in the config.")


def selection_of(chosen: Chosen, **more: Any) -> Selection:
    """Return the ledger's selection. `more`: members of it that the call adds.

    Raises Invalid for a filter that the ledger lacks: without it, the action would select too much.
    """
    has = Filter.__dataclass_fields__
    for name, field in type(chosen).model_fields.items():
        if name not in _NO_FILTER and _IN_LEDGER.get(name, name) not in has and getattr(chosen, name) != field.default:
            raise Invalid(f"{name}: an action has no such filter")
    wanted = chosen.filter()
    fields = {name: getattr(wanted, name) for name in has}
    return Selection(**{**fields, **of_ids(chosen.ids), **more})


def of_ids(ids: Sequence[str]) -> dict[str, Any]:
    """Return the members of a selection with these ids."""
    return {
        "delivery_ids": tuple(each for each in ids if each.startswith("dlv_")),
        "event_ids": tuple(each for each in ids if each.startswith("evt_")),
        "run_ids": tuple(each for each in ids if not each.startswith(("dlv_", "evt_"))),
    }


def take(
    service: Service, actor: Actor, chosen: Chosen, action: Action, *, name: str = "", hint: str = ""
) -> TakenResult:
    """Preview or begin an action on a selection. `name`: in the audit, by default the action's kind.

    Raises Invalid for a filter without `expect`, for ids that are unknown in the actor's source or ambiguous, and for
    unknown names in the filter of an actor of all sources; NotAsExpected; and NotFound, with `hint`, for an id that the
    action cannot be done on.
    """
    action = replace(action, selection=with_whole_ids(service, action.selection))

    def count(connection: Connection) -> TakenResult:
        found = preview(connection, action)
        empty = not (found.count or found.left or found.orphaned)
        check_names(service, actor, connection, action.selection, empty=empty)
        for identifier in () if found.count else chosen.ids:
            check_id(connection, "ids", identifier, actor.source)
        return found

    def require_each(connection: Connection) -> None:
        for identifier in chosen.ids:
            one = replace(action, selection=replace(action.selection, **of_ids([identifier])))
            if not one.count(connection):
                check_id(connection, "ids", identifier, actor.source)
                raise NotFound(f"{identifier}: there is nothing to {action.kind} of it{hint}")

    if chosen.dry_run:
        return service.ledger.read(count)
    chosen.require_count()
    if chosen.expect is None:
        service.ledger.read(require_each)
    return begun(service.ledger.write(lambda connection: begin(connection, actor, action, chosen.expect, name)))


def with_whole_ids(service: Service, selection: Selection) -> Selection:
    """Return the selection with full ids in place of shortened ones, which might match new rows while the action runs.
    Raises Invalid for an ambiguous one."""
    named = {
        "event_id": tuple(filter(None, [selection.event_id])),
        "ids": (*selection.delivery_ids, *selection.event_ids),
    }
    if all(len(each) >= FULL_ID for ids in named.values() for each in ids):
        return selection

    def find(connection: Connection) -> dict[str, str]:
        return {each: whole_id(connection, name, each, selection.source) for name, ids in named.items() for each in ids}

    whole = service.ledger.read(find)
    return replace(
        selection,
        delivery_ids=tuple(whole[each] for each in selection.delivery_ids),
        event_ids=tuple(whole[each] for each in selection.event_ids),
        event_id=whole.get(selection.event_id, ""),
    )


def begun(operation: Operation) -> TakenResult:
    """Return the result of an action that has begun."""
    row, until = OperationRow.of(operation), operation.selection.until
    return TakenResult(dry_run=False, count=operation.total, examples=[], until=until, operation=row)


def preview(connection: Connection, action: Action) -> TakenResult:
    """Count what an action would select now."""
    now, wanted = database_now(connection), action.selection
    until = now if wanted.until is None else min(now, wanted.until)
    if not wanted.has_ids:
        wanted = replace(wanted, until=until)
        action = replace(action, selection=wanted)
    sinks = action.by_sink(connection)
    count = sum(sinks.values())
    every = replace(action, selection=replace(wanted, sinks=())).count(connection) if wanted.sinks else count
    return TakenResult(
        dry_run=True,
        count=count,
        sinks=dict(sorted(sinks.items())),
        examples=action.examples(connection, EXAMPLES),
        until=until,
        operation=None,
        left={} if count else wanted.by_state(connection),
        orphaned=every - count,
    )


def begin(connection: Connection, actor: Actor, action: Action, expect: int | None = None, name: str = "") -> Operation:
    """Begin an action, with its line in the audit. Without a rate, its first step is done at once; the clock does the
    rest. Raises NotAsExpected."""
    now = database_now(connection)
    made = actions.create(connection, f"op_{secrets.token_hex(8)}", action, now, expect=expect, actor=actor.name)
    kept: Mapping[str, Any] = json.loads(made.selection.to_json())
    more = ({"into": action.sink} if action.sink else {}) | ({"force": True} if action.force else {})
    selection = {name: value for name, value in kept.items() if name != "sinks"} | more
    record_action(connection, actor, name or action.kind, selection, made.total, source=made.source, detail=made.id)
    return made if action.rate else actions.step_once(connection, made, now)
