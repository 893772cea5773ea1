"""Runs: one told whole."""

from __future__ import annotations

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.models import Result, Scoped
from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, RunRow, SubmissionRow
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.errors import Conflict, NotFound
from receiver.ledger import Connection, queries
from receiver.ledger.queries import Filter

# Rows of each kind that are told of one run.
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


def get_run(service: Service, _actor: Actor, wanted: RunParameters) -> RunDetails:
    """Return one run with its events, deliveries, attempts and submissions."""

    def read(connection: Connection) -> RunDetails:
        runs = queries.list_runs(connection, Filter(source=wanted.source, run_id=wanted.run_id, limit=10))
        if not runs:
            raise NotFound(f"run {wanted.run_id}: there is none")
        if len(runs) > 1:
            sources = ", ".join(sorted(run["source"] for run in runs))
            raise Conflict(f"run {wanted.run_id}: there is one in each of {sources}; say which with source")
        run = runs[0]
        of_run = Filter(source=run["source"], run_id=wanted.run_id, limit=MOST)
        deliveries = queries.list_deliveries(connection, of_run)
        own = {each["id"] for each in deliveries}
        attempts = [each for each in queries.list_attempts(connection, wanted.run_id) if each["delivery_id"] in own]
        return RunDetails.model_validate(
            {
                "run": run,
                "events": queries.list_events(connection, of_run)[::-1],
                "deliveries": deliveries[::-1],
                "attempts": sorted(attempts, key=lambda each: each["started_at"])[-MOST:],
                "submissions": queries.list_submissions(connection, of_run)[::-1],
            }
        )

    return service.ledger.read(read)


ENDPOINTS = (Endpoint("get_run", "GET", "/runs/{run_id}", VIEW, RunParameters, RunDetails, get_run),)
