"""Each column of a run is written when an event is recorded, or is on the list of those that are written elsewhere."""

import time

from receiver.domain.event import Event
from receiver.domain.run import parse
from receiver.ledger import events
from receiver.ledger.schema import runs

# Columns that other statements write: the count of events, the binding to a submission, the times of the row itself,
# and when Skyvern is asked for the run.
BOOKKEEPING = {
    *("events", "submission_id", "labels", "first_seen_at", "updated_at"),
    *("noted_at", "due_at", "polls", "found_by"),
}
WHERE = "edit _REPLACED or _KEPT, which name what an event writes, in receiver/ledger/events.py: "


def test_every_column_of_a_run_is_written() -> None:
    body = b'{"run_id": "tsk_1"}'
    row = set(events._status(Event("evt_1", "s", body, time.time(), "webhook", ""), parse(body)))
    key = {column.name for column in runs.primary_key}
    updated = [*events._KEPT, *events._REPLACED, "event_id"]

    assert len(updated) == len(set(updated)), f"{WHERE}a column is in both"
    assert row == key | set(updated), f"{WHERE}{sorted(row ^ (key | set(updated)))} would never change"
    assert row | BOOKKEEPING == set(runs.c.keys()), f"{WHERE}{sorted((row | BOOKKEEPING) ^ set(runs.c.keys()))}"
