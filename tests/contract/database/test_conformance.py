"""The sink `database` passes the conformance suite, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.database import DatabaseSink
from handlers.testing.conformance import SinkConformance, SinkUnderTest, closed_port, silent_port
from tests.support.results_db import ResultsDb


class TestSqliteConforms(SinkConformance):
    @pytest.fixture
    def target(self, sqlite: ResultsDb, tmp_path: Path) -> SinkUnderTest:
        (tmp_path / "a-file").touch()
        return SinkUnderTest(
            DatabaseSink,
            {"url": sqlite.url, "timeout": 60},
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
                {"url": url, "timeout": 60},
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
