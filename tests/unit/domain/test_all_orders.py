"""The webhooks of one run in every order of arrival: its output reaches each sink, and its row ends the same.

The bodies are those that a real Skyvern sent, and the series that it is known to send, made of them.
"""

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import pytest

from handlers.contract import Delivery
from handlers.database import merge
from handlers.database.columns import Columns
from handlers.mirror.manifest import latest_document, replaces_latest
from handlers.support.run_body import FINAL
from handlers.testing.conformance import make_delivery
from receiver.domain.deduplication import Facts, classify
from receiver.domain.run import parse
from simulator import samples
from tests.support.facts import facts
from tests.support.paths import ROOT

CAPTURES = {path.stem: json.loads(path.read_bytes()) for path in (ROOT / "tests/support/data/captures").glob("*.json")}
COLUMNS = Columns({})
NOW = datetime(2026, 11, 25, tzinfo=UTC)
# What says when, by which event and in which words, not what the run came to.
OF_EVENT = {
    *("modified_at", "event_id", "received_at", "delivered_at", "merged_from", "finished_at"),
    *("original_status", "failure_reason"),
}

Body = dict[str, Any]


def capture(name: str, minute: int = 0, **changes: Any) -> Body:
    at = f"2026-11-24T15:{minute:02}:00.000001"
    output = {} if "output" not in changes else {"outputs": changes["output"], "extracted_information": None}
    return {**CAPTURES[name], "run_id": "r_1", "modified_at": at, **output, **changes}


SAID = {"block_1_output": {"total": 1500}}
MORE = {**SAID, "block_2_output": {"total": 7}}
CANCELED = "workflow_run_canceled"
PENDING = "workflow_run_failed_retry_pending"

SERIES: dict[str, list[Body]] = {
    **{name: [capture(name, 1), capture(name, 2)] for name in CAPTURES},
    **{
        name: [json.loads(samples.build(each, now=1.79e9 + i, run_id="r_1")) for i, each in enumerate(each_of)]
        for name, each_of in samples.SERIES.items()
    },
    "cancel": [capture(CANCELED, 1), capture(CANCELED, 2, output=SAID)],
    "cancelled twice": [capture(CANCELED, 1), capture(CANCELED, 2, output=SAID), capture(CANCELED, 3)],
    "cancelled twice, in another way": [
        capture(CANCELED, 1),
        capture(CANCELED, 2, output=SAID),
        capture(CANCELED, 3, failure_reason="cancelled by the API"),
        capture(CANCELED, 4, output={}),
    ],
    "cancelled, with more output later": [
        capture(CANCELED, 1),
        capture(CANCELED, 2, output=SAID),
        capture(CANCELED, 3),
        capture(CANCELED, 4, output=MORE),
    ],
    "cancelled while it was retried": [
        capture(PENDING, 1),
        capture(CANCELED, 2, attempt=2),
        capture(CANCELED, 3, attempt=2, output=SAID),
        capture(CANCELED, 4, attempt=2),
    ],
    "a retry policy": [
        capture(PENDING, 1),
        capture(PENDING, 2, attempt=2),
        capture("workflow_run_completed", 3, attempt=3),
        capture("workflow_run_completed", 4, attempt=3),
    ],
    "running, then cancelled": [
        capture(CANCELED, 1, status="running"),
        capture(CANCELED, 2),
        capture(CANCELED, 3, output=SAID),
        capture(CANCELED, 4),
    ],
    "delivered late": [
        capture("task_v2_completed", 1, output=SAID),
        capture("task_v2_completed", 2, output=SAID, status="failed", failure_reason="Failed to send webhook."),
    ],
}


def output_of(run: Body) -> Any:
    return next((run[name] for name in ("output", "outputs", "extracted_information") if run.get(name)), None)


def routed(order: list[tuple[int, Body]]) -> tuple[list[Delivery], Body | None]:
    """What sinks with a plain route get, and the body that gives the run its status in the end."""
    history: list[Facts] = []
    reached: list[Delivery] = []
    standing = None
    for seq, (number, body) in enumerate(order):
        run = parse(json.dumps(body).encode())
        told = facts(f"evt_{number}", run, seq)
        verdict = classify(told, history)
        history.append(told)
        if verdict.disposition in ("new", "interim") and not verdict.late:
            standing = body
        if verdict.disposition == "new":
            delivery = make_delivery(run.data, received_at=NOW + timedelta(seconds=number))
            reached.append(replace(delivery, event_id=f"evt_{number}", status=run.outcome))
    return reached, standing


@pytest.mark.parametrize("name", SERIES)
def test_last_output_wins_in_any_order_of_arrival(name: str) -> None:
    # Given the webhooks of a run, and what it came to
    series = list(enumerate(SERIES[name]))
    last = next((body for _, body in reversed(series) if output_of(body)), series[-1][1])
    final = (last["status"] in FINAL) and not last.get("retry_pending")
    rows = []
    for order in itertools.permutations(series):
        # When they arrive in any order
        reached, standing = routed(list(order))
        # Then its sinks have been told the last output, and callers are answered with it
        assert standing is not None
        assert output_of(standing) == output_of(last)
        if not final:
            assert not reached
            continue
        assert output_of(last) in [output_of(dict(each.run)) for each in reached]
        # And in any order of delivery the row and the newest folder have it
        states = [merge.state_of_event(COLUMNS.all, COLUMNS.row(each, NOW).cells) for each in reached]
        for written in (states, states[::-1]):
            cells = merge.cells_of(COLUMNS.all, reduce(merge.join, written))
            assert json.loads(cells["output"] or b"null") == output_of(last)
            rows.append({name: value for name, value in cells.items() if name not in OF_EVENT})
        document = b""
        for each in reached:
            if replaces_latest(each, document):
                document, shown = latest_document(each, "x/"), output_of(dict(each.run))
        assert shown == output_of(last)
    assert all(row == rows[0] for row in rows)


def test_the_series_have_output_between_nulls() -> None:
    """The test above would show nothing otherwise."""
    assert len(CAPTURES) == 7
    assert sum(any(output_of(each) for each in series[1:-1]) for series in SERIES.values()) >= 5
