"""Results that are overdue."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from receiver.api.listing import ListEndpoint
from receiver.api.models import FilterParameters, Moment, Result
from receiver.ledger.lists import missing


class MissingRow(Result):
    """A result that is overdue: of a submission, or of a run that no submission is for."""

    kind: str = Field(description="submission or run.")
    source: str
    run_id: str
    submission_id: str
    call: str
    state: str
    run_type: str
    title: str | None
    labels: dict[str, str]
    known_since: Moment = Field(description="When it was submitted, or first seen.")
    ended_at: Moment | None = Field(description="When Skyvern first showed its end, which no webhook has brought.")
    due_at: Moment = Field(description="When Skyvern is asked next.")
    polls: int = Field(description="How often that was in vain.")
    reason: str


class MissingParameters(FilterParameters):
    """Which overdue results."""


LIST_MISSING: Final = ListEndpoint(
    MissingRow,
    MissingParameters,
    missing.list_missing,
    (int, float, str, str),
    "List the results that are overdue, the one that is polled next first.",
)
ENDPOINTS: Final = (LIST_MISSING,)
