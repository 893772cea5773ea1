"""Compare the newest Skyvern with what we rely on: a real server, runs of each type, through us and beside us.

    python -m tests.upstream [--version V] [--python PYTHON] [--keep FOLDER]

Prints a line for each difference. Exits with 1 when something in docs/reference/skyvern.md is wrong, with 2 when it
could not compare.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from simulator import keys
from tests.servers.valkey import ValkeyProcess
from tests.upstream.direct import Direct
from tests.upstream.report import Report
from tests.upstream.skyvern_server import SkyvernServer, install, newest_version
from tests.upstream.target import Target
from tests.upstream.through_us import ThroughUs


def main() -> int:
    summary = __doc__.splitlines()[0] if __doc__ else ""
    arguments = argparse.ArgumentParser(prog="tests.upstream", description=summary)
    arguments.add_argument("--version", help="of Skyvern; by default the newest at the package registry")
    arguments.add_argument("--python", type=Path, help="the Python of an environment that has a Skyvern server already")
    arguments.add_argument("--keep", type=Path, help="a new folder for logs and tables, kept afterwards")
    options = arguments.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends what it started, as at Ctrl-C
    try:
        if options.python:
            python = options.python
            say(f"Skyvern of {python}")
        else:
            version = options.version or newest_version()
            say(f"Skyvern {version}; what we rely on was seen on {keys.VERSION}")
            python = install(version)
        if options.keep:
            options.keep.mkdir(parents=True)
            return compare(python, options.keep)
        with tempfile.TemporaryDirectory(prefix="runhook-upstream-") as name:
            return compare(python, Path(name))
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except (AssertionError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        say(f"can't compare: {error}")
        return 2


def compare(python: Path, directory: Path) -> int:
    """Start everything, run all checks, and end everything. Returns the exit code."""
    report = Report()
    with ExitStack() as stack:
        target = stack.enter_context(Target())
        valkey = ValkeyProcess(directory / "valkey")
        stack.callback(valkey.kill)
        valkey.start()
        skyvern = SkyvernServer(python, directory / "skyvern")
        stack.callback(skyvern.stop)
        skyvern.start()
        direct = Direct(skyvern, target, report)
        ours = ThroughUs(skyvern, target, report, directory / "runhook", valkey.url)
        stack.callback(ours.end)
        ours.start()
        for check in (*ours.checks(), *direct.checks()):
            perform(check, report)
    print("\n".join(report.lines()))
    return 1 if report.differences else 0


def perform(check: Callable[[], None], report: Report) -> None:
    """Run one check. What it could not do at all is a difference of its own."""
    began = time.monotonic()
    name = getattr(check, "__name__", str(check))
    try:
        check()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = " ".join(str(error).split())[:300]
        report.differences.append(
            f"{name}: stopped by {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {said}"
        )
    say(f"{name}: {time.monotonic() - began:.1f} s")


def say(text: str) -> None:
    print(f"upstream: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
