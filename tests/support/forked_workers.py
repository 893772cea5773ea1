"""Tests run by several processes, each a fork of the one that has collected them: `pytest --workers 4`.

Importing and collecting all tests takes more of a core than many of their folders do, and so it is done once. Each
worker has a share of the tests, told which of them to run a piece at a time, and one that is done takes from the end of
another's share. What a worker reports is reported as if this process had run it.
"""

from __future__ import annotations

import atexit
import os
import random
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Final, NoReturn

import pytest

NUMBER: Final = "RUNHOOK_TESTS_WORKER"
"""The variable that has a worker's number, which begins at 0."""

_PIECE: Final = 16  # tests at a time, and fewer towards the end, for what a worker has nobody takes from it


class Shares:
    """Which tests each worker is to run, as places in the list of tests: those of one module one after the other."""

    def __init__(self, modules: Sequence[Sequence[int]], slow: Sequence[Sequence[int]], workers: int) -> None:
        """`slow`: modules that wait most of the time. Where they are few, half of the workers begin with them, and use
        the cores meanwhile."""
        self._module = {test: module for module in (*modules, *slow) for test in module}
        self.left = total = len(self._module)
        sharing = (workers + 1) // 2 if 10 * sum(map(len, slow)) < total else workers
        rest = deque(chain(*modules))
        self._shares: list[deque[int]] = []
        for number in range(workers):
            share = deque(chain(*slow[number::sharing]) if number < sharing else ())
            room = total * (number + 1) // workers - sum(map(len, self._shares)) - len(share)
            share.extend(rest.popleft() for _ in range(min(len(rest), max(0, room))))
            self._shares.append(share)
        self._shares[-1].extend(rest)

    def take(self, worker: int) -> list[int]:
        """Take the next tests for this worker to run; none when there is nothing left."""
        share = self._shares[worker]
        if not share:
            share.extend(self._taken_from(max(self._shares, key=len)))
        size = max(1, min(_PIECE, self.left // (32 * len(self._shares))))
        piece = [share.popleft() for _ in range(min(size, len(share)))]
        self.left -= len(piece)
        return piece

    def _taken_from(self, other: deque[int]) -> list[int]:
        """Take the last module of a share away from it; the half of it, if it has no other."""
        if not other:
            return []
        module = self._module[other[-1]]
        last = [test for test in other if self._module[test] is module]
        if len(last) == len(other):
            last = last[len(last) // 2 :]
        for _ in last:
            other.pop()
        return last

    def give_back(self, worker: int, tests: Sequence[int]) -> None:
        """Have them run after all, by this worker if nobody else takes them."""
        self._shares[worker].extendleft(reversed(tests))
        self.left += len(tests)


def run(session: pytest.Session, workers: int, slow: str) -> None:
    """Run the tests of the session; those in the folder `slow` wait most of the time."""
    modules = [list(tests) for _, tests in groupby(range(len(session.items)), lambda test: session.items[test].path)]
    kinds: dict[bool, list[list[int]]] = {True: [], False: []}
    for module in modules:
        kinds[session.items[module[0]].path.parent.name == slow].append(module)
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.showfspath = False  # tests of several modules come by turns
    assert threading.active_count() == 1, f"no fork has these threads: {threading.enumerate()}"
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # each worker has a folder in it
    _Foreman(session, Shares(kinds[False], kinds[True], workers), workers).run()


class _Worker:
    """A process that runs tests: what it has been given and has not begun, and what it is at."""

    def __init__(self, number: int, pid: int, channel: Connection) -> None:
        self.number, self.pid, self.channel = number, pid, channel
        self.given: deque[int] = deque()
        self.running: int | None = None


class _Foreman:
    """Starts the workers, gives them their tests, and reports what they tell."""

    def __init__(self, session: pytest.Session, shares: Shares, workers: int) -> None:
        self._session, self._shares = session, shares
        self._workers: dict[Connection, _Worker] = {}
        self._count = workers

    def run(self) -> None:
        try:
            for number in range(self._count):
                self._start(number)
            while self._workers:
                for channel in wait(list(self._workers)):
                    assert isinstance(channel, Connection)
                    self._hear(self._workers[channel])
        finally:
            for worker in self._workers.values():
                worker.channel.close()  # which ends it after its test
            for worker in self._workers.values():
                os.waitpid(worker.pid, 0)

    def _start(self, number: int) -> None:
        ours, theirs = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            for channel in (ours, *self._workers):
                channel.close()
            _be_worker(self._session, theirs, number)
        theirs.close()
        self._workers[ours] = _Worker(number, pid, ours)

    def _hear(self, worker: _Worker) -> None:
        message = _received(worker.channel)
        if message is None:
            self._has_ended(worker)
            return
        what, told = message
        getattr(self, f"_{what}")(worker, told)
        session = self._session
        if reason := session.shouldfail or session.shouldstop:
            raise (session.Failed if session.shouldfail else session.Interrupted)(reason)

    def _wants(self, worker: _Worker, told: None) -> None:
        piece = self._shares.take(worker.number)
        worker.given.extend(piece)
        worker.channel.send(piece)

    def _begins(self, worker: _Worker, test: int) -> None:
        worker.running = worker.given.popleft()
        assert worker.running == test

    def _reports(self, worker: _Worker, told: dict[str, Any]) -> None:
        hook = self._session.config.hook
        hook.pytest_runtest_logreport(
            report=hook.pytest_report_from_serializable(config=self._session.config, data=told)
        )

    def _warns(self, worker: _Worker, told: tuple[str, str, int, Any, str, Any]) -> None:
        text, file, line, when, nodeid, location = told
        message = warnings.WarningMessage(pytest.PytestWarning(text), pytest.PytestWarning, file, line)
        self._session.config.hook.pytest_warning_recorded.call_historic(
            kwargs={"warning_message": message, "when": when, "nodeid": nodeid, "location": location}
        )

    def _is_done(self, worker: _Worker, told: None) -> None:
        worker.running = None

    def _has_ended(self, worker: _Worker) -> None:
        """See how. What it was at has failed, and another goes on with what it had been given."""
        del self._workers[worker.channel]
        worker.channel.close()
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        if worker.running is None:
            assert not worker.given, f"a worker has ended before its first test: {how}"
            assert not code, f"a worker has ended after its last test: {how}"
            return
        item = self._session.items[worker.running]
        report = pytest.TestReport(
            item.nodeid, item.location, {}, "failed", f"the process that ran it has ended: {how}", "call"
        )
        self._session.config.hook.pytest_runtest_logreport(report=report)
        if worker.given:
            self._shares.give_back(worker.number, worker.given)
            self._start(worker.number)


def _received(channel: Connection) -> tuple[str, Any] | None:
    """What comes next; None when the other end is closed."""
    try:
        message: tuple[str, Any] = channel.recv()
    except (EOFError, ConnectionError):
        return None
    return message


def _be_worker(session: pytest.Session, channel: Connection, number: int) -> NoReturn:
    """Run what one is given, tell of it, and end."""
    code = 1
    try:
        _have_own(session.config, number)
        teller = _Teller(session.config, channel)
        session.config.pluginmanager.register(teller, "teller")
        teller.listening = True
        _run_tests(session, channel)
        code = 0
    except (EOFError, ConnectionError):
        code = 0  # nobody listens any more
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


def _have_own(config: pytest.Config, number: int) -> None:
    """Part from the process that this one is a fork of."""
    os.environ[NUMBER] = str(number)
    atexit._clear()  # what is to be done at its end
    random.seed()
    manager: Any = config.pluginmanager
    for name in ("terminalreporter", "terminalprogress-plugin"):
        if manager.has_plugin(name):
            manager.unregister(name=name)
    capture = manager.getplugin("capturemanager")
    capture.stop_global_capturing()  # into files that it shares with the others
    capture.start_global_capturing()
    capture.suspend_global_capture()
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.getbasetemp() / f"w{number}"
    factory._basetemp.mkdir(mode=0o700, exist_ok=True)


def _run_tests(session: pytest.Session, channel: Connection) -> None:
    tests = _given(channel)
    test = next(tests, None)
    try:
        while test is not None and not channel.poll():  # what comes unasked is the end
            following = next(tests, None)
            channel.send(("begins", test))
            item = session.items[test]
            nextitem = None if following is None else session.items[following]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
            test = following
    finally:
        session._setupstate.teardown_exact(None)
    channel.send(("is_done", None))


def _given(channel: Connection) -> Iterator[int]:
    """The tests to run, asked for when they are wanted."""
    while True:
        channel.send(("wants", None))
        piece = channel.recv()
        if not piece:
            return
        yield from piece


class _Teller:
    """The hooks by which a worker tells what comes of its tests."""

    def __init__(self, config: pytest.Config, channel: Connection) -> None:
        self._config, self._channel = config, channel
        self.listening = False
        """Not while it is registered, when it is told of all warnings that there were."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._channel.send(("reports", told))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
    ) -> None:
        if not self.listening:
            return
        it = warning_message
        text = f"{it.category.__name__}: {it.message}"
        self._channel.send(("warns", (text, it.filename, it.lineno, when, nodeid, location)))
