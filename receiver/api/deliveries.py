"""Deliveries and attempts: the lists, one delivery, and replay and cancel."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.listing import ListEndpoint
from receiver.api.models import MAX_VALUES, ByDelivery, FilterParameters, Result, Scoped
from receiver.api.names import only
from receiver.api.operations import Chosen, TakenResult, selection_of, take
from receiver.api.rows import AttemptRow, DeliveryRow
from receiver.api.service import Actor, Service
from receiver.api.sinks import require_live_sink
from receiver.domain.api_key import OPERATE, VIEW
from receiver.domain.delivery import DeliveryState
from receiver.errors import Invalid
from receiver.ledger import Connection
from receiver.ledger.lists import deliveries as lists
from receiver.ledger.lists.filters import Filter
from receiver.ledger.verbs import CANCEL, REPLAY, Operation

REPLAYABLE: Final = (
    DeliveryState.DEAD,
    DeliveryState.DELIVERED,
    DeliveryState.WAITING,
    DeliveryState.CANCELLED,
)
_NOT_REPLAYED: Final = (
    "; what was delivered is sent again with force, what waits or was cancelled with state waiting or cancelled"
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
        description="Only in this state: dead (the default), delivered, waiting or cancelled. They are due at once.",
    )
    force: bool = Field(False, description="Include deliveries that already succeeded.")
    rate: Rate = 0.0


def replay(service: Service, actor: Actor, parameters: ReplayParameters) -> TakenResult:
    """Send deliveries again, with the same idempotency keys; with state cancelled, those that were cancelled.

    Deliveries of removed sinks are skipped, except for cancelled ones.
    """
    if unknown := set(parameters.state) - set(REPLAYABLE):
        raise Invalid(f"state: {min(unknown)}: only dead, delivered, waiting and cancelled ones can be replayed")
    undoes = parameters.state == (DeliveryState.CANCELLED,)
    if parameters.sink and not undoes:
        require_live_sink(service, parameters.sink)
    force = parameters.force or DeliveryState.DELIVERED in parameters.state
    selection = selection_of(parameters, sinks=() if undoes else tuple(service.config.destinations))
    operation = Operation(REPLAY, selection, force=force, rate=parameters.rate)
    return take(service, actor, parameters, operation, "" if force else _NOT_REPLAYED)


def cancel(service: Service, actor: Actor, selection: DeliverySelection) -> TakenResult:
    """Cancel pending deliveries: held, queued and waiting ones. A delivery that is being sent continues."""
    operation = Operation(CANCEL, selection_of(selection))
    return take(service, actor, selection, operation, "; only pending deliveries can be cancelled")


GET_DELIVERY: Final = call("GET", "/deliveries/{delivery}", VIEW, get_delivery)
REPLAY_DELIVERIES: Final = call("POST", "/deliveries/replay", OPERATE, replay)
CANCEL_DELIVERIES: Final = call("POST", "/deliveries/cancel", OPERATE, cancel)
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
