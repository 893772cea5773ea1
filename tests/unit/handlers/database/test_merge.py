"""A run's row does not depend on the order in which its events arrive: the laws that this rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Delivery
from handlers.database import merge
from handlers.database.columns import Columns
from handlers.database.merge import RunState
from handlers.database.options import MappedColumn
from tests.support.results_db import event
from tests.support.run_events import run_events

COLUMNS = Columns({"n": MappedColumn(path="output.n", type="number")})
NOW = datetime(2026, 3, 2, tzinfo=UTC)

states = run_events().map(lambda delivery: _state(delivery))
histories = st.lists(run_events(), min_size=1, max_size=5)


def _state(delivery: Delivery) -> RunState:
    return merge.of_event(COLUMNS.all, COLUMNS.row(delivery, NOW).cells)


def _row(deliveries: Iterable[Delivery]) -> dict[str, Any]:
    return merge.cells_of(COLUMNS.all, reduce(merge.join, map(_state, deliveries)))


@given(states, states)
def test_two_events_make_the_same_row_in_either_order(one: RunState, other: RunState) -> None:
    assert merge.join(one, other) == merge.join(other, one)


@given(states, states, states)
def test_it_does_not_matter_which_two_are_joined_first(one: RunState, other: RunState, third: RunState) -> None:
    assert merge.join(merge.join(one, other), third) == merge.join(one, merge.join(other, third))


@given(states, states)
def test_an_event_again_changes_nothing(one: RunState, other: RunState) -> None:
    both = merge.join(one, other)
    assert merge.join(both, one) == merge.join(both, other) == merge.join(both, both) == both


@given(histories, st.randoms(use_true_random=False))
def test_a_value_is_lost_to_no_event_of_its_result(history: list[Delivery], chance: Any) -> None:
    """What the newest attempt and status have said in any event, the row says, and of lists the longest."""
    row = _row(history)
    chance.shuffle(history)
    assert _row(history) == row
    newest = max(history, key=lambda delivery: merge.order_of(COLUMNS.row(delivery, NOW).cells))
    rows = [COLUMNS.row(delivery, NOW).cells for delivery in history]
    attempt = [cells for cells in rows if cells["attempt"] == newest.run["attempt"]]
    result = [cells for cells in attempt if cells["status"] == newest.status]
    for scope, column in (
        *((result, name) for name in ("output", "errors", "failure_reason", "summary", "finished_at", "n")),
        *((attempt, name) for name in ("recording_url", "step_count")),
        *((rows, name) for name in ("workflow_title", "parameters", "labels")),
    ):
        said = {cells[column] for cells in scope} - {None}
        assert row[column] in (said or {None}), column
    for column in ("downloaded_files", "screenshot_urls"):
        longest = max((len(cells[column] or b"") for cells in attempt), default=0)
        assert len(row[column] or b"") == longest, "all items are of one length here"
    assert row["status"] == newest.status
    assert row["event_id"] == newest.event_id


def test_poll_and_webhook_complete_each_other() -> None:
    half = event("tsk_1", 1, downloaded_files=[{"filename": "a"}], screenshot_urls=None, recording_url=None)
    whole = event(
        "tsk_1",
        1,
        downloaded_files=[{"filename": "a"}, {"filename": "b"}],
        screenshot_urls=["https://files.example/1"],
        recording_url="https://files.example/2",
    )
    for order in ((half, whole), (whole, half)):
        row = _row(order)
        assert row["downloaded_files"] == b'[{"filename":"a"},{"filename":"b"}]'
        assert row["screenshot_urls"] == b'["https://files.example/1"]'
        assert row["recording_url"] == "https://files.example/2"


def test_other_status_hides_a_result_until_its_status_returns() -> None:
    failed = event("tsk_1", 1, status="failed", output={"n": 1}, failure_reason="why")
    completed = event("tsk_1", 2, status="completed", output=None, failure_reason=None)
    again = event("tsk_1", 3, status="failed", output=None, failure_reason=None)
    assert {name: _row([failed, completed])[name] for name in ("status", "output", "failure_reason")} == {
        "status": "completed",
        "output": None,
        "failure_reason": None,
    }
    row = _row([failed, completed, again])
    assert (row["output"], row["failure_reason"]) == (b'{"n":1}', "why")


def test_new_attempt_keeps_the_run_but_not_the_files() -> None:
    first = event("wr_1", 1, attempt=1, recording_url="https://files.example/1", workflow_title="Monthly")
    second = event("wr_1", 2, attempt=2, recording_url=None, workflow_title=None, status="running", output=None)
    row = _row([first, second])
    assert (row["recording_url"], row["workflow_title"], row["output"]) == (None, "Monthly", None)


def test_last_modified_event_is_newest_even_if_it_arrived_first() -> None:
    last = event("tsk_1", 5, status="completed")
    late = replace(event("tsk_1", 3, status="failed"), received_at=NOW)
    assert _row([last, late])["status"] == _row([late, last])["status"] == "completed"


@given(histories)
def test_a_row_holds_all_that_merging_needs(history: list[Delivery]) -> None:
    joined = reduce(merge.join, map(_state, history))
    found = merge.of_row(COLUMNS.all, merge.cells_of(COLUMNS.all, joined))
    # A status without values leaves nothing to remember.
    results = {status: values for status, values in joined.results.items() if values or status == joined.status}
    assert found == replace(joined, results=results)


def test_memory_of_a_row_written_by_others_is_ignored() -> None:
    older, newer = event("tsk_1", 1), event("tsk_1", 2, recording_url=None, output=None)
    row = _row([older, newer])
    assert row["merged_from"] is not None
    written_past = row | {"event_id": "evt_other", "modified_at": NOW}
    found = merge.of_row(COLUMNS.all, written_past)
    assert found.visible["output"].order == found.newest
