"""One delivery, with its attempts."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.models import Result, Scoped
from receiver.api.names import none_such, several_begin_so
from receiver.api.rows import AttemptRow, DeliveryRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.errors import Invalid
from receiver.ledger import Connection
from receiver.ledger.filters import Filter
from receiver.ledger.lists import deliveries as lists

# Attempts that are told of one delivery.
MOST: Final = 200


class DeliveryParameters(Scoped):
    """Which delivery."""

    delivery: str = Field(min_length=1, max_length=50, description="The delivery's id; its beginning will do.")


class DeliveryDetails(Result):
    """A delivery with what became of each try."""

    delivery: DeliveryRow
    attempts: list[AttemptRow] = Field(description=f"The newest {MOST}, the oldest of them first.")


def get_delivery(service: Service, _actor: Actor, wanted: DeliveryParameters) -> DeliveryDetails:
    """Return one delivery, with its attempts."""

    def read(connection: Connection) -> DeliveryDetails:
        found = lists.named(connection, wanted.delivery, wanted.source)
        if not found:
            raise none_such("delivery", wanted.delivery)
        if len(found) > 1:
            raise Invalid(f"delivery {wanted.delivery}: {several_begin_so([each['id'] for each in found])}")
        row = DeliveryRow.model_validate(found[0])
        before = (row.sink, row.id, row.attempts - MOST)  # attempts are numbered from 1
        tried, _ = lists.attempts_of(connection, row.id, Filter(source=row.source), before, MOST)
        return DeliveryDetails(delivery=row, attempts=[AttemptRow.model_validate(each) for each in tried])

    return service.ledger.read(read)


GET_DELIVERY = Endpoint(
    "get_delivery", "GET", "/deliveries/{delivery}", VIEW, DeliveryParameters, DeliveryDetails, get_delivery
)
ENDPOINTS = (GET_DELIVERY,)
