"""Walks from value to value along an index, of which one query may have several."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.ledger import Ledger
from receiver.ledger.expressions import each_value
from receiver.ledger.replays import CANCEL
from receiver.ledger.schema import deliveries, runs
from receiver.ledger.selection import Selection, taken_ids
from tests.support.ledger import new_event, record


def test_two_walks_in_one_query_are_told_apart(ledger: Ledger) -> None:
    # Given deliveries of three runs, of which two sinks have some
    record(ledger, new_event("tsk_1", "chat", "mail"), new_event("tsk_2", "mail"), new_event("tsk_3"))
    # When one query walks along two columns
    sinks, sources = each_value(deliveries.c.sink), each_value(runs.c.source)
    query = sa.union_all(sinks, sources, each_value(deliveries.c.sink, deliveries.c.run_id == "tsk_2"))
    found = ledger.read(lambda it: it.execute(query).scalars().all())
    # Then each finds its own values
    assert sorted(found) == ["chat", "mail", "mail", "skyvern"]


def test_an_operation_may_name_runs_twice_over(ledger: Ledger) -> None:
    # Given deliveries of two runs
    record(ledger, new_event("tsk_1", "chat"), new_event("tsk_2", "chat"))
    # When those are selected that are of one of two named runs, and of a run besides, in whatever source
    wanted = Selection(run_ids=("tsk_1", "tsk_2"), run_id="tsk_2")
    query = sa.select(deliveries.c.run_id).where(deliveries.c.id.in_(taken_ids(CANCEL, wanted, force=False)))
    # Then both conditions hold
    assert ledger.read(lambda it: it.execute(query).scalars().all()) == ["tsk_2"]
