"""Values in PostgreSQL's binary format, read back by its driver."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from psycopg import pq
from psycopg.adapt import Transformer

from handlers.support import postgresql_binary as binary

# The number in pg_type of an array of each type.
ARRAYS = {binary.BOOL: 1000, binary.BYTEA: 1001, binary.INT8: 1016, binary.INT4: 1007, binary.TEXT: 1009}
ARRAYS |= {binary.FLOAT8: 1022, binary.TIMESTAMPTZ: 1185}

EPOCH, EAST = datetime(2000, 1, 1, tzinfo=UTC), timezone(timedelta(hours=9))
VALUES: dict[binary.Type, list[Any]] = {
    binary.BOOL: [True, False, None],
    binary.BYTEA: [b"", bytes(range(256)), None],
    binary.INT8: [0, -1, 2**63 - 1, None],
    binary.INT4: [0, -1, 2**31 - 1, None],
    binary.TEXT: ["", "NULL", 'a "quoted" one', "größe \u2028", None],
    binary.FLOAT8: [0.1, 1.7e308, -5e-324, float("inf"), None],
    binary.TIMESTAMPTZ: [EPOCH, EPOCH.replace(year=1, microsecond=1), EPOCH.replace(9999, 12, 31, tzinfo=EAST), None],
}


def read(oid: int, written: bytes) -> Any:
    return Transformer().get_loader(oid, pq.Format.BINARY).load(written)


@pytest.mark.parametrize("of", ARRAYS, ids=lambda of: str(of.oid))
@pytest.mark.parametrize("end", [0, 1, -1, None])
def test_an_array_is_read_as_it_was_written(of: binary.Type, end: int | None) -> None:
    values = VALUES[of][:end]
    assert read(ARRAYS[of], binary.array(of, values)) == values
    for value in values:
        assert value is None or read(of.oid, of.write(value)) == value


@pytest.mark.parametrize("of", ARRAYS, ids=lambda of: str(of.oid))
def test_an_array_of_one_value_many_times_is_read_as_it_was_written(of: binary.Type) -> None:
    for value in VALUES[of]:
        for values in ([value] * 3, [value, None, value], [value, VALUES[of][0], value]):
            assert read(ARRAYS[of], binary.array(of, values)) == values


def test_numbers_that_are_equal_keep_their_digits() -> None:
    number = binary.Type(binary.TEXT.oid, lambda number: str(number).encode())
    prices = [Decimal(1), Decimal("1.00"), Decimal(1)]
    assert read(ARRAYS[binary.TEXT], binary.array(number, prices)) == ["1", "1.00", "1"]


@pytest.mark.parametrize(
    ("of", "value", "error"),
    [
        (binary.INT4, 2**31, struct.error),
        (binary.TEXT, "\ud800", UnicodeEncodeError),
        (binary.FLOAT8, 10**400, struct.error),
    ],
    ids=["integer", "text", "number"],
)
@pytest.mark.parametrize("more", [[], [None], "the same"])
def test_what_a_type_can_not_hold_is_refused(
    of: binary.Type, value: Any, error: type[Exception], more: list[None] | str
) -> None:
    with pytest.raises(error):
        binary.array(of, [value, *([value] if more == "the same" else more)])
