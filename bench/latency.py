"""How long an event takes from the POST to its committed row, and what it costs, at a steady rate.

    python bench/latency.py [--rates 10,100,500] [--seconds 6] [--rounds 3] [--ledger sqlite] [--submitted]
                            [--against TREE]
    python bench/latency.py --trace
    python bench/latency.py --limits

`serve`, `worker` and `clock` run as in production: Valkey with appendfsync always, PostgreSQL with fsync, and one
database sink.
Signed results of about 2 kB are posted at fixed times, whether or not earlier ones have arrived (open loop), and each
time counts from when its POST was due. At the rate inf 8,000 are posted as fast as they are acked: CPU is what counts.
The consumer's table tells of each row by NOTIFY, which the server sends as it commits; the client, one process, waits
for answers and notices in one epoll, so it adds no poll of its own.

`--against`: another checkout, which takes turns with this one; the ratios are what counts on a busy machine. Where you
may, `chrt -r 1 python bench/latency.py …` lets the scheduler prefer all of it to other work, which then waits.
`--submitted`: the runs were submitted through us, and their webhooks come with its token.
`--trace`: print the time line of lone events through each stage instead, as medians; it stamps functions of the worker.
`--limits`: print what this machine does at the best: appends of 2 kB to disk, each with an fsync, and checks of HMACs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402

from bench.latency_trace import show_time_line  # noqa: E402
from bench.pipeline import body, child  # noqa: E402
from bench.submissions import submission_id, submit  # noqa: E402
from receiver.domain.signature import sign  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from tests.servers.postgres import PostgresProcess  # noqa: E402
from tests.servers.valkey import ValkeyProcess, free_port  # noqa: E402

T = TypeVar("T")

SECRET = "bench-secret"
PATIENCE = 300.0
CONNECTIONS = 64
WARM_UP = 200
LONE_EVENTS = 30
FLAT_OUT_EVENTS = 8000

TRIGGER = """
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('arrived', NEW.run_id); RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT ON results FOR EACH ROW EXECUTE FUNCTION tell();
"""


@dataclass
class Client:
    """Posts at fixed times and waits for rows. `patience`: seconds in which no row comes, after which the rest is given
    up. `number`: the newest run's number. `submitted`: the runs to come are those of submissions."""

    port: int
    database: psycopg.Connection
    patience: float = PATIENCE
    number: int = 0
    submitted: bool = False
    due: dict[str, float] = field(default_factory=dict)  # run id → when its POST was due, while it has not arrived

    def __post_init__(self) -> None:
        self.poll = select.epoll()
        self.poll.register(self.database.fileno(), select.EPOLLIN)
        self.idle: list[socket.socket] = []
        self.busy: dict[int, socket.socket] = {}
        for _ in range(CONNECTIONS):
            self._connect()

    def _connect(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.poll.register(connection.fileno(), select.EPOLLIN)
        self.idle.append(connection)

    def _take_idle(self) -> socket.socket:
        """One that is still open: the receiver ends what has been silent for long, with a 408 that answers nothing."""
        while True:
            try:
                self.idle[-1].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self.idle.pop()
            self._replace(self.idle[-1])

    def _replace(self, closed: socket.socket) -> None:
        self.idle.remove(closed)
        self.poll.unregister(closed)
        closed.close()
        self._connect()

    def close(self) -> None:
        for connection in (*self.idle, *self.busy.values()):
            connection.close()
        self.poll.close()

    def run(self, rate: float, count: int) -> tuple[list[float], list[tuple[float, float]]]:
        """Post `count` events at `rate` a second. Returns the seconds that each took, and when it was sent and arrived,
        both in the order of arrival. Raises SystemExit when the rest never came."""
        requests = [self._request() for _ in range(count)]
        began, sent = time.monotonic() + 0.05, 0
        took: list[float] = []
        spans: list[tuple[float, float]] = []
        while len(took) < count:
            now = time.monotonic()
            if now > max(began + sent / rate, spans[-1][1] if spans else 0.0) + self.patience:
                raise SystemExit(f"{count - len(took)} of {count} events never came, in {self.patience:.0f} s none did")
            while sent < count and now >= began + sent / rate and self.idle:
                run_id, request = requests[sent]
                self.due[run_id] = began + sent / rate
                connection = self._take_idle()
                connection.sendall(request)
                self.busy[connection.fileno()] = connection
                sent += 1
            wait = max(0.0, began + sent / rate - time.monotonic()) if sent < count and self.idle else 1.0
            select.select([self.poll], [], [], wait)  # which counts microseconds, where epoll counts milliseconds
            for handle, _ in self.poll.poll(0):
                if handle == self.database.fileno():
                    self._arrivals(took, spans)
                else:
                    self._answer(handle)
        return took, spans

    def _request(self) -> tuple[str, bytes]:
        self.number += 1
        content = body(self.number)
        token = f"/{submission_id(self.number)}" if self.submitted else ""
        head = (
            f"POST /webhooks/skyvern{token} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            "Content-Type: application/json\r\n"
            f"x-skyvern-signature: {sign(content, SECRET)}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return f"tsk_{self.number:09d}", head.encode() + content

    def _answer(self, handle: int) -> None:
        connection = self.busy.pop(handle, None)
        if connection is None:  # the receiver has closed one that was idle
            for closed in [each for each in self.idle if each.fileno() == handle]:
                self._replace(closed)
            return
        answer = connection.recv(4096)
        while not answer.endswith(b"}"):  # head and body may come apart
            answer += connection.recv(4096) or b"hung up}"
        if not answer.startswith(b"HTTP/1.1 202"):
            raise SystemExit(f"not acked: {answer[:200]!r}")
        self.idle.append(connection)

    def _arrivals(self, took: list[float], spans: list[tuple[float, float]]) -> None:
        now = time.monotonic()
        self.database.pgconn.consume_input()
        while (notice := self.database.pgconn.notifies()) is not None:
            due = self.due.pop(notice.extra.decode(), None)
            if due is not None:
                took.append(now - due)
                spans.append((due, now))


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
        traced = [sys.executable, str(ROOT / "bench" / "latency_trace.py"), str(trace)]
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


def percentile(seconds: list[float], share: float) -> float:
    """Of the milliseconds."""
    return sorted(seconds)[min(len(seconds) - 1, int(len(seconds) * share / 100))] * 1000


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
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runhook-bench-")))
        folder.chmod(0o755)
        made = []
        for number, tree in enumerate(trees):
            deployment = Deployment(folder / str(number), tree, ledger, trace)
            stack.callback(deployment.end)
            client = deployment.client()
            stack.callback(client.close)
            made.append((deployment, client))
        yield made


def compare(trees: list[Path], options: argparse.Namespace) -> None:
    """Measure each rate in alternating rounds, and print medians and ratios."""
    with deployments(trees, options.ledger) as made:
        for _, client in made:
            client.submitted = options.submitted
        for rate in map(float, options.rates.split(",")):
            found: list[list[Measured]] = [[] for _ in made]
            for number in range(options.rounds):
                for place in range(len(made)) if number % 2 == 0 else reversed(range(len(made))):
                    deployment, client = made[place]
                    found[place].append(deployment.measure(client, rate, options.seconds))
            for tree, each in zip(trees, found, strict=True):
                shares = {name: statistics.median(one.cpu[name] for one in each) for name in each[0].cpu}
                reached = statistics.median(one.rate for one in each)
                print(
                    f"{rate:4.0f}/s {tree.name:12} {reached:6,.0f}/s   "
                    f"p50 {statistics.median(one.p50 for one in each):6.2f} ms   "
                    f"p99 {statistics.median(one.p99 for one in each):6.2f} ms   "
                    f"CPU {statistics.median(one.total for one in each):5.0f} µs an event: "
                    + ", ".join(f"{name} {share:.0f}" for name, share in shares.items()),
                    flush=True,
                )
            if len(found) == 2:
                ratios = {
                    name: [getattr(one, name) / getattr(other, name) for one, other in zip(*found, strict=True)]
                    for name in ("p50", "p99", "total")
                }
                words = {"p50": "p50", "p99": "p99", "total": "CPU"}
                print(
                    f"{rate:4.0f}/s ratios       "
                    + "   ".join(
                        f"{words[name]} {statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})"
                        for name, each in ratios.items()
                    ),
                    flush=True,
                )


def trace(options: argparse.Namespace) -> None:
    """Print the time line of lone events."""
    with tempfile.TemporaryDirectory() as name:
        stamps = Path(name) / "stamps"
        with deployments([ROOT], options.ledger, stamps) as ((deployment, client),):
            spans = []
            while len(spans) < LONE_EVENTS:
                spans += client.run(1, 1)[1]
                time.sleep(0.3)  # so that what comes after the row is over too
            log = deployment.log()
        show_time_line(stamps, spans, log)


def limits() -> None:
    """Print what no receiver on this machine can pass."""
    content, seconds = body(1), 3.0
    with tempfile.NamedTemporaryFile(dir=Path.cwd()) as file:
        took = []
        while sum(took) < seconds:
            began = time.perf_counter()
            os.write(file.fileno(), content)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    print(f"append and fdatasync: p50 {percentile(took, 50):.2f} ms, p99 {percentile(took, 99):.2f} ms")
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        sign(content, SECRET)
        count += 1
    print(f"HMAC of {len(content)} bytes: {seconds / count * 1e6:.1f} µs of CPU")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rates", default="10,100,500", help="events a second, with commas; inf: flat out")
    arguments.add_argument("--seconds", type=float, default=6.0, help="of each run")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--ledger", choices=["postgresql", "sqlite"], default="postgresql")
    arguments.add_argument("--submitted", action="store_true", help="runs that were submitted through us")
    arguments.add_argument("--against", type=Path, help="another checkout")
    arguments.add_argument("--trace", action="store_true")
    arguments.add_argument("--limits", action="store_true")
    options = arguments.parse_args()
    if options.limits:
        limits()
    elif options.trace:
        trace(options)
    else:
        compare([ROOT, *([options.against.resolve()] if options.against else [])], options)


if __name__ == "__main__":
    main()
