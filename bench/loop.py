"""Proof of the closed loop: runs submitted through us, webhooks lost, doubled, late, in disorder, the receiver killed.

    python bench/loop.py [--runs 1000] [--seed 0] [--postgres]

A simulated Skyvern is the truth to compare with: each submission must be final in the ledger with the status that its
run has there, each run must have been created once, and each sink and each caller must have each distinct final event
exactly once. The number of polls is printed beside the fewest possible: one for each run that no webhook reported.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx2  # noqa: E402
import sqlalchemy as sa  # noqa: E402

from receiver.domain.signature import verify  # noqa: E402
from receiver.domain.submission import OPEN  # noqa: E402
from receiver.ledger import Connection  # noqa: E402
from receiver.ledger.schema import runs, submissions  # noqa: E402
from receiver.skyvern.simulator import Options, create_app  # noqa: E402
from receiver.skyvern.simulator.faults import Fault  # noqa: E402
from receiver.skyvern.simulator.server import Serving  # noqa: E402
from receiver.skyvern.simulator.world import World  # noqa: E402
from tests.servers.deployment import Deployment  # noqa: E402
from tests.servers.http import ScriptedServer  # noqa: E402
from tests.servers.postgres import PostgresProcess  # noqa: E402
from tests.servers.valkey import ValkeyProcess  # noqa: E402

KEY = "the-key-of-the-loop"
SECRET = "the-master-secret-of-the-loop"
FAULTS = {
    Fault.LOSE: 0.2,
    Fault.DOUBLE: 0.1,
    Fault.LATE: 0.05,
    Fault.DISORDER: 0.05,
    Fault.FAIL: 0.08,
    Fault.TERMINATE: 0.04,
    Fault.TIMEOUT: 0.04,
    Fault.RETRY: 0.3,
}
SUBMITTERS = 8


@dataclass(frozen=True)
class LoopReport:
    """The result of a loop. `errors`: each violation of what must hold; `min_polls`: the fewest that were possible."""

    runs: int
    seconds: float
    polls: int
    min_polls: int
    webhooks: dict[str, int]
    errors: list[str]

    def __str__(self) -> str:
        lines = [
            f"{self.runs} runs in {self.seconds:.1f} s; receiver killed twice; "
            + ", ".join(f"{count} {name}" for name, count in self.webhooks.items()),
            f"polls: {self.polls}, the fewest possible: {self.min_polls}",
            *(f"ERROR: {each}" for each in self.errors),
        ]
        return "\n".join(
            lines if self.errors else [*lines, "every submission final, each final event once at each sink"]
        )


class Loop:
    """One loop: its servers, its submissions, and the checks at its end."""

    def __init__(self, count: int, seed: int, directory: Path, redis_url: str, database_url: str = "") -> None:
        self.count = count
        self._random = random.Random(seed)
        self._app = create_app(
            Options(api_keys=(KEY,), seed=seed, speed=2.0, run_seconds=2.0, late_seconds=10.0, ratios=dict(FAULTS))
        )
        self._skyvern = Serving(self._app)
        self._sinks = {name: ScriptedServer() for name in ("first", "second", "caller")}
        urls = {name: server.url for name, server in self._sinks.items()}
        self._caller_url = f"{urls['caller']}/hook"
        directory.mkdir(parents=True, exist_ok=True)
        self.system = Deployment(
            directory,
            redis_url,
            database_url or f"sqlite:///{directory / 'data' / 'ledger.db'}",
            {
                "sources": {"skyvern": {"secrets": ["another"], "api_base": self._skyvern.url, "api_key": KEY}},
                "sinks": {
                    name: {"type": "http", "url": urls[name], "concurrency": 16, "retry": {"first": "500ms"}}
                    for name in ("first", "second")
                },
                "routes": [
                    {"name": "everything", "to": ["first"]},
                    {"name": "odd ones", "when": {"labels.parity": "odd"}, "to": ["second"]},
                ],
                "reconcile": {
                    "after": "4s",
                    "webhook_grace": "3s",
                    "budget": "50/s",
                    "concurrency": 16,
                    "absent_after": "1m",
                },
                "callbacks": {"per_origin": 16, "retry": {"first": "500ms"}},
                "allowed_addresses": ["127.0.0.1"],
                "spool": {"reserve_bytes": 0},
            },
        )
        self.system.more = {"PUBLIC_URL": self.system.url, "RUNHOOK_SECRET": SECRET}
        self._submitted: dict[str, str] = {}  # submission → run
        self._lock = threading.Lock()

    @property
    def world(self) -> World:
        world: World = self._app.state.world
        return world

    def run(self, patience: float) -> LoopReport:
        """Run the loop. `patience`: seconds in which every submission must be final, once all are answered."""
        started = time.monotonic()
        with self._skyvern, self._sinks["first"], self._sinks["second"], self._sinks["caller"]:
            try:
                self.system.start()
                self._key = json.loads(self.system.runhook("keys", "create", "loop", "--json"))["key"]
                self.system.run("worker", "--dispatchers", "2")
                self.system.run("clock")
                self._submit_all()
                self._kill()  # while webhooks are being sent
                errors = self._wait(time.monotonic() + patience)
                return self._report(errors, time.monotonic() - started)
            finally:
                self.system.end()

    def _kill(self) -> None:
        self.system.kill()
        self.system.start()

    # Submitting.

    def _submit_all(self) -> None:
        half = threading.Event()
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            work = [pool.submit(self._submit, number, half) for number in range(self.count)]
            half.wait(60)
            self._kill()  # while requests and webhooks are being sent
            for each in work:
                each.result()

    def _submit(self, number: int, half: threading.Event) -> None:
        """Submit as an app should: with the same Idempotency-Key until there is an answer.

        One that was killed before anything was sent has its answer once it is certain that there is no run.
        """
        path, body = self._request(number)
        headers = {"x-api-key": self._key, "idempotency-key": f"loop-{number}"}
        headers["x-runhook-labels"] = f"parity={'odd' if number % 2 else 'even'},number={number}"
        deadline = time.monotonic() + 300
        with httpx2.Client(base_url=self.system.url, trust_env=False, timeout=90) as client:
            while True:
                try:
                    answer = client.post(path, json=body, headers=headers)
                    if answer.status_code == 200:
                        break
                    if answer.status_code not in (409, 429, 502, 503, 504):
                        raise AssertionError(f"{path} answered {answer.status_code}: {answer.text[:300]}")
                except httpx2.HTTPError:
                    pass
                if time.monotonic() > deadline:
                    raise AssertionError(f"{path} was not answered")
                time.sleep(0.2)
        found = answer.json()
        with self._lock:
            self._submitted[answer.headers["x-runhook-submission-id"]] = found.get("run_id") or found["task_id"]
            if len(self._submitted) >= self.count // 2:
                half.set()

    def _request(self, number: int) -> tuple[str, dict[str, Any]]:
        kind = number % 6
        hook = {"webhook_url": f"{self._caller_url}/{number}"}
        if kind == 0:
            return "/v1/run/tasks", {"prompt": f"p{number}", "engine": "skyvern-1.0", **hook}
        if kind == 1:
            return "/v1/run/tasks", {"prompt": f"p{number}", "engine": "skyvern-2.0", **hook}
        if kind == 2:
            return "/v1/run/tasks", {"prompt": f"p{number}", "title": f"t{number}", **hook}
        if kind == 3:
            return "/v1/run/agents", {"agent_id": "wpid_1", "parameters": {"n": number}, **hook}
        if kind == 4:
            return "/v1/run/workflows", {"workflow_id": "wpid_2", "parameters": {"n": number}, **hook}
        legacy = {"webhook_callback_url": hook["webhook_url"]}
        return "/api/v1/tasks", {"url": "https://shop.example", "navigation_goal": f"g{number}", **legacy}

    # Checking.

    def _wait(self, deadline: float) -> list[str]:
        """Wait until nothing is open: no run at Skyvern, no submission, no delivery, no webhook. Returns violations."""
        while time.monotonic() < deadline:
            open_ones = self.system.ledger.read(_count_open)
            states = self.system.states()
            quiet = all(run.final and (run.reported or Fault.LOSE in run.faults) for run in self.world.runs.values())
            if not open_ones and set(states) == {"delivered"} and (quiet or self._waited_for_webhooks()):
                return []
            time.sleep(0.2)
        return [f"not finished in time: {open_ones} submissions open, deliveries {states}"]

    def _waited_for_webhooks(self) -> bool:
        """Return whether the simulation has given up on all webhooks that it will not deliver."""
        stats = self.world.stats
        failed = stats["webhooks_failed"]
        missing = sum(not run.reported and Fault.LOSE not in run.faults for run in self.world.runs.values())
        return missing <= failed

    def _report(self, errors: list[str], seconds: float) -> LoopReport:
        world = self.world
        if len(world.runs) != self.count:
            errors.append(f"{len(world.runs)} runs were created for {self.count} submissions")
        rows = self.system.ledger.read(_rows)
        for submission_id, run_id in self._submitted.items():
            state, bound, status, final = rows.get(submission_id, ("missing", "", "", False))
            truth = world.runs[run_id].status
            if (state, bound, status, bool(final)) != ("accepted", run_id, truth, True):
                errors.append(f"{submission_id}: {state} {bound} {status} final={final}; Skyvern has {run_id} {truth}")
        errors += self._errors_at("first", set(world.runs))
        odd = {run.id for run in world.runs.values() if self._number(run.callback) % 2}
        errors += self._errors_at("second", odd)
        errors += self._errors_at_callers()
        stats = world.stats
        return LoopReport(
            runs=self.count,
            seconds=seconds,
            polls=sum(run.polls for run in world.runs.values()),
            min_polls=len(world.unreported()),
            webhooks={name: stats[f"webhooks_{name}"] for name in ("delivered", "lost", "failed")},
            errors=errors,
        )

    def _number(self, callback: str | None) -> int:
        """Return the number of the submit that created a run, by the token in its callback URL."""
        token = (callback or "").rpartition("/")[2]
        return self._numbers().get(token, 0)

    def _numbers(self) -> dict[str, int]:
        if not hasattr(self, "_by_token"):
            query = sa.select(submissions.c.id, submissions.c.idempotency_key)
            found = self.system.ledger.read(lambda connection: connection.execute(query).all())
            self._by_token = {row.id: int((row.idempotency_key or "loop-0").removeprefix("loop-")) for row in found}
        return self._by_token

    def _errors_at(self, sink: str, expected: set[str]) -> list[str]:
        """Return the violations at a sink that must have the final event of each of these runs, once."""
        requests = self._sinks[sink].requests
        keys = Counter(each.headers["webhook-id"] for each in requests)
        got = Counter(json.loads(each.body)["run_id"] for each in requests)
        errors = [f"{sink}: delivery {key} came {count} times" for key, count in keys.items() if count != 1]
        errors += [f"{sink}: {count} final events of run {run}" for run, count in got.items() if count != 1]
        if set(got) != expected:
            errors.append(f"{sink}: {len(expected - set(got))} runs missing, {len(set(got) - expected)} too many")
        return errors

    def _errors_at_callers(self) -> list[str]:
        errors: list[str] = []
        final: Counter[str] = Counter()
        for each in self._sinks["caller"].requests:
            body = json.loads(each.body)
            if not verify(each.body, each.headers["x-skyvern-signature"], [self._key]):
                errors.append("caller: a webhook with an invalid signature")
            if b"/webhooks/skyvern/" in each.body:
                errors.append("caller: our own callback URL in a body")
            if not body.get("retry_pending"):
                final[body["run_id"]] += 1
        errors += [f"caller: {count} final events of run {run}" for run, count in final.items() if count != 1]
        if missing := set(self.world.runs) - set(final):
            errors.append(f"caller: {len(missing)} runs missing")
        return errors


def _count_open(connection: Connection) -> int:
    """Return how many submissions are not final."""
    ended = sa.exists().where(
        runs.c.source == submissions.c.source, runs.c.run_id == submissions.c.run_id, runs.c.final
    )
    query = sa.select(sa.func.count()).where(
        sa.or_(submissions.c.state.in_(sorted(OPEN)), sa.and_(submissions.c.due_at.is_not(None), ~ended))
    )
    return int(connection.execute(query).scalar_one())


def _rows(connection: Connection) -> dict[str, tuple[str, str, str, bool]]:
    query = sa.select(
        submissions.c.id, submissions.c.state, submissions.c.run_id, runs.c.outcome, runs.c.final
    ).outerjoin(runs, sa.and_(runs.c.source == submissions.c.source, runs.c.run_id == submissions.c.run_id))
    return {row[0]: (row[1], row[2], row[3], row[4]) for row in connection.execute(query)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Proof of the closed loop.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", action="store_true", help="The ledger on PostgreSQL instead of SQLite.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        here.chmod(0o755)
        valkey = ValkeyProcess(here / "valkey").start()
        postgres = PostgresProcess(here / "pg", fsync=True).start() if options.postgres else None
        try:
            url = postgres.url(postgres.create_database()) if postgres else ""
            redis_url = f"redis://127.0.0.1:{valkey.port}/0"
            found = Loop(options.runs, options.seed, here / "loop", redis_url, url).run(600)
        finally:
            valkey.kill()
            if postgres:
                postgres.kill()
    print(found)
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
