"""Declare the tables, which the revision in migrations/versions creates.

Times are doubles: seconds since the epoch, UTC. Documents are JSON text. Bodies are bytes, because a body may contain
what a JSON column refuses: NUL, lone surrogates, integers of 5,000 digits. Texts compare by their bytes; on PostgreSQL
they have the collation "C".
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    literal_column,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite assigns row numbers only to a column that is INTEGER PRIMARY KEY.
Serial = BigInteger().with_variant(Integer(), "sqlite")


def partial_index(name: str, where: str, *columns: str, unique: bool = False) -> Index:
    """Return an index of the rows that meet a condition."""
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


# --- Events and their deliveries.

# Few ended runs and events meet this: for lists of failures.
UNSUCCESSFUL: Final = "outcome <> 'completed' AND outcome <> ''"

runs = Table(
    "runs",
    metadata,
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("run_type", Text, nullable=False, server_default=""),
    Column("status", Text, nullable=False, server_default=""),  # Skyvern's
    Column("outcome", Text, nullable=False, server_default=""),  # after correction, see domain/run.undelivered
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("retry_pending", Boolean, nullable=False, server_default=text("false")),
    Column("final", Boolean, nullable=False, server_default=text("false")),
    Column("title", Text),
    Column("prompt", Text),  # its first line
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
    Column("retried_from", Text),  # the run of which this one is Skyvern's retry
    Column("retried_by", Text),  # the run that Skyvern started as its retry
    Column("erased_at", Double),  # when its content was erased; null: it was not
    Column("erased_by", Text, nullable=False, server_default=""),
    PrimaryKeyConstraint("run_id", "source"),
    # For lists: each ends with the order of the list, see lists/paging.py.
    Index("ix_runs_updated_at", "updated_at", "run_id", "source"),
    Index("ix_runs_source", "source", "updated_at", "run_id"),
    partial_index("ix_runs_workflow", "workflow_id IS NOT NULL", "workflow_id", "updated_at", "run_id", "source"),
    partial_index("ix_runs_unsuccessful", UNSUCCESSFUL, "outcome", "updated_at", "run_id", "source"),
    partial_index("ix_runs_submission_id", "submission_id <> ''", "submission_id"),
)

# SQLite must never reuse a `seq`, even after all events were removed: readers continue after the last one.
events = Table(
    "events",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),  # the order of recording
    Column("id", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),  # "" if the body lacks it
    Column("via", Text, nullable=False),
    Column("run_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("retry_pending", Boolean, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("modified_at", Double),
    Column("statement", Text, nullable=False),  # hash of output, failure reason and errors; "" if never compared
    Column("extent", Text, nullable=False),  # the size of its members: see domain/extent.py
    Column("output_null", Boolean, nullable=False),
    Column("disposition", Text, nullable=False),  # new | interim | update | repeat | superseded | test | unreadable
    Column("repeat_of", Text),
    Column("unrouted", Boolean, nullable=False),
    Column("problem", Text, nullable=False),
    Column("submission_id", Text, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("recorded_at", Double, nullable=False),
    Column("copies", Integer, nullable=False, server_default="0"),  # webhooks with the same body that came after it
    Column("copied_at", Double),  # when the newest of them was received
    Column("body", LargeBinary, nullable=False),
    Column("completion", Text, nullable=False, server_default=""),  # JSON object: members that the body lacks, or ""
    Index("uq_events_id", "id", unique=True),
    Index("ix_events_run_id", "run_id", "source"),
    Index("ix_events_recorded_at", "recorded_at", "seq"),
    Index("ix_events_source", "source", "recorded_at", "seq"),
    partial_index("ix_events_unsuccessful", UNSUCCESSFUL, "outcome", "recorded_at", "seq"),
    sqlite_autoincrement=True,
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
    Column("after", Text, nullable=False, server_default="[]"),  # JSON list of sinks that it waits for
    Column("state", Text, nullable=False),
    # The number of the newest attempt. Handing back a claim decrements it.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("spent", Integer, nullable=False, server_default="0"),  # counts against the sink's budget
    Column("due_at", Double, nullable=False),
    Column("tried_at", Double),  # start of its first attempt, if failed; plus waits for Runhook
    # The claim of a delivery that is being sent, see deliveries/claims.py. Empty in all other states.
    Column("claim_owner", Text, nullable=False, server_default=""),  # the worker process
    Column("claim_until", Double),  # when it lapses
    Column("reason", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("target", Text, nullable=False, server_default=""),  # a callback's address, if not its submission's
    Column("target_key", Text, nullable=False, server_default=""),  # the id of the API key that gave it, and signs
    Index("ix_deliveries_event_id", "event_id"),
    Index("ix_deliveries_run_id", "run_id"),
    partial_index("ix_deliveries_queued", "state = 'queued'", "sink", "due_at"),
    partial_index("ix_deliveries_queued_lane", "state = 'queued' AND lane <> sink", "sink", "lane", "due_at"),
    partial_index("ix_deliveries_waiting", "state = 'waiting'", "due_at"),
    partial_index("ix_deliveries_sending", "state = 'sending'", "claim_until"),
    partial_index("ix_deliveries_held", "state = 'held'", "event_id"),
    # For counts: most deliveries are delivered at once, and have no entry here.
    partial_index(
        "ix_deliveries_stopped", "state = 'held' OR state = 'waiting' OR state = 'dead'", "state", "sink", "due_at"
    ),
    Index("ix_deliveries_updated_at", "updated_at", "id"),
    partial_index("ix_deliveries_state", "state <> 'delivered'", "state", "updated_at", "id"),
)


def in_state(state: str) -> ColumnElement[bool]:
    """Return the condition that a delivery is in a state, as a literal: planners know the partial indexes by it."""
    return deliveries.c.state == literal_column(f"'{state}'")


attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # accepted | refused | unavailable | error | lapsed
    Column("reason", Text, nullable=False),
    Column("response", Text, nullable=False, server_default=""),  # the beginning of a refusing server's, masked
    Column("receipt", Text),  # JSON
    Column("retry_after", Double),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    Column("worker", Text, nullable=False),
    PrimaryKeyConstraint("delivery_id", "number"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("sink", Text, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("paused_at", Double, nullable=False, server_default="0"),  # 0: not paused
    Column("breaker", Text, nullable=False, server_default="closed"),  # closed | open | probing
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("until", Double, nullable=False, server_default="0"),  # earliest time of the next probe
    Column("reason", Text, nullable=False, server_default=""),
    Column("opened_at", Double, nullable=False, server_default="0"),  # since when it is not closed; 0: closed
    Column("updated_at", Double, nullable=False),
    partial_index("ix_lanes_shut", "paused OR breaker <> 'closed'", "sink"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # replay | cancel | move | move_back
    Column("selection", Text, nullable=False),  # JSON: what it was asked to take
    Column("sink", Text, nullable=False),  # the target of a move
    Column("force", Boolean, nullable=False),
    Column("rate", Double, nullable=False),  # deliveries a second; 0: no limit
    Column("state", Text, nullable=False),  # running | done | cancelled
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False, server_default="0"),
    Column("cursor", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("source", Text, nullable=False, server_default=""),  # its only source; "": all
    Column("actor", Text, nullable=False, server_default=""),  # who began it
    Index(None, "state"),
    Index(None, "created_at", "id"),
)

# --- Runs that were submitted here, and the state of Skyvern's account.

submissions = Table(
    "submissions",
    metadata,
    Column("id", Text, primary_key=True),  # the token in the callback URL
    Column("source", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # the API key of the caller
    Column("call", Text, nullable=False),  # tasks | agents | workflows | legacy
    Column("state", Text, nullable=False),  # pending | accepted | rejected | unknown | lost
    Column("run_id", Text, nullable=False, server_default=""),
    Column("run_type", Text, nullable=False, server_default=""),
    Column("title", Text),
    Column("prompt", Text),  # its first line
    Column("labels", Text, nullable=False, server_default="{}"),  # JSON
    Column("callback_url", Text, nullable=False, server_default=""),  # the caller's; elsewhere: webhook_url
    Column("idempotency_key", Text),
    Column("request_hash", Text, nullable=False),  # of the original request
    Column("request", Text),  # JSON: the request, after redaction; null: not stored
    Column("answer_status", Integer),
    Column("answer", LargeBinary),  # the answer to the caller, after redaction
    Column("reason", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("answered_at", Double),
    Column("updated_at", Double, nullable=False),
    partial_index(
        "uq_submissions_key_id_idempotency_key", "idempotency_key IS NOT NULL", "key_id", "idempotency_key", unique=True
    ),
    Index("ix_submissions_run_id", "run_id", "source"),
    Index(None, "key_id", "request_hash", "created_at"),
    Index("ix_submissions_created_at", "created_at", "id"),
)

# Runs, and submissions without a known run, that are polled for their result: see polls.py.
polls = Table(
    "polls",
    metadata,
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),  # or the id of a submission whose run is unknown
    Column("due_at", Double, nullable=False),
    Column("planned_at", Double, nullable=False),  # due_at without callers that wait for the run
    Column("leased_until", Double),  # a clock sends the poll until then
    Column("polls", Integer, nullable=False, server_default="0"),  # without a result
    Column("status", Text, nullable=False, server_default=""),  # Skyvern's, at the last poll
    Column("reason", Text, nullable=False, server_default=""),  # why the last poll brought no result
    Column("noted_at", Double),  # when Skyvern's API first showed an end without an event
    Column("found_by", Text, nullable=False, server_default=""),  # "import": a walk of Skyvern's list found its end
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    PrimaryKeyConstraint("run_id", "source"),
    Index("ix_polls_due", "source", "due_at", "run_id"),
)

# Walks of Skyvern's list of runs. Times of `watermark` are by Skyvern's clock.
watches = Table(
    "watches",
    metadata,
    Column("source", Text, primary_key=True),
    Column("watermark", Double),  # runs created before it are known, or in active_runs
    Column("due_at", Double, nullable=False, server_default="0"),  # of the next walk; during one, its lease
    Column("walked_at", Double),  # when a walk was last complete
    Column("gap_at", Double),  # when the list last ended before the watermark was reached
    Column("trouble", Text, nullable=False, server_default=""),  # why the last walk was not complete
)

# Runs that a walk saw running. A run that leaves Skyvern's list of running runs has ended.
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

# The agents of watched sources, as the clock last saw them.
agents = Table(
    "agents",
    metadata,
    Column("source", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("callback_url", Text),  # without query and password; null: its results are not sent
    Column("checked_at", Double, nullable=False),
    PrimaryKeyConstraint("source", "agent_id"),
)

# What `runhook connect --undo` restores.
agent_changes = Table(
    "agent_changes",
    metadata,
    Column("source", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("before", Text),  # the agent's previous callback URL
    Column("after", Text, nullable=False),
    Column("changed_at", Double, nullable=False),
    PrimaryKeyConstraint("source", "agent_id"),
)

# --- People and programs: their permissions and actions.

# The audit log: see audit.py.
audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor_kind", Text, nullable=False),  # cli | key | user …
    Column("actor", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # of an API key, or ""
    Column("action", Text, nullable=False),
    Column("source", Text, nullable=False),  # its only source; "": all
    Column("selection", Text, nullable=False),  # JSON: what it was asked to take
    Column("count", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # begun | done | failed
    Column("detail", Text, nullable=False),
    Column("ended_at", Double),  # null while it is begun
    Column("address", Text, nullable=False, server_default=""),  # of the client; "": a command on a host
    Index(None, "at"),
    Index(None, "source", "id"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of the whole key, hex
    Column("hint", Text, nullable=False),  # the first characters of the key
    Column("scopes", Text, nullable=False),  # "submit read operate resubmit"
    Column("source", Text, nullable=False),
    Column("rate", Text),  # such as 10/s
    Column("created_at", Double, nullable=False),
    Column("used_at", Double),
    Column("revoked_at", Double),
    Column("expires_at", Double),  # by the database's clock; null: never
    Column("replaced_by", Text, nullable=False, server_default=""),  # id of the key that it was rotated to
    Index("uq_keys_hash", "hash", unique=True),
)

# Sessions of people who are signed in to the console.
console_sessions = Table(
    "console_sessions",
    metadata,
    Column("hash", Text, primary_key=True),  # SHA-256 of the token, hex
    Column("user", Text, nullable=False),
    Column("credential", Text, nullable=False),  # hash of what the password was checked against
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index(None, "expires_at"),
)


# --- The search index of runs: see domain/words.py and ledger/lists/words.py.

# Changes of runs that are not indexed yet: an outbox. Recording adds a row; the clock indexes the run and deletes it.
# SQLite must never reuse a number, so its column is AUTOINCREMENT.
to_index = Table(
    "to_index",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),  # the order of changes
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("queued_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

# The text of each run. Its index is the FTS5 table `words`, or a column of PostgreSQL: see ledger/lists/words.py.
run_texts = Table(
    "run_texts",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=False),  # of its change
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("changed_at", Double, nullable=False),  # the run's updated_at when it was read
    Column("document", Text, nullable=False),
    Index("uq_run_texts_source_run_id", "source", "run_id", unique=True),
)

# --- Reports of processes and hosts.

# Operations that the database cancelled for taking too long.
timeouts = Table(
    "timeouts",
    metadata,
    Column("operation", Text, primary_key=True),  # the function, such as deliveries.claims.claim
    Column("times", Integer, nullable=False),
    Column("first_at", Double, nullable=False),  # of the cancellations in a row
    Column("last_at", Double, nullable=False),
)

# The newest heartbeat of each process; see domain/liveness.py.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", Text, primary_key=True),
    Column("beat", Text, nullable=False),  # JSON
    Column("beat_at", Double, nullable=False),  # by the database's clock
)
