"""What viewers of GET /api/v1/tail, or with --live of pages of the console, cost the receiving of webhooks.

    python bench/tail.py [--live] [--viewers 200] [--filters 4] [--events 100] [--seconds 5] [--rounds 6] [--most 3]

One receiver takes signed webhooks as fast as bench/ingest.py's client sends them, in turn with and without viewers that
read all they get, while another process records events in the same ledger. Compared is the receiver's CPU time for an
ack, for other processes of the machine change it less than the rate, which is shown beside it. Of the rounds the
medians count. Where the machine is busy even these vary by more than viewers cost, so it is also measured how much of a
core these take alone: a busy receiver has so much less for acks. Exit 1 when that is more than `--most` percent.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import ingest  # noqa: E402
from receiver.domain import api_key, deduplication  # noqa: E402
from receiver.domain.event import Event, event_id  # noqa: E402
from receiver.domain.run import parse  # noqa: E402
from receiver.ledger import Ledger, api_keys, events  # noqa: E402
from receiver.ledger.api_keys import Key  # noqa: E402
from receiver.ledger.events import NewDelivery, NewEvent  # noqa: E402
from receiver.ledger.migrate import ensure_schema  # noqa: E402
from tests.support.ledger import lock_runs  # noqa: E402

MASTER = "bench-master-secret-of-32-characters"
PASSWORD = "bench-password-of-the-console"
# What viewers of the console look at, by turns.
PAGES = ["%2Fconsole%2F", "%2Fconsole%2Fruns", "%2Fconsole%2Fincidents", "%2Fconsole%2Fmissing"]


def record(url: str, rate: int) -> None:
    """Record `rate` events a second, ten batches a second, until the process is ended."""
    ledger, number = Ledger(url), 0
    while True:
        began = time.monotonic()
        batch = []
        for _ in range(max(1, rate // 10)):
            number += 1
            body = b'{"run_id":"tsk_%d_%d","status":"completed","output":{"n":1}}' % (os.getpid(), number)
            run, named = parse(body), event_id("skyvern", body)
            made = Event(named, "skyvern", body, time.time())
            facts = deduplication.facts_of(named, run, run.data)
            batch.append(
                NewEvent(
                    made,
                    run,
                    body,
                    facts,
                    disposition="new",
                    newest=True,
                    deliveries=[NewDelivery("results", "everything")],
                )
            )

        def work(connection: Any, batch: list[NewEvent] = batch) -> None:
            lock_runs(connection, [each.key for each in batch], time.time())
            events.record(connection, batch, time.time())

        ledger.write(work)
        time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))


def view(port: int, key: str, viewers: int, filters: int, *, live: bool) -> None:
    """Open the streams and read them until the end of standard input; then write how many bytes came.

    `key`: of the API, or with `live` the cookie of a session.
    """
    poll, received = select.epoll(), 0
    sockets = {}
    for number in range(viewers):
        connection = socket.create_connection(("127.0.0.1", port))
        query = f"?run_prefix={'tsk'[: number % filters]}" if number % filters else ""
        head = f"GET /api/v1/tail{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        if live:
            head = f"GET /console/live?page={PAGES[number % filters]} HTTP/1.1\r\nHost: x\r\nCookie: {key}\r\n"
        connection.sendall(f"{head}Accept: text/event-stream\r\n\r\n".encode())
        sockets[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    for connection in sockets.values():
        if b" 200 " not in (head := connection.recv(1 << 16))[:20]:
            raise SystemExit(f"refused: {head[:200]!r}")
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    while True:
        for handle, _ in poll.poll():
            if handle == sys.stdin.fileno():
                print(received, flush=True)
                return
            piece = sockets[handle].recv(1 << 20)
            if not piece:
                raise SystemExit("a stream ended")
            received += len(piece)


@contextlib.contextmanager
def helper(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """This file as another process, ended with the block."""
    child = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def new_key(ledger: Ledger) -> str:
    """Make a key that may view all sources."""
    key_id = os.urandom(6).hex()
    whole = api_key.derive(MASTER, key_id)
    scopes = frozenset({api_key.VIEW})
    row = Key(key_id, "bench", api_key.digest(whole), api_key.hint(whole), scopes, "*", None, time.time())
    ledger.write(lambda connection: api_keys.create(connection, row))
    return whole


def signed_in(port: int) -> str:
    """Return the cookie of a new session of the console."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
    connection.request("POST", "/console/login", f"name=admin&password={PASSWORD}", headers)
    answer = connection.getresponse()
    answer.read()
    return (answer.getheader("set-cookie") or "").partition(";")[0]


