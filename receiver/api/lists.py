"""Lists of events, deliveries, attempts and submissions."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.listing import ListEndpoint, listed
from receiver.api.models import MAX_VALUES, ByDelivery, FilterParameters, Page
from receiver.api.names import check_names, no_such
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, SubmissionRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.submission import SubmissionState
from receiver.ledger import Connection, names
from receiver.ledger.lists import deliveries, events, submissions


class EventsParameters(FilterParameters, ByDelivery):
    """Which events. Times are those of recording."""


class DeliveriesParameters(FilterParameters, ByDelivery):
    """Which deliveries. Times are those of creation."""


class AttemptsParameters(DeliveriesParameters):
    """Whose attempts. Times are those of the delivery's creation."""

    delivery: str = Field("", max_length=50, description="Filter by delivery id, or its beginning.")


class SubmissionsParameters(FilterParameters):
    """Which submissions. Times are those of creation."""

    state: tuple[SubmissionState, ...] = Field((), max_length=MAX_VALUES, description="Filter by state.")


def list_attempts(service: Service, actor: Actor, wanted: AttemptsParameters) -> Page[AttemptRow]:
    """List the attempts: of the delivery that changed last, and its newest, first; of one delivery the oldest first."""
    if not wanted.delivery:
        key = (float, str, int)
        return listed(service, actor, deliveries.list_attempts, wanted, AttemptRow, key)

    after = cursor.decode("attempts_of", wanted.after, (str, str, int))

    def read(connection: Connection) -> Page[AttemptRow]:
        rows, rest = deliveries.attempts_of(connection, wanted.delivery, wanted.filter(), after, wanted.limit)
        if not actor.source and after is None:
            if not rows and not names.deliveries_beginning(connection, wanted.delivery):
                raise no_such("delivery", wanted.delivery)
            check_names(lambda: service.config, connection, wanted.filter(), empty=not rows)
        return Page(items=[AttemptRow.model_validate(each) for each in rows], next=cursor.encode("attempts_of", rest))

    return service.ledger.read(read)


LIST_EVENTS: Final = ListEndpoint(
    EventRow, EventsParameters, events.list_events, (float, int), "List the events without their bodies, newest first."
)
LIST_DELIVERIES: Final = ListEndpoint(
    DeliveryRow,
    DeliveriesParameters,
    deliveries.list_deliveries,
    (float, str),
    "List the deliveries with their receipts, the one that changed last first.",
)
LIST_ATTEMPTS: Final = Endpoint(
    "list_attempts", "GET", "/attempts", VIEW, AttemptsParameters, Page[AttemptRow], list_attempts
)
LIST_SUBMISSIONS: Final = ListEndpoint(
    SubmissionRow,
    SubmissionsParameters,
    submissions.list_submissions,
    (float, str),
    "List the runs that were submitted here, newest first, without answers and callers' webhooks.",
)
ENDPOINTS: Final = (LIST_EVENTS, LIST_DELIVERIES, LIST_ATTEMPTS, LIST_SUBMISSIONS)
