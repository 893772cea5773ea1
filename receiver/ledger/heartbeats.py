"""Heartbeats of the processes, beside those in files of each host. Times are the database's."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.domain.liveness import FORGET_AFTER, ProcessBeat, SeenProcess
from receiver.ledger.database.dialect import now
from receiver.ledger.database.many_rows import insert_statement, or_update
from receiver.ledger.schema import heartbeats


def put(connection: sa.Connection, *beats: ProcessBeat) -> None:
    """Write the newest heartbeats of a process, one for each of its roles."""
    rows = [{"name": beat.name, "beat": beat.to_json()} for beat in sorted(beats, key=lambda beat: beat.name)]
    insert = insert_statement(connection, heartbeats).values(beat_at=now(connection))
    changed = {"beat": insert.excluded.beat, "beat_at": insert.excluded.beat_at}
    connection.execute(or_update(insert, changed), rows)


def list_processes(connection: sa.Connection) -> list[SeenProcess]:
    """Return the newest heartbeat of each process that is remembered. What can't be read is left out."""
    rows = connection.execute(sa.select(heartbeats.c.beat, heartbeats.c.beat_at, now(connection).label("now"))).all()
    return [
        SeenProcess(beat, row.now - row.beat_at, skew=beat.sent_at - row.beat_at)
        for row in rows
        if (beat := ProcessBeat.from_json(row.beat)) is not None
    ]


def forget(connection: sa.Connection) -> int:
    """Remove those that came longer than FORGET_AFTER ago. Returns how many."""
    old = sa.delete(heartbeats).where(heartbeats.c.beat_at < now(connection) - FORGET_AFTER)
    return connection.execute(old).rowcount
