"""How fast one worker moves events from the inbox into ledger and PostgreSQL sink, against one RQ job an event.

    python bench/pipeline.py [--events 20000] [--jobs 1500] [--rounds 2]

Both find their backlog waiting in the same Valkey (appendfsync always) and write to the same PostgreSQL (fsync on), one
after the other, several rounds. The rival is a plain app: an RQ SimpleWorker whose job parses the body and, in one
transaction, writes the event, the delivery and the attempt, and upserts the run's row. Ours is `runhook worker` (its
dispatch process and its sink process); the clock stops when every row is there and every delivery says delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psycopg  # noqa: E402
import redis  # noqa: E402

from bench.servers import new_folder, new_postgres, new_valkey  # noqa: E402
from receiver.domain.event import Event, event_id  # noqa: E402
from receiver.domain.frame import EntryKeys  # noqa: E402
from receiver.inbox.writer import InboxWriter  # noqa: E402
from receiver.runtime.parent_death import die_with_parent  # noqa: E402
from tests.servers.postgres import PostgresProcess  # noqa: E402
from tests.servers.valkey import ValkeyProcess  # noqa: E402
from tests.support.run_ids import run_id  # noqa: E402

PATIENCE = 300.0

RIVAL = '''
import json, os, sys
import psycopg
from redis import Redis
from rq import Queue, SimpleWorker

_connection = None

def connection():
    global _connection
    if _connection is None:
        _connection = psycopg.connect(os.environ["RIVAL_DATABASE"])
    return _connection

def handle(body):
    run = json.loads(body)
    db = connection()
    with db.transaction():
        db.execute("INSERT INTO events (run_id, status, body) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                   (run["run_id"], run["status"], body.encode()))
        db.execute("INSERT INTO deliveries (run_id, sink, state) VALUES (%s, 'results', 'delivered')", (run["run_id"],))
        db.execute("INSERT INTO attempts (run_id, outcome) VALUES (%s, 'accepted')", (run["run_id"],))
        db.execute("""INSERT INTO results (run_id, status, output) VALUES (%s, %s, %s)
                      ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, output = excluded.output""",
                   (run["run_id"], run["status"], json.dumps(run["output"])))

if __name__ == "__main__":
    client = Redis.from_url(os.environ["RIVAL_REDIS"])
    SimpleWorker([Queue("rival", connection=client)], connection=client, log_job_description=False).work(
        burst=True, logging_level="ERROR")
'''

TABLES = """
DROP TABLE IF EXISTS events, deliveries, attempts, results;
CREATE TABLE events (id bigserial PRIMARY KEY, run_id text UNIQUE, status text, body bytea);
CREATE TABLE deliveries (id bigserial PRIMARY KEY, run_id text, sink text, state text);
CREATE TABLE attempts (id bigserial PRIMARY KEY, run_id text, outcome text);
CREATE TABLE results (run_id text PRIMARY KEY, status text, output jsonb);
"""


def body(number: int) -> bytes:
    """A run's result of about 2 kB."""
    run = {
        "run_id": run_id(number),
        "run_type": "task_v1",
        "status": "completed",
        "created_at": "2026-11-24T14:05:09.165039",
        "modified_at": "2026-11-24T14:06:11.165039",
        "output": {"number": number, "total": number * 1.5, "lines": [{"name": "x" * 40, "n": n} for n in range(25)]},
    }
    return json.dumps(run, separators=(",", ":")).encode()


def child(command: list[str], environ: dict[str, str], log: Path, tree: Path = ROOT) -> subprocess.Popen[bytes]:
    """Start a process that runs the code of `tree` and ends with this one."""
    parent = os.getpid()
    with log.open("ab") as out:
        return subprocess.Popen(
            command, env={**os.environ, **environ}, cwd=tree, stdout=out, stderr=out,
            preexec_fn=lambda: die_with_parent(parent),
        )  # fmt: skip


def wait_for(condition: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"it did not finish:\n{log.read_text()[-3000:]}")
        time.sleep(0.02)


def ours(folder: Path, valkey: ValkeyProcess, postgres: PostgresProcess, events: int) -> float:
    """Events a second through `runhook worker`."""
    database = postgres.create_database()
    url = postgres.url(database)
    config = folder / "runhook.yaml"
    config.write_text(
        json.dumps(
            {
                "sources": {"skyvern": {"secrets": ["bench"]}},
                "sinks": {"results": {"type": "database", "url": url, "table": "results"}},
                "routes": [{"name": "everything", "to": ["results"]}],
            }
        )
    )
    client = valkey.connect()
    client.flushdb()

    async def fill() -> None:
        writer = InboxWriter(valkey.url, timeout=30, keys=EntryKeys({"skyvern": ["bench"]}))
        for start in range(0, events, 500):
            bodies = [body(number) for number in range(start, min(start + 500, events))]
            await writer.append([Event(event_id("skyvern", each), "skyvern", each, time.time()) for each in bodies])
        await writer.close()

    asyncio.run(fill())
    environ = {"REDIS_URL": valkey.url, "DATABASE_URL": url, "RUNHOOK_CONFIG": str(config), "RUNHOOK_DATA": str(folder)}
    log = folder / "worker.log"
    began = time.monotonic()
    from receiver.wakeups import wake_dispatcher

    wake_dispatcher(client)
    worker = child([sys.executable, "-m", "receiver.cli", "worker"], environ, log)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as db:

        def done() -> bool:
            try:
                row = db.execute(
                    "SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM deliveries WHERE state = 'delivered')"
                ).fetchone()
            except psycopg.errors.UndefinedTable:
                return False
            return row == (events, events)

        wait_for(done, worker, log)
    seconds = time.monotonic() - began
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)
    client.close()
    return events / seconds


def rival(folder: Path, valkey: ValkeyProcess, postgres: PostgresProcess, jobs: int) -> float:
    """Events a second through an app with one RQ job an event."""
    from rq import Queue

    database = postgres.create_database()
    url = postgres.url(database).replace("+psycopg", "")
    (folder / "rival.py").write_text(RIVAL)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(TABLES)
    client = redis.Redis.from_url(valkey.url)
    client.flushdb()
    queue = Queue("rival", connection=client)
    queue.enqueue_many([Queue.prepare_data("rival.handle", (body(number).decode(),)) for number in range(jobs)])
    log = folder / "rival.log"
    began = time.monotonic()
    environ = {"RIVAL_REDIS": valkey.url, "RIVAL_DATABASE": url, "PYTHONPATH": str(folder)}
    worker = child([sys.executable, str(folder / "rival.py")], environ, log)
    if worker.wait(PATIENCE):
        raise SystemExit(f"the rival failed:\n{log.read_text()[-3000:]}")
    seconds = time.monotonic() - began
    with psycopg.connect(url) as db:
        row = db.execute("SELECT count(*) FROM results").fetchone()
        assert row == (jobs,), row
    client.close()
    return jobs / seconds


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=20_000)
    arguments.add_argument("--jobs", type=int, default=1_500)
    arguments.add_argument("--rounds", type=int, default=2)
    options = arguments.parse_args()
    with new_folder() as folder, new_valkey(folder) as valkey, new_postgres(folder) as postgres:
        ratios = []
        for number in range(1, options.rounds + 1):
            theirs = rival(folder, valkey, postgres, options.jobs)
            mine = ours(folder, valkey, postgres, options.events)
            ratios.append(mine / theirs)
            ratio = f"ratio {mine / theirs:.1f}"
            print(f"round {number}: runhook {mine:,.0f}/s  one job an event {theirs:,.0f}/s  {ratio}")
        print(f"median ratio {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
