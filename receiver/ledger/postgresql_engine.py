"""Connections to a ledger on PostgreSQL: how each is opened and its transactions begin, and when its time is asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event as sa_event

from receiver.ledger import requests
from receiver.ledger.database_clock import ASK, ASKING, DatabaseClock

if TYPE_CHECKING:
    from handlers.support.postgresql import TimeLimits


def make(url: sa.URL, wait: float, limits: TimeLimits | None, clock: DatabaseClock) -> sa.Engine:
    """Return an engine for the server at `url`. `wait`: seconds for a connection. `clock`: is told its time."""
    from handlers.support import postgresql as driver  # not needed with SQLite

    limits = limits or driver.TimeLimits()
    engine = sa.create_engine(url, pool_size=4, max_overflow=8, pool_timeout=wait, pool_recycle=1800)
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
        connection.prepares = not session.pooled
        record.info["begin"] = session.prepare(connection, limits)
        record.info["weakness"] = "; ".join(session.weaknesses)

    @sa_event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        begin = connection.info["begin"]
        if clock.stale:
            asked_at = time.monotonic()
            if begin:
                answer = connection.exec_driver_sql(f"{ASK}; {begin}").scalar_one()
            else:
                answer = requests.run(connection, ASKING.with_values())[0][0].now
            clock.note(asked_at, time.monotonic(), answer)
        elif begin:
            connection.exec_driver_sql(begin)

    return engine
