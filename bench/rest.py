"""Memory and CPU of an idle Runhook, and the start times of its commands.

`runhook dev` has 10 sinks and an embedded Valkey. It is measured once startup work is over. Memory is PSS, where a page
that n processes share counts 1/n in each. Start times are wall-clock, the fastest of several, with compiled modules.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench import load
from bench.ack import bare
from bench.figures import Figure, at_most, compared
from bench.load import PATIENCE, webhooks
from bench.system import RUNHOOK, Runhook, Servers, new_folder, new_servers
from tests.servers.dev import Dev
from tests.support.processes import descendants

SINKS: Final = 10
# `runhook dev` is quiet when it takes less than QUIET of a core for SETTLE seconds.
QUIET, SETTLE, LONGEST = 0.05, 5.0, 60.0


def used(pid: int) -> float:
    """Return the seconds of CPU of a process, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory(pid: int) -> float:
    """Return the PSS of a process in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def idle(seconds: float, *, wait: bool) -> list[Figure]:
    """Return memory and CPU of `runhook dev` over `seconds`. `wait`: seconds for its startup."""
    names = [f"s{number}" for number in range(SINKS)]
    config = {
        "sources": {"skyvern": {"secrets": ["${SKYVERN_API_KEY}"]}},
        "sinks": {name: {"type": "files", "path": f"${{RUNHOOK_DATA}}/{name}"} for name in names},
        "routes": [{"name": "all", "to": names}],
    }
    with new_folder() as folder:
        dev = Dev(folder, config=json.dumps(config), python=sys.executable)
        try:
            dev.ready()
            deadline, quiet = time.monotonic() + LONGEST, not wait
            pids = {dev.process.pid, *descendants(dev.process.pid)}
            while not quiet and time.monotonic() < deadline:
                time.sleep(SETTLE)
                pids = {dev.process.pid, *descendants(dev.process.pid)}
                before = sum(map(used, pids))
                time.sleep(SETTLE)
                quiet = sum(map(used, pids)) - before < QUIET * SETTLE
            before = sum(map(used, pids))
            time.sleep(seconds)
            share = (sum(map(used, pids)) - before) / seconds * 100
            total = sum(map(memory, pids))
        finally:
            dev.end()
    return [
        at_most(f"`runhook dev`, {SINKS} sinks, idle: memory", total, 250, "{:,.0f} MB", f" in {len(pids)} processes"),
        at_most(f"`runhook dev`, {SINKS} sinks, idle: CPU", share, 0.5, "{:.2f} % of a core"),
    ]


def first_202(servers: Servers) -> float:
    """Return the seconds from the start of `runhook serve` until its first 202."""
    runhook = Runhook(servers, {}, parts=["serve"])
    requests = webhooks(runhook.port, [1])
    began = time.monotonic()
    with runhook.starting():
        while time.monotonic() < began + PATIENCE:
            try:
                return load.post(runhook.port, requests).ended - began
            except ConnectionRefusedError:
                time.sleep(0.005)
    raise SystemExit(f"serve did not start:\n{runhook.log()}")


def starts(rounds: int) -> list[Figure]:
    """Return the seconds that commands take to start, compared with RQ and a bare Starlette."""
    with new_servers() as servers:

        def help_printed(command: list[str]) -> float:
            began = time.monotonic()
            subprocess.run([*command, "--help"], stdout=subprocess.DEVNULL, check=True)
            return time.monotonic() - began

        def bare_202() -> float:
            began = time.monotonic()
            with bare(servers) as port:
                return load.post(port, webhooks(port, [1])).ended - began

        commands: dict[str, Callable[[], float]] = {
            "--help": lambda: help_printed(RUNHOOK),
            "rq": lambda: help_printed([sys.executable, "-m", "rq.cli"]),
            "serve": lambda: first_202(servers),
            "bare": bare_202,
        }
        found = {name: min(start() for _ in range(rounds + 1)) for name, start in commands.items()}
    return [
        compared("`runhook --help`, beside `rq --help`", found["--help"], found["rq"], "{:.2f} s", at_most=2),
        compared(
            "`runhook serve` until the first 202, beside a bare Starlette",
            *(found["serve"], found["bare"], "{:.2f} s"),
            at_most=7,
        ),
    ]


def figures(*, tiny: bool = False) -> Iterator[Figure]:
    """Measure, and yield the figures."""
    yield from idle(1 if tiny else 30, wait=not tiny)
    yield from starts(0 if tiny else 4)
