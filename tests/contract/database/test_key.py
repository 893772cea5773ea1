"""A row is one run of one source."""

from typing import Any

import sqlalchemy as sa

from handlers.database.table import RUN_KEY
from handlers.testing.conformance import make_delivery, sample_run
from tests.support.results_db import ResultsDb


def of(source: str, run_id: str = "tsk_1", **changes: Any) -> Any:
    return make_delivery(sample_run(run_id, **changes), source=source)


def primary_key(database: ResultsDb) -> list[str]:
    return sa.inspect(database.engine).get_pk_constraint("skyvern_runs")["constrained_columns"]


def test_runs_of_two_sources_with_one_id_are_two_rows(database: ResultsDb) -> None:
    sink = database.sink(history=True)

    sink.send_many(
        [of("skyvern", title="ours"), of("other", title="theirs"), of("skyvern", title="ours", step_count=7)]
    )
    sink.send(of("other", title="theirs", step_count=8))

    rows = sorted((row["source"], row["title"], row["step_count"]) for row in database.rows())
    assert rows == [("other", "theirs", 8), ("skyvern", "ours", 7)]
    assert primary_key(database) == list(RUN_KEY)
    assert len(database.rows("skyvern_runs_history")) == 4
    assert database.sink(history=True).missing_columns() == []
