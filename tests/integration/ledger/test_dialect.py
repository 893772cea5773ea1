"""Values of many rows in one statement: what goes in comes out, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.ledger import Connection, Ledger, LedgerDataError
from receiver.ledger.database import dialect, many_rows

TEXTS = ["", "NULL", "null", 'a "quoted" one', "back\\slash\\", "{1,2}", ",", " around ", "größe \u2028\n\t", "%s"]

values = sa.Table(
    "values_of_a_test",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text),
    sa.Column("bytes", sa.LargeBinary),
    sa.Column("double", sa.Double),
    sa.Column("yes", sa.Boolean),
)


def insert(connection: Connection, rows: list[dict[str, Any]]) -> Sequence[Any]:
    return many_rows.insert_many(connection, values, rows, many_rows.do_nothing, (values.c.id,))


def row(number: int, text: str | None = None) -> dict[str, object]:
    return {
        "id": number,
        "text": text,
        "bytes": bytes(range(256)) if number else b"",
        "double": [0.1, 1.7e308, -5e-324, 1764129600.123456, None][number % 5],
        "yes": [True, False, None][number % 3],
    }


SMALL = [row(number, text) for number, text in enumerate([*TEXTS, None])]
LARGE = [
    {**row(number, "a"), "bytes": b"\0\xff\\" * (size // 3) + b"x" * (size % 3)}
    for number, size in enumerate([0, 1, 64 << 10, 3 << 20, 5])
]


@pytest.mark.parametrize("wanted", [SMALL, LARGE], ids=["small", "large"])
def test_values_come_out_as_they_went_in(ledger_url: str, wanted: list[dict[str, Any]]) -> None:
    with closing(Ledger(ledger_url)) as ledger:
        ledger.alter(values.create)
        made = ledger.write(lambda connection: insert(connection, wanted))

        found = ledger.read(lambda connection: connection.execute(sa.select(values).order_by(values.c.id)).all())
        assert [dict(each._mapping) for each in found] == wanted
        assert sorted(each.id for each in made) == list(range(len(wanted)))
        assert ledger.write(lambda connection: insert(connection, wanted)) == [], "they are there"


@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_list_of_values_finds_exactly_its_rows(ledger_url: str, count: int) -> None:
    with closing(Ledger(ledger_url)) as ledger:
        ledger.alter(values.create)
        texts = [*TEXTS, *(f"text {number}" for number in range(500))]
        ledger.write(lambda connection: insert(connection, [row(number, text) for number, text in enumerate(texts)]))
        wanted = texts[:count]

        query = sa.select(values.c.text).where(dialect.among(values.c.text, wanted))
        given = sa.select(values.c.text).where(dialect.among_given(values.c.text, "texts"))

        assert sorted(ledger.read(lambda it: it.execute(query).scalars().all())) == sorted(wanted)
        assert sorted(ledger.read(lambda it: it.execute(given, {"texts": wanted}).scalars().all())) == sorted(wanted)


@pytest.mark.parametrize("bad", [2**31, 2**63, 2**64, 10**30, "\ud800", "a\0b"])
def test_value_that_no_column_takes_is_a_data_error(postgres_url: str, bad: int | str) -> None:
    with closing(Ledger(postgres_url)) as ledger:
        ledger.alter(values.create)
        rows = [row(2), row(bad) if isinstance(bad, int) else row(1, bad)]
        with pytest.raises(LedgerDataError):
            ledger.write(lambda connection: insert(connection, rows))
