"""What `make demo` runs: everything on the embedded default, some sample runs, and what became of each.

With --once it checks that the rows and files are there, stops everything, and exits 0 or 1.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "var" / "demo"
RUNHOOK = Path(sys.executable).with_name("runhook")
SAMPLES = [
    "task_v1.completed",
    "task_v1.failed",
    "task_v2.completed",
    "task_v2.terminated",
    "openai_cua.timed_out",
    "workflow_run.completed",
    "workflow_run.canceled",
    "workflow_run.retries",
]
PATIENCE = 60.0  # seconds


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--once", action="store_true", help="check, stop and exit")
    once = arguments.parse_args().once
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what others print must not overtake us
    shutil.rmtree(DATA, ignore_errors=True)
    port = free_port(8000)
    url = f"http://127.0.0.1:{port}"
    environ = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "DATABASE_URL")}
    environ["RUNHOOK_DATA"] = str(DATA.relative_to(Path.cwd()) if DATA.is_relative_to(Path.cwd()) else DATA)
    dev = subprocess.Popen([RUNHOOK, "dev", "--port", str(port)], env=environ, cwd=ROOT, start_new_session=True)
    try:
        if not wait_until(lambda: dev.poll() is not None or ready(url)) or dev.poll() is not None:
            print("demo: the parts did not come up; the lines above say why", file=sys.stderr)
            return 1
        heading("Sending sample runs, signed as Skyvern signs them")
        subprocess.run([RUNHOOK, "trigger", "--url", url, *SAMPLES], env=environ, cwd=ROOT, check=True)
        wait_until(lambda: settled(environ))
        show(environ)
        found = problems(environ)
        for line in found:
            print(f"demo: {line}", file=sys.stderr)
        if once:
            print("demo: " + ("something is missing" if found else "every row and file is there"))
            return 1 if found else 0
        print(f"\nStill running at {url}; Ctrl-C stops all of it. To send more, from another terminal:")
        print(f"  RUNHOOK_DATA={environ['RUNHOOK_DATA']} {RUNHOOK.relative_to(ROOT)} trigger --url {url}")
        return dev.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        if dev.poll() is None:
            dev.send_signal(signal.SIGINT)
            dev.wait(30)


def free_port(wanted: int) -> int:
    """`wanted`, or a free one when that is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SystemExit("demo: no free port")


def wait_until(condition: Any) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def ask(environ: dict[str, str], *command: str) -> Any:
    """What a runhook command prints as JSON."""
    output = subprocess.run(
        [RUNHOOK, *command, "--json", "-n", "1000"], env=environ, cwd=ROOT, check=True, capture_output=True
    ).stdout
    return json.loads(output)


def settled(environ: dict[str, str]) -> bool:
    """Whether every sample is in the ledger and every delivery has ended."""
    states = [each["state"] for each in ask(environ, "deliveries")]
    return len(ask(environ, "runs")) >= len(SAMPLES) and bool(states) and set(states) <= {"delivered", "dead"}


def heading(text: str) -> None:
    print(f"\n── {text} " + "─" * max(0, 76 - len(text)), flush=True)


def show(environ: dict[str, str]) -> None:
    heading("What became of each: event → sink → receipt")
    subprocess.run([RUNHOOK, "deliveries", "-n", "1000"], env=environ, cwd=ROOT, check=True)
    heading("Where it is")
    database, archive = places()
    print(f"rows:   {database.relative_to(ROOT)}, table skyvern_runs")
    for row in rows(database):
        print("        " + "  ".join(f"{value}"[:60] for value in row if value is not None))
    print(f"files:  {archive.relative_to(ROOT)}")
    for path in sorted(archive.rglob("run.json"))[:4]:
        print(f"        {path.relative_to(ROOT)}")
    print(f"ledger: {(DATA / 'ledger.db').relative_to(ROOT)}")


def places() -> tuple[Path, Path]:
    return DATA / "results.db", DATA / "archive"


def rows(database: Path) -> list[tuple[Any, ...]]:
    if not database.exists():
        return []
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute(
            "SELECT run_id, run_type, status, failure_reason FROM skyvern_runs ORDER BY run_id"
        ).fetchall()


def problems(environ: dict[str, str]) -> list[str]:
    """What should be there and is not."""
    database, archive = places()
    found = []
    runs = {each["run_id"]: each["outcome"] for each in ask(environ, "runs")}
    stored = {row[0]: row[2] for row in rows(database)}
    if len(runs) < len(SAMPLES):
        found.append(f"the ledger has {len(runs)} runs of {len(SAMPLES)}")
    for run_id, outcome in runs.items():
        if stored.get(run_id) != outcome:
            found.append(f"run {run_id} is {outcome}, its row says {stored.get(run_id)}")
        if not list(archive.rglob(f"*{run_id}*/**/run.json")):
            found.append(f"run {run_id} has no file in {archive.relative_to(ROOT)}")
    return found + [
        f"delivery {each['id']} to {each['sink']} is {each['state']}: {each['reason']}"
        for each in ask(environ, "deliveries")
        if each["state"] != "delivered"
    ]


if __name__ == "__main__":
    sys.exit(main())
