"""The tables. A change here needs a migration in migrations/versions, and a test compares the two.

Times are doubles: seconds since the epoch, UTC. Documents are JSON text, bodies are bytes: a body may hold what
no JSON column takes (NUL, lone surrogates, integers of 5,000 digits).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import postgresql

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives out row numbers only to a column that is INTEGER PRIMARY KEY.
_Serial = BigInteger().with_variant(Integer(), "sqlite")


def _partial(name: str, where: str, *columns: str, unique: bool = False) -> Index:
    return Index(name, *columns, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


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
    PrimaryKeyConstraint("source", "run_id"),
    Index(None, "updated_at"),
    _partial("ix_runs_due", "due_at IS NOT NULL", "source", "due_at"),
    _partial("ix_runs_durations", "final", "source", "workflow_id", "updated_at"),
    _partial("ix_runs_active", "NOT final AND workflow_id IS NOT NULL", "source", "workflow_id", "updated_at"),
    _partial("ix_runs_unsuccessful", UNSUCCESSFUL, "outcome", "updated_at"),
)

events = Table(
    "events",
    metadata,
    Column("seq", _Serial, primary_key=True, autoincrement=True),  # the order of recording
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
    Column("fingerprint", Text, nullable=False),
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
    Index(None, "source", "run_id"),
    Index(None, "recorded_at"),
    _partial("ix_events_unsuccessful", UNSUCCESSFUL, "outcome", "recorded_at"),
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
    Column("claim_number", Integer, nullable=False, server_default="0"),  # of that process's transaction
    Column("prefetched", Boolean, nullable=False, server_default=text("false")),  # it holds no slot yet
    Column("claim_until", Double),  # when it lapses
    Column("reason", Text, nullable=False, server_default=""),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("target", Text, nullable=False, server_default=""),  # a callback's address, if not its submission's
    Column("target_key", Text, nullable=False, server_default=""),  # the id of the API key that gave it, and signs
    Index(None, "event_id"),
    Index(None, "source", "run_id"),
    _partial("ix_deliveries_queued", "state = 'queued'", "sink", "due_at"),
    _partial("ix_deliveries_queued_lane", "state = 'queued' AND lane <> sink", "sink", "lane", "due_at"),
    _partial("ix_deliveries_waiting", "state = 'waiting'", "due_at"),
    _partial("ix_deliveries_sending", "state = 'sending'", "claim_until"),
    _partial("ix_deliveries_held", "state = 'held'", "event_id"),
    # What does not go straight through, for counts: one that does has no entry here.
    _partial(
        "ix_deliveries_stopped", "state = 'held' OR state = 'waiting' OR state = 'dead'", "state", "sink", "due_at"
    ),
    Index("ix_deliveries_state_updated_at", "state", "updated_at"),
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
    PrimaryKeyConstraint("delivery_id", "number"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("sink", Text, nullable=False),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("paused_at", Double, nullable=False, server_default="0"),  # 0 while it is not, or since before this column
    Column("breaker", Text, nullable=False, server_default="closed"),  # closed | open | probing
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("until", Double, nullable=False, server_default="0"),  # no probe before
    Column("reason", Text, nullable=False, server_default=""),
    Column("opened_at", Double, nullable=False, server_default="0"),  # since when it is not closed; 0: it is
    Column("updated_at", Double, nullable=False),
    _partial("ix_lanes_shut", "paused OR breaker <> 'closed'", "sink"),
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

# Who did what: see audit.py.
audit = Table(
    "audit",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor_kind", Text, nullable=False),  # cli | key | user …
    Column("actor", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # of an API key, or ""
    Column("action", Text, nullable=False),
    Column("source", Text, nullable=False),  # on whose things; "": of all
    Column("selection", Text, nullable=False),  # JSON: what it was asked to take
    Column("count", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # begun | done | failed
    Column("detail", Text, nullable=False),
    Column("ended_at", Double),  # null while it is begun
    Index(None, "at"),
    Index(None, "source", "id"),
)

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
    _partial(
        "uq_submissions_key_id_idempotency_key", "idempotency_key IS NOT NULL", "key_id", "idempotency_key", unique=True
    ),
    _partial("ix_submissions_due", "due_at IS NOT NULL", "source", "due_at"),
    Index(None, "source", "run_id"),
    Index(None, "key_id", "request_hash", "created_at"),
    Index(None, "created_at"),
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

# What each run says, as words: see domain/words.py and text_index/. Its number is given anew whenever the run changes,
# so that the highest numbers are those of the runs that changed last; runs of before the index have negative ones.
run_texts = Table(
    "run_texts",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("changed_at", Double, nullable=False),  # the run's updated_at when it was read
    Column("document", Text, nullable=False),
    Index("uq_run_texts_source_run_id", "source", "run_id", unique=True),
)

# In which runs each word is: of each 16,384 numbers, a row a word. Words are compared as bytes.
run_words = Table(
    "run_words",
    metadata,
    Column("chunk", BigInteger, nullable=False),
    Column("word", Text().with_variant(postgresql.TEXT(collation="C"), "postgresql"), nullable=False),
    Column("runs", LargeBinary, nullable=False),  # see text_index/postings.py
    PrimaryKeyConstraint("chunk", "word"),
    sqlite_with_rowid=False,
)

# How far the index of words has come: one row.
text_index = Table(
    "text_index",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("newest", BigInteger, nullable=False),  # the highest number that was given
    Column("oldest", BigInteger, nullable=False),  # the lowest one
    Column("seen", Text, nullable=False),  # JSON: the place up to which changed runs were read
    Column("checked", Text, nullable=False),  # JSON: up to which they were read again, for those that came late
    Column("backfilled", Text),  # JSON: down to which runs of before the index were read; null: all were
    Column("owner", Text, nullable=False, server_default=""),  # who indexes now
    Column("leased_until", Double, nullable=False, server_default="0"),
)

# Moments that the parts of all hosts must agree on.
marks = Table(
    "marks",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", Double, nullable=False),
)

# Operations that the database cancelled for time.
timeouts = Table(
    "timeouts",
    metadata,
    Column("operation", Text, primary_key=True),  # the function, such as deliveries.claims.claim
    Column("times", Integer, nullable=False),
    Column("first_at", Double, nullable=False),  # of those that followed each other
    Column("last_at", Double, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of the whole key, hex
    Column("hint", Text, nullable=False),  # how the key begins
    Column("scopes", Text, nullable=False),  # "submit read operate resubmit"
    Column("source", Text, nullable=False),
    Column("rate", Text),  # such as 10/s
    Column("created_at", Double, nullable=False),
    Column("used_at", Double),
    Column("revoked_at", Double),
    Index("uq_keys_hash", "hash", unique=True),
)

# The newest heartbeat of each process; see domain/parts.py.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("name", Text, primary_key=True),
    Column("beat", Text, nullable=False),  # JSON
    Column("beat_at", Double, nullable=False),  # by the database's clock
)

# Who is signed in to the console.
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

# Views of the console by name: see saved_views.py.
saved_views = Table(
    "saved_views",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),  # kind:name of who saved it
    Column("source", Text, nullable=False),  # the only one that its owner may see; "": all
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),  # below /console
    Column("shared", Boolean, nullable=False),
    Column("saved_at", Double, nullable=False),
    Index("uq_saved_views_owner_source_name", "owner", "source", "name", unique=True),
)
