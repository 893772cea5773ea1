"""Fixtures around every test: what need not be paid for again each time, and limits that a busy machine outruns."""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import httpcore2
import pytest
from httpx2._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings
from sqlalchemy.engine import Dialect, Engine

from receiver.api import call_pool
from receiver.ledger import Ledger
from tests.support.open_files import tracked_sqlite
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE

# A busy machine is no failure: what a property costs is not what it says, and no folder of found examples is needed,
# whose absence warns. CI draws the same examples each time: what it finds is about the change.
settings.register_profile(
    "runhook", max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=True
)
settings.register_profile("ci", settings.get_profile("runhook"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "runhook")


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """Reading this machine's authorities is nearly all that a new HTTP client costs, and waiting makes many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpcore2, "default_ssl_context", functools.cache(httpcore2.default_ssl_context))
        yield


@pytest.fixture(scope="session", autouse=True)
def _garbage_is_looked_for_as_conftest_says() -> Iterator[None]:
    """Also after a command or a supervisor in the process of a test, which say otherwise for a process of their own:
    once nothing is frozen any more, each full search takes a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        patch.setattr(gc, "set_threshold", lambda *numbers: None)
        yield


class _Compiled:
    """The compiled statements of all engines of one kind, in place of an engine's own cache of them."""

    def __init__(self, dialect: Dialect, shared: dict[Any, Any]) -> None:
        self._dialect, self._shared = dialect, shared

    def _key(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        it = self._dialect
        return (it.name, it.driver, it.server_version_info, *key[1:])  # not the dialect itself, which is the engine's

    def get(self, key: tuple[Any, ...]) -> Any:
        return self._shared.get(self._key(key))

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        self._shared[self._key(key)] = compiled


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """Compiling them is a sixth of what tests of a ledger cost, each of which has engines of its own."""
    shared: dict[Any, Any] = {}
    cache = property(lambda engine: _Compiled(engine.dialect, shared), lambda engine, its_own: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_compiled_cache", cache, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _connections_to_sqlite_are_closed() -> Iterator[None]:
    """Else it is told whose they are, by the test in which they are found, or at the end."""
    with tracked_sqlite():
        yield
        gc.collect()


@pytest.fixture(scope="session")
def _ledgers_of_tests() -> Iterator[list[Ledger]]:
    """Those that tests and their helpers have made, and not what is tested."""
    made: list[Ledger] = []
    init, here = Ledger.__init__, str(ROOT / "tests")

    def noting(self: Ledger, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        if sys._getframe(1).f_code.co_filename.startswith(here):
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "__init__", noting)
        yield made


@pytest.fixture(autouse=True)
def _ledgers_of_tests_are_closed(_ledgers_of_tests: list[Ledger]) -> Iterator[None]:
    """Those of a module's fixtures are closed by these: one that is closed opens a connection for each transaction."""
    _ledgers_of_tests.clear()
    yield
    while _ledgers_of_tests:
        _ledgers_of_tests.pop().close()


@pytest.fixture(autouse=True)
def _logging_is_as_it_was() -> Iterator[None]:
    """A command in the process of a test sets logging up for the whole process, to what is standard error meanwhile:
    that is closed when it ends, and later the threads of other tests log."""
    root, own = logging.getLogger(), logging.getLogger("runhook")
    handlers, level, own_level = [*root.handlers], root.level, own.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    own.setLevel(own_level)


@pytest.fixture(scope="session", autouse=True)
def _calls_may_wait_for_a_core() -> Iterator[None]:
    """Limits by the clock are for people who wait; that of the CPU time of work apart stays. Our own clients, all of
    which say how long they wait, are not those that wait by default."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, name, PATIENCE)
        patch.setattr(call_pool, "LIMIT", PATIENCE)
        yield
