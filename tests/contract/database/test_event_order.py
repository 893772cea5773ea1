"""Which of a run's events the row follows."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.contract import Delivery, Receipt
from handlers.database import DatabaseSink
from handlers.testing.conformance import (
    make_delivery,
    sample_run,
)
from tests.support.results_db import ResultsDb, event
from tests.support.run_events import run_events


def test_newer_event_replaces_the_row_and_older_does_not(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("tsk_1", 1, status="running", output=None))
    assert sink.send(event("tsk_1", 3, status="completed", output={"n": 3})).note == ""
    written = database.row()["delivered_at"]
    late = sink.send(event("tsk_1", 2, status="failed", output={"n": 2}, workflow_title="Monthly"))
    assert database.row()["delivered_at"] > written, "it had a title"
    assert late.note == "the row holds a newer event of this run, and took only what it lacked"
    assert (database.row()["status"], database.row()["output"]) == ("completed", {"n": 3})


def test_a_later_attempt_wins_though_its_clock_is_behind(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("wr_1", 5, status="failed", attempt=1, retry_pending=True))
    sink.send(event("wr_1", 4, status="completed", attempt=2, output={"n": 2}))
    sink.send(event("wr_1", 9, status="failed", attempt=1))
    row = database.row()
    assert (row["attempt"], row["status"], row["output"], bool(row["retry_pending"])) == (
        2,
        "completed",
        {"n": 2},
        False,
    )


def test_null_output_never_replaces_output_of_the_same_result(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("wr_1", 1, status="canceled", output={"n": 1}))
    nothings: list[Any] = [None, {}, [], {"block": None}, {"a": [None, {'b\\"': {}}], "c": []}]
    for minute, nothing in enumerate(nothings, 2):
        sink.send(event("wr_1", minute, status="canceled", output=nothing))
        assert database.row()["output"] == {"n": 1}
    assert database.row()["modified_at"].minute == 6, "the rest of the row follows the newest event"
    sink.send(event("wr_1", 7, status="failed", output=None))
    assert database.row()["output"] is None, "another status is a new result"


def test_output_wins_over_empty_output_in_any_order(database: ResultsDb) -> None:
    sink = database.sink()
    nothings: list[Any] = [{"block": None}, {"a": [None, {"b": {}}]}, []]
    somethings: list[Any] = [{"n": 1}, {"a": [None, {"b": False}]}, [0], "", "null"]
    expected = {}
    for number, (nothing, something) in enumerate(itertools.product(nothings, somethings)):
        # Together, and one after the other with what is empty before it in the table
        one, other = f"wr_{number}_1", f"wr_{number}_2"
        full = event(one, 1, status="canceled", output=something)
        sink.send_many([full, event(one, 2, status="canceled", output=nothing)])
        sink.send(event(other, 2, status="canceled", output=nothing))
        sink.send(event(other, 1, status="canceled", output=something))
        expected |= {one: something, other: something}
    assert {row["run_id"]: row["output"] for row in database.rows()} == expected


def test_fewer_fields_of_a_webhook_sent_again_take_nothing_away(database: ResultsDb) -> None:
    sink = database.sink(columns={"total": {"path": "output.invoice.total", "type": "number"}})
    sink.send(event("tsk_1", 1))
    whole = database.row()
    few = {"run_id": "tsk_1", "status": "failed", "run_type": "task_v1", "modified_at": "2026-03-01T10:09:00"}
    sink.send(make_delivery(few))
    row = database.row()
    own = {"modified_at", "event_id", "received_at", "delivered_at", "merged_from"}
    assert {name: row[name] for name in row.keys() - own} == {name: whole[name] for name in whole.keys() - own}
    assert row["modified_at"].minute == 9


def test_an_event_without_a_time_is_as_new_as_its_arrival(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("tsk_1", 1, status="completed"))
    at = datetime(2026, 3, 1, 10, tzinfo=UTC)
    timeless = sample_run("tsk_1", status="failed", modified_at=None)
    sink.send(make_delivery(timeless, received_at=at))
    assert database.row()["status"] == "completed"
    sink.send(make_delivery(timeless, received_at=at + timedelta(minutes=5)))
    assert database.row()["status"] == "failed"
    sink.send(event("tsk_1", 4, status="terminated"))
    assert database.row()["status"] == "failed"
    sink.send(event("tsk_1", 6, status="canceled"))
    assert database.row()["status"] == "canceled"


def test_final_event_wins_over_an_interim_one_with_a_fast_clock(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("wr_1", 9, status="running", output=None))
    sink.send(event("wr_1", 5, status="failed", retry_pending=True))
    assert database.row()["status"] == "running"
    sink.send(event("wr_1", 3, status="completed"))
    assert database.row()["status"] == "completed"
    sink.send(event("wr_1", 9, status="running", output=None))
    assert database.row()["status"] == "completed"
    sink.send(event("wr_1", 1, status="running", attempt=2, output=None))
    assert database.row()["status"] == "running"


def test_output_is_found_under_each_of_its_names(database: ResultsDb) -> None:
    sink = database.sink()
    for name in ("output", "outputs", "extracted_information"):
        sink.send(make_delivery(sample_run(f"tsk_{name}", **{"output": None, name: {"n": name}})))
    few = {key: value for key, value in sample_run("tsk_few", extracted_information=[1]).items() if key != "output"}
    sink.send(make_delivery(few))
    found = {row["run_id"]: row["output"] for row in database.rows()}
    assert found == {
        "tsk_output": {"n": "output"},
        "tsk_outputs": {"n": "outputs"},
        "tsk_extracted_information": {"n": "extracted_information"},
        "tsk_few": [1],
    }


def test_output_with_values_is_taken_whichever_name_it_has(database: ResultsDb) -> None:
    database.sink().send(event("wr_1", 1, output={"block": [None]}, outputs={"block": {"n": 1}}))
    assert database.row()["output"] == {"block": {"n": 1}}


def test_whatever_the_order_of_arrival_the_row_is_the_same(database: ResultsDb) -> None:
    """Alone, in batches, repeated: cancel sends null output first, a late webhook comes in between."""
    history = [
        event("wr_1", 1, status="failed", attempt=1, retry_pending=True, output={"n": 1}),
        event("wr_1", 2, status="canceled", attempt=2, output={"n": 2}, step_count=None),
        event("wr_1", 3, status="canceled", attempt=2, output=None),
        event("wr_1", 4, status="canceled", attempt=2, output=[], app_url=None),
    ]
    sink, chance = database.sink(), random.Random(7)
    orders = list(itertools.permutations(history)) + [
        tuple(chance.choices(history, k=9)) + tuple(history) for _ in range(12)
    ]
    outcomes = set()
    for number, order in enumerate(orders):
        if number % 2:
            assert all(isinstance(answer, Receipt) for answer in sink.send_many(order))
        else:
            for delivery in order:
                sink.send(delivery)
        row = database.row()
        outcomes.add(repr({key: value for key, value in row.items() if key != "delivered_at"}))
        assert (row["output"], row["modified_at"].minute, row["step_count"]) == ({"n": 2}, 4, 3)
        database.execute("DELETE FROM skyvern_runs")
    assert len(outcomes) == 1


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


def test_update_completes_the_row_and_never_shortens_a_list(database: ResultsDb) -> None:
    """A poll between the status and the uploads, then the webhook: and the same in the other order."""
    poll = event("wr_1", 1, status="completed", recording_url=None, downloaded_files=[{"filename": "a"}])
    files = [{"filename": "a"}, {"filename": "b"}]
    webhook = event(
        "wr_1",
        1,
        status="completed",
        recording_url="https://files.example/1.webm",
        screenshot_urls=["https://files.example/1.png"],
        downloaded_files=files,
        errors=[],
        summary="Done",
    )
    sink = database.sink()
    for order in ((poll, webhook), (webhook, poll)):
        for delivery in order:
            sink.send(delivery)
        row = database.row()
        assert (row["downloaded_files"], row["errors"], row["summary"]) == (files, [], "Done")
        assert (row["recording_url"], len(row["screenshot_urls"])) == ("https://files.example/1.webm", 1)
        database.execute("DELETE FROM skyvern_runs")


def test_returning_status_shows_its_values_in_any_order(database: ResultsDb) -> None:
    history = [
        event("tsk_1", 1, status="failed", output={"n": 1}),
        event("tsk_1", 2, status="completed", output=None, failure_reason=None),
        event("tsk_1", 3, status="failed", output=None, failure_reason=None),
    ]
    sink = database.sink()
    for order in itertools.permutations(history):
        for delivery in order:
            sink.send(delivery)
        assert (database.row()["status"], database.row()["output"]) == ("failed", {"n": 1})
        assert database.row()["failure_reason"] == history[0].run["failure_reason"]
        database.execute("DELETE FROM skyvern_runs")


def test_memory_is_dropped_after_another_program_wrote_the_row(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("tsk_1", 1))
    sink.send(event("tsk_1", 2, output=None))
    assert database.row()["merged_from"]["columns"].keys() >= {"output"}
    database.execute("UPDATE skyvern_runs SET event_id = 'evt_other'")
    sink.send(event("tsk_1", 3))
    assert database.row()["merged_from"] is None


def test_more_links_stay_when_a_later_delivery_has_fewer(database: ResultsDb) -> None:
    sink = database.sink()
    links = {"run.json": "https://files.example/run.json", "recording": "https://files.example/1.webm"}
    sink.send(replace(event("tsk_1", 1), receipts={"archive": {"id": "1", "urls": links}}))
    sink.send(replace(event("tsk_1", 2), receipts={"archive": {"id": "1", "urls": {"run.json": "https://x.example"}}}))
    assert database.row()["links"] == links


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


def test_the_same_event_again_fills_columns_that_are_new(database: ResultsDb) -> None:
    """A replay is how rows that were there before get a new column's values."""
    delivery = event("tsk_1", 1)
    database.sink().send(delivery)
    database.sink(columns={"total": {"path": "output.invoice.total", "type": "integer"}}).send(delivery)
    assert database.row()["total"] == 1500


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
