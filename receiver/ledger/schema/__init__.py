"""The tables. The revision in migrations/versions makes them as they are declared here.

Times are doubles: seconds since the epoch, UTC. Documents are JSON text, bodies are bytes: a body may hold what
no JSON column takes (NUL, lone surrogates, integers of 5,000 digits). Texts compare by their bytes: on PostgreSQL
they have the collation "C".
"""

from __future__ import annotations

from receiver.ledger.schema.base import metadata
from receiver.ledger.schema.hosts import heartbeats, timeouts
from receiver.ledger.schema.people import audit, console_sessions, keys, saved_views
from receiver.ledger.schema.submitted import active_runs, agent_changes, agents, schedules, submissions, watches
from receiver.ledger.schema.words import run_texts, to_index
from receiver.ledger.schema.work import UNSUCCESSFUL, attempts, deliveries, events, lanes, operations, runs

__all__ = [
    "UNSUCCESSFUL",
    "active_runs",
    "agent_changes",
    "agents",
    "attempts",
    "audit",
    "console_sessions",
    "deliveries",
    "events",
    "heartbeats",
    "keys",
    "lanes",
    "metadata",
    "operations",
    "run_texts",
    "runs",
    "saved_views",
    "schedules",
    "submissions",
    "timeouts",
    "to_index",
    "watches",
]
