"""The row that is made of a delivery, before any database has it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from handlers.contract import Refused
from handlers.database.columns import Columns
from handlers.testing.conformance import make_delivery, sample_run

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_an_output_that_no_row_can_hold_is_refused() -> None:
    deep: list[object] = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(Refused, match="nested too deeply"):
        Columns({}).row(replace(make_delivery(sample_run("tsk_1")), run={"output": deep}), NOW)
