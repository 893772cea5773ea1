"""The rows of lists, as the API returns them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, model_validator

from receiver.api.models import Moment, Result
from receiver.domain.delivery import DeliveryState


class RunRow(Result):
    """A run, as its events report it."""

    source: str
    run_id: str
    run_type: str
    status: str = Field(description="As Skyvern says.")
    outcome: str = Field(description="Its corrected status; `status` in filters.")
    attempt: int
    retry_pending: bool
    final: bool = Field(description="Whether it has ended and Skyvern will not retry it.")
    title: str | None
    prompt: str | None = Field(description="The first line of its prompt.")
    workflow_id: str | None
    failure_reason: str | None
    created_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    modified_at: Moment | None
    event_id: str = Field(description="The newest event.")
    events: int
    submission_id: str
    labels: dict[str, str]
    first_seen_at: Moment
    updated_at: Moment
    retried_from: str | None = Field(description="The run that this one retries.")
    retried_by: str | None = Field(description="The run that retries this one.")
    erased_at: Moment | None = Field(None, description="When Runhook's copy of its content was erased.")
    erased_by: str = Field("", description="Who erased it.")
    deliveries: dict[str, int] = Field(description="The number of deliveries by state.")


class EventRow(Result):
    """An event, without its body."""

    seq: int = Field(description="The order of recording.")
    id: str
    source: str
    run_id: str
    via: str
    run_type: str
    status: str
    outcome: str
    attempt: int
    retry_pending: bool
    final: bool
    modified_at: Moment | None
    disposition: str = Field(description="new, interim, update, repeat, superseded, test or unreadable.")
    repeat_of: str | None
    unrouted: bool
    problem: str
    submission_id: str
    received_at: Moment
    recorded_at: Moment
    copies: int = Field(0, description="Webhooks with the same body that came after it; not recorded again.")
    copied_at: Moment | None = Field(None, description="When the newest of them was received.")
    size: int = Field(description="Bytes of the body.")


class DeliveryRow(Result):
    """A delivery: one event for one sink."""

    id: str
    event_id: str
    sink: str
    lane: str
    route: str
    source: str
    run_id: str
    after: list[str] = Field(description="Sinks whose receipts it waits for.")
    state: str
    attempts: int
    spent: int = Field(description="Attempts that count against the sink's budget.")
    due_at: Moment
    give_up_at: Moment | None = Field(
        None, description="When a waiting delivery is given up; later by the time for which its sink is paused."
    )
    reason: str
    created_at: Moment
    updated_at: Moment
    status: str = Field(description="The outcome of the event.")
    run_type: str
    via: str
    received_at: Moment
    receipt: dict[str, Any] | None
    response: str = Field("", description="While it is not delivered: the last response, as in its attempts.")

    @model_validator(mode="before")
    @classmethod
    def _limited(cls, row: Any, info: ValidationInfo) -> Any:
        """Add `give_up_at` to a row of the ledger. The context is the service's `give_up_after`."""
        if info.context is None or row["state"] != DeliveryState.WAITING or row["tried_at"] is None:
            return row
        limit = info.context(row["sink"])
        return row if limit is None else {**row, "give_up_at": row["tried_at"] + limit}


class AttemptRow(Result):
    """One numbered attempt of a delivery."""

    delivery_id: str
    number: int
    sink: str
    event_id: str
    source: str
    run_id: str
    state: str = Field(description="The current state of the delivery.")
    outcome: str
    reason: str
    response: str = Field(
        description="The first 2 kB of a refusing server's response, without secrets; else empty, or a note."
    )
    receipt: dict[str, Any] | None
    retry_after: float | None = Field(description="Seconds.")
    started_at: Moment
    ended_at: Moment
    worker: str


class SubmissionRow(Result):
    """A run that was submitted here, without its response and the caller's webhook."""

    id: str
    source: str
    key_id: str
    call: str
    state: str
    run_id: str
    run_type: str
    title: str | None
    prompt: str | None = Field(description="The first line of its prompt.")
    labels: dict[str, str]
    status: str = Field(description="The outcome of its run, if known.")
    request: Any = Field(description="The request after redaction; null when it was not kept.")
    webhook: bool = Field(False, description="Whether the caller gave a webhook of its own.")
    answer_status: int | None
    due_at: Moment | None = Field(description="When Skyvern is polled next for the result; null: never.")
    polls: int
    reason: str
    created_at: Moment
    answered_at: Moment | None
    updated_at: Moment
