"""Folders and servers for the benchmarks: they are gone when their block ends.

A benchmark that takes turns with another checkout has both on its path, so that this module is found whether or not
the other one has it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess


@contextlib.contextmanager
def new_folder() -> Iterator[Path]:
    """A folder that others may enter, for PostgreSQL may run as another user."""
    with tempfile.TemporaryDirectory(prefix="runhook-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextlib.contextmanager
def new_valkey(folder: Path) -> Iterator[ValkeyProcess]:
    """Valkey as in production, in `folder`."""
    valkey = ValkeyProcess(folder / "valkey").start()
    try:
        yield valkey
    finally:
        valkey.kill()


@contextlib.contextmanager
def new_postgres(folder: Path, **settings: str) -> Iterator[PostgresProcess]:
    """PostgreSQL with fsync, in `folder`. `settings`: as in postgresql.conf."""
    postgres = PostgresProcess(folder / "postgres", **settings).start()
    try:
        yield postgres
    finally:
        postgres.kill()
