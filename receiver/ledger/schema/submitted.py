"""Runs that were submitted through us, and what is known of Skyvern's account."""

from __future__ import annotations

from sqlalchemy import Column, Double, Index, Integer, LargeBinary, PrimaryKeyConstraint, Table, Text

from receiver.ledger.schema.base import metadata, partial_index

submissions = Table(
    "submissions",
    metadata,
    Column("id", Text, primary_key=True),  # the token in the callback URL
    Column("source", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # whose call it was
    Column("call", Text, nullable=False),  # tasks | agents | workflows | legacy
    Column("state", Text, nullable=False),  # pending | accepted | rejected | unknown | lost
    Column("run_id", Text, nullable=False, server_default=""),
    Column("run_type", Text, nullable=False, server_default=""),
    Column("title", Text),
    Column("labels", Text, nullable=False, server_default="{}"),  # JSON
    Column("callback_url", Text, nullable=False, server_default=""),  # the caller's; elsewhere: webhook_url
    Column("idempotency_key", Text),
    Column("request_hash", Text, nullable=False),  # of the request as it was sent
    Column("request", Text),  # JSON: what was asked for, after redaction; null when it was not kept
    Column("answer_status", Integer),
    Column("answer", LargeBinary),  # the answer to the caller, after redaction
    Column("due_at", Double),  # when to poll next; null: never
    Column("polls", Integer, nullable=False, server_default="0"),
    Column("reason", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("answered_at", Double),
    Column("updated_at", Double, nullable=False),
    partial_index(
        "uq_submissions_key_id_idempotency_key", "idempotency_key IS NOT NULL", "key_id", "idempotency_key", unique=True
    ),
    partial_index("ix_submissions_due", "due_at IS NOT NULL", "source", "due_at", "id"),
    Index("ix_submissions_run_id", "run_id", "source"),
    Index(None, "key_id", "request_hash", "created_at"),
    Index("ix_submissions_created_at", "created_at", "id"),
)

# Walks of Skyvern's list of runs. Times of `watermark` are by Skyvern's clock.
watches = Table(
    "watches",
    metadata,
    Column("source", Text, primary_key=True),
    Column("watermark", Double),  # each run that was created before is known, or remembered in active_runs
    Column("due_at", Double, nullable=False, server_default="0"),  # of the next walk; while one is made, its lease
    Column("walked_at", Double),  # when a walk was last complete
    Column("gap_at", Double),  # when the list last ended before the watermark was reached
    Column("trouble", Text, nullable=False, server_default=""),  # why the last walk was not complete
)

# Runs that a walk saw under way. A run that leaves this list of Skyvern's has ended.
active_runs = Table(
    "active_runs",
    metadata,
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Double),  # by Skyvern's clock
    Column("seen_at", Double, nullable=False),
    Column("first_seen_at", Double, nullable=False),
    PrimaryKeyConstraint("source", "run_id"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("source", Text, nullable=False),
    Column("schedule_id", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("next_run", Double),  # the next time at which it is to start a run
    Column("missed", Double),  # the last such time at which it did not
    Column("checked_at", Double, nullable=False),
    PrimaryKeyConstraint("source", "schedule_id"),
)

# The agents of an account as the clock saw them last, of sources that are watched.
agents = Table(
    "agents",
    metadata,
    Column("source", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("callback_url", Text),  # without query and password; null: its results go nowhere
    Column("checked_at", Double, nullable=False),
    PrimaryKeyConstraint("source", "agent_id"),
)

# What `runhook connect --undo` puts back.
agent_changes = Table(
    "agent_changes",
    metadata,
    Column("source", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("before", Text),  # the agent's callback URL before it was ours
    Column("after", Text, nullable=False),
    Column("changed_at", Double, nullable=False),
    PrimaryKeyConstraint("source", "agent_id"),
)
