"""Which of a run's events the row follows."""

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.contract import Delivery, Receipt
from handlers.database import DatabaseSink
from tests.support.events import run_events
from tests.support.results_db import ResultsDb, event


def test_newer_event_replaces_the_row_and_older_does_not(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("tsk_1", 1, status="running", output=None))
    assert sink.send(event("tsk_1", 3, status="completed", output={"n": 3})).note == ""
    written = database.row()["delivered_at"]
    late = sink.send(event("tsk_1", 2, status="failed", output={"n": 2}, workflow_title="Monthly"))
    assert database.row()["delivered_at"] > written, "it had a title"
    assert late.note == "the row holds a newer event of this run, and took only what it lacked"
    assert (database.row()["status"], database.row()["output"]) == ("completed", {"n": 3})


def _write(sink: DatabaseSink, order: list[Delivery], batches: Any) -> None:
    """Write events in batches of drawn sizes."""
    left = list(order)
    while left:
        size = batches.randint(1, 3)
        answers = sink.send_many(left[:size])
        assert all(isinstance(answer, Receipt) for answer in answers), answers
        del left[:size]


def test_events_make_the_same_row_in_every_order_and_batching(database: ResultsDb) -> None:
    """As a webhook, a poll and a webhook sent again do, whichever is routed first: nothing is lost, nothing differs."""
    sink = database.sink(columns={"n": {"path": "output.n", "type": "number"}}, history=True)
    sink.add_columns()

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(run_events(), min_size=2, max_size=4), st.randoms(use_true_random=False))
    def check(events: list[Delivery], chance: Any) -> None:
        for table in ("skyvern_runs", "skyvern_runs_history"):
            database.execute(f"DELETE FROM {table}")
        found: list[dict[str, Any]] = []
        for again in range(3):
            order = list(events) + events[:again]  # the last time some come again
            chance.shuffle(order)
            _write(sink, order, chance)
            row = database.row()
            found.append({name: value for name, value in row.items() if name != "delivered_at"})
            database.execute("DELETE FROM skyvern_runs")
        assert found[0] == found[1] == found[2]
        rows = database.rows("skyvern_runs_history")
        assert sorted(row["event_id"] for row in rows) == sorted(delivery.event_id for delivery in events)

    check()


def test_memory_is_dropped_after_another_program_wrote_the_row(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("tsk_1", 1))
    sink.send(event("tsk_1", 2, output=None))
    assert database.row()["merged_from"]["columns"].keys() >= {"output"}
    database.execute("UPDATE skyvern_runs SET event_id = 'evt_other'")
    sink.send(event("tsk_1", 3))
    assert database.row()["merged_from"] is None


def test_history_has_each_event_once_as_it_was(database: ResultsDb) -> None:
    sink = database.sink(history=True, columns={"total": "output.invoice.total"})
    first = event("tsk_1", 1, status="running", output=None)
    last = event("tsk_1", 2, recording_url="https://files.example/1.webm")
    fewer = event("tsk_1", 3, output=None)
    for delivery in (first, last, last, fewer, first):
        sink.send(delivery)
    rows = sorted(database.rows("skyvern_runs_history"), key=lambda row: str(row["modified_at"]))
    assert [row["event_id"] for row in rows] == [first.event_id, last.event_id, fewer.event_id]
    assert [(row["status"], row["output"], row["total"]) for row in rows] == [
        ("running", None, None),
        ("failed", last.run["output"], "1500"),
        ("failed", None, None),
    ]
    assert database.row()["output"] == last.run["output"]


def test_same_event_again_follows_a_changed_config(database: ResultsDb) -> None:
    delivery = event("tsk_1", 1)
    database.sink(columns={"total": "output.invoice.number"}).send(delivery)
    database.sink(columns={"total": "output.invoice.total"}).send(delivery)
    assert database.row()["total"] == "1500"


def test_many_writers_at_once_end_with_the_newest_of_each_run(database: ResultsDb) -> None:
    events = [event(f"tsk_{run}", minute, output={"n": minute}) for run in range(40) for minute in range(6)]
    random.Random(3).shuffle(events)
    sinks = [database.sink() for _ in range(4)]
    batches = [events[start : start + 30] for start in range(0, len(events), 30)]
    with ThreadPoolExecutor(4) as pool:
        answers = [
            *pool.map(lambda pair: pair[0].send_many(pair[1]), zip(itertools.cycle(sinks), batches, strict=False))
        ]
    assert all(isinstance(answer, Receipt) for batch in answers for answer in batch), answers
    assert [row["output"] for row in database.rows()] == [{"n": 5}] * 40
