"""What came in, and what becomes of it: runs, events, deliveries, attempts, and what is done with many."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Boolean, Column, Double, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text, text

from receiver.ledger.schema.base import Serial, metadata, partial_index

# What few runs and events meet, of those that have an end: for lists of what went wrong.
UNSUCCESSFUL: Final = "outcome <> 'completed' AND outcome <> ''"

runs = Table(
    "runs",
    metadata,
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("run_type", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default=""),  # as Skyvern says
    Column("outcome", Text, nullable=False, server_default=""),  # after correction, see domain/run.undelivered
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("retry_pending", Boolean, nullable=False, server_default=text("false")),
    Column("final", Boolean, nullable=False, server_default=text("false")),
    Column("title", Text),
    Column("workflow_id", Text),
    Column("failure_reason", Text),
    Column("created_at", Double),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("modified_at", Double),
    Column("event_id", Text, nullable=False, server_default=""),  # the newest event
    Column("events", Integer, nullable=False, server_default="0"),
    Column("submission_id", Text, nullable=False, server_default=""),
    Column("labels", Text, nullable=False, server_default="{}"),
    Column("first_seen_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("retried_from", Text),  # the run that Skyvern started again as this one
    Column("retried_by", Text),  # the run that Skyvern started again for this one
    Column("noted_at", Double),  # when Skyvern's API first showed its end, though no event has brought it yet
    Column("due_at", Double),  # when Skyvern is asked next for a run without a submission; null: never
    Column("polls", Integer, nullable=False, server_default="0"),
    Column("found_by", Text, nullable=False, server_default=""),  # "import": a walk of Skyvern's list found its end
    PrimaryKeyConstraint("run_id", "source"),
    # Of lists: each ends with the list's order, see lists/paging.py.
    Index("ix_runs_updated_at", "updated_at", "run_id", "source"),
    Index("ix_runs_source", "source", "updated_at", "run_id"),
    partial_index("ix_runs_workflow", "workflow_id IS NOT NULL", "workflow_id", "updated_at", "run_id", "source"),
    partial_index("ix_runs_unsuccessful", UNSUCCESSFUL, "outcome", "updated_at", "run_id", "source"),
    partial_index("ix_runs_due", "due_at IS NOT NULL", "source", "due_at", "run_id"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),  # the order of recording
    Column("id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),  # "" when the body does not tell
    Column("via", Text, nullable=False),
    Column("run_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("retry_pending", Boolean, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("modified_at", Double),
    Column("fingerprint", Text, nullable=False),  # "": not compared yet, nor have statement and extent been computed
    Column("statement", Text, nullable=False, server_default=""),  # the fingerprint without the files
    Column("extent", Text, nullable=False, server_default=""),  # how much it has: see domain/extent.py
    Column("output_null", Boolean, nullable=False),
    Column("disposition", Text, nullable=False),  # new | interim | update | repeat | superseded | test | unreadable
    Column("repeat_of", Text),
    Column("unrouted", Boolean, nullable=False),
    Column("problem", Text, nullable=False),
    Column("submission_id", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("recorded_at", Double, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("completion", Text, nullable=False, server_default=""),  # JSON object: members that the body lacks, or ""
    Index("uq_events_id", "id", unique=True),
    Index("ix_events_run_id", "run_id", "source"),
    Index("ix_events_recorded_at", "recorded_at", "seq"),
    Index("ix_events_source", "source", "recorded_at", "seq"),
    partial_index("ix_events_unsuccessful", UNSUCCESSFUL, "outcome", "recorded_at", "seq"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("event_id", Text, nullable=False),
    Column("sink", Text, nullable=False),
    Column("lane", Text, nullable=False),  # what a breaker guards: the sink, or one destination of it
    Column("route", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("after", Text, nullable=False, server_default="[]"),  # JSON list of sinks whose end it waits for
    Column("state", Text, nullable=False),
    # The number of the newest attempt; a claim that is handed back takes its number back.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("spent", Integer, nullable=False, server_default="0"),  # counts against the sink's budget
    Column("due_at", Double, nullable=False),
    Column("tried_at", Double),  # when its first attempt began, if that failed; moved by what it waited for us
    # The claim, of a delivery that is being sent: see deliveries/claims.py. In every other state these have no value.
    Column("claim_owner", Text, nullable=False, server_default=""),  # the worker process
    Column("claim_until", Double),  # when it lapses
    Column("reason", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("target", Text, nullable=False, server_default=""),  # a callback's address, if not its submission's
    Column("target_key", Text, nullable=False, server_default=""),  # the id of the API key that gave it, and signs
    Index("ix_deliveries_run_id", "run_id", "event_id"),  # none begins with the event: see deliveries_by_event.py
    partial_index("ix_deliveries_queued", "state = 'queued'", "sink", "due_at"),
    partial_index("ix_deliveries_queued_lane", "state = 'queued' AND lane <> sink", "sink", "lane", "due_at"),
    partial_index("ix_deliveries_waiting", "state = 'waiting'", "due_at"),
    partial_index("ix_deliveries_sending", "state = 'sending'", "claim_until"),
    partial_index("ix_deliveries_held", "state = 'held'", "event_id"),
    # What does not go straight through, for counts: one that does has no entry here.
    partial_index(
        "ix_deliveries_stopped", "state = 'held' OR state = 'waiting' OR state = 'dead'", "state", "sink", "due_at"
    ),
    Index("ix_deliveries_updated_at", "updated_at", "id"),
    partial_index("ix_deliveries_state", "state <> 'delivered'", "state", "updated_at", "id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # accepted | refused | unavailable | error | lapsed
    Column("reason", Text, nullable=False),
    Column("receipt", Text),  # JSON
    Column("retry_after", Double),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    Column("worker", Text, nullable=False),
    Column("delivery_created_at", Double, nullable=False, server_default="0"),
    # By when its delivery was made, or each entry would be on a page of its own: see attempts_by_delivery.py.
    Index("uq_attempts_delivery", "delivery_created_at", "delivery_id", "number", unique=True),
)

lanes = Table(
    "lanes",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("sink", Text, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("paused_at", Double, nullable=False, server_default="0"),  # 0 while it is not
    Column("breaker", Text, nullable=False, server_default="closed"),  # closed | open | probing
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("until", Double, nullable=False, server_default="0"),  # no probe before
    Column("reason", Text, nullable=False, server_default=""),
    Column("opened_at", Double, nullable=False, server_default="0"),  # since when it is not closed; 0: it is
    Column("updated_at", Double, nullable=False),
    partial_index("ix_lanes_shut", "paused OR breaker <> 'closed'", "sink"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # replay | backfill | cancel | restore
    Column("selection", Text, nullable=False),  # JSON: what it was asked to take
    Column("sink", Text, nullable=False),  # a backfill's sink
    Column("force", Boolean, nullable=False),
    Column("rate", Double, nullable=False),  # a second; 0 is as fast as it goes
    Column("state", Text, nullable=False),  # running | done | cancelled
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False, server_default="0"),
    Column("cursor", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("source", Text, nullable=False, server_default=""),  # whose things it takes; "": of all
    Column("actor", Text, nullable=False, server_default=""),  # who began it
    Index(None, "state"),
    Index(None, "created_at", "id"),
)
