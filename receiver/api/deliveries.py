"""Deliveries and attempts: the lists, one delivery, and replay, cancel, restore, backfill, resubmit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from handlers.support.resubmit_chain import RETRIED
from receiver.api.chosen import Chosen, TakenResult, selection_of, take
from receiver.api.endpoint import call
from receiver.api.listing import ListEndpoint
from receiver.api.models import MAX_VALUES, ByDelivery, FilterParameters, Result, Scoped
from receiver.api.names import only
from receiver.api.rows import AttemptRow, DeliveryRow
from receiver.api.service import Actor, Service
from receiver.api.sinks import require_live_sink, require_sink
from receiver.config.models import Config
from receiver.domain.api_key import OPERATE, VIEW
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.errors import Invalid
from receiver.ledger import Connection
from receiver.ledger.filters import Filter
from receiver.ledger.lists import deliveries as lists
from receiver.ledger.selection import BACKFILL, CANCEL, REPLAY, RESTORE, Action

if TYPE_CHECKING:
    from handlers.resubmit.sink import ResubmitOptions

REPLAYABLE: Final = (DeliveryState.DEAD, DeliveryState.DELIVERED, DeliveryState.WAITING)
_NOT_REPLAYED: Final = (
    "; what was delivered is sent again with force, what waits with state waiting, and what was cancelled is brought "
    "back with restore"
)


# Maximum attempts that are shown of one delivery.
MOST: Final = 200


class DeliveriesParameters(FilterParameters, ByDelivery):
    """Which deliveries. Times are those of creation."""


class AttemptsParameters(DeliveriesParameters):
    """Whose attempts. Times are those of the delivery's creation."""

    delivery: str = Field("", max_length=50, description="Filter by delivery id, or its beginning.")
    outcome: tuple[Literal["accepted", "refused", "unavailable", "error", "lapsed"], ...] = Field(
        (), max_length=MAX_VALUES, description="Filter by outcome of an attempt."
    )


class DeliveryParameters(Scoped):
    """Which delivery."""

    delivery: str = Field(min_length=1, max_length=50, description="The delivery's id; or its beginning.")


class DeliveryDetails(Result):
    """A delivery with its attempts."""

    delivery: DeliveryRow
    attempts: list[AttemptRow] = Field(description=f"The newest {MOST}, the oldest of them first.")


def get_delivery(service: Service, _actor: Actor, parameters: DeliveryParameters) -> DeliveryDetails:
    """Return one delivery, with its attempts."""

    def read(connection: Connection) -> DeliveryDetails:
        which = Filter(source=parameters.source, delivery=parameters.delivery)
        found, _ = lists.list_deliveries(connection, which, None, 2)
        row = DeliveryRow.model_validate(only("delivery", parameters.delivery, found), context=service.give_up_after)
        tried, _ = lists.list_attempts(connection, Filter(source=row.source, delivery=row.id), None, MOST)
        return DeliveryDetails(delivery=row, attempts=[AttemptRow.model_validate(each) for each in reversed(tried)])

    return service.ledger.read(read)


Rate = Annotated[float, Field(ge=0, allow_inf_nan=False, description="Maximum per second; 0: no limit.")]


class DeliverySelection(Chosen, ByDelivery):
    """Which deliveries: by id, or all matches of the filter."""


class ReplayParameters(DeliverySelection):
    """Which deliveries are sent again: dead letters, unless `state` or `force` says otherwise."""

    state: tuple[DeliveryState, ...] = Field(
        (),
        max_length=MAX_VALUES,
        description="Only in this state: dead (the default), delivered, or waiting: those are tried now.",
    )
    force: bool = Field(False, description="Include deliveries that already succeeded.")
    rate: Rate = 0.0


class BackfillParameters(Chosen):
    """Which old results a sink gets: events or runs by id, or all matches of the filter."""

    into: str = Field(max_length=200, description="Sink that gets the results.")
    rate: Rate = 0.0


class ResubmitParameters(Chosen):
    """Which failed runs are submitted again: by id, or all matches of the filter."""

    into: str = Field("", max_length=200, description="The sink of type resubmit; required if there are several.")
    rate: Rate = 0.0


def replay(service: Service, actor: Actor, parameters: ReplayParameters) -> TakenResult:
    """Send deliveries again, with the same idempotency keys. Deliveries of removed sinks are skipped."""
    if unknown := set(parameters.state) - set(REPLAYABLE):
        raise Invalid(f"state: {min(unknown)}: only dead, delivered and waiting ones can be replayed")
    if parameters.sink:
        require_live_sink(service, parameters.sink)
    force = parameters.force or DeliveryState.DELIVERED in parameters.state
    selection = selection_of(parameters, sinks=tuple(service.config.destinations))
    hint = "" if force else _NOT_REPLAYED
    return take(service, actor, parameters, Action(REPLAY, selection, force=force, rate=parameters.rate), hint=hint)


