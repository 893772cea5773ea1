"""What the start of a command costs: CPU as a multiple of `python -c "import sqlalchemy"`, in alternating rounds, and
seconds by the clock, which mean something on a machine that does nothing else.

    python bench/start.py [--rounds 7] [--against TREE] [--json]

`runs` lists an empty ledger. `serve` counts until its first 202, with a Valkey that is there; `bare` is a Starlette
application on uvicorn that answers 202 to all. `--against`: another checkout, which takes turns with this one. The
cheapest of each counts, for other processes make none cheaper; modules are compiled before.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.servers import new_folder, new_valkey  # noqa: E402
from receiver.domain.signature import HEADER, sign  # noqa: E402
from tests.servers.valkey import free_port  # noqa: E402

UNIT = "import sqlalchemy"
SECRET = "a-signing-secret"
BODY = json.dumps({"run_id": "tsk_1", "status": "completed"}).encode()
BARE = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
async def accept(request):
    await request.body()
    return Response(status_code=202)
app = Starlette(routes=[Route("/webhooks/skyvern", accept, methods=["POST"])])
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical", access_log=False)
"""


class Cost(NamedTuple):
    """Seconds of CPU, and by the clock."""

    cpu: float
    clock: float


def cost_of_command(command: list[str], environ: Mapping[str, str]) -> Cost:
    """Run a command to its end, and return what it cost."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env=dict(environ), cwd=environ["HOME"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with code {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, took)


def cost_until_202(command: Callable[[int], list[str]], environ: Mapping[str, str]) -> Cost:
    """Start a receiver, and return what it has cost when it answers a webhook with 202."""
    port = free_port()
    began = time.perf_counter()
    process = subprocess.Popen(
        command(port), env=dict(environ), cwd=environ["HOME"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        lines = ["POST /webhooks/skyvern HTTP/1.1", "host: x", f"content-length: {len(BODY)}"]
        request = "\r\n".join([*lines, f"{HEADER}: {sign(BODY, SECRET)}", "", ""]).encode() + BODY
        answer = b""
        while not answer:
            if process.poll() is not None:
                raise SystemExit(f"{command(port)} ended with code {process.returncode}")
            time.sleep(0.005)
            try:
                with socket.create_connection(("127.0.0.1", port), 30) as connection:
                    connection.sendall(request)
                    answer = connection.recv(1000)
            except ConnectionRefusedError:
                continue
        took = time.perf_counter() - began
        if not answer.startswith(b"HTTP/1.1 202"):
            raise SystemExit(f"no 202: {answer!r}")
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        return Cost(sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9, took)
    finally:
        process.kill()
        process.wait()


def measured(trees: Mapping[str, Path], rounds: int) -> dict[str, Cost]:
    """Return what each command costs at the least: CPU in units of importing SQLAlchemy, and seconds by the clock."""
    with new_folder() as folder, new_valkey(folder) as valkey:
        return _measured(folder, valkey.url, trees, rounds)


def _measured(folder: Path, redis_url: str, trees: Mapping[str, Path], rounds: int) -> dict[str, Cost]:
    config = folder / "runhook.yaml"
    sinks = {"archive": {"type": "files", "path": str(folder / "archive")}}
    routes = [{"name": "all", "to": ["archive"]}]
    config.write_text(json.dumps({"sources": {"skyvern": {"secrets": [SECRET]}}, "sinks": sinks, "routes": routes}))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "REDIS_URL": redis_url,
        "RUNHOOK_CONFIG": str(config),
    }
    python = sys.executable
    pieces: dict[str, Callable[[], Cost]] = {
        UNIT: lambda: cost_of_command([python, "-c", UNIT], environ),
        "bare": lambda: cost_until_202(lambda port: [python, "-c", BARE, str(port)], environ),
    }
    runhook = [python, "-m", "receiver.cli"]

    def serve(port: int) -> list[str]:
        return [*runhook, "serve", "--port", str(port)]

    for number, (tree, path) in enumerate(trees.items()):
        # A ledger of its own, for each tree reads only what is of its release; keys are what makes one.
        here = {**environ, "PYTHONPATH": str(path), "RUNHOOK_DATA": str(folder / f"data{number}")}
        cost_of_command([*runhook, "keys", "create", "bench", "--scope", "view"], here)
        pieces[f"{tree}runs"] = partial(cost_of_command, [*runhook, "runs"], here)
        pieces[f"{tree}--help"] = partial(cost_of_command, [*runhook, "--help"], here)
        pieces[f"{tree}serve"] = partial(cost_until_202, serve, here)
    found: dict[str, list[Cost]] = {name: [] for name in pieces}
    for number in range(rounds + 1):
        for name, measure in pieces.items():
            taken = measure()
            if number:  # the first one compiles
                found[name].append(taken)
    unit = min(found[UNIT]).cpu
    return {
        name: Cost(min(each.cpu for each in taken) / unit, min(each.clock for each in taken))
        for name, taken in found.items()
    }


def main() -> None:
    """Print what it costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trees = {"": ROOT, **({"before: ": options.against.resolve()} if options.against else {})}
    found = measured(trees, options.rounds)
    if options.json:
        print(json.dumps({name: cost._asdict() for name, cost in found.items()}, indent=2))
        return
    print(f"{'':20} {'CPU':>5} {'seconds':>8}")
    for name, cost in found.items():
        print(f"{name:20} {cost.cpu:5.2f} {cost.clock:8.2f}")


if __name__ == "__main__":
    main()
