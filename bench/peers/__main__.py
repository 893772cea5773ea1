"""Runhook beside apps that do the same on a task queue: from the POST to the row, how long it takes and what it costs.

    python -m bench.peers [--peers rq,celery,dramatiq,taskiq,arq] [--rounds 3] [--rates 10,100,500] [--flat-out 6]

Each peer is an app in `apps/`: the same signature, the same row in the same PostgreSQL, the same Valkey that has every
task on disk before the 202. Runhook does more in that time (ledger, deduplication, routing, attempts, retries that
survive), and the peers are not held to it. One after the other, in alternating rounds, each with servers of its own;
work is checked at the consumer: a row counts when PostgreSQL has committed it. `flat out`: 64 connections post as fast
as they are answered, and the rate counts until the last row. Prints each round as it ends, then medians and their
spread, and writes all figures to --json. A side that fails, or loses events, so that no row comes for PATIENCE seconds,
is reported with the load at which it did, and the others go on. `--limit`: seconds after which no round begins, nor one
that would take longer by what it took before.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

import psycopg

from bench.deployment import WARM_UP, Deployment, cpu, eventually
from bench.open_loop import TRIGGER, Client, percentile
from bench.peers.environment import VENV, environment, install, program
from bench.pipeline import child
from bench.servers import new_folder
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port

ROOT: Final = Path(__file__).resolve().parents[2]
SECRET: Final = "bench-secret"
TABLE: Final = "CREATE TABLE results (run_id text PRIMARY KEY, status text, output jsonb)"
FLAT_OUT: Final = "flat out"
# Events a second: more than any of them does.
NO_LIMIT: Final = 1e9
# Seconds in which no row comes, after which the rest is taken for lost: longer than any side takes to start.
PATIENCE: Final = 30.0

# How each library's documentation starts a worker, on two cores.
WORKERS: Final[Mapping[str, list[str]]] = {
    "rq": ["rq", "worker-pool", "-q", "-n", "2", "-w", "rq.SimpleWorker", "-u", "{redis}", "results"],
    "celery": ["celery", "-A", "celery_app:celery", "worker", "--loglevel", "ERROR"],
    "dramatiq": ["dramatiq", "dramatiq_app", "--processes", "2"],
    "taskiq": ["taskiq", "worker", "taskiq_app:broker", "--log-level", "ERROR"],
    "arq": ["arq", "arq_app.WorkerSettings"],
}


class Side(Protocol):
    """One side of the comparison, while it runs."""

    def client(self) -> Client:
        """Return a client, once the first rows have arrived."""
        ...

    def cpu_used(self) -> float:
        """Return the seconds of CPU of all its processes and servers."""
        ...

    def end(self) -> None:
        """End all of its processes."""
        ...


class Runhook:
    """`serve`, `worker`, `clock`, with a ledger in PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self._deployment = Deployment(folder, ROOT, "postgresql", None)
        self.client = self._deployment.client
        self.end = self._deployment.end

    def cpu_used(self) -> float:
        """Return the seconds of CPU of all its processes and servers."""
        return sum(self._deployment.cpu().values())


class Peer:
    """An app of `apps/`: uvicorn and the library's workers."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        folder.chmod(0o755)
        self._log = folder / "log"
        self._valkey = ValkeyProcess(folder / "valkey").start()
        self._postgres = PostgresProcess(folder / "postgres").start()
        database = self._postgres.url(self._postgres.create_database()).replace("+psycopg", "")
        self._database = psycopg.connect(database, autocommit=True)
        self._database.execute(TABLE)
        self._database.execute(TRIGGER)
        self._database.execute("LISTEN arrived")
        self._port = free_port()
        environ = environment(self._valkey.url, database, SECRET)
        serve = ["uvicorn", f"{name}_app:app", "--port", str(self._port), "--no-access-log", "--log-level", "error"]
        serve += ["--timeout-keep-alive", "300"]  # else it may close a connection as the client uses it
        lines = [serve, [each.format(redis=self._valkey.url) for each in WORKERS[name]]]
        self._processes = [child([*program(line[0]), *line[1:]], environ, self._log) for line in lines]

    def client(self) -> Client:
        """Return a client, once the first rows have arrived."""
        client = eventually(
            lambda: Client(self._port, self._database, PATIENCE), OSError, self._log.read_text, PATIENCE
        )
        try:
            client.run(100, WARM_UP)
        except SystemExit as error:
            raise SystemExit(f"{error}: {self._log.read_text().strip()[-300:]}") from None
        return client

    def cpu_used(self) -> float:
        """Return the seconds of CPU of all its processes and servers."""
        roots = [self._valkey.pid, self._postgres.pid, *(each.pid for each in self._processes)]
        return sum(cpu(pid) for root in roots for pid in _family(root))

    def end(self) -> None:
        """End all of its processes."""
        self._database.close()
        families = [_family(each.pid) for each in self._processes]
        for each in self._processes:
            each.send_signal(signal.SIGTERM)
        for each in self._processes:
            try:
                each.wait(10)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
        for pid in (pid for family in families for pid in family[1:]):
            if _is_peer(pid):
                os.kill(pid, signal.SIGKILL)
        self._postgres.kill()
        self._valkey.kill()


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round. `load`: events a second, or flat out. Milliseconds; events a second; microseconds of CPU."""

    side: str
    load: str
    p50: float
    p99: float
    rate: float
    cpu: float


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child_pid in below for each in _family(int(child_pid)))]


