"""A run's row does not depend on the order in which its events arrive: the laws that this rests on."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.contract import Delivery
from handlers.database import merge
from handlers.database.columns import Columns
from handlers.database.merge import RunState
from handlers.database.options import MappedColumn
from handlers.testing.conformance import make_delivery, sample_run
from tests.support.events import run_events
from tests.support.results_db import event

COLUMNS = Columns({"n": MappedColumn(path="output.n", type="number")})
NOW = datetime(2026, 3, 2, tzinfo=UTC)

states = run_events().map(lambda delivery: _state(delivery))
histories = st.lists(run_events(), min_size=1, max_size=5)


def _state(delivery: Delivery) -> RunState:
    return merge.state_of_event(COLUMNS.all, COLUMNS.row(delivery, NOW).cells)


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


def timeless(status: str, minute: int) -> Delivery:
    """An event without a time, that arrived at 10:`minute`."""
    run = sample_run("tsk_1", status=status, modified_at=None)
    return make_delivery(run, received_at=datetime(2026, 3, 1, 10, minute, tzinfo=UTC))


FILES = [{"filename": "a"}, {"filename": "b"}]
LINKS = {"run.json": "https://files.example/run.json", "recording": "https://files.example/1.webm"}
FEW = {"run_id": "tsk_1", "status": "failed", "run_type": "task_v1", "modified_at": "2026-03-01T10:09:00"}
POLL = event("wr_1", 1, status="completed", recording_url=None, downloaded_files=FILES[:1])
WEBHOOK = event(
    "wr_1", 1, status="completed", recording_url="https://1", downloaded_files=FILES, errors=[], summary="S"
)
RETRIED = event("wr_1", 5, attempt=1, retry_pending=True)
FAILED = event("tsk_1", 1, status="failed", output={"n": 1}, failure_reason="why")
COMPLETED = event("tsk_1", 2, status="completed", output=None, failure_reason=None)
NOTHINGS: list[Any] = [None, {}, [], {"block": None}, {"a": [None, {'b\\"': {}}], "c": []}]
SOMETHINGS: list[Any] = [{"n": 1}, {"a": [None, {"b": False}]}, [0], "", "null"]
RULES: dict[str, tuple[list[Delivery], dict[str, Any]]] = {
    "a later attempt wins though its clock is behind": (
        [RETRIED, event("wr_1", 4, status="completed", attempt=2, output={"n": 2}), event("wr_1", 9, attempt=1)],
        {"attempt": 2, "status": "completed", "output": {"n": 2}, "retry_pending": False},
    ),
    "a new attempt keeps the run but not the files": (
        [
            event("wr_1", 1, attempt=1, recording_url="https://files.example/1", workflow_title="Monthly"),
            event("wr_1", 2, attempt=2, recording_url=None, workflow_title=None, status="running", output=None),
        ],
        {"recording_url": None, "workflow_title": "Monthly", "output": None},
    ),
    "the last modified event is the newest, whenever it arrived": (
        [event("tsk_1", 5, status="completed"), replace(event("tsk_1", 3, status="failed"), received_at=NOW)],
        {"status": "completed"},
    ),
    "an event without a time is older than one after its arrival": (
        [event("tsk_1", 1, status="completed"), timeless("failed", 0)], {"status": "completed"}
    ),
    "an event without a time is newer than one before its arrival": (
        [event("tsk_1", 4, status="completed"), timeless("failed", 5)], {"status": "failed"}
    ),
    "a final event wins over an interim one with a fast clock": (
        [event("wr_1", 9, status="running"), RETRIED, event("wr_1", 3, status="completed")], {"status": "completed"}
    ),
    "an interim event of the next attempt wins over a final one": (
        [event("wr_1", 3, status="completed"), event("wr_1", 1, status="running", attempt=2)], {"status": "running"}
    ),
    "another status hides a result": ([FAILED, COMPLETED], {"output": None, "failure_reason": None}),
    "a returning status shows its values": (
        [FAILED, COMPLETED, event("tsk_1", 3, status="failed", output=None, failure_reason=None)],
        {"output": {"n": 1}, "failure_reason": "why"},
    ),
    "poll and webhook complete each other": (
        [POLL, WEBHOOK], {"downloaded_files": FILES, "summary": "S", "recording_url": "https://1"}
    ),
    "fewer fields of a webhook sent again take nothing away": (
        [event("tsk_1", 1), make_delivery(FEW)],
        {"title": None, "output": event("tsk_1", 1).run["output"], "step_count": 3, "n": None},
    ),
    "more links stay when a later delivery has fewer": (
        [
            replace(event("tsk_1", 1), receipts={"archive": {"id": "1", "urls": LINKS}}),
            replace(event("tsk_1", 2), receipts={"archive": {"id": "1", "urls": {"run.json": "https://x.example"}}}),
        ],
        {"links": LINKS},
    ),
    **{
        f"empty output {nothing} never replaces {something!r}": (
            [
                event("wr_1", 1, status="canceled", output=something),
                event("wr_1", 2, status="canceled", output=nothing),
            ],
            {"output": something},
        )
        for nothing in NOTHINGS
        for something in SOMETHINGS
    },
    **{
        f"output is found under {name}": (
            [event("wr_1", 1, **{"output": {"block": [None]}, name: {"n": 7}})], {"output": {"n": 7}}
        )
        for name in ("output", "outputs", "extracted_information")
    },
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_row_follows_the_rule_in_any_order(rule: str) -> None:
    events, expected = RULES[rule]
    for order in itertools.permutations(events):
        row = _row(order)
        found = {name: row[name] for name in expected}
        assert {n: json.loads(v) if isinstance(v, bytes) else v for n, v in found.items()} == expected


@given(histories)
def test_a_row_holds_all_that_merging_needs(history: list[Delivery]) -> None:
    joined = reduce(merge.join, map(_state, history))
    found = merge.state_of_row(COLUMNS.all, merge.cells_of(COLUMNS.all, joined))
    # A status without values leaves nothing to remember.
    results = {status: values for status, values in joined.results.items() if values or status == joined.status}
    assert found == replace(joined, results=results)


def test_memory_of_a_row_written_by_others_is_ignored() -> None:
    older, newer = event("tsk_1", 1), event("tsk_1", 2, recording_url=None, output=None)
    row = _row([older, newer])
    assert row["merged_from"] is not None
    written_past = row | {"event_id": "evt_other", "modified_at": NOW}
    found = merge.state_of_row(COLUMNS.all, written_past)
    assert found.visible["output"].order == found.newest
