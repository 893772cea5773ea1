"""Runs: the list, and one with all that happened to it."""

from __future__ import annotations

import time
from typing import Any, Final, TypeVar

from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.listing import Listing, listed
from receiver.api.models import ByDelivery, FilterParameters, Page, Result, Scoped
from receiver.api.names import none_such
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, RunRow, SubmissionRow
from receiver.api.service import Actor, Service
from receiver.api.timeline import TimelineEntry, timeline_of
from receiver.domain.api_key import VIEW
from receiver.domain.delivery import DeliveryState
from receiver.domain.durations import ago
from receiver.errors import Invalid, NotFound
from receiver.ledger import Connection
from receiver.ledger.deliveries import lanes
from receiver.ledger.lists import deliveries as delivery_lists
from receiver.ledger.lists import events as event_lists
from receiver.ledger.lists import runs as lists
from receiver.ledger.lists import submissions as submission_lists
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.words import COUNT_LIMIT, coverage

M = TypeVar("M", bound=Result)

# Maximum rows of each kind that are shown of one run.
MOST = 200


class RunParameters(Scoped):
    """Which run. `source`: needed only when two sources have the same id."""

    run_id: str = Field(max_length=200, description="The run's id.")


class RunDetails(Result):
    """A run with all that happened to it, each list the oldest first, and bounded."""

    run: RunRow
    events: list[EventRow]
    deliveries: list[DeliveryRow]
    attempts: list[AttemptRow]
    submissions: list[SubmissionRow]
    timeline: list[TimelineEntry] = Field(description="All of this in the order of time; what is to come stands last.")


def one_run(connection: Connection, source: str, run_id: str) -> dict[str, Any]:
    """Return the row of a run. `source`: "" for any. Raises NotFound, and Invalid when several sources have it."""
    if not run_id:  # a filter with it would find all
        raise NotFound("there is no run without an id")
    found, _ = lists.list_runs(connection, Filter(source=source, run_id=run_id), None, 10)
    if not found:
        submitted, _ = submission_lists.list_submissions(connection, Filter(source=source, run_id=run_id), None, 1)
        raise _awaited(run_id, submitted[0]["due_at"]) if submitted else none_such("run", run_id)
    if len(found) > 1:
        sources = ", ".join(sorted(each["source"] for each in found))
        raise Invalid(f"run {run_id}: there is one in each of {sources}; say which with source")
    return found[0]


def _awaited(run_id: str, due_at: float | None) -> NotFound:
    """Return the error for a run that was submitted here and of which no event is known. `due_at`: of the next poll."""
    left = 0.0 if due_at is None else due_at - time.time()
    poll = "is not polled for it" if due_at is None else f"is polled for it {f'in {ago(left)}' if left > 0 else 'now'}"
    why = f"it was submitted here and no result has come yet; Skyvern {poll}"
    return NotFound(f"run {run_id}: {why}. `runhook submissions --run {run_id}` shows it")


def get_run(service: Service, _actor: Actor, parameters: RunParameters) -> RunDetails:
    """Return one run with its events, deliveries, attempts and submissions."""

    def read(connection: Connection) -> RunDetails:
        run = RunRow.model_validate(one_run(connection, parameters.source, parameters.run_id))
        of_run = Filter(source=run.source, run_id=run.run_id)

        def rows(kind: type[M], listing: Listing) -> list[M]:
            return [
                kind.model_validate(each, context=service.give_up_after)
                for each in listing(connection, of_run, None, MOST)[0]
            ]

        events = sorted(rows(EventRow, event_lists.list_events), key=lambda each: each.seq)
        deliveries = sorted(rows(DeliveryRow, delivery_lists.list_deliveries), key=lambda each: each.created_at)
        attempts = sorted(rows(AttemptRow, delivery_lists.list_attempts), key=lambda each: each.started_at)
        submissions = sorted(rows(SubmissionRow, submission_lists.list_submissions), key=lambda each: each.created_at)
        waiting = {each.sink for each in deliveries if each.state in (DeliveryState.QUEUED, DeliveryState.WAITING)}
        found = lanes.by_name(connection, waiting) if waiting else {}
        shut = {name: lane for name, lane in found.items() if lane.paused or lane.breaker != "closed"}
        return RunDetails(
            run=run,
            events=events,
            deliveries=deliveries,
            attempts=attempts,
            submissions=submissions,
            timeline=timeline_of(run, events, deliveries, attempts, submissions, shut),
        )

    return service.ledger.read(read)


class RunsParameters(FilterParameters, ByDelivery):
    """Which runs. Times are those of the last change."""


class RunsPage(Page[RunRow]):
    """A page of runs, and with `text`, how many changes a search does not find yet."""

    unindexed: int = Field(
        0, description=f"With `text`: changes of runs that are not indexed yet, counted up to {COUNT_LIMIT}."
    )


def list_runs(service: Service, actor: Actor, parameters: RunsParameters) -> RunsPage:
    """List runs, most recently changed first."""
    page = listed(service, actor, lists.list_runs, parameters, RunRow, lists.key_kinds(parameters.filter()))
    unindexed = service.ledger.read(coverage).unindexed if parameters.text else 0
    return RunsPage(items=page.items, next=page.next, unindexed=unindexed)


LIST_RUNS: Final = call("GET", "/runs", VIEW, list_runs)
GET_RUN: Final = call("GET", "/runs/{run_id}", VIEW, get_run)
