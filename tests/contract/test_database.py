"""The database sink: one row a run, the newest facts win, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from handlers.contract import Delivery, Receipt, Refused, Unavailable
from handlers.database import DatabaseOptions, DatabaseSink
from handlers.database.server import Database
from handlers.testing.conformance import (
    BODIES,
    NoServices,
    SinkConformance,
    SinkUnderTest,
    closed_port,
    make_delivery,
    sample_run,
    silent_port,
)
from tests.servers.postgres import PostgresProcess

TIMES = {"created_at", "modified_at", "queued_at", "started_at", "finished_at", "received_at", "delivered_at"}
JSON = {"output", "errors", "labels", "links"}


class ResultsDb:
    """A database and a reader of its own, so that nothing is believed that is not committed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        self.sinks: list[DatabaseSink] = []

    def sink(self, **options: Any) -> DatabaseSink:
        validated = DatabaseOptions.model_validate({"url": self.url, "timeout": 10, **options})
        self.sinks.append(DatabaseSink("results", validated, NoServices()))
        return self.sinks[-1]

    def query(self, sql: str, **parameters: Any) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(sa.text(sql), parameters).mappings())

    def execute(self, sql: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(sql))

    def rows(self, table: str = "skyvern_runs") -> list[dict[str, Any]]:
        with contextlib.suppress(sa.exc.OperationalError, sa.exc.ProgrammingError):
            return [self._plain(row) for row in self.query(f"SELECT * FROM {table} ORDER BY run_id")]
        return []

    def _plain(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as SQL gives it, with SQLite's text read as what it stands for."""
        found = dict(row)
        if self.engine.dialect.name == "sqlite":
            for name in JSON & {name for name, value in found.items() if value is not None}:
                found[name] = json.loads(found[name])
            for name in TIMES & {name for name, value in found.items() if value is not None}:
                found[name] = datetime.fromisoformat(found[name]).replace(tzinfo=UTC)
        return found

    def row(self, table: str = "skyvern_runs") -> dict[str, Any]:
        (row,) = self.rows(table)
        return row

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
        self.engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[ResultsDb]:
    database = ResultsDb(f"sqlite:///{tmp_path}/results.db")
    yield database
    database.close()


@pytest.fixture
def pg(postgres_url: str) -> Iterator[ResultsDb]:
    database = ResultsDb(postgres_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "pg"])
def database(request: pytest.FixtureRequest) -> ResultsDb:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ResultsDb)
    return found


def event(run_id: str, minute: float, **changes: Any) -> Delivery:
    """An event of run `run_id` that Skyvern wrote at 10:`minute`, and that arrived a second later."""
    moment = datetime(2026, 3, 1, 10, tzinfo=UTC) + timedelta(minutes=minute)
    run = sample_run(run_id, modified_at=moment.replace(tzinfo=None).isoformat(), **changes)
    return make_delivery(run, received_at=moment + timedelta(seconds=1))


class TestSqliteConforms(SinkConformance):
    @pytest.fixture
    def target(self, sqlite: ResultsDb, tmp_path: Path) -> SinkUnderTest:
        (tmp_path / "a-file").touch()
        return SinkUnderTest(
            DatabaseSink,
            {"url": sqlite.url, "timeout": 10},
            sqlite.rows,
            idempotent=True,
            is_marked=lambda row: row["is_test"],
            away={"a file where the folder should be": {"url": f"sqlite:///{tmp_path}/a-file/results.db"}},
        )


class TestPostgresConforms(SinkConformance):
    @pytest.fixture
    def target(self, pg: ResultsDb) -> Iterator[SinkUnderTest]:
        url = pg.url.replace("postgres@", "postgres:pw-5e1f@")
        with silent_port() as silent:
            yield SinkUnderTest(
                DatabaseSink,
                {"url": url, "timeout": 10},
                pg.rows,
                idempotent=True,
                is_marked=lambda row: row["is_test"],
                secrets=["pw-5e1f"],
                away={
                    "nothing listens": {"url": f"postgresql://u:pw-5e1f@127.0.0.1:{closed_port()}/x", "timeout": 2},
                    "never answers": {"url": f"postgresql://u:pw-5e1f@127.0.0.1:{silent}/x", "timeout": 2},
                    "no such database": {"url": url + "_gone", "timeout": 2},
                    "no such role": {"url": url.replace("postgres:", "nobody_here:"), "timeout": 2},
                },
            )


