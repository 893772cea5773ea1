"""How long an event takes from the POST to its committed row, and what it costs, at a steady rate.

    python bench/latency.py [--rates 10,100,500] [--seconds 6] [--rounds 3] [--ledger sqlite|both] [--submitted]
                            [--against TREE]
    python bench/latency.py --trace
    python bench/latency.py --limits

`serve`, `worker` and `clock` run as in production: Valkey with appendfsync always, PostgreSQL with fsync, and one
database sink.
Signed results of about 2 kB are posted at fixed times, whether or not earlier ones have arrived (open loop), and each
time counts from when its POST was due. At the rate inf 8,000 are posted as fast as they are acked: CPU is what counts.
The consumer's table tells of each row by NOTIFY, which the server sends as it commits; the client, one process, waits
for answers and notices in one epoll, so it adds no poll of its own.

`--against`: another checkout, which takes turns with this one; the ratios are what counts on a busy machine. `--ledger
both`: SQLite takes turns with PostgreSQL. Where you may, `chrt -r 1 python bench/latency.py …` lets the scheduler
prefer all of it to other work, which then waits.
`--submitted`: the runs were submitted through us, and their webhooks come with its token.
`--trace`: print the time line of lone events through each stage instead, as medians; it stamps functions of the worker.
`--limits`: print what this machine does at the best: appends of 2 kB to disk, each with an fsync, and checks of HMACs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.deployment import Measured, deployments  # noqa: E402
from bench.latency_trace import show_time_line  # noqa: E402
from bench.open_loop import SECRET, percentile  # noqa: E402
from bench.pipeline import body  # noqa: E402
from receiver.domain.signature import sign  # noqa: E402

LONE_EVENTS = 30


def compare(trees: list[Path], options: argparse.Namespace) -> None:
    """Measure each rate in alternating rounds, and print medians and ratios."""
    kinds = ["sqlite", "postgresql"] if options.ledger == "both" else [options.ledger]
    names = [tree.name if len(kinds) == 1 else f"{tree.name} {kind}" for tree in trees for kind in kinds]
    with contextlib.ExitStack() as stack:
        made = [each for tree in trees for kind in kinds for each in stack.enter_context(deployments([tree], kind))]
        for _, client in made:
            client.submitted = options.submitted
        for rate in map(float, options.rates.split(",")):
            found: list[list[Measured]] = [[] for _ in made]
            for number in range(options.rounds):
                for place in range(len(made)) if number % 2 == 0 else reversed(range(len(made))):
                    deployment, client = made[place]
                    found[place].append(deployment.measure(client, rate, options.seconds))
            for name, each in zip(names, found, strict=True):
                shares = {part: statistics.median(one.cpu[part] for one in each) for part in each[0].cpu}
                reached = statistics.median(one.rate for one in each)
                print(
                    f"{rate:4.0f}/s {name:12} {reached:6,.0f}/s   "
                    f"p50 {statistics.median(one.p50 for one in each):6.2f} ms   "
                    f"p99 {statistics.median(one.p99 for one in each):6.2f} ms   "
                    f"CPU {statistics.median(one.total for one in each):5.0f} µs an event: "
                    + ", ".join(f"{part} {share:.0f}" for part, share in shares.items()),
                    flush=True,
                )
            if len(found) == 2:
                ratios = {
                    what: [getattr(one, what) / getattr(other, what) for one, other in zip(*found, strict=True)]
                    for what in ("rate", "p50", "p99", "total")
                }
                words = {"rate": "events/s", "p50": "p50", "p99": "p99", "total": "CPU"}
                print(
                    f"{rate:4.0f}/s ratios       "
                    + "   ".join(
                        f"{words[what]} {statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})"
                        for what, each in ratios.items()
                    ),
                    flush=True,
                )


def trace(options: argparse.Namespace) -> None:
    """Print the time line of lone events."""
    with tempfile.TemporaryDirectory() as name:
        stamps = Path(name) / "stamps"
        with deployments([ROOT], "sqlite" if options.ledger == "sqlite" else "postgresql", stamps) as (
            (deployment, client),
        ):
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
    arguments.add_argument("--ledger", choices=["postgresql", "sqlite", "both"], default="postgresql")
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
