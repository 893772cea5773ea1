"""How long results took, over time."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from handlers.support.duration import Seconds
from receiver.api.endpoint import Endpoint
from receiver.api.models import ByDelivery, Moment, Result
from receiver.api.names import check_names
from receiver.api.service import Actor, Service
from receiver.api.totals import bucketed_span, percentile
from receiver.domain.api_key import VIEW
from receiver.ledger import Connection, totals


class AgesParameters(ByDelivery):
    """Of which deliveries, and in which stretches of time. Times are those of the deliveries."""

    bucket: Annotated[Seconds, Field(ge=1)] = Field(
        3600.0, description="How long each stretch of time is; they begin at whole hours, in UTC."
    )


class AgeRow(Result):
    """One stretch of time in which something was delivered."""

    at: Moment = Field(description="When it begins.")
    count: int = Field(description="How many deliveries were looked at, the newest.")
    age_p50: float = Field(description="Seconds from the end of a run to the delivery of its result, of half of them.")
    age_p95: float = Field(description="The same, of 95 % of them.")


class Ages(Result):
    """How long results took. `items`: in the order of time."""

    since: Moment
    until: Moment
    items: list[AgeRow]


def get_ages(service: Service, actor: Actor, wanted: AgesParameters) -> Ages:
    """Tell how long after the end of their runs results were delivered, in each stretch of a time."""
    span = bucketed_span(service, wanted, wanted.bucket)

    def read(connection: Connection) -> dict[int, list[float]]:
        ages = totals.ages_over_time(connection, wanted.filter(), span, wanted.bucket)
        if not actor.source:
            check_names(lambda: service.config, connection, wanted.filter(), empty=not ages)
        return ages

    found = service.ledger.read(read)
    items = [
        AgeRow(
            at=number * wanted.bucket,
            count=len(ages),
            age_p50=percentile(ages, 0.5),
            age_p95=percentile(ages, 0.95),
        )
        for number, ages in sorted(found.items())
    ]
    return Ages(since=span.since, until=span.until, items=items)


GET_AGES: Final = Endpoint("get_ages", "GET", "/ages", VIEW, AgesParameters, Ages, get_ages)
ENDPOINTS: Final[tuple[Endpoint[Any, Any], ...]] = (GET_AGES,)
