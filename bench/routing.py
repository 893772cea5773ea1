"""What many routes cost: CPU of one event's matching with a thousand of them, beside one.

    python -m bench.routing [--routes 1000] [--events 2000] [--rounds 5]

Each route is for one workflow, as a mapping or as an expression, and one more is for all; `every`: each is tested, as
`runhook check --against` does to explain them. Prints medians of alternating rounds, in microseconds of CPU an event.
"""

from __future__ import annotations

import argparse
import statistics
import time

from bench.pipeline import body
from receiver.config.destinations import RouteConfig
from receiver.domain.run import parse
from receiver.routing.router import Router, RunView


def routes(kind: str, count: int) -> list[RouteConfig]:
    """Return one route for all, and others for one workflow each."""
    rules = {
        "mapping": lambda n: {"workflow_id": f"wpid_{n}", "status": "completed"},
        "expression": lambda n: f'run.workflow_id == "wpid_{n}" && run.status == "completed"',
    }
    more = [RouteConfig(name=f"{n}", when=rules[kind](n), to=["one"]) for n in range(count - 1)]
    return [*more, RouteConfig(name="all", to=["results"])]


def cost(router: Router, events: int, *, explain: bool) -> float:
    """Return the microseconds of CPU that one event takes."""
    views = [RunView(parse(body(n)), "skyvern", "webhook", "new", {}, 0.0, "evt_1") for n in range(events)]
    began = time.process_time()
    for view in views:
        router.match(view, explain=explain)
    return (time.process_time() - began) / events * 1e6


def main() -> None:
    """Measure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--routes", type=int, default=1000)
    arguments.add_argument("--events", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    cases = {
        f"{kind}, {count}": Router(routes(kind, count))
        for kind in ("mapping", "expression")
        for count in (1, options.routes)
    }
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, router in cases.items():
            found.setdefault(name, []).append(cost(router, options.events, explain=False))
            every = cost(router, max(1, options.events // 100), explain=True)
            found.setdefault(f"{name}, every", []).append(every)
    for name, values in found.items():
        print(f"{name:24} {statistics.median(values):9.1f} µs ({min(values):.1f}–{max(values):.1f})")


if __name__ == "__main__":
    main()
