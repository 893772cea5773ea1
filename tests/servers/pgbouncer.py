"""A real PgBouncer in transaction mode, in front of a real PostgreSQL. It has to be on PATH: no package index has it.

pgbouncer_factory   `pgbouncer_factory(postgres, max_prepared_statements)` starts one; clients use its `url(database)`
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.servers.postgres import PostgresProcess, account, become
from tests.servers.valkey import free_port
from tests.support.processes import launch
from tests.support.waiting import PATIENCE, eventually

POOL = 2
# PgBouncer itself keeps track of prepared statements from this version on.
OLDEST = (1, 21)


class PgBouncer:
    """One PgBouncer with POOL server connections for each database, shared by all clients."""

    def __init__(self, program: str, directory: Path, postgres: PostgresProcess, max_prepared_statements: int) -> None:
        self.port = free_port()
        self._log = directory / "pgbouncer.log"
        (directory / "users.txt").write_text('"postgres" ""\n')
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {directory}/users.txt\nadmin_users = postgres\n"
            f"pool_mode = transaction\ndefault_pool_size = {POOL}\n"
            f"max_prepared_statements = {max_prepared_statements}\n"
        )
        command = [program, str(directory / "pgbouncer.ini")]
        self.process = launch(command, self._log, prepare=lambda: become(account()))  # it refuses to run as root
        eventually(lambda: self.process.poll() is not None or self._answers(), what=self._log.read_text)
        assert self.process.poll() is None, f"PgBouncer did not start:\n{self._log.read_text()[-2000:]}"

    def url(self, database: str) -> str:
        """Return an SQLAlchemy URL."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> psycopg.Connection:
        """Return a connection in autocommit mode that prepares nothing. Close it."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            prepare_threshold=None,
        )

    def connections(self, kind: str, database: str) -> set[str]:
        """Return the connections of this database now. `kind`: clients or servers."""
        with contextlib.closing(self.connect("pgbouncer")) as console:
            rows = console.cursor(row_factory=dict_row).execute(f"SHOW {kind}".encode()).fetchall()
        return {row["ptr"] for row in rows if row["database"] == database}

    def _answers(self) -> bool:
        try:
            self.connect("pgbouncer").close()
        except psycopg.OperationalError:
            return False
        return True

    def end(self) -> None:
        """End it, with all its connections."""
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture
def pgbouncer_factory() -> Iterator[Callable[[PostgresProcess, int], PgBouncer]]:
    program = shutil.which("pgbouncer", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))
    if not program:
        pytest.skip("pgbouncer is not on PATH")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
    if found < OLDEST:
        pytest.skip(f"PgBouncer {found} is older than {OLDEST}")
    with contextlib.ExitStack() as stack:

        def start(postgres: PostgresProcess, max_prepared_statements: int) -> PgBouncer:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runhook-pgbouncer-")))
            directory.chmod(0o755)  # another user reads it
            it = PgBouncer(program, directory, postgres, max_prepared_statements)
            stack.callback(it.end)
            return it

        yield start
