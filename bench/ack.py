"""How many webhooks per second a receiver acknowledges, beside an endpoint that only responds 202.

Both run on uvicorn with uvloop and httptools, in one process each, and take turns. Runhook's receiver checks the
signature and has the event in a Valkey with `appendfsync always` before its 202. No worker runs: the pipeline benchmark
includes that.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

from bench import load
from bench.figures import Figure, compared, median, percentile, spread
from bench.load import webhooks
from bench.system import Runhook, Servers, child, end, get, new_servers, wait_until
from tests.servers.valkey import free_port

CONNECTIONS: Final = 64
BARE_APP: Final = """
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def hook(request):
    await request.body()
    return Response(b'{"event_id":"evt_00000000000000000000000000000000"}', 202, media_type="application/json")

app = Starlette(routes=[Route("/webhooks/skyvern", hook, methods=["POST"])])
"""


@contextlib.contextmanager
def bare(servers: Servers) -> Iterator[int]:
    """Run the endpoint that only responds. Returns its port."""
    port, log = free_port(), servers.folder / "bare.log"
    (servers.folder / "bare.py").write_text(BARE_APP)
    line = [sys.executable, "-m", "uvicorn", "bare:app", "--app-dir", str(servers.folder), "--port", str(port)]
    line += ["--no-access-log", "--log-level", "error", "--loop", "uvloop", "--http", "httptools"]
    process = child(line, log, {})
    try:
        wait_until(lambda: get(port, "/")[0] == 404, log.read_text)
        yield port
    finally:
        end([process])


def figures(*, tiny: bool = False) -> list[Figure]:
    """Measure, and return the figures."""
    count, rounds = (200, 1) if tiny else (15_000, 5)
    rates: dict[str, list[float]] = {"bare": [], "runhook": []}
    took: list[float] = []
    with new_servers() as servers, bare(servers) as bare_port, Runhook(servers, {}, parts=["serve"]) as runhook:
        ports = {"bare": bare_port, "runhook": runhook.port}
        for each in ports.values():
            load.post(each, webhooks(each, range(200)))
        for number in range(1, rounds + 1):
            for name, port in list(ports.items())[:: 1 if number % 2 else -1]:
                with servers.valkey.connect() as client:
                    client.flushall()
                requests = webhooks(port, range(number * count, (number + 1) * count))
                posted = load.post(port, requests, connections=CONNECTIONS)
                rates[name].append(posted.rate)
                took += posted.took if name == "runhook" else []
    return [
        compared(
            f"acknowledged on disk, 2 kB, {CONNECTIONS} connections, beside a bare 202",
            *(median(rates["runhook"]), median(rates["bare"]), "{:,.0f}/s"),
            at_least=0.5,
        ),
        Figure("acknowledged per second", f"{spread(rates['runhook'])}; bare {spread(rates['bare'])}"),
        Figure(
            "acknowledgement: p50 / p99",
            " / ".join(f"{percentile(took, each) * 1000:.1f}" for each in (50, 99)) + " ms",
        ),
    ]