# What is in a row


def test_a_row_tells_what_became_of_the_run(database: ResultsDb) -> None:
    run = sample_run("tsk_1", run_request={"title": "Invoices"}, queued_at="2026-03-01T10:00:01")
    delivery = make_delivery(
        run,
        status="completed",  # untangled: failed only because its webhook could not be delivered
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
        "run_id": "tsk_1",
        "source": "skyvern",
        "run_type": "task_v1",
        "status": "completed",
        "original_status": "failed",
        "attempt": 1,
        "failure_reason": run["failure_reason"],
        "output": run["output"],
        "errors": None,
        "title": "Invoices",
        "workflow_id": None,
        "step_count": 3,
        "app_url": "https://app.example/tasks/tsk_1",
        "recording_url": None,
        "created_at": datetime(2026, 3, 1, 10, 0, 0, 1, tzinfo=UTC),
        "modified_at": datetime(2026, 3, 1, 10, 2, 5, 500000, tzinfo=UTC),
        "queued_at": datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC),
        "started_at": datetime(2026, 3, 1, 10, 0, 3, 250000, tzinfo=UTC),
        "finished_at": datetime(2026, 3, 1, 10, 2, 5, 250000, tzinfo=UTC),
        "labels": {"team": "billing"},
        "links": {"recording": "https://files.example/1.webm"},
        "event_id": delivery.event_id,
        "via": "webhook",
        "received_at": delivery.received_at,
    }


def test_times_are_times_to_the_database_whatever_the_session_thinks_of_zones(pg: ResultsDb) -> None:
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


# Which event wins


def test_a_newer_event_replaces_the_row_and_an_older_one_does_not(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("tsk_1", 1, status="running", output=None))
    assert sink.send(event("tsk_1", 3, status="completed", output={"n": 3})).note == ""
    late = sink.send(event("tsk_1", 2, status="failed", output={"n": 2}))
    assert late.note == "the row holds a newer event of this run, and was left as it is"
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


