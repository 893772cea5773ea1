"""How tests are collected and shared over processes, and which modules have their fixtures."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Generator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest

# A shell has the programs in its background ignore it, and what these start ignores it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Collecting makes millions of objects and no garbage: looking for it takes two fifths of the time.
gc.disable()


def _choose_where_files_are() -> Path | None:
    """Make a folder for all temporary files of this run, and return it; None in a worker of xdist, which is told.

    It is in memory where there is room, unless TMPDIR says where: waiting for a disk is a third of the time of a test
    with a ledger. No test cuts the power: what a process that was killed has written is there after it on any file
    system. Its path is short, whoever runs the tests, however often, and wherever TMPDIR is: sockets lie below it, and
    the path of a socket has at most 103 bytes.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return None
    root, memory = Path(tempfile.gettempdir()), Path("/dev/shm")
    with suppress(OSError):
        runs_programs = not os.statvfs(memory).f_flag & os.ST_NOEXEC
        room = shutil.disk_usage(memory).free > 4 << 30
        if "TMPDIR" not in os.environ and os.access(memory, os.W_OK) and runs_programs and room:
            root = memory
    if len(os.fsencode(root)) > 16:
        root = Path("/tmp")
    for left in root.glob(f"{_FOLDER}*"):  # by a run that was killed, or in which a test failed
        with suppress(OSError, ValueError):
            if time.time() - left.stat().st_mtime > 3600 and not _runs(int(left.name.removeprefix(_FOLDER))):
                shutil.rmtree(left, ignore_errors=True)
    folder = root / f"{_FOLDER}{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    folder.chmod(0o711)  # servers of another user have their own folders in it
    atexit.register(_remove, folder)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None  # found anew
    return folder


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _remove(folder: Path) -> None:
    """Remove the folder of this run, but for the files of tests that have failed."""
    if folder.name != f"{_FOLDER}{os.getpid()}":  # a fork
        return
    for path in [folder] if not _failed else folder.iterdir():
        if path.name != "t":
            shutil.rmtree(path, ignore_errors=True)


_FOLDER = "rh-"
_failed: list[bool] = []
_folder = _choose_where_files_are()

# Fixtures that several kinds of tests share. Servers are real, started there, and ended by their own process id.
FIXTURES = [
    "tests.support.every_test",
    "tests.servers.valkey",
    "tests.servers.receiver",
    "tests.servers.postgres",
    "tests.servers.pgbouncer",
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


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Import the fixtures, but not in a process that has xdist's workers run all tests: these begin only then."""
    if _folder:
        config.option.basetemp = config.option.basetemp or str(_folder / "t")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the servers, as after Ctrl-C
    shares_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if config.option.collectonly or not shares_out:
        for name in FIXTURES:
            config.pluginmanager.import_plugin(name)


def pytest_sessionfinish(exitstatus: int) -> None:
    _failed.extend([True] * (exitstatus == pytest.ExitCode.TESTS_FAILED))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skip fail in CI: a machine may lack a program or a right, the one that judges a change may not."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"CI skips no test: {reason}"
    return report


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
        "longest": "mark.longest" not in text,
        "long and not longest": "pytest.mark.long" not in text,
        "not long": "\npytestmark = pytest.mark.long\n" in text,
    }.get(config.option.markexpr) or None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Share the tests that take long over the workers of xdist, and have these begin with them.

    Each worker is given a run of the list, and one that is done takes from the end of another's: so what is left for
    the end is short, and none waits for the last one. What takes long waits most of the time: where it is little beside
    the rest, two workers begin with the long ones that compute, and use the cores meanwhile. Tests of one module stay
    together, for its fixtures.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    modules = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
    waiting = [tests for tests in modules if tests[0].path.parent.name == "acceptance"]
    sharing = max(1, workers - 2) if 10 * sum(map(len, waiting)) < len(items) else workers
    others = [tests for tests in modules if tests not in waiting]
    long = [tests for tests in others if sharing < workers and tests[0].get_closest_marker("long")]
    short = [item for tests in others if tests not in long for item in tests]
    first: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, tests in enumerate(waiting):
        first[number % sharing] += tests
    for number, tests in enumerate(long):
        first[-1 - number % (workers - sharing or 1)] += tests
    ordered: list[pytest.Item] = []
    for number, mine in enumerate(first, 1):
        room = max(0, len(items) * number // workers - len(ordered) - len(mine))
        ordered += [*mine, *short[:room]]
        del short[:room]
    items[:] = [*ordered, *short]
