"""`make demo`: start Runhook and a simulated Skyvern, send sample runs, submit three, and show where each result is.

The simulated Skyvern loses one webhook on purpose; Runhook polls for that result. The log is var/demo/log.
With --once the demo checks that each row and file exists, stops everything, and exits 0 or 1.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from receiver.runtime.child import spawn

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "var" / "demo"
LOG = DATA / "log"
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
# What the official SDK's run_task and run_workflow send: all of their fields, including nulls.
TASK = dict.fromkeys(
    """user_prompt url title data_extraction_schema error_code_mapping proxy_location webhook_url totp_identifier
    totp_url browser_session_id publish_workflow max_steps extra_http_headers model""".split()  # noqa: SIM905
)
WORKFLOW = dict.fromkeys(
    """title parameters proxy_location webhook_url totp_url totp_identifier browser_session_id""".split()  # noqa: SIM905
)
SUBMITS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/run/tasks", {**TASK, "prompt": "Download the invoice", "engine": "skyvern-2.0"}, "team=billing"),
    ("/v1/run/tasks", {**TASK, "prompt": "Read the price [lose]", "engine": "skyvern-1.0"}, "team=sales"),
    ("/v1/run/agents", {**WORKFLOW, "agent_id": "wpid_1", "parameters": {"month": "May"}}, "team=billing"),
]
PATIENCE = 60.0  # seconds


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--once", action="store_true", help="check, stop and exit")
    once = arguments.parse_args().once
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # keeps the order of lines when a command prints in between
    shutil.rmtree(DATA, ignore_errors=True)
    port = free_port(8000)
    url = f"http://127.0.0.1:{port}"
    environ = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "DATABASE_URL")}
    environ["RUNHOOK_DATA"] = str(DATA.relative_to(Path.cwd()) if DATA.is_relative_to(Path.cwd()) else DATA)
    skyvern = f"http://127.0.0.1:{free_port(8090)}"
    environ |= {"PUBLIC_URL": url, "SKYVERN_BASE_URL": skyvern, "RUNHOOK_CONFIG": write_config()}
    token = environ["RUNHOOK_CONSOLE_TOKEN"] = secrets.token_urlsafe(24)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops the demo as Ctrl-C does
    print("Starting Runhook (receiver, worker, clock, a Valkey server) and a simulated Skyvern")
    print(f"Log: {LOG.relative_to(ROOT)}")
    with LOG.open("wb") as log:
        started = [
            start("dev", port, environ, log),
            start("simulate", int(skyvern.rpartition(":")[2]), environ, log),
        ]
        try:
            return demonstrate(url, skyvern, environ, token, started, once)
        except KeyboardInterrupt:
            return 0
        finally:
            print("Stopping")
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.wait(30)


def start(command: str, port: int, environ: dict[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a runhook command that runs until it is stopped."""
    return spawn([str(RUNHOOK), command, "--port", str(port)], env=environ, cwd=ROOT, stdout=log, stderr=log)


