"""What an action on many takes: ids, or all that the filter finds; counted before, and guarded by that count.

With `dry_run` the answer has the count, a few examples, and `until`. The same call with that `until`, and the count as
`expect`, takes these and no others, or is refused with the new count.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from receiver.api import audit as audited
from receiver.api.models import Filtered, Moment, Result
from receiver.api.names import check_id, check_names, whole_id
from receiver.api.operations import OperationRow
from receiver.api.service import Actor, Service
from receiver.errors import Invalid, NotAsExpected, NotFound
from receiver.ledger import Connection, actions
from receiver.ledger.actions import BACKFILL, Action, CountChanged, Operation, Selection
from receiver.ledger.database_clock import database_now
from receiver.ledger.filters import FULL_ID, VISIBLE, Filter, id_trouble

# Ids that one call takes, and examples that a preview shows.
MOST_IDS: Final = 1000
EXAMPLES: Final = 5


def _checked(identifier: str) -> str:
    if trouble := id_trouble(identifier):
        raise ValueError(trouble)
    return identifier


Id = Annotated[str, AfterValidator(_checked), Field(max_length=200, json_schema_extra={"pattern": VISIBLE.pattern})]


class Chosen(Filtered):
    """Base of what an action on many takes: ids, or all that the filter finds."""

    ids: tuple[Id, ...] = Field(
        (), max_length=MOST_IDS, description="Only these, and those of these: deliveries (dlv_…), events (evt_…), runs."
    )
    dry_run: bool = Field(False, description="Change nothing: return how many there are, a few of them, and `until`.")
    expect: int | None = Field(
        None,
        ge=0,
        le=2**63 - 1,
        description="How many it must be, as dry_run has counted: else 409 with the new count. Needed without ids.",
    )


class TakenResult(Result):
    """What an action on many takes, or with dry_run would take."""

    dry_run: bool
    count: int
    examples: list[dict[str, Any]] = Field(description="Of a dry run: the first few.")
    until: Moment | None = Field(description="Give it with `expect`: nothing that came later is taken.")
    operation: OperationRow | None = Field(description="What works it off; null for a dry run.")
    left: dict[str, int] = Field(
        default_factory=dict, description="Of a dry run that would take none: by state, what else matches."
    )
    orphaned: int = Field(0, description="Of a dry run: more that match, whose sinks are not in the config.")


# Members of the filter whose name in the ledger's is another.
_IN_LEDGER: Final = {"run": "run_id", "label": "labels"}
# What else a call takes: no part of the filter.
_NO_FILTER: Final = frozenset({"ids", "dry_run", "expect", "force", "rate", "into"})


def selection_of(chosen: Chosen, **more: Any) -> Selection:
    """Return the ledger's selection. `more`: members of it that the call adds.

    Raises Invalid for a filter that the ledger does not have: what is not narrowed by it would be taken.
    """
    has = Filter.__dataclass_fields__
    for name, field in type(chosen).model_fields.items():
        if name not in _NO_FILTER and _IN_LEDGER.get(name, name) not in has and getattr(chosen, name) != field.default:
            raise Invalid(f"{name}: an action has no such filter")
    wanted = chosen.filter()
    fields = {name: getattr(wanted, name) for name in has}
    return Selection(**{**fields, **of_ids(chosen.ids), **more})


def of_ids(ids: Sequence[str]) -> dict[str, Any]:
    """Return the members of a selection that name what has these ids."""
    return {
        "delivery_ids": tuple(each for each in ids if each.startswith("dlv_")),
        "event_ids": tuple(each for each in ids if each.startswith("evt_")),
        "run_ids": tuple(each for each in ids if not each.startswith(("dlv_", "evt_"))),
    }


def take(
    service: Service, actor: Actor, chosen: Chosen, action: Action, *, name: str = "", hint: str = ""
) -> TakenResult:
    """Preview or begin an action on what is chosen. `name`: what the audit calls it, by default as its kind.

    Raises Invalid for a filter without `expect`, for an id that nothing of the actor's source has or that several begin
    with, and of one who may see all sources for names that are not there; NotAsExpected; and NotFound, with `hint`, for
    an id of which there is nothing to take.
    """
    action = replace(action, selection=_with_whole_ids(service, action.selection))

    def preview(connection: Connection) -> TakenResult:
        found = _preview(connection, action)
        if not actor.source:
            check_names(lambda: service.config, connection, action.selection, empty=not found.count)
        if not found.count:
            _require_known(connection, actor, chosen.ids)
        return found

    def require_each(connection: Connection) -> None:
        for identifier in chosen.ids:
            one = replace(action, selection=replace(action.selection, **of_ids([identifier])))
            if not one.count(connection):
                _require_known(connection, actor, [identifier])
                raise NotFound(f"{identifier}: there is nothing to {action.kind} of it{hint}")

    if chosen.dry_run:
        return service.ledger.read(preview)
    if not chosen.ids and chosen.expect is None:
        raise Invalid("expect: say how many it must be, as the same call with dry_run counts them; or give ids")
    if chosen.expect is None:
        service.ledger.read(require_each)
    operation = service.ledger.write(lambda connection: begin(connection, actor, action, chosen.expect, name))
    return TakenResult(
        dry_run=False,
        count=operation.total,
        examples=[],
        until=operation.selection.until,
        operation=OperationRow.of(operation),
    )


def _with_whole_ids(service: Service, wanted: Selection) -> Selection:
    """Return the selection with whole ids in place of cut ones, so that it takes no other that begins so and comes when
    it is being worked off. Raises Invalid when several begin so."""
    named = {"ids": (*wanted.delivery_ids, *wanted.event_ids), "event_id": tuple(filter(None, [wanted.event_id]))}
    cut = {name: [each for each in ids if len(each) < FULL_ID] for name, ids in named.items()}
    if not any(cut.values()):
        return wanted

    def find(connection: Connection) -> dict[str, str]:
        return {each: whole_id(connection, name, each, wanted.source) for name, ids in cut.items() for each in ids}

    whole = service.ledger.read(find)
    return replace(
        wanted,
        delivery_ids=tuple(whole.get(each, each) for each in wanted.delivery_ids),
        event_ids=tuple(whole.get(each, each) for each in wanted.event_ids),
        event_id=whole.get(wanted.event_id, wanted.event_id),
    )


def _require_known(connection: Connection, actor: Actor, ids: Sequence[str]) -> None:
    """Raise Invalid for an id that nothing has which the actor may see."""
    for identifier in ids:
        check_id(connection, "ids", identifier, actor.source)


def _preview(connection: Connection, action: Action) -> TakenResult:
    now = database_now(connection)
    wanted = action.selection
    until = now if wanted.until is None else min(now, wanted.until)
    if not wanted.named:
        wanted = replace(wanted, until=until)
        action = replace(action, selection=wanted)
    count = action.count(connection)
    every = replace(action, selection=replace(wanted, sinks=())).count(connection) if wanted.sinks else count
    return TakenResult(
        dry_run=True,
        count=count,
        examples=action.examples(connection, EXAMPLES),
        until=until,
        operation=None,
        left=actions.count_states(connection, wanted) if not count and action.kind != BACKFILL else {},
        orphaned=every - count,
    )


def begin(connection: Connection, actor: Actor, action: Action, expect: int | None = None, name: str = "") -> Operation:
    """Begin an action, with its line in the audit. One without a rate is worked off at once, as far as a step goes; the
    clock does the rest. Raises NotAsExpected."""
    now = database_now(connection)
    try:
        made = actions.create(connection, f"op_{secrets.token_hex(8)}", action, now, expect=expect, actor=actor.name)
    except CountChanged as changed:
        raise NotAsExpected(expect or 0, changed.count) from None
    more = ({"into": action.sink} if action.sink else {}) | ({"force": True} if action.force else {})
    selection = audit_selection(made.selection) | more
    audited.note(connection, actor, name or action.kind, selection, made.total, source=made.source, detail=made.id)
    return made if action.rate else actions.step_once(connection, made, now)


def audit_selection(wanted: Selection) -> dict[str, Any]:
    """Return a selection as the audit keeps it."""
    kept: Mapping[str, Any] = json.loads(wanted.to_json())
    return {name: value for name, value in kept.items() if name != "sinks"}
