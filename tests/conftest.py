"""How tests are collected and shared over processes, and which modules have their fixtures."""

import gc
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.servers import warm_python
from tests.support import forked_workers

# Collecting makes millions of objects and no garbage: looking for it takes two fifths of the time.
gc.disable()

# Fixtures that several kinds of tests share. Servers are real, started there, and ended by their own process id.
FIXTURES = [
    "tests.support.every_test",
    "tests.servers.valkey",
    "tests.servers.receiver",
    "tests.servers.postgres",
    "tests.servers.seaweedfs",
    "tests.servers.skyvern",
    "tests.servers.skyvern_sdk",
    "tests.servers.slack_emulator",
    "tests.servers.scripted",
    "tests.servers.submitting",
    "tests.servers.issuer",
    "tests.servers.console",
    "tests.servers.chromium",
]
pytest.register_assert_rewrite(*FIXTURES)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", type=int, default=0, metavar="N", help="run the tests by N processes")


def pytest_configure(config: pytest.Config) -> None:
    """Import the fixtures."""
    for name in FIXTURES:
        config.pluginmanager.import_plugin(name)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Take all that was imported and collected out of the garbage collector's sight: it stays until the end.

    What tests leave is looked for less often than by default, which takes twice the time.
    """
    collected = yield
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()
    return collected


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out a module that has no test of the length that is asked for: importing it takes time of each worker."""
    if not collection_path.match("test_*.py"):
        return None
    text = collection_path.read_text()
    return {
        "long": "pytest.mark.long" not in text,
        "not long": "\npytestmark = pytest.mark.long\n" in text,
    }.get(config.option.markexpr) or None


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Have the tests run by several processes, if that is wanted, with one Python for the programs that they start."""
    option = session.config.option
    workers = min(option.workers, len(session.items))
    if not workers or option.collectonly or (session.testsfailed and not option.continue_on_collection_errors):
        return None
    warm_python.share()
    if "tests.support.ledger" in sys.modules:  # made once, not by each worker
        sys.modules["tests.support.ledger"].tables_of_sqlite()
    if any("postgres" in item.fixturenames for item in session.items if isinstance(item, pytest.Function)):
        sys.modules["tests.servers.postgres"].new_cluster()
    forked_workers.run(session, workers, slow="acceptance")
    return True
