"""The row that the sink `database` makes of a delivery."""

import contextlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from handlers.contract import Refused
from handlers.testing.conformance import BODIES, make_delivery, sample_run
from tests.support.results_db import ResultsDb


def test_a_row_tells_what_became_of_the_run(database: ResultsDb) -> None:
    run = sample_run(
        "tsk_1",
        run_request={"title": "Invoices", "prompt": "Get the total", "url": "https://shop.example"},
        queued_at="2026-03-01T10:00:01",
        screenshot_urls=["https://files.example/1.png"],
        downloaded_files=[{"filename": "invoice.pdf", "url": "https://files.example/1"}],
        parameters={"year": 2026},
    )
    delivery = make_delivery(
        run,
        status="completed",  # corrected: failed only because its webhook could not be delivered
        labels={"team": "billing"},
        receipts={"archive": {"id": "1", "urls": {"recording": "https://files.example/1.webm"}}, "gone": None},
    )
    database.sink().send(delivery)
    row = database.row()
    assert row.pop("delivered_at") > datetime(2026, 1, 1, tzinfo=UTC)
    assert {key: bool(row.pop(key)) for key in ("is_test", "retry_pending")} == {
        "is_test": False,
        "retry_pending": False,
    }
    assert row == {
        "run_id": "tsk_1", "source": "skyvern", "run_type": "task_v1", "status": "completed",
        "original_status": "failed", "attempt": 1, "failure_reason": run["failure_reason"], "output": run["output"],
        "errors": [], "summary": None, "title": "Invoices", "prompt": "Get the total", "url": "https://shop.example",
        "parameters": {"year": 2026}, "workflow_id": None, "workflow_title": None, "workflow_run_id": None,
        "retried_from": None, "retried_by": None, "step_count": 3, "app_url": "https://app.example/tasks/tsk_1",
        "recording_url": None, "screenshot_urls": ["https://files.example/1.png"],
        "downloaded_files": [{"filename": "invoice.pdf", "url": "https://files.example/1"}],
        "created_at": datetime(2026, 3, 1, 10, 0, 0, 1, tzinfo=UTC),
        "modified_at": datetime(2026, 3, 1, 10, 2, 5, 500000, tzinfo=UTC),
        "queued_at": datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC),
        "started_at": datetime(2026, 3, 1, 10, 0, 3, 250000, tzinfo=UTC),
        "finished_at": datetime(2026, 3, 1, 10, 2, 5, 250000, tzinfo=UTC), "labels": {"team": "billing"},
        "links": {"recording": "https://files.example/1.webm"}, "event_id": delivery.event_id, "via": "webhook",
        "received_at": delivery.received_at, "merged_from": None,
    }  # fmt: skip


def test_workflow_run_has_its_ids_under_all_their_names(database: ResultsDb) -> None:
    workflow = {"run_type": "workflow_run", "workflow_title": "Monthly", "retried_from_workflow_run_id": "wr_0"}
    sent = workflow | {"workflow_id": "wpid_1", "workflow_run_id": "wr_1", "parameters": {"year": 2026}}
    asked = workflow | {"run_request": {"agent_id": "wpid_1", "parameters": {"year": 2026}}}
    database.sink().send(make_delivery(sample_run("wr_1", **sent)))
    database.sink().send(make_delivery(sample_run("wr_2", **asked)))
    columns = ("workflow_id", "workflow_title", "title", "parameters", "retried_from", "workflow_run_id")
    found = [tuple(row[name] for name in columns) for row in database.rows()]
    common = ("wpid_1", "Monthly", "Monthly", {"year": 2026}, "wr_0")
    assert found == [(*common, "wr_1"), (*common, "wr_2")]


def test_times_do_not_depend_on_the_sessions_time_zone(pg: ResultsDb) -> None:
    pg.execute("ALTER ROLE postgres SET timezone = 'Asia/Tokyo'")
    try:
        pg.sink().send(make_delivery(sample_run("tsk_1")))
    finally:
        pg.execute("ALTER ROLE postgres RESET timezone")
    sql = "SELECT extract(epoch FROM finished_at - started_at) AS took, finished_at AT TIME ZONE 'UTC' AS utc"
    (row,) = pg.query(f"{sql} FROM skyvern_runs")
    assert row["took"] == Decimal(122)
    assert row["utc"] == datetime(2026, 3, 1, 10, 2, 5, 250000)  # noqa: DTZ001


def test_sqlite_can_reckon_with_the_times_and_the_output(sqlite: ResultsDb) -> None:
    sqlite.sink().send(make_delivery(sample_run("tsk_1")))
    (row,) = sqlite.query(
        "SELECT unixepoch(finished_at) - unixepoch(started_at) AS took, output ->> '$.invoice.total' AS total,"
        " json_valid(output) AS valid FROM skyvern_runs"
    )
    assert dict(row) == {"took": 122, "total": 1500, "valid": 1}


def test_postgresql_can_look_into_the_output(pg: ResultsDb) -> None:
    pg.sink().send(make_delivery(sample_run("tsk_1")))
    (row,) = pg.query("SELECT (output #>> '{invoice,total}')::numeric AS total, jsonb_typeof(output) FROM skyvern_runs")
    assert row["total"] == 1500


