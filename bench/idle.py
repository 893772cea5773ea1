"""What `runhook dev` costs while nothing happens, and how much memory it has.

    python bench/idle.py [--sinks 2] [--seconds 30] [--json]

It is started with an embedded Valkey and so many `files` sinks, and left alone until its imports and first polls are
over: until it uses next to no CPU for some seconds. Then it is counted, over `--seconds`: CPU time and wake-ups
(voluntary context switches) of each process, commands that Redis has done, by name, and memory: RSS counts pages that
processes share once for each, PSS once in all.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import redis  # noqa: E402

from bench.deployment import cpu  # noqa: E402
from tests.servers.dev import Dev  # noqa: E402
from tests.support.processes import command_of, descendants, name_of  # noqa: E402

QUIET = 5.0  # percent of a core
SETTLE = 5.0  # seconds for which it must be quiet
FIRST_WAITS = 10.0  # seconds after which all sinks have waited alone in vain, and share one wait (shared_wait.py)
PATIENCE = 180.0  # seconds after which it is counted as it is


class Taken(NamedTuple):
    """What one process has used so far. `cpu`: seconds; `wakeups`: of all its threads; `rss`, `pss`: MB."""

    cpu: float
    wakeups: int
    rss: float
    pss: float


def taken(pid: int) -> Taken:
    """Read what process `pid` has used. Raises OSError when it has ended."""
    proc = Path(f"/proc/{pid}")
    cpu, switches = 0.0, 0
    for task in (proc / "task").iterdir():  # what ends meanwhile counts for nothing
        cpu += int((task / "schedstat").read_text().split()[0]) / 1e9  # in nanoseconds, and not in ticks of 10 ms
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
        switches += int(found[1]) if found else 0
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", (proc / "smaps_rollup").read_text(), re.MULTILINE))
    return Taken(cpu, switches, int(memory["Rss"]) / 1024, int(memory["Pss"]) / 1024)


def commands(client: redis.Redis) -> Counter[str]:
    """Count the commands that Redis has done so far, those in scripts among them, by name."""
    found: Any = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in found.items()})


def what_is(pid: int) -> str:
    """Return the command of runhook that process `pid` runs, or the name of its program."""
    command = command_of(pid)
    found = re.search(r"^runhook (\w+)", name_of(pid)) or re.search(r"receiver\.cli (\w+)", command)
    return found[1] if found else Path(command.split()[0]).name


def measured(sinks: int, seconds: float) -> dict[str, Any]:
    """Start it, wait, count, end it."""
    names = [f"s{number}" for number in range(sinks)]
    config = {
        "sources": {"skyvern": {"secrets": ["${SKYVERN_API_KEY}"]}},
        "sinks": {name: {"type": "files", "path": f"${{RUNHOOK_DATA}}/{name}"} for name in names},
        "routes": [{"name": "all", "to": names}],
    }
    with tempfile.TemporaryDirectory(prefix="runhook-idle-") as folder:
        dev = Dev(Path(folder), config=json.dumps(config), python=sys.executable)
        try:
            dev.ready()
            _await_quiet(dev)
            return _counted(dev, seconds)
        finally:
            dev.end()


def _await_quiet(dev: Dev) -> None:
    time.sleep(FIRST_WAITS)
    before, deadline = float("-inf"), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        used = sum(map(cpu, _processes(dev)))
        if used - before < SETTLE * QUIET / 100:
            return
        before = used
        time.sleep(SETTLE)


def _processes(dev: Dev) -> set[int]:
    return {dev.process.pid, *descendants(dev.process.pid)}


def _counted(dev: Dev, seconds: float) -> dict[str, Any]:
    pids = _processes(dev)
    with redis.Redis(unix_socket_path=str(dev.data / "redis" / "valkey.sock")) as client:
        client.ping()
        before, calls, began = {pid: taken(pid) for pid in pids}, commands(client), time.monotonic()
        time.sleep(seconds)
        after, calls, took = {pid: taken(pid) for pid in pids}, commands(client) - calls, time.monotonic() - began
    calls["info"] = 0  # ours
    processes = [
        {
            "pid": pid,
            "what": what_is(pid),
            "core_percent": round((after[pid].cpu - before[pid].cpu) / took * 100, 3),
            "wakeups_per_second": round((after[pid].wakeups - before[pid].wakeups) / took, 2),
            "rss_mb": round(after[pid].rss, 1),
            "pss_mb": round(after[pid].pss, 1),
        }
        for pid in sorted(pids)
    ]
    totals = {
        name: round(sum(each[name] for each in processes), 2)  # type: ignore[misc]
        for name in ("core_percent", "wakeups_per_second", "rss_mb", "pss_mb")
    }
    return {
        "seconds": round(took, 1),
        "processes": processes,
        "total": {
            "processes": len(processes),
            **totals,
            "redis_commands_per_second": round(sum(calls.values()) / took, 2),
        },
        "redis": {name: round(count / took, 2) for name, count in calls.most_common() if count},
    }


def main() -> None:
    """Print what it costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sinks", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measured(options.sinks, options.seconds)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'process':12} {'% of a core':>12} {'wake-ups/s':>11} {'RSS MB':>8} {'PSS MB':>8}")
    total = found["total"]
    for each in [*found["processes"], {"what": f"all {total['processes']}", **total}]:
        print(
            f"{each['what']:12} {each['core_percent']:12.2f} {each['wakeups_per_second']:11.1f}"
            f" {each['rss_mb']:8.1f} {each['pss_mb']:8.1f}"
        )
    print(f"Redis: {total['redis_commands_per_second']} commands a second: ", end="")
    print(", ".join(f"{name} {rate}" for name, rate in found["redis"].items()))


if __name__ == "__main__":
    main()
