"""How far the index has come, as the ledger keeps it; and who may change it.

Runs are read in the order in which they changed. `seen` goes with them as they change. `checked` follows SETTLED
seconds behind and finds those whose transaction took so long that `seen` had passed when it was committed.
`backfilled` goes from the newest run of when the ledger got this index back to its oldest.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger import bulk, statements
from receiver.ledger.expressions import bytewise
from receiver.ledger.schema import runs, text_index
from receiver.ledger.statements import BoundStatement, BuiltStatement

# Seconds after which no transaction is under way any more that began with a time of before: its statements, waits for
# locks and pauses all have limits, see handlers/support/postgresql.py.
SETTLED: Final = 60.0


# The order in which runs changed: that of their list.
ORDER: Final = (runs.c.updated_at, bytewise(runs.c.source), bytewise(runs.c.run_id))


class Place(NamedTuple):
    """A run's place in the order in which runs changed. `at`: seconds since the epoch."""

    at: float
    source: str = ""
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class IndexState:
    """`newest`, `oldest`: the highest and lowest number that was given. `backfilled`: None when all of it is.

    `owner`: who indexes until `leased_until`, seconds since the epoch.
    """

    newest: int
    oldest: int
    seen: Place
    checked: Place
    backfilled: Place | None
    owner: str = ""
    leased_until: float = 0.0


# Reads the state; and the same, so that all others are kept from changing the index until the transaction ends.
READ: Final = BuiltStatement(lambda _: sa.select(text_index))
LOCK: Final = BuiltStatement(lambda _: sa.select(text_index).with_for_update())
_WRITE: Final = BuiltStatement(
    lambda _: sa.update(text_index).values(
        {
            column: sa.bindparam(f"new_{column.name}", type_=column.type)
            for column in text_index.c
            if column.name != "id"
        }
    )
)


def read(connection: sa.Connection) -> IndexState | None:
    """Return the state; None when nothing was ever indexed."""
    return of_rows(statements.run(connection, READ.with_values())[0])


def lock(connection: sa.Connection) -> IndexState | None:
    """Return the state, and keep all others from changing the index until the transaction ends."""
    return of_rows(statements.run(connection, LOCK.with_values())[0])


def mark_changed(connection: sa.Connection) -> None:
    """Let whoever has read a batch see that the index was changed since. Whoever calls it holds the lock."""
    connection.execute(sa.update(text_index).values(owner=secrets.token_hex(8), leased_until=0.0))


def begin(connection: sa.Connection) -> None:
    """Make the state of a ledger that was never indexed, if it is not there."""
    last = connection.execute(sa.select(sa.func.max(runs.c.updated_at))).scalar()
    place = _to_json(Place(0.0 if last is None else last))
    before = _to_json(Place(0.0 if last is None else last - SETTLED))
    insert = bulk.insert_statement(connection, text_index).values(
        id=1, newest=0, oldest=1, seen=place, checked=before, backfilled=None if last is None else place
    )
    connection.execute(insert.on_conflict_do_nothing(index_elements=[text_index.c.id]))


def writing(state: IndexState) -> BoundStatement:
    """Return what writes the state, to be run with others."""
    return _WRITE.with_values(
        new_newest=state.newest,
        new_oldest=state.oldest,
        new_seen=_to_json(state.seen),
        new_checked=_to_json(state.checked),
        new_backfilled=None if state.backfilled is None else _to_json(state.backfilled),
        new_owner=state.owner,
        new_leased_until=state.leased_until,
    )


def after(place: Place) -> sa.ColumnElement[bool]:
    """Return the condition that a run changed after the one at `place`."""
    return sa.and_(runs.c.updated_at >= place.at, sa.tuple_(*ORDER) > sa.tuple_(*place))


def before(place: Place) -> sa.ColumnElement[bool]:
    """Return the condition that a run changed last before the one at `place`."""
    return sa.and_(runs.c.updated_at <= place.at, sa.tuple_(*ORDER) < sa.tuple_(*place))


def _to_json(place: Place) -> str:
    return json.dumps(place)


def of_rows(rows: Sequence[Any]) -> IndexState | None:
    """Return the state that READ or LOCK has found."""
    if not rows:
        return None
    (row,) = rows
    return IndexState(
        row.newest,
        row.oldest,
        Place(*json.loads(row.seen)),
        Place(*json.loads(row.checked)),
        None if row.backfilled is None else Place(*json.loads(row.backfilled)),
        row.owner,
        row.leased_until,
    )