def demonstrate(
    url: str, skyvern: str, environ: dict[str, str], token: str, started: list[subprocess.Popen[bytes]], once: bool
) -> int:
    """Send and submit runs, show their results, and return the exit code."""
    dev = started[0]
    begin = time.monotonic()
    up = wait_until(
        lambda: (
            any(process.poll() is not None for process in started)
            or (ready(url) and answers(f"{skyvern}/api/v1/heartbeat"))
        )
    )
    if not up or any(process.poll() is not None for process in started):
        print(f"demo: the processes did not start:\n{LOG.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        return 1
    print(f"Ready after {time.monotonic() - begin:.1f} s: {url}")
    heading("1. Sample webhooks, signed as Skyvern signs them")
    subprocess.run([RUNHOOK, "trigger", "--url", url, *SAMPLES], env=environ, cwd=ROOT, check=True)
    print("The two retry_pending events are recorded, but not delivered: their run has no result yet.")
    submitted = submit_all(url, environ)
    wait_until(lambda: all_ended(environ))
    show(environ)
    wrong = [*submitted, *problems(environ)]
    for line in wrong:
        print(f"demo: {line}", file=sys.stderr)
    if once:
        print("\ndemo: " + ("failed, see the lines above" if wrong else "every row and file exists"))
        return 1 if wrong else 0
    print(f"\nRunhook is still running at {url}; Ctrl-C stops it. From another terminal:")
    print(f"  RUNHOOK_DATA={environ['RUNHOOK_DATA']} {RUNHOOK.relative_to(ROOT)} trigger --url {url}")
    print(f"Console (this link signs you in once):\n  {url}/console/login?token={token}")
    return dev.wait()


def write_config() -> str:
    """Write the shipped config and what a Skyvern on this machine needs, and return its path."""
    shipped = Path(os.environ.get("RUNHOOK_CONFIG") or ROOT / "config" / "runhook.yaml")
    written = DATA / "runhook.yaml"
    DATA.mkdir(parents=True)
    more = (
        "allowed_addresses: [127.0.0.1] # the simulated Skyvern's artifacts\n"
        "reconcile: {after: 5s, webhook_grace: 5s}\n"
    )
    written.write_text(shipped.read_text() + "\n" + more)
    return str(written)


def submit_all(url: str, environ: dict[str, str]) -> list[str]:
    """Submit runs as an app with the official SDK does, and wait for each. Return what went wrong."""
    heading("2. Runs submitted through Runhook, as an app submits them")
    print("The simulated Skyvern loses the webhook of the second run on purpose.")
    made = subprocess.run(
        [RUNHOOK, "keys", "create", "demo", "--json"], env=environ, cwd=ROOT, check=True, capture_output=True
    )
    headers = {"x-api-key": json.loads(made.stdout)["key"], "content-type": "application/json"}
    wrong, runs = [], []
    for path, body, labels in SUBMITS:
        answer = call(url + path, {**headers, "x-runhook-labels": labels}, body)
        runs.append(answer.get("run_id"))
        print(f"POST {path:<15} {body.get('prompt') or body['agent_id']:<24} → {answer.get('run_id') or answer}")
    for run_id in filter(None, runs):
        answer = call(f"{url}/v1/runs/{run_id}?wait=50", headers)
        via = ", ".join(each["via"] for each in query(environ, "events", "--run", run_id))
        origin = f"result by {via}" if via else "read from Skyvern; Runhook polls for the result"
        print(f"GET  /v1/runs/{run_id} → {answer.get('status')} ({origin})")
        if answer.get("status") != "completed":
            wrong.append(f"run {run_id} is {answer.get('status') or answer}")
    return wrong + ["a submit was refused"] * runs.count(None)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def call(url: str, headers: dict[str, str], body: dict[str, Any] | None = None) -> Any:
    """Return the parsed response to a call, or its error."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=70) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return {"error": f"{error.code} {error.read().decode(errors='replace')[:200]}"}
    except OSError as error:
        return {"error": str(error)}


def free_port(wanted: int) -> int:
    """Return the port `wanted`, or a free one when that is taken."""
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


def query(environ: dict[str, str], *command: str) -> Any:
    """Return what a runhook command prints as JSON, parsed."""
    output = subprocess.run(
        [RUNHOOK, *command, "--json", "-n", "1000"], env=environ, cwd=ROOT, check=True, capture_output=True
    ).stdout
    return json.loads(output)


def all_ended(environ: dict[str, str]) -> bool:
    """Whether every sample is in the ledger and every delivery has ended."""
    states = [each["state"] for each in query(environ, "deliveries")]
    return (
        len(query(environ, "runs")) >= len(SAMPLES) + len(SUBMITS)
        and bool(states)
        and set(states) <= {"delivered", "dead"}
    )


def heading(text: str) -> None:
    print(f"\n── {text} " + "─" * max(0, 76 - len(text)), flush=True)


def show(environ: dict[str, str]) -> None:
    heading("3. Deliveries: each event, its sink, and the receipt")
    subprocess.run([RUNHOOK, "deliveries", "-n", "1000"], env=environ, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    heading("4. Results")
    database, archive = places()
    print(f"Rows:   {database.relative_to(ROOT)}, table skyvern_runs")
    for row in rows(database):
        print("        " + "  ".join(f"{value}"[:60] for value in row if value is not None))
    print(f"Files:  {archive.relative_to(ROOT)}")
    kept = sorted(archive.rglob("run.json"))
    for path in kept[:4]:
        print(f"        {path.relative_to(ROOT)}")
    if len(kept) > 4:
        print(f"        … and {len(kept) - 4} more")
    print(f"Ledger: {(DATA / 'ledger.db').relative_to(ROOT)}")


def places() -> tuple[Path, Path]:
    return DATA / "results.db", DATA / "archive"


def rows(database: Path) -> list[tuple[Any, ...]]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT run_id, run_type, status, failure_reason FROM skyvern_runs ORDER BY run_id"
        ).fetchall()


def problems(environ: dict[str, str]) -> list[str]:
    """Return a line for each row, file or receipt that is missing."""
    database, archive = places()
    found = []
    runs = {each["run_id"]: each["outcome"] for each in query(environ, "runs")}
    stored = {row[0]: row[2] for row in rows(database)}
    if len(runs) < (expected := len(SAMPLES) + len(SUBMITS)):
        found.append(f"the ledger has {len(runs)} of {expected} runs")
    for run_id, outcome in runs.items():
        if stored.get(run_id) != outcome:
            found.append(f"run {run_id} is {outcome}, but its row has {stored.get(run_id)}")
        if not list(archive.rglob(f"*{run_id}*/**/run.json")):
            found.append(f"run {run_id} has no file in {archive.relative_to(ROOT)}")
    return found + [
        f"delivery {each['id']} to {each['sink']} is {each['state']}: {each['reason']}"
        for each in query(environ, "deliveries")
        if each["state"] != "delivered"
    ]


if __name__ == "__main__":
    sys.exit(main())
