"""Connections to PostgreSQL, as the ledger and the sink `database` both need them. Knows no table and no SQLAlchemy.

Its rules:
- Neither end waits for ever. libpq and the server both give up a peer that takes nothing for `TimeLimits.peer`: a host
  that vanishes while it is sent a large answer would hold its locks until the server's TCP gives up, which takes 15
  minutes. What TCP doesn't notice, such as a proxy that holds a connection, the client gives up by time.
- What is confirmed is on disk, whatever the server's `synchronous_commit` is; `weaknesses` says what a session can't
  fix.
- Behind a connection pooler each transaction may have another session, and a pooler refuses or ignores settings at
  connecting: there limits and `synchronous_commit` are set in each transaction, in one request with its BEGIN.
- Values over 2 kB are compressed by lz4 where the server has it, its operator has chosen nothing, and the session is
  not shared by a pooler: PostgreSQL's own method takes four times as long to write them.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

LATE: Final = "the server did not answer in time"

# When the transaction of this context must have ended: time.monotonic(), in seconds.
deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))

# Weakest first. All but `off` mean that the server's own disk has it; the last two, that a standby's has it as well.
_COMMIT_LEVELS: Final = ("off", "local", "remote_write", "on", "remote_apply")

# tcp_user_timeout came with version 12, client_connection_check_interval and default_toast_compression with 14.
_OPEN: Final = """\
SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
 pg_backend_pid(),
 set_config('tcp_keepalives_idle', %(idle)s, false), set_config('tcp_keepalives_interval', %(interval)s, false),
 set_config('tcp_keepalives_count', %(count)s, false), CASE WHEN current_setting('tcp_user_timeout', true) IS NOT NULL
 THEN set_config('tcp_user_timeout', %(peer)s, false) END,
 (SELECT set_config(name, 'lz4', false) FROM pg_settings WHERE name = 'default_toast_compression'
  AND source = 'default' AND 'lz4' = ANY (enumvals) AND pg_backend_pid() = %(pid)s)"""
_CHECK_CLIENT: Final = """\
SELECT set_config('client_connection_check_interval', %(peer)s, false)
 WHERE current_setting('client_connection_check_interval', true) IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds: until a connection is there; that a statement may run, and wait for a lock; that a transaction may be
    idle; that a peer may take nothing; and that an answer may be late beyond `statement`.
    """

    connect: float = 3.0
    statement: float = 10.0
    lock: float = 5.0
    idle: float = 10.0
    peer: float = 10.0
    margin: float = 1.0


@dataclass(frozen=True, slots=True)
class Session:
    """What a server reports. `commit_level`: the value of synchronous_commit that is at least `on`.

    `pooled`: whether a pooler is in between, so that it may be another session's turn at each transaction.
    """

    commit_level: str
    weaknesses: tuple[str, ...]
    pooled: bool

    def begin(self, limits: TimeLimits) -> str:
        """Return the statements that begin a transaction, to be sent as one request."""
        return f"{begin(limits)}; SET LOCAL synchronous_commit = {self.commit_level}"

    def prepare(self, connection: psycopg.Connection[Any], limits: TimeLimits) -> str:
        """Set what can be set once and for all, for that saves 60 µs a transaction.

        Returns how each transaction begins; "" when the driver begins it.
        """
        if self.pooled:
            return self.begin(limits)
        for statement in self.begin(limits).split("; ")[1:]:
            connection.execute(statement.replace("SET LOCAL", "SET SESSION").encode(), prepare=False)
        connection.autocommit = False
        return ""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which no wait outlasts `deadline`, nor `longest_wait` seconds.

    libpq's own time-outs cover only connecting, and TCP's only a peer whose kernel has gone as well.
    """

    longest_wait: float = float("inf")

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait as psycopg does. Raises OperationalError, with the connection closed, when that takes too long."""
        until = min(deadline.get(), time.monotonic() + self.longest_wait)
        return super().wait(gen if until == float("inf") else self._until(gen, until), *args, **kwargs)

    def _until(self, gen: Any, until: float) -> Generator[Any, Any, Any]:
        try:
            event = next(gen)
            while True:
                ready = yield event
                if time.monotonic() > until:
                    self.close()  # in the middle of an answer, so it can't be used again
                    raise psycopg.OperationalError(LATE)
                event = gen.send(ready)
        except StopIteration as done:
            return done.value


# Integer parameters that libpq or psycopg checks only when a connection is made; a port for each host.
_INTEGERS: Final = (
    *("port", "connect_timeout", "tcp_user_timeout"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
)


def parameter_trouble(parameters: Mapping[str, Any]) -> str:
    """Return which of the connection parameters, by libpq's name, libpq does not know or take; or "".

    It checks most values before it connects, here to a socket that does not exist.
    """
    for name in _INTEGERS:
        value = str(parameters.get(name, ""))
        if not value.strip().removeprefix("-").replace(",", "").isdecimal() and value:
            return f'invalid integer value "{value}" for connection option "{name}"'
    elsewhere = {name: value for name, value in parameters.items() if name not in ("host", "hostaddr", "port")}
    try:
        attempt = pq.PGconn.connect_start(make_conninfo(**elsewhere, host="/dev/null").encode())
    except psycopg.ProgrammingError as error:
        return str(error).strip()
    trouble = attempt.error_message.decode(errors="replace").strip()
    attempt.finish()
    return trouble if trouble.startswith("invalid ") else ""


def client_options(limits: TimeLimits) -> dict[str, str]:
    """Return libpq's parameters by which the client gives up a server that has vanished."""
    idle, interval, count = _keepalives(limits)
    return {
        "connect_timeout": str(max(2, int(limits.connect))),  # libpq takes none under 2 s
        "keepalives_idle": idle,
        "keepalives_interval": interval,
        "keepalives_count": count,
        "tcp_user_timeout": str(_ms(limits.peer)),
    }