def _is_peer(pid: int) -> bool:
    """Return whether a process that we have started is still there, and no other with its number."""
    try:
        return str(VENV).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def measure(name: str, side: Side, client: Client, load: str, count: int) -> Figures:
    """Send `count` events and wait for their rows. Raises SystemExit when some never came."""
    before = side.cpu_used()
    try:
        took, spans = client.run(NO_LIMIT if load == FLAT_OUT else float(load), count)
    except SystemExit as error:
        raise SystemExit(f"{_at(load)}: {error}") from None
    # From the first POST: to make and sign the requests before it takes the client longer, the more they are.
    seconds = max(arrived for _, arrived in spans) - min(due for due, _ in spans)
    used = (side.cpu_used() - before) / count * 1e6
    return Figures(name, load, percentile(took, 50), percentile(took, 99), count / seconds, used)


def _at(load: str) -> str:
    return load if load == FLAT_OUT else f"{load}/s"


def one_round(name: str, folder: Path, rates: list[str], seconds: float, flat_out: float) -> Iterator[Figures]:
    """Start one side, measure each load, and end it. Raises SystemExit when events were lost."""
    side: Side = Runhook(folder) if name == "runhook" else Peer(name, folder)
    try:
        client = side.client()
        try:
            for rate in rates:
                yield measure(name, side, client, rate, max(20, int(float(rate) * seconds)))
            guess = measure(name, side, client, FLAT_OUT, WARM_UP).rate
            yield measure(name, side, client, FLAT_OUT, max(WARM_UP, int(guess * flat_out)))
        finally:
            client.close()
    finally:
        side.end()


def line(number: int, name: str, seconds: float, found: list[Figures]) -> str:
    """Return what one round of one side has found, in a line."""
    rates = [
        f"{each.rate:,.0f}/s" if each.load == FLAT_OUT else f"p50 {each.p50:.1f} p99 {each.p99:.1f}" for each in found
    ]
    loads = [f"{_at(each.load)} {rate}" for each, rate in zip(found, rates, strict=True)]
    return f"round {number}, {seconds:3.0f} s: {name:9}{'; '.join(loads)}"


def table(found: list[Figures], names: list[str]) -> str:
    """Return the medians, with the spread of what is compared, as a Markdown table."""
    lines = [
        "| load | what | p50 ms | p99 ms | events/s | µs of CPU an event | Runhook's events/s, of it |",
        "|---|---|---|---|---|---|---|",
    ]
    for load in dict.fromkeys(each.load for each in found):
        ours = [each.rate for each in found if (each.side, each.load) == ("runhook", load)]
        for name in names:
            mine = [each for each in found if (each.side, each.load) == (name, load)]
            if not mine:  # it failed at each of its rounds
                continue
            rates = [each.rate for each in mine]
            is_compared = load == FLAT_OUT and name != "runhook" and ours
            ratio = f"{_median(ours) / _median(rates):.2f}" if is_compared else ""
            spread = f"{_median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})" if load == FLAT_OUT else ""
            p50, p99, used = (_median([getattr(each, what) for each in mine]) for what in ("p50", "p99", "cpu"))
            times = " | " if load == FLAT_OUT else f"{p50:.1f} | {p99:.1f}"
            lines.append(f"| {_at(load)} | {name} | {times} | {spread} | {used:,.0f} | {ratio} |")
    return "\n".join(lines)


def _median(values: list[float]) -> float:
    return statistics.median(values)


def versions() -> str:
    """Return the versions that were compared."""
    line = [*program("python"), "-m", "pip", "list", "--format", "freeze"]
    listed = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
    return ", ".join(each.replace("==", " ") for each in listed if each.partition("==")[0] in WORKERS)


def rounds(names: list[str], options: argparse.Namespace, failures: list[str]) -> list[Figures]:
    """Measure all sides in alternating rounds. What fails, or is left out, goes to `failures`."""
    found: list[Figures] = []
    took: dict[str, float] = {}
    turns = [(number, name) for number in range(1, options.rounds + 1) for name in names[:: 1 if number % 2 else -1]]
    start = time.monotonic()
    with new_folder() as here:
        for number, name in turns:
            folder, began, mine = here / f"{name}-{number}", time.monotonic(), list[Figures]()
            if began + took.get(name, 0.0) > start + options.limit:
                failures.append(f"{name} was left out of round {number}, for there was no time left")
                continue
            try:
                mine.extend(one_round(name, folder, options.rates.split(","), options.seconds, options.flat_out))
            except (Exception, SystemExit) as error:
                failures.append(f"{name} failed in round {number}: {str(error)[-400:]!r}")
                print(failures[-1], flush=True)
            found += mine
            took[name] = time.monotonic() - began
            print(line(number, name, took[name], mine), flush=True)
    return found


def main() -> None:
    """Compare."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--peers", default=",".join(WORKERS), help="which, with commas")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--rates", default="10,100,500", help="events a second, with commas")
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each rate")
    arguments.add_argument("--flat-out", type=float, default=6.0, help="seconds of flat out, about")
    arguments.add_argument("--limit", type=float, default=float("inf"), help="seconds for all rounds, about")
    arguments.add_argument("--json", type=Path, help="write all figures to this file")
    options = arguments.parse_args()
    names = ["runhook", *options.peers.split(",")]
    failures: list[str] = []
    try:
        install()
    except (OSError, subprocess.CalledProcessError) as error:
        failures += [f"{name} was not measured: {error}" for name in names[1:]]
        names = names[:1]
    found = rounds(names, options, failures)
    print(table(found, [name for name in names if any(each.side == name for each in found)]))
    print("\n".join([*failures, *([f"Versions: {versions()}"] if len(names) > 1 else [])]))
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    if not any(each.side == "runhook" for each in found):
        raise SystemExit("Runhook itself failed")


if __name__ == "__main__":
    main()
