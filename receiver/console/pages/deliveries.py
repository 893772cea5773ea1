"""Deliveries, dead letters, one delivery with its attempts, and the actions on deliveries."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from receiver.api.deliveries import (
    CANCEL_DELIVERIES,
    GET_DELIVERY,
    LIST_DELIVERIES,
    REPLAY_DELIVERIES,
    REPLAYABLE,
    ReplayParameters,
)
from receiver.api.endpoint import Endpoint
from receiver.api.events import LIST_EVENTS
from receiver.api.operations import TakenResult
from receiver.api.outline import outline
from receiver.api.reroutes import RESUBMIT_RUNS
from receiver.api.rows import DeliveryRow
from receiver.api.service import Service
from receiver.api.timeline import behind
from receiver.api.totals import GET_TOTALS
from receiver.console.action import ConsoleAction
from receiver.console.filters import list_page
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues, Query
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove, DeliveryState, states_before
from receiver.ledger.deliveries import lanes

_COMMON: Final = ("reason", "sink", "state", "source", "since")
# What the dead letters are grouped by, how far back, and how many groups are shown.
_REASONS: Final = {"by": ["sink,reason"], "since": ["90d"], "top": ["12"]}
# Characters that tell a reason from others.
_TELLING: Final = 4
# What a reason without its particulars has in their places.
_PARTICULARS: Final = re.compile(r"#|https?://\S+")


class Wait(NamedTuple):
    """What a delivery waits for besides its time. `at`: of the next probe, or None."""

    why: str
    at: float | None = None


def waits_of(service: Service) -> Callable[[DeliveryRow], Wait | None]:
    """Return what says what a delivery waits for: the breaker, the pause or the rate of its sink. Reads lanes once."""

    @functools.cache
    def shut() -> Mapping[str, Lane]:
        return {lane.lane: lane for lane in service.ledger.read(lanes.not_closed)}

    def waits(row: DeliveryRow) -> Wait | None:
        if row.state not in (DeliveryState.QUEUED, DeliveryState.WAITING):
            return None
        if lane := shut().get(row.lane) or shut().get(row.sink):
            return Wait(behind(lane), None if lane.paused else max(row.due_at, lane.until))
        sink = service.config.sinks.get(row.sink)
        if row.state == DeliveryState.QUEUED and sink is not None and sink.rate:
            return Wait(f"waits for its turn: {row.sink} gets at most {sink.rate}")
        return None

    return waits


class _Move(NamedTuple):
    """What can be done with deliveries. `name`: of the action; `states`: in which ones; `on_all`: what the button for
    all that match says when no state was asked for, and `takes`: in which states those are."""

    name: str
    verb: str
    states: frozenset[str]
    on_all: str
    takes: frozenset[str]


_PENDING: Final = frozenset(states_before(DeliveryMove.CANCEL))
_MOVES: Final = (
    _Move(REPLAY_DELIVERIES.name, "Replay", frozenset(REPLAYABLE), "Replay all dead", frozenset({DeliveryState.DEAD})),
    _Move(CANCEL_DELIVERIES.name, "Cancel", _PENDING, "Cancel all waiting", _PENDING),
)


def resubmits(service: Service) -> list[tuple[str, str]]:
    """Return the buttons that submit runs again: what each says, and the sink it names. A single resubmit
    sink is chosen automatically; without one, there is no button."""
    sinks = [name for name, sink in service.config.sinks.items() if sink.type == "resubmit"]
    return [("Submit again", "")] if len(sinks) == 1 else [(f"Submit again by {name}", name) for name in sinks]


def deliveries(request: PageRequest) -> PageValues:
    """Return a page of the deliveries that match what the query says."""
    page = list_page(request, LIST_DELIVERIES, "Deliveries", _COMMON)
    return {**page, **_moves(page["form"].given, page), "groups": []}


def dead_letters(request: PageRequest) -> PageValues:
    """Return a page of the dead letters, and of their reasons."""
    page = list_page(request, LIST_DELIVERIES, "Dead letters", _COMMON, "/dead", state="dead")
    taken = {**page["form"].given, "state": ["dead"]}
    return {**page, **_moves(taken, page), "groups": _groups(request, taken)}


def delivery(request: PageRequest) -> PageValues:
    """Return one delivery with its attempts."""
    details = request.call_as_asked(GET_DELIVERY)
    row = details.delivery
    events = request.call(LIST_EVENTS, event_id=row.event_id, source=row.source, limit=1).items
    return {
        "title": f"{row.run_id} to {row.sink}",
        "here": "Deliveries",
        "delivery": row,
        "attempts": details.attempts,
        "size": events[0].size if events else None,
        "receipt": None if row.receipt is None else outline(row.receipt),
    }


def _moves(taken: Mapping[str, Sequence[str]], page: PageValues) -> PageValues:
    """Return what can be done with selected deliveries in the states of a filter, any by default (the action, its
    verb, and no sink), and with all that match (the action, what its button says, and what it takes). `page`: of the
    list; where it is all of it, what takes none of its rows is left out."""
    states = set(taken.get("state", ()))
    seen = {row.state for row in page["rows"]}
    moves = _MOVES if taken else _MOVES[:1]
    return {
        "on_rows": [(each.name, each.verb, "") for each in _MOVES if not states or states & each.states],
        "on_all": [
            (each.name, f"{each.verb} all that match" if states else each.on_all, taken)
            for each in moves
            if (states <= each.states if states else page["next_page"] or seen & each.takes)
        ],
    }


def _groups(request: PageRequest, taken: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the reasons of dead letters, the most frequent first. `taken`: the filter that finds them."""
    parameters = {**_REASONS, **taken}
    query = [(name, value) for name, values in parameters.items() for value in values]
    rows = replace(request, query=query).call_as_asked(GET_TOTALS).items[1:]
    return [_group(taken, row.key["sink"], row.key["reason"], row.count) for row in rows]


