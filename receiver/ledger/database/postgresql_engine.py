"""Open connections to a ledger on PostgreSQL, begin their transactions, read the clock, and change time limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from receiver.ledger.database.database_clock import DatabaseClock
from receiver.ledger.database.dialect import ASK

if TYPE_CHECKING:
    from handlers.support.postgresql import TimeLimits


def make(url: sa.URL, wait: float, limits: TimeLimits | None, clock: DatabaseClock) -> sa.Engine:
    """Return an engine for the server at `url`. `wait`: seconds for a connection. `clock`: notes the server's time."""
    from handlers.support import postgresql as driver  # not needed with SQLite

    limits = limits or driver.TimeLimits()
    # The connection used last comes first: it has cached plans.
    engine = sa.create_engine(
        url, pool_size=4, max_overflow=8, pool_timeout=wait, pool_recycle=1800, pool_use_lifo=True
    )
    defaults = {**driver.client_options(limits), "application_name": "runhook"}

    @sa_event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, arguments: Any, options: dict[str, Any]) -> Any:
        connection = driver.BoundedConnection.connect(*arguments, **{**defaults, **options})
        driver.require_encoding(connection)
        connection.longest_wait = limits.statement + limits.margin
        return connection

    @sa_event.listens_for(engine, "connect")
    def _connected(connection: Any, record: Any) -> None:
        session = driver.open_session(connection, limits)
        if session.pooled:  # another session would lack the statements prepared in this one
            connection.prepare_threshold = None
        record.info["begin"] = session.prepare(connection, limits)
        record.info["weakness"] = "; ".join(session.weaknesses)

    @sa_event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        begin = connection.info["begin"]
        if clock.stale:
            asked_at = clock.since_boot()
            answer = connection.exec_driver_sql(f"SELECT {ASK}; {begin}" if begin else f"SELECT {ASK}").scalar_one()
            clock.add_reading(asked_at, clock.since_boot(), answer)
        elif begin:
            connection.exec_driver_sql(begin)

    return engine


@contextmanager
def deadline(until: float) -> Iterator[None]:
    """Give up on a server in the block after `until`, by time.monotonic(), if that is earlier than its limits."""
    from handlers.support import postgresql as driver

    token = driver.deadline.set(min(until, driver.deadline.get()))
    try:
        yield
    finally:
        driver.deadline.reset(token)


@contextmanager
def without_limit(connection: sa.Connection) -> Iterator[None]:
    """Lift the time limit of statements in the block, in a transaction. The limit on waiting for locks stays."""
    driver: Any = connection.connection.dbapi_connection
    limit, driver.longest_wait = driver.longest_wait, float("inf")
    try:
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield
    finally:
        driver.longest_wait = limit