def backfill(service: Service, actor: Actor, parameters: BackfillParameters) -> TakenResult:
    """Send old results to a sink that has no delivery of them, regardless of rules."""
    require_sink(service.config, parameters.into)
    if parameters.into == CALLBACK:
        raise Invalid(f"into: {CALLBACK}: callers' webhooks are made for their own runs, and not afterwards")
    return take(
        service, actor, parameters, Action(BACKFILL, selection_of(parameters), parameters.into, rate=parameters.rate)
    )


def resubmit(service: Service, actor: Actor, parameters: ResubmitParameters) -> TakenResult:
    """Submit failed runs again, each once, through a sink of type resubmit.

    The sink knows the request of a run that was submitted here, and gets that of others from Skyvern. It skips a run
    that Skyvern itself will retry, or that has succeeded since. Its receipt is the new run.
    """
    sink, options = resubmitter(service.config, parameters.into)
    statuses = sorted(set(parameters.status or RETRIED) & RETRIED)
    if not statuses:
        raise Invalid(f"status: only {', '.join(sorted(RETRIED))} runs can be submitted again")
    too_old = time.time() - options.max_age
    since = too_old if parameters.since is None else max(too_old, parameters.since)
    selection = selection_of(parameters, status=tuple(statuses), since=since)
    hint = (
        f"; only failed runs can, whose result came in the last {options.max_age / 3600:g} h (max_age of {sink}), and "
        f"that {sink} has no delivery of: one that it has is replayed"
    )
    action = Action(BACKFILL, selection, sink, rate=parameters.rate)
    return take(service, actor, parameters, action, name="resubmit", hint=hint)


def cancel(service: Service, actor: Actor, selection: DeliverySelection) -> TakenResult:
    """Cancel pending deliveries: held, queued and waiting ones. A delivery that is being sent continues."""
    return take(
        service,
        actor,
        selection,
        Action(CANCEL, selection_of(selection)),
        hint="; only pending deliveries can be cancelled",
    )


def restore(service: Service, actor: Actor, selection: DeliverySelection) -> TakenResult:
    """Restore cancelled deliveries: due at once, with all of their attempts."""
    return take(
        service,
        actor,
        selection,
        Action(RESTORE, selection_of(selection)),
        hint="; only cancelled deliveries can be restored",
    )


def resubmitter(config: Config, name: str) -> tuple[str, ResubmitOptions]:
    """Return the sink that submits runs again, and its options. Raises Invalid."""
    from handlers.resubmit.sink import ResubmitOptions  # with its templates, which no other call needs

    found = [each for each, sink in config.sinks.items() if sink.type == "resubmit"]
    if name and name not in found:
        raise Invalid(f"into: {name} is not a sink of type resubmit; there are {', '.join(found) or 'none'}")
    if not found:
        raise Invalid("the config has no sink of type resubmit, which knows how runs are submitted again: add one")
    if not name and len(found) > 1:
        raise Invalid(f"into: say which; there are {', '.join(found)}")
    chosen = name or found[0]
    return chosen, ResubmitOptions.model_validate(dict(config.sinks[chosen].options))


GET_DELIVERY: Final = call("GET", "/deliveries/{delivery}", VIEW, get_delivery)
REPLAY_DELIVERIES: Final = call("POST", "/deliveries/replay", OPERATE, replay)
CANCEL_DELIVERIES: Final = call("POST", "/deliveries/cancel", OPERATE, cancel)
RESTORE_DELIVERIES: Final = call("POST", "/deliveries/restore", OPERATE, restore)
BACKFILL_SINK: Final = call("POST", "/events/backfill", OPERATE, backfill)
RESUBMIT_RUNS: Final = call("POST", "/runs/resubmit", OPERATE, resubmit)
LIST_DELIVERIES: Final = ListEndpoint(
    DeliveryRow,
    DeliveriesParameters,
    lists.list_deliveries,
    (float, str),
    "List deliveries with their receipts, most recently changed first.",
)
LIST_ATTEMPTS: Final = ListEndpoint(
    AttemptRow,
    AttemptsParameters,
    lists.list_attempts,
    (float, str, int),
    "List attempts: of the most recently changed delivery first, and its newest first.",
)