def _group(taken: Mapping[str, Sequence[str]], sink: str, reason: str, count: int) -> dict[str, Any]:
    """Return a group of dead letters with similar reasons. No filter finds it if their common part is too short."""
    part = common_part(reason)
    alike = {**taken, "sink": [sink], "reason": [part]} if len(part) >= _TELLING else {}
    link = urlencode([(name, value) for name, values in alike.items() if name != "state" for value in values])
    return {"sink": sink, "reason": reason, "count": count, "taken": alike, "link": link}


def common_part(reason: str) -> str:
    """Return the longest part of a reason that similar reasons share: without ids, numbers and URLs."""
    return max((each.strip() for each in _PARTICULARS.split(reason)), key=len)[:200]


def _action(
    endpoint: Endpoint[Any, TakenResult], verb: str, done: str, question: str, selected: Query = (), **more: Any
) -> ConsoleAction:
    """Return the action of a call that takes many deliveries. `done`: the participle in its notice."""

    def notice(result: TakenResult) -> str:
        return f"{result.count:,} {'to be ' if _is_running(result) else ''}{done}."

    def next_page(result: TakenResult) -> str:
        many = result.count > 1 or _is_running(result)
        return f"/operations/{result.operation.id}" if result.operation and many else ""

    return ConsoleAction(endpoint, verb, notice, question, selected=selected, next_page=next_page, **more)


def _is_running(result: TakenResult) -> bool:
    """Whether the clock still works on it."""
    return result.operation is not None and result.operation.state == "running"


def _delivered(parameters: ReplayParameters) -> ReplayParameters | None:
    """Return parameters that find only the deliveries of a replay that were accepted already; None if it has none."""
    has_some = DeliveryState.DELIVERED in parameters.state or (parameters.force and not parameters.state)
    return parameters.model_copy(update={"state": (DeliveryState.DELIVERED,)}) if has_some else None


_EACH: Final = tuple(("state", state.value) for state in REPLAYABLE)

ACTIONS: Final = (
    _action(
        REPLAY_DELIVERIES,
        "Replay",
        "replayed",
        "Send these again, under the same idempotency keys?",
        _EACH,
        repeats=_delivered,
    ),
    _action(CANCEL_DELIVERIES, "Cancel", "cancelled", "Cancel these deliveries? A replay restores them."),
    _action(RESUBMIT_RUNS, "Submit again", "submitted again", "Submit these failed runs again?"),
)
PAGES: Final = (
    ConsolePage("/deliveries", "deliveries.html", deliveries, PageLink("Deliveries", "d", "Delivery")),
    ConsolePage("/deliveries/{delivery}", "delivery.html", delivery),
    ConsolePage("/dead", "deliveries.html", dead_letters, PageLink("Dead letters", "l", "Delivery")),
)
