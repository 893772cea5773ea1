"""The files of runs, and where sinks have stored them."""

from __future__ import annotations

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.listing import listed
from receiver.api.models import FilterParameters, Moment, Page, Result
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.domain.redaction import Redactor
from receiver.ledger import Connection
from receiver.ledger.filters import Filter
from receiver.ledger.lists import artifacts as lists
from receiver.ledger.lists.paging import Key
from receiver.ledger.lists.paging import Page as Found


class StoredCopy(Result):
    """Where one sink has stored a file. `url`: without its query."""

    sink: str
    delivery_id: str
    key: str = Field(description="The path or object key; empty when the receipt does not tell it.")
    url: str
    stored_at: Moment


class ArtifactRow(Result):
    """One file of a run, as its newest event names it. `url`: at Skyvern, without the query that opens it."""

    source: str
    run_id: str
    event_id: str
    name: str
    kind: str = Field(description="recording, screenshot, download, or Skyvern's own type.")
    url: str
    artifact_id: str | None
    sha256: str | None
    size: int | None = Field(description="Bytes, where the sender says.")
    stored: list[StoredCopy]


class ArtifactsParameters(FilterParameters):
    """Of which runs. Times are those of the runs' last change."""


def list_artifacts(service: Service, actor: Actor, wanted: ArtifactsParameters) -> Page[ArtifactRow]:
    """List the files of runs with where they are stored: the run that changed last first."""
    redactor = Redactor(service.config.redact)

    def found(connection: Connection, which: Filter, after: Key | None, limit: int) -> Found:
        return lists.list_artifacts(connection, which, after, limit, redactor)

    return listed(service, actor, found, wanted, ArtifactRow, (float, str, str, int))


LIST_ARTIFACTS = Endpoint(
    "list_artifacts", "GET", "/artifacts", VIEW, ArtifactsParameters, Page[ArtifactRow], list_artifacts
)
ENDPOINTS = (LIST_ARTIFACTS,)