@pytest.mark.parametrize("output", [None, 0, 1e3, True, "text", "1e3", "", [], {}, [None], 12345678901234567890])
def test_output_of_every_shape_comes_back_as_it_was(database: ResultsDb, output: Any) -> None:
    database.sink().send(make_delivery(sample_run("tsk_1", output=output)))
    found = database.row()["output"]
    assert (type(found), found) == (type(output), output) or (output == 1e3 and found == 1000)


def _as_python_reads(body: bytes) -> dict[str, Any]:
    """Uncleaned: NUL, lone surrogates, NaN and all."""
    try:
        run = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return run if isinstance(run, dict) else {}


def test_what_no_database_stores_costs_only_itself(database: ResultsDb) -> None:
    sink = database.sink()
    for kind, body in BODIES.items():
        with contextlib.suppress(Refused):
            sink.send(make_delivery(body=body, run=_as_python_reads(body), run_id=f"tsk_{kind}", problem=""))
    found = {row["run_id"].removeprefix("tsk_"): row for row in database.rows()}
    assert set(BODIES) - set(found) == set()
    assert found["NUL"]["output"] == {"a\ufffdb": "c\ufffdd"}
    assert found["lone surrogates"]["output"] == {"\ufffd": "x\ufffdy"}
    assert found["NaN and infinity"]["output"] == {"a": None, "b": None, "c": [None]}
    assert found["big numbers"]["output"] == {"a": 12345678901234567890, "b": -(10**400), "c": None}
    assert found["big numbers"]["step_count"] is None
    assert found["4,000-digit integer"]["output"]["a"] == int("9" * 4000)
    assert found["wrong types"]["modified_at"] is None
    assert (found["wrong types"]["attempt"], found["wrong types"]["app_url"]) == (1, None)
    assert len(found["1 MB"]["output"]["text"]) == 1_000_000


def test_a_body_that_names_no_run_is_refused_with_the_reason(database: ResultsDb) -> None:
    with pytest.raises(Refused, match=r"^no row can be made of the body: it is no JSON$"):
        database.sink().send(make_delivery(body=b"<html>", problem="it is no JSON"))
    with pytest.raises(Refused, match="it has no run_id"):
        database.sink().send(make_delivery(body=b"{}", problem=""))


# --- Columns of the operator's own


def test_mapped_column_is_null_and_noted_if_a_value_does_not_fit(database: ResultsDb) -> None:
    columns = {
        "total": {"path": "output.invoice.total", "type": "number"}, "as_text": "output.invoice.total",
        "price": {"path": "output.lines.1", "type": "number"}, "lines": {"path": ["output", "lines"], "type": "json"},
        "paid": {"path": "output.paid", "type": "boolean"}, "due": {"path": "output.due", "type": "timestamp"},
        "count": {"path": "output.count", "type": "integer"}, "team": "labels.team", "how": "outcome",
        "missing": "output.invoice.nothing.here", "dotted": {"path": ["output", "a.b"]},
        "wrong": {"path": "output.invoice.number", "type": "number"},
    }  # fmt: skip
    output = {
        "invoice": {"number": "2026-17", "total": "1234567.89"}, "lines": [1, 2.5, None], "paid": True,
        "due": "2026-04-01T12:00:00+02:00", "count": 7.0, "a.b": "yes",
    }  # fmt: skip
    sink = database.sink(columns=columns)
    receipt = sink.send(make_delivery(sample_run("tsk_1", output=output), labels={"team": "billing"}))
    assert receipt.note == "null for want of a fitting value: wrong"
    row = database.row()
    assert float(row["total"]) == 1234567.89
    assert (row["as_text"], float(row["price"]), bool(row["paid"]), row["count"]) == ("1234567.89", 2.5, True, 7)
    assert (row["lines"] if isinstance(row["lines"], list) else json.loads(row["lines"])) == [1, 2.5, None]
    texts = [row[name] for name in ("team", "missing", "dotted", "how", "wrong")]
    assert texts == ["billing", None, "yes", "failed", None]
    due = row["due"] if isinstance(row["due"], datetime) else datetime.fromisoformat(row["due"]).replace(tzinfo=UTC)
    assert due == datetime(2026, 4, 1, 10, tzinfo=UTC)


def test_money_keeps_its_cents_on_postgresql(pg: ResultsDb) -> None:
    columns = {"total": {"path": "output.total", "type": "number"}}
    pg.sink(columns=columns).send(make_delivery(sample_run("tsk_1", output={"total": "0.10"})))
    assert str(pg.row()["total"]) == "0.10"


@pytest.mark.parametrize(
    ("value", "held"), [(1e308, 1e308), ("1e308", 1e308), ("9" * 400, None), ("1e309", None), (10**400, None)]
)
def test_a_number_as_text_is_held_to_what_a_number_is(database: ResultsDb, value: object, held: float | None) -> None:
    sink = database.sink(columns={"total": {"path": "output.total", "type": "number"}})
    sink.send(make_delivery(sample_run("tsk_1", output={"total": value})))
    found = database.row()["total"]
    assert (None if found is None else float(found)) == held


def test_a_test_of_a_run_that_is_there_leaves_its_row_alone(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(make_delivery({"run_id": "tsk_1", "run_type": "task_v1", "status": "failed"}))
    receipt = sink.send(make_delivery({"run_id": "tsk_1", "run_type": "task_v1", "status": "completed"}, test=True))
    rows = {row["run_id"]: (row["status"], bool(row["is_test"])) for row in database.rows()}
    assert rows == {"tsk_1": ("failed", False), "test-tsk_1": ("completed", True)}
    assert receipt.id == "skyvern_runs/test-tsk_1"