def main() -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--filters", type=int, default=4, choices=range(1, 5), help="how many different ones they have")
    parser.add_argument("--events", type=int, default=100, help="recorded a second")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--size", type=int, default=2000, help="bytes of a body")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--most", type=float, default=100.0, help="exit 1 when viewers cost more percent")
    parser.add_argument("--live", action="store_true", help="they look at pages of the console")
    parser.add_argument("--record", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--view", nargs=2, metavar=("PORT", "KEY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.record:
        record(args.record, args.events)
    if args.view:
        view(int(args.view[0]), args.view[1], args.viewers, args.filters, live=args.live)
        return 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        (directory / "runhook.yaml").write_text(ingest.CONFIG)
        port, redis = ingest.free_port(), ingest.free_port()
        url = f"sqlite:///{directory / 'ledger.db'}"
        ledger = Ledger(url)
        ensure_schema(ledger)
        key = new_key(ledger)
        ledger.close()
        stack.enter_context(ingest.valkey(directory, redis))
        command = [sys.executable, "-m", "receiver.cli", "serve", "--port", str(port)]
        command += ["--config", str(directory / "runhook.yaml"), "--data", str(directory / "data")]
        environment = {"REDIS_URL": f"redis://127.0.0.1:{redis}/0", "DATABASE_URL": url, "RUNHOOK_SECRET": MASTER}
        environment["RUNHOOK_CONSOLE_PASSWORD"] = PASSWORD
        receiver = stack.enter_context(ingest.running(command, port, **environment))
        ingest.wait_until_built(port)
        stack.enter_context(helper("--record", url, "--events", str(args.events)))
        sizes = ["--viewers", str(args.viewers), "--filters", str(args.filters)]
        if args.live:
            sizes.append("--live")
            key = signed_in(port)
        ingest.measure([port], 1.0, args.connections, args.size)
        shares = []
        for _ in range(args.rounds):
            moments = [ingest.cpu(receiver.pid)]
            time.sleep(args.seconds)
            moments.append(ingest.cpu(receiver.pid))
            with helper("--view", str(port), key, *sizes):
                time.sleep(2.0)  # so that all of them have begun
                moments.append(ingest.cpu(receiver.pid))
                time.sleep(args.seconds)
                moments.append(ingest.cpu(receiver.pid))
            shares.append((moments[3] - moments[2] - (moments[1] - moments[0])) / args.seconds * 100)
        share = statistics.median(shares)
        print(f"viewers alone: {', '.join(f'{each:.1f}' for each in shares)} % of a core", flush=True)
        costs: dict[bool, list[float]] = {False: [], True: []}
        for number in range(args.rounds * 2):
            watched = number % 2 == (number // 2) % 2  # each begins a pair as often
            ingest.empty(redis)
            with contextlib.ExitStack() as views:
                viewing = views.enter_context(helper("--view", str(port), key, *sizes)) if watched else None
                time.sleep(2.0)  # so that all of them have begun
                used = ingest.cpu(receiver.pid)
                found = ingest.measure([port], args.seconds, args.connections, args.size)
                cost = (ingest.cpu(receiver.pid) - used) / found["count"] * 1e6
                line = f"{'with' if watched else 'without'} viewers: {cost:6.1f} µs of CPU for an ack"
                line += f"   {found['rate']:6.0f}/s   p99 {found['p99']:6.2f} ms"
                if viewing is not None:
                    received, _ = viewing.communicate(b"end\n", 30)
                    line += f"   {int(received) / 1e6:.1f} MB viewed"
                print(line, flush=True)
                costs[watched].append(cost)
    without, watched_cost = statistics.median(costs[False]), statistics.median(costs[True])
    more = (watched_cost / without - 1) * 100
    print(f"{args.viewers} viewers of {args.events} events a second: {share:.1f} % of a core, {more:+.1f} % CPU an ack")
    return int(share > args.most)


if __name__ == "__main__":
    sys.exit(main())
