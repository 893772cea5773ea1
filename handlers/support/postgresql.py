"""PostgreSQL connections for the ledger and the sink `database`. Knows no tables or SQLAlchemy.

Its rules:
- Neither end waits for ever. libpq and the server drop a peer that accepts nothing for `TimeLimits.peer`: a host that
  vanishes during a large response would hold its locks until TCP's timeout of 15 minutes. The client's timeouts cover
  what TCP misses, such as a proxy that holds a connection.
- Confirmed writes are on disk, whatever the server's `synchronous_commit`; `weaknesses` lists what a session can't fix.
- Behind a pooler each transaction may get another session, and settings at connecting are refused or ignored: there
  limits and `synchronous_commit` are set with each BEGIN, in one request.
- Values over 2 kB are compressed with lz4 if available, unless configured otherwise or behind a pooler: PostgreSQL's
  default takes four times as long.
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

LATE: Final = "the server did not respond in time"

# Deadline of this context's transaction: time.monotonic(), in seconds.
deadline: ContextVar[float] = ContextVar("deadline", default=float("inf"))

# Weakest first. All but `off` sync the server's disk; the last two also a standby's.
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
    """Maximum seconds to connect, for a statement, for a lock, for an idle transaction, without progress of a peer, and
    for a response beyond `statement`.
    """

    connect: float = 3.0
    statement: float = 10.0
    lock: float = 5.0
    idle: float = 10.0
    peer: float = 10.0
    margin: float = 1.0


@dataclass(frozen=True, slots=True)
class Session:
    """The server's settings.

    `commit_level`: its synchronous_commit, at least `on`. `pooled`: whether a pooler may change the session at each
    transaction.
    """

    commit_level: str
    weaknesses: tuple[str, ...]
    pooled: bool

    def begin(self, limits: TimeLimits) -> str:
        """Return the statements that begin a transaction, to be sent as one request."""
        return f"{begin(limits)}; SET LOCAL synchronous_commit = {self.commit_level}"

    def prepare(self, connection: psycopg.Connection[Any], limits: TimeLimits) -> str:
        """Set limits once per session if possible, which saves 60 µs per transaction.

        Returns the statements that begin each transaction; "" when the driver does.
        """
        if self.pooled:
            return self.begin(limits)
        for statement in self.begin(limits).split("; ")[1:]:
            connection.execute(statement.replace("SET LOCAL", "SET SESSION").encode(), prepare=False)
        connection.autocommit = False
        return ""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose waits end by `deadline` and within `longest_wait` seconds. libpq's timeouts cover only
    connecting, and TCP's only a dead kernel.
    """

    longest_wait: float = float("inf")

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait like psycopg. On a timeout, close the connection and raise OperationalError."""
        until = min(deadline.get(), time.monotonic() + self.longest_wait)
        return super().wait(gen if until == float("inf") else self._until(gen, until), *args, **kwargs)

    def _until(self, gen: Any, until: float) -> Generator[Any, Any, Any]:
        try:
            event = next(gen)
            while True:
                ready = yield event
                if time.monotonic() > until:
                    self.close()  # in the middle of a response, so not reusable
                    raise psycopg.OperationalError(LATE)
                event = gen.send(ready)
        except StopIteration as done:
            return done.value


# Integer parameters that libpq or psycopg checks only when connecting; one port per host.
_INTEGERS: Final = (
    *("port", "connect_timeout", "tcp_user_timeout"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
)


def parameter_trouble(parameters: Mapping[str, Any]) -> str:
    """Return the name of an unknown or invalid connection parameter, or "". libpq checks most values before it
    connects, here to a missing socket.
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
    """Return libpq's parameters that detect a vanished server."""
    idle, interval, count = _keepalives(limits)
    return {
        "connect_timeout": str(max(2, int(limits.connect))),  # libpq's minimum is 2 s
        "keepalives_idle": idle,
        "keepalives_interval": interval,
        "keepalives_count": count,
        "tcp_user_timeout": str(_ms(limits.peer)),
    }


def require_encoding(connection: psycopg.Connection[Any]) -> None:
    """Close a connection to a database with encoding SQL_ASCII, and raise psycopg.OperationalError.

    `initdb` chooses it on a system without a locale; it returns text as bytes and cuts characters. An unreported
    encoding is accepted.
    """
    if connection.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII":
        name = connection.info.dbname
        connection.close()
        raise psycopg.OperationalError(f'database "{name}" has the encoding SQL_ASCII and not UTF8')


def open_session(connection: psycopg.Connection[Any], limits: TimeLimits) -> Session:
    """Make the server drop a vanished client, and read its durability settings. Leaves autocommit on.

    Raises psycopg.Error.
    """
    connection.autocommit = True
    idle, interval, count = _keepalives(limits)
    values = {"idle": idle, "interval": interval, "count": count, "peer": str(_ms(limits.peer))}
    pid = connection.info.backend_pid  # the session's own, or made up by a pooler
    row = connection.execute(_OPEN, {**values, "pid": pid}, prepare=False).fetchone()
    # Servers on other systems than Linux may refuse this one; the rest still help.
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
    """Return why a server may lose confirmed writes, one line each with the right setting."""
    problems = []
    if fsync != "on":
        problems.append(f"fsync is {fsync}, so a crash of its machine can lose what was committed: set it to on")
    if full_page_writes != "on":
        problems.append(
            f"full_page_writes is {full_page_writes}, so a crash in the middle of a write can corrupt it: set it to on"
        )
    return tuple(problems)


def _keepalives(limits: TimeLimits) -> tuple[str, str, str]:
    """Return TCP keepalive idle seconds, interval, and maximum failures."""
    interval = max(1, int(limits.peer / 5))
    return str(max(1, int(limits.peer - 3 * interval))), str(interval), "3"


def _ms(seconds: float) -> int:
    """0 would mean no limit."""
    return max(1, int(seconds * 1000))
