"""What a sink that hangs costs the others: the p99 of one beside it, as a multiple of its p99 while that one rests.

    python bench/beside.py [--rate 50] [--seconds 8] [--rounds 4] [--hold 3] [--sinks 4]

`serve`, `worker` and `clock` run as in production, as for bench/latency.py. All events go to a sink `results`, whose
rows are waited for, and to `--sinks` more whose consumer takes each request and answers after `--hold` seconds, so
that all their slots are taken all the time. They share a process with `results`, and in a second deployment have
processes of their own. In each round they are measured with the hanging ones at work and paused: dispatch does the same
either way, so the ratio is what the sends of others cost. The two deployments and the two states take turns in
alternating order. `CPU` is what an event takes of the processes that deliver, which depends less on what else the
machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.deployment import Deployment, Measured, eventually  # noqa: E402
from bench.open_loop import Client  # noqa: E402
from bench.pipeline import child  # noqa: E402
from bench.servers import new_folder  # noqa: E402
from receiver.ledger import Ledger  # noqa: E402
from receiver.ledger.deliveries import lanes  # noqa: E402
from tests.servers.valkey import free_port  # noqa: E402

SLOTS = 8  # of each sink that hangs


async def hold(port: int, seconds: float) -> None:
    """Be a consumer that answers each request after so many seconds."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                await asyncio.sleep(seconds)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port) as server:
        await server.serve_forever()


def sending(deployment: Deployment) -> int:
    """How many sends of the sinks that hang are under way."""
    query = "SELECT count(*) FROM deliveries WHERE state = 'sending' AND sink LIKE 'hang%' AND NOT prefetched"
    ((count,),) = deployment.database.execute(query).fetchall()
    return int(count)


def set_hanging(deployment: Deployment, names: list[str], *, at_work: bool) -> None:
    """Pause or resume the sinks that hang, and wait until most or none of their slots are taken."""
    ledger = Ledger(deployment.environ["DATABASE_URL"])
    for name in names:
        ledger.write(lambda connection, name=name: lanes.set_paused(connection, name, not at_work, ledger.now()))  # type: ignore[misc]
    ledger.close()

    def there() -> None:
        count = sending(deployment)
        if count < SLOTS * len(names) // 2 if at_work else count:
            raise LookupError(f"{count} sends are under way")

    eventually(there, LookupError, deployment.log, 60.0)


def measure(options: argparse.Namespace) -> dict[str, dict[bool, list[Measured]]]:
    """Measure, by deployment and by whether the others hang."""
    names = [f"hang{number}" for number in range(options.sinks)]
    found: dict[str, dict[bool, list[Measured]]] = {"shared": {False: [], True: []}, "own": {False: [], True: []}}
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder())
        port = free_port()
        consumer = child(
            [
                sys.executable,
                str(ROOT / "bench" / "beside.py"),
                "--be-consumer",
                str(port),
                "--hold",
                str(options.hold),
            ],
            {},
            folder / "consumer",
        )
        stack.callback(consumer.wait)
        stack.callback(consumer.kill)
        made: dict[str, tuple[Deployment, int]] = {}  # with the newest run's number
        for worker in found:
            options_of_sink: dict[str, Any] = {
                "type": "http",
                "url": f"http://127.0.0.1:{port}/",
                "concurrency": SLOTS,
                "timeout": options.hold * 4,
                "worker": worker,
            }
            deployment = Deployment(folder / worker, ROOT, "postgresql", None, dict.fromkeys(names, options_of_sink))
            stack.callback(deployment.end)
            client = deployment.client()
            client.close()
            made[worker] = deployment, client.number
        for number in range(options.rounds):
            turns = [(worker, at_work) for worker in made for at_work in (False, True)]
            for worker, at_work in turns if number % 2 == 0 else reversed(turns):
                deployment, number_before = made[worker]
                set_hanging(deployment, names, at_work=at_work)
                time.sleep(1)  # what the change of state has begun
                client = Client(deployment.port, deployment.database, number=number_before)
                found[worker][at_work].append(deployment.measure(client, options.rate, options.seconds))
                client.close()
                made[worker] = deployment, client.number
                set_hanging(deployment, names, at_work=False)
    return found


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--hold", type=float, default=3.0)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--be-consumer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_consumer:
        asyncio.run(hold(options.be_consumer, options.hold))
        return
    print(f"{'':8} {'':8} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8}")
    for worker, states in measure(options).items():
        for at_work, each in states.items():
            cpu = statistics.median(one.cpu["deliver"] for one in each)
            p50, p99 = (statistics.median(getattr(one, name) for one in each) for name in ("p50", "p99"))
            print(f"{worker:8} {'hanging' if at_work else 'resting':8} {p50:8.2f} {p99:8.2f} {cpu:8.0f}")
        pairs = list(zip(states[True], states[False], strict=True))
        for name in ("p50", "p99"):
            ratios = [getattr(one, name) / getattr(other, name) for one, other in pairs]
            print(f"{worker:8} {name} {statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) of resting")


if __name__ == "__main__":
    main()
