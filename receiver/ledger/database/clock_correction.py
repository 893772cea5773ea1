"""Correct times that were written while the database's clock was ahead, once the clock is right.

After the clock is set back, deliveries, breakers and polls wait for a time in the far future. A row whose `updated_at`
is in the future was written by such a clock: all its times move back by the same amount, so a wait keeps its length. A
wait longer than any that Runhook sets ends now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.breaker import LONGEST_IDLE
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.schema import deliveries, heartbeats, in_state, lanes, polls, runs, watches

# Seconds by which readings of one clock may differ: processes ask the database for its time every few seconds.
SLACK: Final = 60.0
# The action of a correction in the audit log.
ACTION: Final = "clock.correct"
# Maximum rows that one statement corrects.
BATCH: Final = 500
_ACTOR: Final = AuditActor("process", "clock")


class LongestWaits(NamedTuple):
    """Maximum seconds until the next attempt of a delivery to `sinks`, poll of a run, or walk of Skyvern's list."""

    sinks: Collection[str]
    attempt: float
    poll: float
    walk: float


class Corrected(NamedTuple):
    """The number of corrected rows, and the time of the correction (seconds since the epoch)."""

    deliveries: int
    breakers: int
    polls: int
    at: float


class _Rule(NamedTuple):
    """Rows with a time ahead, and their right values. `kind`: the member of Corrected that counts them, or ""."""

    table: sa.Table
    rows: sa.ColumnElement[bool]
    values: dict[str, Any]
    kind: str


def any_ahead(connection: sa.Connection, now: float, longest: LongestWaits) -> bool:
    """Whether `correct` would change a row."""
    looks = [sa.exists(sa.select(sa.literal(1)).where(rule.rows)) for rule in _rules(now, longest)]
    return bool(connection.execute(sa.select(sa.or_(*looks))).scalar())


def correct(connection: sa.Connection, now: float, longest: LongestWaits) -> Corrected:
    """Correct up to BATCH rows of each kind, with a line in the audit. `now`: the database's time."""
    counts = dict.fromkeys(Corrected._fields[:-1], 0)
    for table, rows, values, kind in _rules(now, longest):
        key = tuple(table.primary_key)
        found = sa.select(*key).where(rows).limit(BATCH).with_for_update(skip_locked=True)  # never waits for a lock
        if taken := [tuple(row) for row in connection.execute(found)]:
            connection.execute(sa.update(table).where(sa.tuple_(*key).in_(taken)).values(values))
        if kind:
            counts[kind] += len(taken)
    if total := sum(counts.values()):
        audit.record(connection, _ACTOR, ACTION, counts, total, detail="the database's clock was ahead")
    return Corrected(**counts, at=now)


def last_correction(connection: sa.Connection, since: float) -> Corrected | None:
    """Return the last correction after `since`, or None."""
    found = audit.list_actions(connection, actions=[ACTION], since=since, limit=1)
    return Corrected(**found[0].selection, at=found[0].at) if found else None


def _rules(now: float, longest: LongestWaits) -> Iterator[_Rule]:
    late, it = now + SLACK, deliveries.c
    yield _Rule(deliveries, it.updated_at > late, _moved_back(deliveries, now), "deliveries")
    for state, wait in (("waiting", longest.attempt), ("queued", 0.0)):
        stuck = sa.and_(
            in_state(state), it.sink.in_(longest.sinks), it.due_at > late + wait
        )  # in the order of an index
        yield _Rule(deliveries, stuck, {"due_at": now}, "deliveries")
    claimed = sa.and_(in_state("sending"), it.claim_until > late + SLACK)
    yield _Rule(deliveries, claimed, {"claim_until": late}, "deliveries")
    shut, too_late = lanes.c.breaker != sa.literal_column("'closed'"), lanes.c.until > late + LONGEST_IDLE
    dated = sa.and_(sa.or_(lanes.c.paused, shut), lanes.c.updated_at > late)
    yield _Rule(lanes, dated, _moved_back(lanes, now), "breakers")
    yield _Rule(lanes, sa.and_(shut, too_late), {"until": now}, "breakers")
    asked, latest = polls.c, late + longest.poll
    yield _Rule(polls, asked.updated_at > late, _moved_back(polls, now), "polls")
    stuck = sa.or_(asked.due_at > latest, asked.leased_until > latest)
    yield _Rule(polls, stuck, {"due_at": now, "planned_at": now, "leased_until": None}, "polls")
    yield _Rule(watches, watches.c.due_at > late + longest.walk, {"due_at": now}, "polls")
    # Live pages find changes by these times, and `status` finds running processes.
    yield _Rule(runs, runs.c.updated_at > late, {"updated_at": now}, "")
    yield _Rule(heartbeats, heartbeats.c.beat_at > late, {"beat_at": now}, "")


def _moved_back(table: sa.Table, now: float) -> dict[str, Any]:
    """Return the times of a row, moved back by the amount that its `updated_at` is ahead."""
    shift = table.c.updated_at - now
    waits = [
        table.c[name] for name in ("due_at", "planned_at", "leased_until", "claim_until", "until") if name in table.c
    ]
    past = [
        table.c[name] for name in ("tried_at", "opened_at", "paused_at", "noted_at", "updated_at") if name in table.c
    ]
    changed = {each.name: sa.case((each - shift > now, each - shift), (each > now, now), else_=each) for each in waits}
    return changed | {each.name: sa.case((each > now, now), else_=each) for each in past}
