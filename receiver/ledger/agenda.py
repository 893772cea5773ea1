"""What the clock may have to do, by one look: a tick at which nothing comes due costs one small query.

A look says what is worth a closer one, and reads one row of each index, however much waits.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from receiver.ledger import replays, requests
from receiver.ledger.deliveries import fair_queue, recovery
from receiver.ledger.engine import Ledger
from receiver.ledger.requests import BuiltStatement
from receiver.ledger.schema import runs


class Agenda(NamedTuple):
    """`changes`: a waiting delivery is due, or a claim has lapsed. `queued`: there is a delivery that no worker has.
    `operations`: one is running. `newest_run`: when a run has changed last, in seconds since the epoch; 0.0 when there
    is none, and None when nobody knows."""

    changes: bool
    queued: bool
    operations: bool
    newest_run: float | None


# Of a ledger that was not asked.
UNKNOWN: Final = Agenda(changes=True, queued=True, operations=True, newest_run=None)


def query(on_postgresql: bool) -> Any:
    """Return the look as a statement, of which `b_now` is the time."""
    now: sa.BindParameter[float] = sa.bindparam("b_now", type_=sa.Double())
    changes = [each.scalar_subquery().is_not(None) for each in recovery.due_to_change(on_postgresql, now)]
    return sa.select(
        sa.or_(*changes).label("changes"),
        fair_queue.one_queued(on_postgresql).scalar_subquery().is_not(None).label("queued"),
        replays.ONE_RUNNING.scalar_subquery().is_not(None).label("operations"),
        sa.func.coalesce(sa.select(sa.func.max(runs.c.updated_at)).scalar_subquery(), 0.0).label("newest_run"),
    )


_LOOK: Final = BuiltStatement(lambda form: query(bool(form)))


@cache
def _on_sqlite() -> tuple[str, dict[str, Any]]:
    """Return the look as SQLite's driver takes it, for SQLAlchemy costs more than SQLite does; and its constants."""
    compiled = _LOOK.on_sqlite.compile(dialect=sqlite.dialect(paramstyle="named"))
    return compiled.string, compiled.params


def look(ledger: Ledger) -> Agenda:
    """Return what there may be to do now, by the database's clock. Raises LedgerUnavailable."""
    found: Any
    now = ledger.now()
    if ledger.dialect == "sqlite":
        text, constants = _on_sqlite()
        found = Agenda(*ledger.first_of_sqlite(text, {**constants, "b_now": now}))
    else:
        ((found,),) = ledger.read(
            lambda connection: requests.run(connection, _LOOK.with_values(b_now=now)), transaction=False
        )
    return Agenda(bool(found.changes), bool(found.queued), bool(found.operations), found.newest_run)
