"""Connections to PostgreSQL, as the ledger and the sink `database` both need them. Knows no table and no SQLAlchemy.

Its rules:
- Neither end waits for ever. libpq and the server both give up a peer that takes nothing for `TimeLimits.peer`: a host
  that vanishes while it is sent a large answer would hold its locks until the server's TCP gives up, which takes 15
  minutes. What TCP doesn't notice, such as a proxy that holds a connection, the client gives up by time.
- What is confirmed is on disk, whatever the server's `synchronous_commit` is; `weaknesses` says what a session can't
  fix.
- Behind a connection pooler each transaction may have another session, and a pooler refuses or ignores settings at
  connecting: there limits and `synchronous_commit` are set in each transaction, in one request with its BEGIN.
- Statements that wait for nothing of each other go in one request (`BoundedConnection.together`, libpq's pipeline
  mode), which is a transaction of its own without BEGIN and COMMIT: a request costs two changes of process, which takes
  longer than many a statement.
- Values over 2 kB are compressed by lz4 where the server has it, its operator has chosen nothing, and the session is
  ours alone: PostgreSQL's own method takes four times as long to write them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import generators, pq
from psycopg.adapt import Transformer
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result

LATE: Final = "the server did not answer in time"

# After so many requests of a session, and each time that they are twice as many, it plans anew what it has prepared:
# the plans that PostgreSQL keeps may be of the time when the tables were small, until somebody analyzes these.
PLAN_ANEW: Final = 32

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
    """What a server says of itself. `commit_level`: the value of synchronous_commit that is at least `on`.

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

        Returns how each transaction begins; "" when the driver begins it by itself.
        """
        if self.pooled:
            return self.begin(limits)
        for statement in self.begin(limits).split("; ")[1:]:
            connection.execute(statement.replace("SET LOCAL", "SET SESSION").encode(), prepare=False)
        connection.autocommit = False
        return ""


class Statement:
    """A statement that is run often, and so kept for as long as its process: each session prepares it once.

    `text`: with $1, $2, … for values, each with a cast, for the server is told no types.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text.encode()


class Execution(NamedTuple):
    """A statement to be run with values in PostgreSQL's binary format; see postgresql_binary.py. None is NULL."""

    statement: Statement
    values: Sequence[bytes | None] = ()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which no wait outlasts `deadline`, nor `longest_wait` seconds.

    libpq's own time-outs cover only connecting, and TCP's only a peer whose kernel has gone as well. `prepares`:
    whether each transaction has the same session, so that a statement is prepared once.
    """

    longest_wait: float = float("inf")
    prepares: bool = False

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        super().__init__(pgconn)
        self._names: dict[Statement, bytes] = {}  # of what the session has prepared
        self._outdated = False  # whether it has prepared more, which is of no use any more
        self._numbers = itertools.count(1)
        self._requests = 0

    def together(self, asked: Sequence[Execution], *, commit: bool = False) -> list[list[tuple[Any, ...]]]:
        """Run statements in one request, and return the rows of each. Begins a transaction where none is open.

        `commit`: commit with the last one. Where no transaction was open the request then is one, which the server ends
        with it: all of it is committed, or none. All statements have the time of one, `longest_wait`: the server
        answers at the end, so until then a connection that is held looks like one that is slow. Raises psycopg.Error
        for the first that fails: none after it was run.
        """
        with self.lock:
            idle = self.pgconn.transaction_status == pq.TransactionStatus.IDLE
            begins = idle and not commit and not self.autocommit
            commits = commit and not idle
            new = dict.fromkeys(each.statement for each in asked if self.prepares and each.statement not in self._names)
            names = {statement: b"runhook_%d" % next(self._numbers) for statement in new}
            before = self._outdated + begins
            self.pgconn.enter_pipeline_mode()
            try:
                self._send(asked, names, begins=begins, commits=commits)
                results = self.wait(_results(self.pgconn))
            except BaseException:
                self.close()  # its answers would be taken for those of the next request
                raise
            if not self.closed:
                self.pgconn.exit_pipeline_mode()
            self._outdated = self._outdated and not (results and _done(results[0]))
            answers = results[before + len(names) :]
            self._names |= {name: names[name] for name, it in zip(names, results[before:], strict=False) if _done(it)}
            for result in results:
                if result.status == pq.ExecStatus.FATAL_ERROR:
                    raise self._failed(result)
            if not results or results[-1].status != pq.ExecStatus.PIPELINE_SYNC:
                raise psycopg.OperationalError("the connection was lost")
            return [self._rows(result) for _, result in zip(asked, answers, strict=False)]

    def _send(
        self, asked: Sequence[Execution], names: Mapping[Statement, bytes], *, begins: bool, commits: bool
    ) -> None:
        """Queue the messages of a request. `names`: under which what the session lacks is to be prepared."""
        connection = self.pgconn
        if self._outdated:
            connection.send_query_params(b"DEALLOCATE ALL", None)
        if begins:
            connection.send_query_params(b"BEGIN", None)
        for statement, name in names.items():
            connection.send_prepare(name, statement.text)
        for statement, values in asked:
            binary = [pq.Format.BINARY] * len(values)
            if self.prepares:
                name = names.get(statement) or self._names[statement]
                connection.send_query_prepared(name, values, binary, pq.Format.BINARY)
            else:
                connection.send_query_params(statement.text, values, None, binary, pq.Format.BINARY)
        self._requests += 1
        if self.prepares and self._requests >= PLAN_ANEW and self._requests.bit_count() == 1:
            connection.send_query_params(b"DISCARD PLANS", None)
        if commits:
            connection.send_query_params(b"COMMIT", None)
        connection.pipeline_sync()

    def _failed(self, result: pq.abc.PGresult) -> psycopg.Error:
        error = error_from_result(result, encoding=self.info.encoding)
        # After DEALLOCATE or DISCARD; or for a table that was altered since it was prepared. The session stays as it
        # is: a request of its own leaves no transaction to roll back.
        if isinstance(error, (psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported)):
            self._names.clear()
            self._outdated = True
        return error

    def _rows(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        if not result.nfields:
            return []
        reader = Transformer(self)
        reader.set_pgresult(result)
        return reader.load_rows(0, result.ntuples, tuple)

    def rollback(self) -> None:
        """Roll back as psycopg does, which may tell the session to forget all that is prepared. Nothing once closed."""
        if self.closed or self.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            return
        super().rollback()
        if self._names or self._outdated:
            self._names.clear()
            self._outdated = False
            with self.lock:
                self.pgconn.send_query(b"DEALLOCATE ALL")
                self.wait(generators.execute(self.pgconn))

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait as psycopg does. Raises OperationalError, with the connection closed, when that takes too long."""
        until = min(deadline.get(), time.monotonic() + self.longest_wait)
        return super().wait(gen if until == float("inf") else self._until(gen, until), *args, **kwargs)

    def _until(self, gen: Any, until: float) -> Generator[Any, Any, Any]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if time.monotonic() > until:
                    self.close()  # in the middle of an answer, so it can't be used again
                    raise psycopg.OperationalError(LATE)
                wanted = gen.send(ready)
        except StopIteration as done:
            return done.value


