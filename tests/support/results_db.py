"""A database for the tests of the sink `database`, with a reader of its own, and events to write."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from handlers.contract import Delivery
from handlers.database import DatabaseOptions, DatabaseSink
from handlers.database.table import STANDARD
from handlers.testing.conformance import (
    NoServices,
    make_delivery,
    sample_run,
)

TIMES = {column.name for column in STANDARD if column.kind == "timestamp"}
JSON = {column.name for column in STANDARD if column.kind == "json"}


class ResultsDb:
    """A database with its own connection for reading, which sees only what is committed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = sa.create_engine(url)
        self.sinks: list[DatabaseSink] = []

    def sink(self, **options: Any) -> DatabaseSink:
        validated = DatabaseOptions.model_validate({"url": self.url, "timeout": 60, **options})
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
        """Return the row, with SQLite's text parsed as JSON and times."""
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


def event(run_id: str, minute: float, **changes: Any) -> Delivery:
    """An event of run `run_id` that Skyvern wrote at 10:`minute`, and that arrived a second later."""
    moment = datetime(2026, 3, 1, 10, tzinfo=UTC) + timedelta(minutes=minute)
    run = sample_run(run_id, modified_at=moment.replace(tzinfo=None).isoformat(), **changes)
    return make_delivery(run, received_at=moment + timedelta(seconds=1))