def test_null_output_never_replaces_output_of_the_same_attempt_and_status(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(event("wr_1", 1, status="canceled", output={"n": 1}))
    nothings: list[Any] = [None, {}, []]
    for minute, nothing in enumerate(nothings, 2):
        sink.send(event("wr_1", minute, status="canceled", output=nothing))
        assert database.row()["output"] == {"n": 1}
    assert database.row()["modified_at"].minute == 4, "the rest of the row follows the newest event"
    sink.send(event("wr_1", 5, status="failed", output=None))
    assert database.row()["output"] is None, "another status is a new result"


def test_fewer_fields_of_a_webhook_sent_again_take_nothing_away(database: ResultsDb) -> None:
    sink = database.sink(columns={"total": {"path": "output.invoice.total", "type": "number"}})
    sink.send(event("tsk_1", 1))
    few = {"run_id": "tsk_1", "status": "failed", "run_type": "task_v1", "modified_at": "2026-03-01T10:09:00"}
    sink.send(make_delivery(few))
    row = database.row()
    assert (row["step_count"], row["total"], row["started_at"].minute) == (3, 1500, 0)
    assert row["failure_reason"] is None, "what went wrong is as the newest event says"


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


def test_within_an_attempt_a_final_event_wins_over_an_interim_one_with_a_fast_clock(database: ResultsDb) -> None:
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


def test_the_same_event_again_fills_columns_that_are_new(database: ResultsDb) -> None:
    """A replay is how rows that were there before get a new column's values."""
    delivery = event("tsk_1", 1)
    database.sink().send(delivery)
    database.sink(columns={"total": {"path": "output.invoice.total", "type": "integer"}}).send(delivery)
    assert database.row()["total"] == 1500


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


# Columns of the operator's own


def test_mapped_columns_have_their_types_and_what_does_not_fit_is_null_and_noted(database: ResultsDb) -> None:
    sink = database.sink(
        columns={
            "total": {"path": "output.invoice.total", "type": "number"},
            "as_text": "output.invoice.total",
            "price": {"path": "output.lines.1", "type": "number"},
            "lines": {"path": ["output", "lines"], "type": "json"},
            "paid": {"path": "output.paid", "type": "boolean"},
            "due": {"path": "output.due", "type": "timestamp"},
            "count": {"path": "output.count", "type": "integer"},
            "team": "labels.team",
            "missing": "output.invoice.nothing.here",
            "dotted": {"path": ["output", "a.b"]},
            "how": "outcome",
            "wrong": {"path": "output.invoice.number", "type": "number"},
        }
    )
    output = {
        "invoice": {"number": "2026-17", "total": "1234567.89"},
        "lines": [1, 2.5, None],
        "paid": True,
        "due": "2026-04-01T12:00:00+02:00",
        "count": 7.0,
        "a.b": "yes",
    }
    receipt = sink.send(make_delivery(sample_run("tsk_1", output=output), labels={"team": "billing"}))
    assert receipt.note == "null for want of a fitting value: wrong"
    row = database.row()
    assert float(row["total"]) == 1234567.89
    assert (row["as_text"], float(row["price"]), bool(row["paid"]), row["count"]) == ("1234567.89", 2.5, True, 7)
    assert (row["lines"] if isinstance(row["lines"], list) else json.loads(row["lines"])) == [1, 2.5, None]
    assert (row["team"], row["missing"], row["dotted"], row["how"], row["wrong"]) == (
        "billing",
        None,
        "yes",
        "failed",
        None,
    )
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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "results.db"}, "is no database URL"),
        ({"url": ""}, "is empty"),
        ({"url": "sqlite://"}, "must name a file"),
        ({"url": "sqlite:///:memory:"}, "must name a file"),
        ({"url": "mysql://me:pw-5e1f@host/db"}, "not to mysql"),
        ({"url": "postgresql+asyncpg://me:pw-5e1f@host/db"}, "not to postgresql\\+asyncpg"),
        ({"url": "postgresql://me:pw-5e1f@host:port/db"}, "is no database URL"),
        ({"table": "runs; DROP TABLE x"}, "is no table name"),
        ({"table": "a.b.c"}, "is no table name"),
        ({"columns": {"status": "output.status"}}, "status is a column that the table has already"),
        ({"columns": {"a b": "output.a"}}, "is no column name"),
        ({"columns": {"total": "output..total"}}, "is no path"),
        ({"columns": {"total": {"path": "output.total", "type": "money"}}}, "'text', 'integer', 'number'"),
        ({"columns": {"total": {"path": "output.total", "tpye": "text"}}}, "tpye"),
        ({"columns": {"Total": "output.a", "total": "output.b"}}, "differ only in upper and lower case"),
    ],
)
def test_wrong_options_say_what_would_be_right_and_hide_the_password(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as caught:
        DatabaseOptions.model_validate({"url": "sqlite:///var/results.db", **options})
    assert "pw-5e1f" not in str(caught.value)


# The table


def test_the_folder_and_the_table_are_made(tmp_path: Path) -> None:
    database = ResultsDb(f"sqlite:///{tmp_path}/var/deep/results.db")
    database.sink(table="runs").send(make_delivery())
    assert len(database.rows("runs")) == 1
    database.close()


def test_a_table_in_another_schema_is_used(pg: ResultsDb) -> None:
    pg.execute("CREATE SCHEMA analytics")
    sink = pg.sink(table="analytics.Runs", columns={"Order": "output.invoice.number"})
    receipt = sink.send(event("tsk_1", 1))
    sink.send(event("tsk_1", 0))
    assert receipt.id == "analytics.Runs/tsk_1"
    assert pg.row('analytics."Runs"')["Order"] == "2026-17"


def test_columns_that_a_table_lacks_are_added_and_others_are_left_alone(database: ResultsDb) -> None:
    database.execute("CREATE TABLE skyvern_runs (run_id VARCHAR(200) UNIQUE, mine INTEGER DEFAULT 7, status TEXT)")
    database.execute("INSERT INTO skyvern_runs (run_id, status) VALUES ('tsk_1', 'old'), ('tsk_2', 'old')")
    database.sink().send(event("tsk_1", 1))
    rows = database.rows()
    assert [(row["run_id"], row["status"], row["mine"]) for row in rows] == [
        ("tsk_1", "failed", 7),
        ("tsk_2", "old", 7),
    ]


def test_with_create_off_the_table_must_be_there_and_be_whole(database: ResultsDb) -> None:
    sink = database.sink(create=False)
    with pytest.raises(Unavailable, match=r"^there is no table skyvern_runs, and create is false$"):
        sink.send(make_delivery())
    database.execute("CREATE TABLE skyvern_runs (run_id TEXT PRIMARY KEY)")
    with pytest.raises(Unavailable, match=r"lacks the columns source, run_type, .*, and create is false$"):
        sink.send(make_delivery())
    database.sink(create=True).send(make_delivery())
    assert isinstance(sink.send(make_delivery()), Receipt), "put right by the operator, it goes on"


def test_a_table_that_lets_a_run_have_two_rows_is_named_with_the_remedy(database: ResultsDb) -> None:
    database.execute("CREATE TABLE skyvern_runs (run_id TEXT)")
    with pytest.raises(Unavailable, match=r"CREATE UNIQUE INDEX .*ON skyvern_runs \(run_id\)"):
        database.sink().send(make_delivery())


def test_a_table_that_is_dropped_under_us_is_made_again(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(make_delivery())
    database.execute("DROP TABLE skyvern_runs")
    with pytest.raises(Unavailable):
        sink.send(make_delivery())
    sink.send(make_delivery())
    assert len(database.rows()) == 1


def test_sinks_that_start_together_make_one_table(database: ResultsDb) -> None:
    sinks = [database.sink() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda sink: sink.send_many([make_delivery()]), sinks))
    assert all(isinstance(answer, Receipt) for (answer,) in answers), answers
    assert len(database.rows()) == 6


# Batches


def test_one_row_that_the_database_refuses_costs_its_batch_nothing(database: ResultsDb) -> None:
    """Here by a rule that the operator made."""
    database.execute("CREATE TABLE skyvern_runs (run_id TEXT PRIMARY KEY, step_count INTEGER CHECK (step_count < 100))")
    batch = [event(f"tsk_{number}", 1, step_count=number * 2) for number in range(64)]
    answers = database.sink().send_many(batch)
    refused = {number: answer for number, answer in enumerate(answers) if not isinstance(answer, Receipt)}
    assert set(refused) == set(range(50, 64))
    assert all(isinstance(answer, Refused) for answer in refused.values())
    assert "refused the row" in str(refused[50])
    assert len(database.rows()) == 50


def test_a_refusal_quotes_nothing_of_the_row(pg: ResultsDb) -> None:
    pg.execute("CREATE TABLE skyvern_runs (run_id TEXT PRIMARY KEY, failure_reason VARCHAR(3), title TEXT NOT NULL)")
    for run in (sample_run(failure_reason="SECRET"), sample_run(failure_reason="abc", app_url="SECRET")):
        with pytest.raises(Refused) as caught:
            pg.sink().send(make_delivery(run))
        assert "SECRET" not in repr(caught.value)
        assert "SECRET" not in repr(caught.value.__cause__)
    assert "column title" in str(caught.value)


def test_a_batch_that_is_very_large_is_written_in_parts(database: ResultsDb) -> None:
    deliveries = [event(f"tsk_{number}", 1, output={"text": "x" * 3_000_000}) for number in range(6)]
    answers = database.sink().send_many(deliveries)
    assert all(isinstance(answer, Receipt) for answer in answers)
    assert len(database.rows()) == 6


def test_a_batch_of_every_size_is_answered_in_order(database: ResultsDb) -> None:
    sink = database.sink()
    for size in (1, 2, 255, 256, 1500):
        runs = [f"tsk_{size}_{number}" for number in range(size)]
        random.Random(size).shuffle(runs)
        answers = sink.send_many([event(run, 1) for run in runs])
        assert [answer.id for answer in answers if isinstance(answer, Receipt)] == [
            f"skyvern_runs/{run}" for run in runs
        ]


# Trouble


def test_a_server_that_is_killed_and_returns_goes_on_with_what_it_had(
    postgres_factory: Callable[..., PostgresProcess],
) -> None:
    server = postgres_factory(fsync=True)
    database = ResultsDb(server.url())
    sink = database.sink(timeout=5)
    sink.send(event("tsk_1", 1))
    server.kill()
    with pytest.raises(Unavailable, match="PostgreSQL"):
        sink.send(event("tsk_2", 1))
    server.start()
    sink.send(event("tsk_3", 1))  # at once, on a connection of before the kill
    assert [row["run_id"] for row in database.rows()] == ["tsk_1", "tsk_3"]
    database.close()


def test_a_server_that_hangs_in_the_middle_is_left_in_time(postgres_factory: Callable[..., PostgresProcess]) -> None:
    server = postgres_factory()
    database = ResultsDb(server.url())
    sink = database.sink(timeout=2)
    sink.send(event("tsk_1", 1))
    server.hang()
    started = time.monotonic()
    with pytest.raises(Unavailable, match="in time"):
        sink.send(event("tsk_2", 1))
    assert time.monotonic() - started < 10
    server.resume()
    sink.send(event("tsk_3", 1))
    assert {"tsk_1", "tsk_3"} <= {row["run_id"] for row in database.rows()}
    database.close()


def test_a_locked_table_is_unavailable_in_time(pg: ResultsDb) -> None:
    sink = pg.sink(timeout=2)
    sink.send(event("tsk_1", 1))
    with pg.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE skyvern_runs IN ACCESS EXCLUSIVE MODE"))
        started = time.monotonic()
        with pytest.raises(Unavailable, match="lock timeout"):
            sink.send(event("tsk_1", 2))
        assert time.monotonic() - started < 10
    assert isinstance(sink.send(event("tsk_1", 2)), Receipt)


def test_a_sqlite_file_that_another_process_holds_is_unavailable_in_time(sqlite: ResultsDb, tmp_path: Path) -> None:
    sink = sqlite.sink(timeout=1)
    sink.send(event("tsk_1", 1))
    with (tmp_path / "results.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="locked by another process"):
            sink.send(event("tsk_1", 2))
    with sqlite.engine.begin() as connection:  # somebody who knows nothing of our lock
        connection.execute(sa.text("UPDATE skyvern_runs SET title = 'x'"))
        with pytest.raises(Unavailable, match="locked"):
            sink.send(event("tsk_1", 2))
    assert isinstance(sink.send(event("tsk_1", 2)), Receipt)


def test_readers_of_sqlite_are_not_kept_waiting(sqlite: ResultsDb) -> None:
    sink = sqlite.sink()
    sink.send(event("tsk_1", 1))
    with Database(sqlite.engine.url, 5).transaction(time.monotonic() + 5) as connection:
        connection.execute(sa.text("UPDATE skyvern_runs SET title = 'x'"))
        assert sqlite.row()["title"] is None


def test_a_deadlock_is_tried_again_by_the_caller(pg: ResultsDb) -> None:
    """Between us and somebody else's program: among ourselves rows are locked in one order."""
    sink = pg.sink(timeout=8)
    sink.send_many([event("tsk_1", 1), event("tsk_2", 1)])
    with pg.engine.connect() as other:
        other.execute(sa.text("SET deadlock_timeout = '10s'"))  # so that the other one is not the victim
        other.execute(sa.text("UPDATE skyvern_runs SET title = 'x' WHERE run_id = 'tsk_2'"))
        answers: list[Receipt | Exception] = []
        batch = [event("tsk_1", 2), event("tsk_2", 2)]
        thread = threading.Thread(target=lambda: answers.extend(sink.send_many(batch)))
        thread.start()
        deadline = time.monotonic() + 5
        while not pg.query("SELECT 1 FROM pg_locks WHERE NOT granted") and time.monotonic() < deadline:
            time.sleep(0.01)
        other.execute(sa.text("UPDATE skyvern_runs SET title = 'x' WHERE run_id = 'tsk_1'"))
        other.commit()
        thread.join(10)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert "40P01" in str(answers[0])
    assert all(isinstance(answer, Receipt) for answer in sink.send_many(batch))


def test_a_full_or_read_only_database_waits_for_its_operator(pg: ResultsDb) -> None:
    sink = pg.sink()
    sink.send(event("tsk_1", 1))
    pg.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        fresh = pg.sink()
        with pytest.raises(Unavailable, match="read-only transaction"):
            fresh.send(event("tsk_1", 2))
    finally:
        with pg.engine.connect() as connection:
            connection.execute(sa.text("SET default_transaction_read_only = off"))
            connection.execute(sa.text("ALTER ROLE postgres RESET default_transaction_read_only"))
            connection.commit()