def _results(connection: pq.abc.PGconn) -> Generator[Any, Any, list[pq.abc.PGresult]]:
    """Send what is queued, and return the result of each message, up to the end of the request or of the connection:
    the last one tells that the request has ended, and with it its transaction."""
    yield from generators.send(connection)
    found: list[pq.abc.PGresult] = []
    while connection.status != pq.ConnStatus.BAD:
        results = yield from generators.fetch_many(connection)
        found += results
        if not results or results[0].status == pq.ExecStatus.PIPELINE_SYNC:
            break
    return found


def _done(result: pq.abc.PGresult) -> bool:
    return result.status == pq.ExecStatus.COMMAND_OK


# No such directory can be: libpq reads its parameters before it looks for the server's socket in there.
_NO_SERVER: Final = "/nonexistent\n"
# How libpq begins when a parameter is wrong, rather than the server away.
_WRONG_PARAMETER: Final = ("invalid ", "could not match ", "definition of service ")


def parameter_trouble(parameters: Mapping[str, Any]) -> str:
    """Return what libpq finds wrong with connection parameters as such, or "". Reaches no server.

    `parameters`: by libpq's name, as `psycopg.connect` takes them.
    """
    servers = str(parameters.get("host") or "").count(",") + 1
    given = {name: value for name, value in parameters.items() if name not in ("host", "hostaddr")}
    timeout = str(given.get("connect_timeout", "0"))
    if not timeout.strip().lstrip("+-").isdecimal():  # psycopg reads this one itself
        return f'invalid integer value "{timeout}" for connection option "connect_timeout"'
    try:
        text = make_conninfo(**given, host=",".join([_NO_SERVER] * servers))
    except psycopg.ProgrammingError as error:
        return str(error).strip()
    connection = pq.PGconn.connect_start(text.encode())
    try:
        reason = connection.get_error_message().strip().partition("\n")[0]
    finally:
        connection.finish()
    return reason if reason.startswith(_WRONG_PARAMETER) else ""


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
    pid = backend_pid(connection)
    row = connection.execute(_OPEN, {**values, "pid": pid}, prepare=False).fetchone()
    # Elsewhere than on Linux a server may refuse this one; the others do without it what they can.
    with suppress(psycopg.errors.InvalidParameterValue):
        connection.execute(_CHECK_CLIENT, values, prepare=False)
    assert row is not None
    return Session(at_least_on(row[0]), weaknesses(row[1], row[2]), pooled=row[3] != pid)


def backend_pid(connection: psycopg.Connection[Any]) -> int:
    """Return the process that the protocol's key for cancelling names: the session's own, or a pooler's invention."""
    return connection.info.backend_pid


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
