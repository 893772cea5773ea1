"""One run: start everything, go through the plan, wait until all is quiet, gather the evidence, judge it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import redis

from tests.chaos import bodies, consumer, sender, verdict
from tests.chaos.bodies import HTTP_SINKS, SINKS, SOURCE
from tests.chaos.plan import HOSTED, Plan, Step, make
from tests.chaos.program import Program
from tests.chaos.report import report
from tests.chaos.system import SECRET, System
from tests.chaos.verdict import Evidence, Fault, Row
from tests.support.run_ids import number_of
from tests.support.waiting import eventually

STALLED: Final = 45.0
"""Seconds without any delivery after which what is missing will not come any more."""
PATIENCE: Final = 150.0
"""Seconds that catching up may take at the end."""
_STARTED: Final = "worker.started"
_CLAIM_WITHIN: Final = 10.0  # seconds within which a host under load claims something
_EMPTY_BY: Final = 30.0  # seconds that the inbox has to become empty without load

# The results' consumer sees each write to its table, at the moment when it is there for others.
_AUDIT = """
CREATE TABLE arrivals (event_id text, at double precision);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO arrivals VALUES (NEW.event_id, extract(epoch FROM clock_timestamp())); RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON runs FOR EACH ROW EXECUTE FUNCTION note();
"""


def run(folder: Path, seed: int, *, short: bool, without: str = "", say: Callable[[str], None] = print) -> int:
    """0 when every promise held, 1 when one was broken."""
    plan = make(seed, short=short)
    kind = "short" if short else "long"
    say(f"seed {seed}, {kind} form{f', WITHOUT {without}' if without else ''}: {plan.end:.0f} s of faults")
    began = time.monotonic()
    try:
        found = experiment(folder, plan, seed, without=without, say=say)
    except AssertionError as error:  # a part never came back: there is nothing more to be seen
        say(f"FAILED {error}")
        say(f"RED: seed {seed}, {time.monotonic() - began:.0f} s in all")
        return 1
    say("")
    say(report(found))
    wrong = verdict.failures(found)
    say("")
    for line in wrong:
        say(f"FAILED {line}")
    say(f"{'RED' if wrong else 'GREEN'}: seed {seed}, {time.monotonic() - began:.0f} s in all")
    return 1 if wrong else 0


def experiment(
    folder: Path, plan: Plan, seed: int, *, without: str = "", say: Callable[[str], None] = print
) -> Evidence:
    """Do it, and tell what was found. Whatever happens, nothing is left running."""
    system = System(folder, sabotage=without, seed=seed, ahead=plan.ahead, linked=plan.linked)
    try:
        system.start()
        return _Conductor(system, plan, seed, say).conduct()
    finally:
        system.end()


@dataclass
class _Conductor:
    system: System
    plan: Plan
    seed: int
    say: Callable[[str], None]
    faults: list[Fault] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _returns: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _awaited: list[tuple[Step, float, frozenset[str], Callable[[], bool]]] = field(default_factory=list)
    _rates: list[tuple[float, float]] = field(default_factory=list)

    def conduct(self) -> Evidence:
        system, out = self.system, self.system.folder / "sent.jsonl"
        self._chance = random.Random(self.seed)
        system.mode("flaky", "flaky")
        ports = ",".join(str(host.port) for host in system.hosts.values())
        arguments = ["-m", "tests.chaos.sender", ports, SECRET, str(self.seed), str(out)]
        load = Program("sender", system.folder, arguments, {}, piped=True)
        load.start()
        try:
            self._warm_up(load)
            began = started = time.monotonic()
            wall = time.time()
            delays: list[tuple[float, float]] = []
            for step in self.plan.steps:
                self._wait(started + step.at)
                self._do(step, load)
                # What took longer than planned moves the rest, so that nothing is crowded.
                started = max(started, time.monotonic() - step.at)
                delays.append((step.at, started - began))
            self._wait(started + self.plan.end)
            self._set_rate(load, 0)
            load.tell("stop")
            self._until(lambda: not load.running, 120, "the sender to end")
            self._until(lambda: not (self._returns or self._awaited), 60, "the last part's return")
            self.say(f"{time.monotonic() - began:6.1f} s  the load has ended; catching up")
            self._drain()
            self.say(f"{time.monotonic() - began:6.1f} s  stopping")
            codes = system.stop()
        finally:
            load.kill()
        done = self.plan.windows_as_done(delays)
        windows = {name: (wall + start, wall + end) for name, (start, end) in done.items()}
        return self._evidence(out, windows, codes)

    def _warm_up(self, load: Program) -> None:
        """Let a few events through, so that the results' table is there to be watched."""
        load.tell("rate 20")
        self._until(lambda: self._has_table(), 30, "the first results")
        load.tell("rate 0")
        self.system.results(_AUDIT)
        self.system.results("INSERT INTO arrivals SELECT event_id, extract(epoch FROM delivered_at) FROM runs")

    def _has_table(self) -> bool:
        return bool(self.system.results("SELECT 1 FROM pg_tables WHERE tablename = 'runs'"))

    # --- The plan

    def _wait(self, until: float) -> None:
        while True:
            self._supervise()
            if (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(left, 0.02))

    def _until(self, condition: Callable[[], Any], seconds: float, what: str) -> None:
        eventually(lambda: (self._supervise(), condition())[1], seconds, what=lambda: f"{what}\n{self.system.tail()}")

    def _supervise(self) -> None:
        """What goes on besides the plan's next step: parts come back, and are seen to be back."""
        now = time.monotonic()
        for due in [each for each in self._returns if each[0] <= now]:
            self._returns.remove(due)
            due[1]()
        for each in list(self._awaited):
            step, at, doubles, is_back = each
            if is_back():
                self._awaited.remove(each)
                self.faults.append(Fault(str(step), at, time.time(), doubles))
        self.system.supervise()

    def _do(self, step: Step, load: Program) -> None:
        if step.action in ("kill", "hang", "flush", "quiet", "network", "vanish") and not step.amid:
            self._until(lambda: not self._awaited, 90, "the return of what is away")
        self.say(f"{step.at:6.1f} s  {step}{f' for {step.seconds:g} s' if step.seconds else ''}{_rate(step)}")
        act: dict[str, Callable[[], object]] = {
            "rate": lambda: self._set_rate(load, float(step.value)),
            "mode": lambda: self.system.mode(step.what, step.value),
            "flush": lambda: self._flush_when_empty(step, load),
            "quiet": lambda: self._without_load(load, lambda: self.system.quiet()[0], step.seconds),
            "hang": lambda: self._hang(step),
            "network": lambda: self._break(step),
            "vanish": lambda: self._vanish(step),
            "kill": lambda: self._kill_everything(step) if step.what == "everything" else self._kill(step),
        }
        act[step.action]()

    def _flush_when_empty(self, step: Step, load: Program) -> None:
        # Under load the inbox is hardly ever empty: let it be for a moment.
        before = self.system.inbox()
        if not self._without_load(load, self._flush, _EMPTY_BY):
            self.skipped.append(
                f"{step}: the inbox was not empty within {_EMPTY_BY:g} s: {before}, and then {self.system.inbox()}"
            )

    def _kill_everything(self, step: Step) -> None:
        for host in self.system.hosts:
            for part in ("receiver", "worker", "clock"):
                self._kill(Step(step.at, "kill", part, step.seconds, host=host))
        for part in ("postgres", "valkey"):
            self._kill(Step(step.at, "kill", part, step.seconds))

    def _set_rate(self, load: Program, rate: float) -> None:
        assert load.running, f"the sender has ended: {load.process and load.process.returncode}"
        load.tell(f"rate {rate:g}")
        self._rates.append((time.monotonic(), rate))

    def _without_load(self, load: Program, condition: Callable[[], bool], seconds: float) -> bool:
        """Pause the load until the condition holds. False when that takes more than `seconds`."""
        rate, deadline = self._rates[-1][1], time.monotonic() + seconds
        self._set_rate(load, 0)
        while not (there := condition()) and time.monotonic() < deadline:
            self._supervise()
            time.sleep(0.01)
        self._set_rate(load, rate)
        return there

    def _kill(self, step: Step) -> None:
        system, at = self.system, time.time()
        everyone = frozenset(HTTP_SINKS)
        if step.what == "child":
            worker = system.hosts[step.host].programs["worker"]

            def all_there() -> bool:
                return system.serves(*worker.children()) >= {"dispatch", *SINKS}

            self._until(all_there, 30, "the worker's children")
            at = time.time()
            victim = self._chance.choice(worker.children())
            mine = everyone & system.serves(victim)
            os.kill(victim, signal.SIGKILL)
            self._awaited.append((step, at, mine, lambda: victim not in worker.children() and all_there()))
        elif step.what in HOSTED:
            doubles = everyone if step.what == "worker" else frozenset()
            self._awaited.append((step, at, doubles, self._kill_part(step.host, step.what, step.seconds)))
        else:
            server = system.valkey if step.what == "valkey" else system.postgres
            server.kill()
            self._back(step.seconds, lambda: _start(server))
            self._awaited.append((step, at, frozenset(), lambda: _runs(server)))

    def _kill_part(self, host: str, part: str, seconds: float) -> Callable[[], bool]:
        """Kill a part, to be started again after `seconds`. Returns what tells whether it is back."""
        program = self.system.hosts[host].programs[part]
        program.kill()
        self._back(seconds, lambda: _start(program))
        before = program.log.read_text().count(_STARTED)
        ready: Callable[[], bool] = {
            "receiver": self.system.hosts[host].answers,
            "worker": lambda: program.log.read_text().count(_STARTED) > before,
        }.get(part, lambda: True)
        return lambda: program.running and ready()

    def _break(self, step: Step) -> None:
        """Have the network between a host and a server do what it should not."""
        link, at = self.system.hosts[step.host].links[step.what], time.time()
        ended: list[bool] = []
        fault = contextlib.ExitStack()
        if step.value == "reset":
            link.reset()
        elif step.value == "half-close":
            link.half_close()
        else:
            lasting = {"refuse": link.refusing, "drip": lambda: link.dripping(200), "hold": link.held}[step.value]
            fault.enter_context(lasting())

        def end() -> None:
            fault.close()
            ended.append(True)

        self._back(step.seconds, end)
        self._awaited.append((step, at, frozenset(), lambda: bool(ended)))

    def _vanish(self, step: Step) -> None:
        """Take a host from the network without a word, in the middle of a claim or settlement, on which PostgreSQL
        goes on waiting."""
        host = self.system.hosts[step.host]
        ledger = host.links["postgres"]
        ledger.hold_at(b"COMMIT", after=b"claim_owner")
        deadline = time.monotonic() + _CLAIM_WITHIN
        while not ledger.is_held and time.monotonic() < deadline:
            self._supervise()
            time.sleep(0.01)
        if not ledger.is_held:
            self.skipped.append(f"{step}: no claim within {_CLAIM_WITHIN:g} s")
        at = time.time()
        for link in host.links.values():
            link.hold()
            link.vanish()
        back = [self._kill_part(step.host, part, step.seconds) for part in ("worker", "receiver", "clock")]
        for link in host.links.values():
            link.release()
        self._awaited.append((step, at, frozenset(HTTP_SINKS), lambda: all(each() for each in back)))

    def _hang(self, step: Step) -> None:
        server = self.system.valkey if step.what == "valkey" else self.system.postgres
        at = time.time()
        server.hang()
        resumed = []

        def resume() -> None:
            server.resume()
            resumed.append(True)

        self._back(step.seconds, resume)
        self._awaited.append((step, at, frozenset(), lambda: bool(resumed)))

    def _back(self, seconds: float, start: Callable[[], None]) -> None:
        self._returns.append((time.monotonic() + seconds, start))

    def _flush(self) -> bool:
        at = time.time()
        with contextlib.suppress(redis.RedisError, OSError):
            if _runs(self.system.valkey) and self.system.flush_if_empty():
                self.faults.append(Fault("FLUSHALL valkey", at, time.time()))
                return True
        return False

    def _drain(self) -> None:
        began = moved = time.monotonic()
        last = -1
        while time.monotonic() - began < PATIENCE and time.monotonic() - moved < STALLED:
            self._supervise()
            quiet, number = self.system.quiet()
            if quiet:
                return
            if number != last:
                last, moved = number, time.monotonic()
            time.sleep(0.25)
        self.say("it does not become quiet")

    # --- The evidence

    def _evidence(self, out: Path, windows: dict[str, tuple[float, float]], codes: dict[str, int]) -> Evidence:
        system = self.system
        sent = sender.read(out)
        arrivals = consumer.read(system.database)
        rows, folders, places = self._results(), [], []
        for path in sorted(system.archive.glob("**/run.json")):
            row, at = _folder(path)
            folders.append(row)
            places.append((row.event, at))
        arrived: dict[str, list[tuple[str, float]]] = {sink: [] for sink in HTTP_SINKS}
        for each in arrivals:
            arrived[each.sink].append((each.event, each.at))
        attempts: dict[str, Counter[str]] = {}
        for delivery, outcome in system.ledger("SELECT delivery_id, outcome FROM attempts"):
            attempts.setdefault(delivery, Counter())[outcome] += 1
        accepted = system.ledger(
            "SELECT delivery_id, max(ended_at) FROM attempts WHERE outcome = 'accepted' GROUP BY 1"
        )
        arrived["results"] = [(str(event), float(at)) for event, at in system.results("SELECT * FROM arrivals")]
        arrived["archive"] = places
        return Evidence(
            sent=sent,
            arrivals=arrivals,
            rows={"results": rows, "archive": folders},
            arrived=arrived,
            recorded=dict(system.ledger("SELECT id, disposition FROM events WHERE source = %s", SOURCE)),
            states=dict(system.ledger("SELECT state, count(*) FROM deliveries GROUP BY state")),
            attempts=attempts,
            accepted={str(delivery): float(ended) for delivery, ended in accepted},
            faults=sorted(self.faults, key=lambda fault: fault.at),
            windows=windows,
            tracebacks=system.tracebacks(),
            exit_codes=codes,
            skipped=self.skipped,
            redis_away=[span for host in system.hosts.values() for span in host.without_redis()],
            least=self.plan.least,
            skewed=any(self.plan.ahead),
            rate=self.plan.rate,
            loaded=sum(end[0] - start[0] for start, end in pairwise(self._rates) if start[1]),
        )

    def _results(self) -> list[Row]:
        found = self.system.results("SELECT run_id, event_id, status, output FROM runs")
        rows = []
        for run_id, event, status, output in found:
            number = number_of(run_id)
            right = event == bodies.event(number) and status == "completed" and output == bodies.output(number)
            rows.append(Row(run_id, event, right))
        return rows


def _folder(path: Path) -> tuple[Row, float]:
    """An event's folder as a row, and when it was complete."""
    content = path.read_bytes()
    run_id = json.loads(content)["run_id"]
    number = number_of(run_id)
    manifest = path.with_name("manifest.json")
    right = hashlib.sha256(content).hexdigest() == bodies.digest(number) and manifest.exists()
    return Row(run_id, path.parent.name, right), (manifest if manifest.exists() else path).stat().st_mtime


def _start(part: Any) -> None:
    """Unless somebody was faster."""
    if not _runs(part):
        part.start()


def _runs(part: Any) -> bool:
    return part.process is not None and part.process.poll() is None


def _rate(step: Step) -> str:
    return f" {step.value}/s" if step.action == "rate" else ""
