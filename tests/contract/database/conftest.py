"""Databases for the tests of the sink `database`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.results_db import ResultsDb


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[ResultsDb]:
    database = ResultsDb(f"sqlite:///{tmp_path}/results.db")
    yield database
    database.close()


@pytest.fixture
def pg(postgres_url: str) -> Iterator[ResultsDb]:
    database = ResultsDb(postgres_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "pg"])
def database(request: pytest.FixtureRequest) -> ResultsDb:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, ResultsDb)
    return found
