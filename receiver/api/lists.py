"""Lists of events, deliveries, attempts and submissions."""

from __future__ import annotations

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.listing import listed
from receiver.api.models import MAX_VALUES, FilterParameters, Page
from receiver.api.names import check_names, no_such
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, SubmissionRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.delivery import DeliveryState
from receiver.domain.submission import SubmissionState
from receiver.ledger import Connection, names
from receiver.ledger.lists import deliveries, events, submissions


class EventsParameters(FilterParameters):
    """Which events. Times are those of recording."""

    event_id: str = Field("", max_length=50, description="Only this event; its beginning will do.")
    route: str = Field("", max_length=200, description="Only events that this route has sent on.")
    sink: str = Field("", max_length=200, description="Only events with a delivery to this sink.")
    state: tuple[DeliveryState, ...] = Field(
        (), max_length=MAX_VALUES, description="Only events with a delivery in this state."
    )


class DeliveriesParameters(FilterParameters):
    """Which deliveries. Times are those of creation."""

    event_id: str = Field("", max_length=50, description="Only of this event; its beginning will do.")
    route: str = Field("", max_length=200, description="Only by this route.")
    sink: str = Field("", max_length=200, description="Only to this sink.")
    state: tuple[DeliveryState, ...] = Field((), max_length=MAX_VALUES, description="Only in this state.")


class AttemptsParameters(DeliveriesParameters):
    """Whose attempts. Times are those of the delivery's creation."""

    delivery: str = Field("", max_length=50, description="Only of this delivery; its beginning will do.")


class SubmissionsParameters(FilterParameters):
    """Which submissions. Times are those of creation."""

    state: tuple[SubmissionState, ...] = Field((), max_length=MAX_VALUES, description="Only in this state.")


def list_events(service: Service, actor: Actor, wanted: EventsParameters) -> Page[EventRow]:
    """List the events without their bodies, the newest first."""
    return listed(service, actor, events.list_events, wanted, EventRow, (float, int))


def list_deliveries(service: Service, actor: Actor, wanted: DeliveriesParameters) -> Page[DeliveryRow]:
    """List the deliveries with their receipts, the one that changed last first."""
    return listed(service, actor, deliveries.list_deliveries, wanted, DeliveryRow, (float, str))


def list_attempts(service: Service, actor: Actor, wanted: AttemptsParameters) -> Page[AttemptRow]:
    """List the attempts: of the delivery that changed last, and its newest, first; of one delivery the oldest first."""
    if not wanted.delivery:
        return listed(service, actor, deliveries.list_attempts, wanted, AttemptRow, (float, str, int))

    after = cursor.decode("attempts_of", wanted.after, (str, str, int))

    def read(connection: Connection) -> Page[AttemptRow]:
        rows, rest = deliveries.attempts_of(connection, wanted.delivery, wanted.filter(), after, wanted.limit)
        if not actor.source and after is None:
            if not rows and not names.deliveries_beginning(connection, wanted.delivery):
                raise no_such("delivery", wanted.delivery)
            check_names(lambda: service.config, connection, wanted.filter(), empty=not rows)
        return Page(items=[AttemptRow.model_validate(each) for each in rows], next=cursor.encode("attempts_of", rest))

    return service.ledger.read(read)


def list_submissions(service: Service, actor: Actor, wanted: SubmissionsParameters) -> Page[SubmissionRow]:
    """List the runs that were submitted here, the newest first, without answers and callers' webhooks."""
    return listed(service, actor, submissions.list_submissions, wanted, SubmissionRow, (float, str))


LIST_EVENTS = Endpoint("list_events", "GET", "/events", VIEW, EventsParameters, Page[EventRow], list_events)
LIST_SUBMISSIONS = Endpoint(
    "list_submissions", "GET", "/submissions", VIEW, SubmissionsParameters, Page[SubmissionRow], list_submissions
)
LIST_DELIVERIES = Endpoint(
    "list_deliveries", "GET", "/deliveries", VIEW, DeliveriesParameters, Page[DeliveryRow], list_deliveries
)
LIST_ATTEMPTS = Endpoint("list_attempts", "GET", "/attempts", VIEW, AttemptsParameters, Page[AttemptRow], list_attempts)
ENDPOINTS = (
    LIST_EVENTS,
    LIST_DELIVERIES,
    LIST_ATTEMPTS,
    LIST_SUBMISSIONS,
)
