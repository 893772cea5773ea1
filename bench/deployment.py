"""Runhook as in production: `serve`, `worker` and `clock` of a checkout, with servers of their own; what each uses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from bench.open_loop import PATIENCE, SECRET, TRIGGER, Client, percentile
from bench.pipeline import child
from bench.servers import new_folder
from bench.submissions import submit
from receiver.ledger import Ledger
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess, free_port

T = TypeVar("T")

TRACER = Path(__file__).resolve().parent / "latency_trace.py"
WARM_UP = 200
FLAT_OUT_EVENTS = 8000


@dataclass
class Measured:
    """Of one run: events a second, milliseconds, and microseconds of CPU an event by process."""

    rate: float
    p50: float
    p99: float
    cpu: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


def children(pid: int) -> list[int]:
    """The child processes of one, the oldest first."""
    return sorted(int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used; 0.0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


class Deployment:
    """Servers and the three processes of `tree`; `trace`: a file that the worker's stamps go to. `beside`: more sinks
    that get everything, as in the config."""

    def __init__(
        self, folder: Path, tree: Path, ledger: str, trace: Path | None, beside: Mapping[str, Any] = {}
    ) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        self.valkey = ValkeyProcess(folder / "valkey").start()
        self.postgres = PostgresProcess(folder / "postgres").start()
        self.port = free_port()
        url = self.postgres.url(self.postgres.create_database())
        config = folder / "runhook.yaml"
        config.write_text(
            json.dumps(
                {
                    "sources": {"skyvern": {"secrets": [SECRET]}},
                    "sinks": {"results": {"type": "database", "url": url, "table": "results"}, **beside},
                    "routes": [{"name": "everything", "to": ["results", *beside]}],
                    "allowed_addresses": ["127.0.0.1"],
                }
            )
        )
        environ = {
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": url if ledger == "postgresql" else f"sqlite:///{folder / 'ledger.db'}",
            "RUNHOOK_CONFIG": str(config),
            "RUNHOOK_DATA": str(folder / "data"),
        }
        self.environ = environ
        line = [sys.executable, "-m", "receiver.cli"]
        traced = [sys.executable, str(TRACER), str(trace)]
        self.parts = {
            "serve": child([*line, "serve", "--port", str(self.port)], environ, folder / "log", tree),
            "worker": child([*(traced if trace else line), "worker"], environ, folder / "log", tree),
            "clock": child([*line, "clock"], environ, folder / "log", tree),
        }
        self.database = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
        self.ledger = Ledger(environ["DATABASE_URL"])  # stays open, for the CPU of a session goes with it

    def client(self) -> Client:
        """A client whose first event has arrived, so that the table is there and tells of rows."""
        client = eventually(lambda: Client(self.port, self.database), OSError, self.log)
        _, request = client._request()
        client.idle[0].sendall(request)
        client.busy[client.idle[0].fileno()] = client.idle.pop(0)
        eventually(lambda: self.database.execute("SELECT 1 FROM results").fetchall()[0], LookupError, self.log)
        self.database.execute(TRIGGER)
        self.database.execute("LISTEN arrived")
        for handle in list(client.busy):
            client._answer(handle)
        client.run(100, WARM_UP)
        return client

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU by process until now."""
        *deliver, dispatch = children(self.parts["worker"].pid)  # which start in the order of their queues' names
        servers = [self.postgres.pid, *children(self.postgres.pid)]
        pids = {
            "receiver": [self.parts["serve"].pid],
            "dispatch": [dispatch],
            "deliver": deliver,
            "clock": [self.parts["clock"].pid],
            "PostgreSQL": servers,
            "Valkey": [self.valkey.pid],
        }
        return {name: sum(map(cpu, each)) for name, each in pids.items()}

    def measure(self, client: Client, rate: float, seconds: float) -> Measured:
        count = FLAT_OUT_EVENTS if rate == float("inf") else max(20, int(rate * seconds))
        if client.submitted:
            submit(self.ledger, range(client.number + 1, client.number + 1 + count))
        before = self.cpu()
        took, spans = client.run(rate, count)
        used = {name: (each - before[name]) / count * 1e6 for name, each in self.cpu().items()}
        lasted = max(arrived for _, arrived in spans) - min(due for due, _ in spans)
        return Measured(count / lasted, percentile(took, 50), percentile(took, 99), used)

    def end(self) -> None:
        self.database.close()
        self.ledger.close()
        for part in self.parts.values():
            part.send_signal(signal.SIGTERM)
        for part in self.parts.values():
            part.wait(PATIENCE)
        self.postgres.kill()
        self.valkey.kill()


def eventually(
    attempt: Callable[[], T], error: type[Exception], log: Callable[[], str], patience: float = PATIENCE
) -> T:
    deadline = time.monotonic() + patience
    while True:
        try:
            return attempt()
        except (error, psycopg.errors.UndefinedTable):
            if time.monotonic() > deadline:
                raise SystemExit(f"it did not start:\n{log()}") from None
            time.sleep(0.05)


@contextlib.contextmanager
def deployments(trees: list[Path], ledger: str, trace: Path | None = None) -> Iterator[list[tuple[Deployment, Client]]]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(new_folder())
        made = []
        for number, tree in enumerate(trees):
            deployment = Deployment(folder / str(number), tree, ledger, trace)
            stack.callback(deployment.end)
            client = deployment.client()
            stack.callback(client.close)
            made.append((deployment, client))
        yield made
