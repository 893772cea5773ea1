"""A ledger on each database that it runs on, and a dispatcher that fills it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from receiver.dispatch.dispatcher import Dispatcher
from receiver.ledger import Ledger
from tests.servers.postgres import PostgresProcess
from tests.support.dispatching import make_labelled_dispatcher
from tests.support.ledger import with_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with its tables, and nothing in them."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres_ledger")
        return
    it = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield it
    it.close()


@pytest.fixture(scope="session")
def _spare_ledgers() -> dict[str, str]:
    """Databases of PostgreSQL that a test has done with, by name, and their tables, which are there and empty again."""
    return {}


@pytest.fixture
def postgres_ledger(postgres: PostgresProcess, _spare_ledgers: dict[str, str]) -> Iterator[Ledger]:
    if _spare_ledgers:  # looking for what its tables lack would cost more than many a test
        name, tables = _spare_ledgers.popitem()
    else:
        name = postgres.create_database()
        with_tables(Ledger(postgres.url(name))).close()
        tables = postgres.empty_tables(name, but=("alembic_version",))
    it = Ledger(postgres.url(name))
    yield it
    it.close()
    with suppress(psycopg.Error):  # whatever the test did to it: the next one gets another
        if postgres.empty_tables(name, but=("alembic_version",)) == tables:
            _spare_ledgers[name] = tables


@pytest.fixture
def dispatcher(ledger: Ledger, redis_url: str) -> Iterator[Dispatcher]:
    """A dispatcher whose routes tell of labels."""
    it = make_labelled_dispatcher(ledger, redis_url)
    yield it
    it.close()
