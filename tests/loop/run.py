"""Proof of the closed loop: runs submitted through us and past us, while Skyvern does all that it is known to do.

    python -m tests.loop.run [--runs 2000] [--seed 0] [--postgres] [--all] [--verbose]

A simulated Skyvern with every fault on is the truth to compare with. Webhooks are lost, late, doubled, out of order;
callers ask before, between and after them; recordings are half written; runs are started again, and from the UI; the
receiver is killed twice. At the end each run must have been routed where its webhook alone would have been routed, have
one row with the columns that its webhook alone would have given, whole files, and each result told once. It prints a
table, and ends with 1 on any difference. `--all` shows every violation, and not the first few of a kind.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from receiver.domain.submission import OPEN
from receiver.ledger import Connection
from receiver.ledger.schema import polls, runs, submissions
from simulator.api import create_app
from simulator.faults import Fault
from simulator.options import Options
from simulator.runs import TASK_V2
from simulator.server import Serving
from simulator.world import World
from tests.loop import checks
from tests.loop.callers import MANNERS, Callers, press_test_button, start_outside
from tests.loop.checks import Check
from tests.loop.faults import FAULTS, OF_READS
from tests.loop.truth import MAPPED, TITLES, Expected, expect, routes
from tests.servers.deployment import Deployment
from tests.servers.http import ScriptedServer
from tests.servers.postgres import PostgresProcess
from tests.servers.slack import FakeSlack
from tests.servers.valkey import ValkeyProcess

KEY = "the-key-of-the-loop"
SECRET = "the-master-secret-of-the-loop"
SPEED = 2.0
GRACE = 4.0
HTTP_SINKS = ("first", "odd", "orders", "invoices", "north")
OUTSIDE = 0.1
PRESSES = 4
# Seconds for which nothing may move before the loop is over: what is noted of a run is acted upon after the grace.
STILL = 2 * GRACE + 4


@dataclass(frozen=True)
class LoopReport:
    """The result of a loop. `min_polls`: the fewest that were possible: one for each run that no webhook reported."""

    runs: int
    seconds: float
    polls: int
    min_polls: int
    webhooks: dict[str, int]
    asked: dict[str, int]
    faults: dict[str, int]
    checks: list[Check]

    @property
    def errors(self) -> list[str]:
        """Every violation of what must hold."""
        return [f"{check.name}: {each}" for check in self.checks for each in check.wrong]

    def text(self, most: int = 5) -> str:
        """Return the table, with the first `most` violations of each check."""
        lines = [
            f"{self.runs} runs in {self.seconds:.0f} s; the receiver was killed meanwhile; webhooks: "
            + ", ".join(f"{count} {name}" for name, count in self.webhooks.items()),
            "faults: " + ", ".join(f"{count} {name}" for name, count in self.faults.items()),
            "callers asked: " + ", ".join(f"{count} {name}" for name, count in self.asked.items()),
            f"polls: {self.polls}, the fewest possible: {self.min_polls}",
            "",
            f"{'':<49} {'runs':>6} {'wrong':>6}",
        ]
        for check in self.checks:
            lines.append(str(check))
            lines += [f"       {each}" for each in check.wrong[:most]]
            lines += [f"       … and {len(check.wrong) - most} more"] if len(check.wrong) > most else []
        return "\n".join(lines)


class Loop:
    """One loop: its servers, its callers, and the checks at its end."""

    def __init__(
        self,
        count: int,
        seed: int,
        directory: Path,
        redis_url: str,
        database_url: str = "",
        faults: Mapping[Fault, float] = FAULTS,
        of_reads: Mapping[Fault, float] = OF_READS,
        kills: int = 2,
    ) -> None:
        self.count, self.seed, self.directory, self.faults = count, seed, directory, dict(faults)
        self.kills = kills
        self._app = create_app(
            Options(
                api_keys=(KEY,),
                seed=seed,
                speed=SPEED,
                late_seconds=10.0,
                slow_seconds=2.0,
                half_seconds=8.0,
                paused_seconds=10.0,
                queued_seconds=10.0,
                ratios=dict(of_reads),
            )
        )
        self._skyvern = Serving(self._app)
        self._sinks = {name: ScriptedServer() for name in (*HTTP_SINKS, "caller")}
        self._slack = FakeSlack()
        self._hook = f"{self._sinks['caller'].url}/hook"
        directory.mkdir(parents=True, exist_ok=True)
        url = database_url or f"sqlite:///{directory / 'data' / 'ledger.db'}"
        self.system = Deployment(directory, redis_url, url, self._config())
        self.system.more = {"PUBLIC_URL": self.system.url, "RUNHOOK_SECRET": SECRET}
        self._outside: dict[str, str] = {}
        self._presses: list[int] = []
        self.verbose = False
        self._started = time.monotonic()

    @property
    def world(self) -> World:
        """The state of the simulated Skyvern."""
        world: World = self._app.state.world
        return world

    def _config(self) -> dict[str, Any]:
        source = {"secrets": ["another"], "api_base": self._skyvern.url, "api_key": KEY, "watch": True}
        reconcile = {
            "after": "4s",
            "webhook_grace": f"{GRACE:g}s",
            "watch_every": "3s",
            "watch_back": "1h",  # runs end before the first walk begins
            "budget": "100/s",
            "concurrency": 16,
            "absent_after": "1m",
        }
        quick = {"retry": {"first": "500ms"}}
        results = f"sqlite:///{self.directory / 'results.db'}"
        return {
            "sources": {"skyvern": source},
            "sinks": {
                **{
                    name: {"type": "http", "url": self._sinks[name].url, "concurrency": 16, **quick}
                    for name in HTTP_SINKS
                },
                "rows": {"type": "database", "url": results, "table": "runs", "columns": MAPPED},
                "archive": {"type": "files", "path": str(self.directory / "archive"), "concurrency": 8, **quick},
                "chat": {"type": "slack", "webhook_url": self._slack.webhook_url, "concurrency": 8, **quick},
            },
            "routes": routes(),
            "reconcile": reconcile,
            "callbacks": {"per_origin": 16, **quick},
            "allowed_addresses": ["127.0.0.1"],
            "spool": {"reserve_bytes": 0},
            "submit": {"rate": "2000/s"},
        }

    def run(self, patience: float) -> LoopReport:
        """Run the loop. `patience`: seconds in which all must be still, once all submits are answered."""
        self._started = time.monotonic()
        with self._skyvern:
            for server in self._sinks.values():
                server.__enter__()
            try:
                self.system.start()
                key = self.system.json("keys", "create", "loop")["key"]
                self.system.run("worker")
                self.system.run("clock")
                callers = Callers(self.system.url, key, self._hook, self.count, self.seed, self.faults)
                self._work(callers)
                unsettled = self._wait(time.monotonic() + patience)
                return self._report(callers, unsettled, time.monotonic() - self._started)
            finally:
                self.system.end()
                self._slack.close()
                for server in self._sinks.values():
                    server.__exit__()

    def _work(self, callers: Callers) -> None:
        """Submit everything, start runs outside, press the Test button; the receiver is killed meanwhile, twice."""
        for workflow_id, title in TITLES.items():
            body = {"workflow_id": workflow_id, "title": title}
            httpx2.post(f"{self._skyvern.url}/_sim/agents", json=body, trust_env=False).raise_for_status()
        half, asking = threading.Event(), list[Future[None]]()
        submitting = threading.Thread(target=lambda: asking.extend(callers.submit_all(half)))
        submitting.start()
        callback = f"{self.system.url}/webhooks/skyvern"
        self._outside = start_outside(self._skyvern.url, callers, max(round(self.count * OUTSIDE), 10), callback)
        self._presses = press_test_button(self._skyvern.url, KEY, callback, PRESSES)
        half.wait(300)
        if self.kills > 1:
            self._kill()  # while requests and webhooks are being sent
        submitting.join()
        self._tell(f"{len(callers.submitted)} submits answered; slow ones: {callers.slow}")
        self._kill()  # while webhooks are being sent
        for each in asking:
            each.result()
        self._tell("every caller has its answer")

    def _kill(self) -> None:
        self.system.kill()
        self.system.start()

    def _wait(self, deadline: float) -> list[str]:
        """Wait until nothing has moved for a while: no run, no submission, no delivery. Returns what still moves."""
        seen: Any = None
        still_since = time.monotonic()
        while time.monotonic() < deadline:
            states = self.system.states()
            open_ones = self.system.ledger.read(_count_open)
            unsettled = sum(not run.settled for run in self.world.runs.values())
            waiting = (
                sum(
                    not run.reported and run.callback is not None and Fault.LOSE not in run.faults
                    for run in self.world.runs.values()
                )
                - self.world.stats["webhooks_failed"]
            )
            now = (states, open_ones, unsettled, max(waiting, 0), len(self.world.runs))
            if now != seen or open_ones or unsettled or set(states) - {"delivered", "dead"}:
                if now != seen:
                    self._tell(f"{open_ones} submissions open, {unsettled} runs not settled, deliveries {states}")
                seen, still_since = now, time.monotonic()
            elif time.monotonic() - still_since > STILL:
                return []
            time.sleep(0.3)
        return [f"{open_ones} submissions open, {unsettled} runs not settled, deliveries {states}"]

    def _tell(self, text: str) -> None:
        if self.verbose:
            print(f"{time.monotonic() - self._started:6.1f} s  {text}", file=sys.stderr)

    # What came of it.

    def _report(self, callers: Callers, unsettled: list[str], seconds: float) -> LoopReport:
        world = self.world
        expected = self._expected(callers)
        requests = {name: checks.arrived(server.requests) for name, server in self._sinks.items()}
        to_callers = requests.pop("caller")
        got = {name: [checks.run_of(each) for each in several] for name, several in requests.items()}
        names = {run.workflow_run_id: run.id for run in world.runs.values() if run.workflow_run_id}
        chat = [checks.mentioned(json.dumps(arguments)) for _, arguments in self._slack.calls]
        all_checks = [
            Check("all is still", 1, unsettled),
            self._created(callers),
            self._submissions(callers),
            *(
                checks.at_sink(name, expected, got[name], [each.headers["webhook-id"] for each in requests[name]])
                for name in HTTP_SINKS
            ),
            checks.at_sink("chat", expected, [names.get(each, each) for each in chat], []),
            *checks.rows(expected, self.directory / "results.db"),
            checks.files(expected, self.directory / "archive"),
            checks.callers(expected, to_callers, callers.key),
            checks.leaks(requests, self.directory / "archive"),
            checks.answers(expected, world, self.system.url, callers.key),
            self._dead(),
            Check("Test button: 202", PRESSES, [f"answered {each}" for each in self._presses if each != 202]),
        ]
        stats = world.stats
        return LoopReport(
            runs=len(world.runs),
            seconds=seconds,
            polls=sum(run.polls for run in world.runs.values()),
            min_polls=len(world.unreported()),
            webhooks={name: stats[f"webhooks_{name}"] for name in ("delivered", "lost", "failed", "none")},
            asked=dict(callers.asked),
            faults={name[6:]: count for name, count in sorted(stats.items()) if name.startswith("fault_")},
            checks=all_checks,
        )

    def _expected(self, callers: Callers) -> list[Expected]:
        numbers = {run_id: number for number, run_id in callers.submitted.items()}
        found = []
        for run in self.world.runs.values():
            first = run
            while first.retried_from:
                first = self.world.runs[first.retried_from]
            number = numbers.get(first.id)
            if number is None:
                manner = self._outside.get(run.id, "")
                found.append(expect(self.world, run, {}, None, manner, manner))
            else:
                manner = MANNERS[number % len(MANNERS)]
                found.append(
                    expect(
                        self.world, run, callers.labels(number), f"{self._hook}/{number}", manner, callers.form(number)
                    )
                )
        return found

    def _created(self, callers: Callers) -> Check:
        """Each submit has made one run, though its answer may have been lost."""
        tokens = Counter(
            (run.callback or "").rpartition("/")[2] for run in self.world.runs.values() if not run.retried_from
        )
        wrong = [
            f"submit {number}: {tokens[token]} runs" for number, token in callers.tokens.items() if tokens[token] != 1
        ]
        return Check("submits: one run each", self.count, wrong)

    def _submissions(self, callers: Callers) -> Check:
        """Each submission is final in the ledger, with the status of its run, or of the one that it became."""
        rows = self.system.ledger.read(_rows)
        wrong = []
        for number, run_id in callers.submitted.items():
            run = self.world.runs[run_id]
            tangled = Fault.TANGLED in run.faults and run.type == TASK_V2 and run.status == "failed"
            truth = "completed" if tangled and run.output else run.status
            state, status, final = rows.get((callers.tokens[number], run_id), ("missing", "", False))
            if (state, status, bool(final)) != ("accepted", truth, True):
                wrong.append(f"{run_id}: {state} {status} final={final}; Skyvern has {truth}")
        return Check("ledger: submissions final", self.count, wrong)

    def _dead(self) -> Check:
        states = self.system.states()
        dead = [f"{each['sink']}: {each['reason']}" for each in self.system.deliveries(state=["dead"])[:50]]
        return Check("deliveries: none dead", sum(states.values()), dead)


def _count_open(connection: Connection) -> int:
    """Return how many submissions are not final."""
    ended = sa.exists().where(
        runs.c.source == submissions.c.source, runs.c.run_id == submissions.c.run_id, runs.c.final
    )
    polled = sa.exists().where(polls.c.source == submissions.c.source, polls.c.run_id == submissions.c.run_id)
    query = sa.select(sa.func.count()).where(sa.or_(submissions.c.state.in_(sorted(OPEN)), sa.and_(polled, ~ended)))
    return int(connection.execute(query).scalar_one())


def _rows(connection: Connection) -> dict[tuple[str, str], tuple[str, str, bool]]:
    """Return state, outcome and finality of each submission's run, by submission id and run id."""
    query = sa.select(
        submissions.c.id, submissions.c.run_id, submissions.c.state, runs.c.outcome, runs.c.final
    ).outerjoin(runs, sa.and_(runs.c.source == submissions.c.source, runs.c.run_id == submissions.c.run_id))
    return {(row[0], row[1]): (row[2], row[3], row[4]) for row in connection.execute(query)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Proof of the closed loop.")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", action="store_true", help="The ledger on PostgreSQL instead of SQLite.")
    parser.add_argument("--all", action="store_true", help="Show every violation.")
    parser.add_argument("--verbose", action="store_true", help="Tell what still moves.")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder, url = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runhook-loop-"))), ""
        folder.chmod(0o755)  # PostgreSQL may run as another user
        valkey = ValkeyProcess(folder / "valkey").start()
        stack.callback(valkey.kill)
        if options.postgres:
            postgres = PostgresProcess(folder / "postgres").start()
            stack.callback(postgres.kill)
            url = postgres.url(postgres.create_database())
        loop = Loop(options.runs, options.seed, folder / "loop", valkey.url, url)
        loop.verbose = options.verbose
        found = loop.run(900)
    print(found.text(10**9 if options.all else 5))
    return 1 if found.errors else 0


if __name__ == "__main__":
    sys.exit(main())