def require_encoding(connection: psycopg.Connection[Any]) -> None:
    """Close a connection to a database whose texts have no encoding, and raise psycopg.OperationalError.

    That is SQL_ASCII, which `initdb` takes from a system without a locale: texts come as bytes, and characters are cut.
    What a server or a pooler does not say is taken for right.
    """
    if connection.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII":
        name = connection.info.dbname
        connection.close()
        raise psycopg.OperationalError(f'database "{name}" has the encoding SQL_ASCII and not UTF8')


def open_session(connection: psycopg.Connection[Any], limits: TimeLimits) -> Session:
    """Make the server give up a client that has vanished, and ask it what it promises. Leaves autocommit on.

    Raises psycopg.Error.
    """
    connection.autocommit = True
    idle, interval, count = _keepalives(limits)
    values = {"idle": idle, "interval": interval, "count": count, "peer": str(_ms(limits.peer))}
    pid = connection.info.backend_pid  # the session's own, or a pooler's invention
    row = connection.execute(_OPEN, {**values, "pid": pid}, prepare=False).fetchone()
    # Elsewhere than on Linux a server may refuse this one; the others do without it what they can.
    with suppress(psycopg.errors.InvalidParameterValue):
        connection.execute(_CHECK_CLIENT, values, prepare=False)
    assert row is not None
    return Session(at_least_on(row[0]), weaknesses(row[1], row[2]), pooled=row[3] != pid)


def begin(limits: TimeLimits) -> str:
    """Return the statements that begin a transaction with `limits`, to be sent as one request."""
    return (
        f"BEGIN; SET LOCAL statement_timeout = {_ms(limits.statement)}; SET LOCAL lock_timeout = {_ms(limits.lock)};"
        f" SET LOCAL idle_in_transaction_session_timeout = {_ms(limits.idle)}"
    )


def at_least_on(level: str) -> str:
    """Return `level` of synchronous_commit where it is `on` or stronger, else `on`."""
    strong = level in _COMMIT_LEVELS and _COMMIT_LEVELS.index(level) >= _COMMIT_LEVELS.index("on")
    return level if strong else "on"


def weaknesses(fsync: str, full_page_writes: str) -> tuple[str, ...]:
    """Return why a server may lose what it has confirmed, one line each with what would be right."""
    problems = []
    if fsync != "on":
        problems.append(f"fsync is {fsync}, so a crash of its machine can lose what was committed: set it to on")
    if full_page_writes != "on":
        problems.append(
            f"full_page_writes is {full_page_writes}, so a crash in the middle of a write can corrupt it: set it to on"
        )
    return tuple(problems)


def _keepalives(limits: TimeLimits) -> tuple[str, str, str]:
    """Return after how many seconds of silence the first probe goes, the seconds between two, and how many may fail."""
    interval = max(1, int(limits.peer / 5))
    return str(max(1, int(limits.peer - 3 * interval))), str(interval), "3"


def _ms(seconds: float) -> int:
    """0 would mean no limit."""
    return max(1, int(seconds * 1000))
