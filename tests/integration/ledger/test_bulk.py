"""Values of many rows in one statement: what goes in comes out, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from receiver.ledger import Ledger, LedgerDataError, bulk

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
insert = bulk.Insert(values, lambda statement: statement.on_conflict_do_nothing(), [values.c.id])


def row(number: int, text: str | None = None) -> dict[str, object]:
    return {
        "id": number,
        "text": text,
        "bytes": bytes(range(256)) if number else b"",
        "double": [0.1, 1.7e308, -5e-324, 1764129600.123456, None][number % 5],
        "yes": [True, False, None][number % 3],
    }


def test_values_come_out_as_they_went_in(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    wanted = [row(number, text) for number, text in enumerate([*TEXTS, None])]
    ledger.alter(values.create)

    made = ledger.write(lambda connection: insert(connection, wanted))

    found = ledger.read(lambda connection: connection.execute(sa.select(values).order_by(values.c.id)).all())
    assert [dict(each._mapping) for each in found] == wanted
    assert sorted(each.id for each in made) == list(range(len(wanted)))
    assert ledger.write(lambda connection: insert(connection, wanted)) == [], "they are there"
    ledger.close()


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_what_rows_have_alike_is_in_each_of_them(ledger_url: str, count: int) -> None:
    # Given an INSERT for which it pays to send once what all rows have alike
    alike = bulk.Insert(
        values, lambda statement: statement.on_conflict_do_nothing(), [values.c.id], [(), ("yes",), ("text", "double")]
    )
    ledger = Ledger(ledger_url)
    ledger.alter(values.create)
    # When there are rows that have nothing alike, some of it, or all of it, be that null
    first = row(100, "a")
    kinds = [{}, {"yes": first["yes"]}, {"yes": None, "double": 2.5}, {**first, "text": None}, {"text": "a"}]
    wanted = [
        {**row(10_000 * kind + number, f"text {number}"), **same, "id": 10_000 * kind + number}
        for kind, same in enumerate(kinds)
        for number in range(count)
    ]
    for at in range(0, len(wanted), count or 1):
        ledger.write(lambda it, at=at: alike(it, wanted[at : at + count]))  # type: ignore[misc]
    # Then they come out as they went in
    found = ledger.read(lambda connection: connection.execute(sa.select(values).order_by(values.c.id)).all())
    assert [dict(each._mapping) for each in found] == wanted
    ledger.close()


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_a_text_that_no_database_takes_is_an_error_of_the_data(postgres_url: str, text: str) -> None:
    ledger = Ledger(postgres_url)
    ledger.alter(values.create)
    with pytest.raises(LedgerDataError):
        ledger.write(lambda connection: insert(connection, [row(1, text)]))
    ledger.close()
