"""The row that is made of a delivery, before any database has it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from handlers.contract import Refused
from handlers.database.columns import Columns
from handlers.database.options import MappedColumn
from handlers.database.table import STANDARD
from handlers.testing.conformance import make_delivery, sample_run

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_row_has_each_standard_column_once() -> None:
    assert sorted(Columns({}).row(make_delivery(sample_run()), NOW).cells) == sorted(column.name for column in STANDARD)


def test_operators_column_wins_over_a_standard_column() -> None:
    columns = Columns({"summary": MappedColumn(path="output.invoice.total", type="integer")})
    row = columns.row(make_delivery(sample_run("tsk_1", summary="done")), NOW)
    assert row.cells["summary"] == 1500


def test_an_output_that_no_row_can_hold_is_refused() -> None:
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(Refused, match="nested too deeply"):
        Columns({}).row(replace(make_delivery(sample_run("tsk_1")), run={"output": deep}), NOW)
