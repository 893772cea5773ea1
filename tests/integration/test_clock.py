"""The clock does what comes due in the ledger, and needs no Redis for it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from receiver import clock as clock_module
from receiver.clock import QUIET_TICK, SLOW_EVERY, TICK, Clock, build
from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, LedgerUnavailable, operations
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.deliveries import lanes, recovery
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.words import Coverage, coverage
from receiver.ledger.schema import audit as audit_table
from receiver.ledger.schema import deliveries, runs, submissions
from receiver.ledger.schema import operations as operation_rows
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import Operation
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support import queries
from tests.support.backlog import fill
from tests.support.ledger import claim, new_event, record, run_row, settle, states, submission_row, with_tables
from tests.support.waiting import eventually


@pytest.fixture
def clock(ledger: Ledger) -> Iterator[Clock]:
    it = Clock(ledger, ["ops", "results"], retain=None, give_up={"ops": 60.0, "results": 600.0})
    yield it
    it.close()


class Later:
    """The time as the clock reads it: each reading of `monotonic` is `step` seconds after the one before."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.now, self.step = time.monotonic(), 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    it = Later()
    monkeypatch.setattr("receiver.clock.time", it)
    return it


def test_clock_rests_longer_only_while_nothing_is_due(clock: Clock, ledger: Ledger) -> None:
    waited: list[float] = []

    def rest_with(state: str, due_in: float) -> float:
        """Seconds for which it rests after a tick, while the one delivery is in that state."""
        at = ledger.now() + due_in
        change = sa.update(deliveries).values(state=state, due_at=at, claim_until=at)
        ledger.write(lambda connection: connection.execute(change))
        clock.run(lambda seconds: waited.append(seconds) is None and len(waited) % 2 == 0)
        return waited[-1]

    record(ledger, new_event("tsk_1", "ops"))

    # When nothing is due for long, then it rests for longer
    assert rest_with("waiting", 600.0) == rest_with("sending", 600.0) == rest_with("dead", 0.0) == QUIET_TICK
    # When something is due before that, then until then
    for state in ("waiting", "sending"):  # in a tick that a busy machine has not made longer than the wait
        eventually(lambda state=state: TICK < rest_with(state, 1.9) < QUIET_TICK)  # type: ignore[misc]
    # When something has come due, then it looks again soon
    assert rest_with("waiting", -1.0) == TICK


def test_open_breaker_ends_deliveries_after_give_up_after(clock: Clock, ledger: Ledger, later: Later) -> None:
    now = time.time()
    more = range(recovery.PAGE + 1)  # than one step ends
    record(ledger, *(new_event(f"tsk_{n}", "ops", "results") for n in more), now=now - 120)
    for sink in ("ops", "results"):
        lane = Lane(sink, sink, False, "open", 9, now + 60, "away", opened_at=now - 120)
        ledger.write(lambda connection, lane=lane: lanes.put(connection, lane, now))

    clock.tick()

    assert set(states(ledger, sink="ops").values()) == {"dead"}
    assert set(states(ledger, sink="results").values()) == {"queued"}


def test_long_backlog_holds_up_no_other_check(clock: Clock, ledger: Ledger, later: Later) -> None:
    # Given two sinks that are never there, with more waiting than one step ends, and steps that take long
    now, more = time.time(), range(recovery.PAGE + 1)
    record(ledger, *(new_event(f"tsk_{n}", "ops", "results") for n in more), now=now - 1200)
    later.step = 1.0
    for sink in ("ops", "results"):
        lane = Lane(sink, sink, False, "open", 9, now + 60, "away", opened_at=now - 1200)
        ledger.write(lambda connection, lane=lane: lanes.put(connection, lane, now))

    def left() -> list[int]:
        return [list(states(ledger, sink=sink).values()).count("queued") for sink in ("ops", "results")]

    # When a check's time is up after each step, then the next check goes on with the rest
    clock.slow()
    assert left() == [1, 1]
    later.now += SLOW_EVERY
    clock.slow()
    assert left() == [0, 0]


def test_retry_is_queued_when_it_is_due(clock: Clock, ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DEFER, due_at=time.time() + 3600)
    clock.tick()
    assert states(ledger) == {"tsk_1:ops": "waiting"}

    ledger.write(lambda connection: connection.execute(sa.update(deliveries).values(due_at=time.time() - 1)))
    clock.tick()

    assert states(ledger) == {"tsk_1:ops": "queued"}


def test_lapsed_claim_is_queued_again(clock: Clock, ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    claim(ledger, "ops", now=1_700_000_000.0)  # its worker and its supervisor are gone

    clock.tick()

    assert states(ledger) == {"tsk_1:ops": "queued"}


def test_jump_of_the_time_lapses_no_claim_at_first(clock: Clock, ledger: Ledger, later: Later) -> None:
    # Given a claim that holds until the host sleeps, or a clock is set forward
    clock.tick()
    record(ledger, new_event("tsk_1", "ops"))
    claim(ledger, "ops", now=ledger.now() - 60)
    later.now -= 60

    # When the clock sees the jump, then it lets the owner renew its claim
    clock.tick()
    assert states(ledger) == {"tsk_1:ops": "sending"}
    # And after that it lapses
    later.now += clock_module.PATIENCE
    clock.tick()
    assert states(ledger) == {"tsk_1:ops": "queued"}


def test_replay_is_done_step_by_step(clock: Clock, ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    ledger.write(
        lambda connection: operations.create(connection, "op_1", Operation("replay", Selection()), time.time())
    )

    clock.tick()

    assert states(ledger) == {"tsk_1:ops": "queued"}


def test_forgotten_held_delivery_is_released(clock: Clock, ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", NewDelivery("ops", "r", after=("results",))))

    clock.tick()

    assert states(ledger) == {"tsk_1:ops": "queued"}


def test_tick_makes_the_steps_that_it_has_time_for(clock: Clock, ledger: Ledger, later: Later) -> None:
    # Given an operation of several steps
    count = 2 * operations.STEP.moves + 5
    fill(ledger, count, "ops", "dead", events=count)

    def begin(name: str, rate: float = 0.0) -> None:
        ledger.write(lambda it: operations.create(it, name, Operation("replay", Selection(), rate=rate), time.time()))

    begin("op_1")
    # When the clock has no time, a tick makes one step; and all of them when it has
    later.step = 1.0
    clock.operations()
    assert Counter(states(ledger).values())["queued"] <= operations.STEP.moves
    done = ledger.read(lambda it: operations.get(it, "op_1"))
    assert done is not None
    assert done.done == operations.STEP.moves
    later.step = 0.0
    clock.operations()
    finished = ledger.read(lambda it: operations.get(it, "op_1"))
    assert finished is not None
    assert (finished.state, finished.done) == ("done", count)
    # And what has a rate gets no more than that
    settle(ledger, claim(ledger, "ops", limit=count, now=time.time() + 1), DeliveryMove.DIE)
    begin("op_2", rate=0.001)
    clock.operations()
    slow = ledger.read(lambda it: operations.get(it, "op_2"))
    assert slow is not None
    assert (slow.state, slow.done) == ("running", 1)


def test_failing_operation_stops_no_other(clock: Clock, ledger: Ledger) -> None:
    # Given two operations, of which the first cannot be read
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    for name in ("op_1", "op_2"):
        ledger.write(lambda it: operations.create(it, name, Operation("replay", Selection()), time.time()))  # noqa: B023
    broken = sa.update(operation_rows).where(operation_rows.c.id == "op_1").values(selection="not JSON")
    ledger.write(lambda connection: connection.execute(broken))
    # When the clock ticks, then the other one is done, and the first stays
    for _ in range(2):
        clock.tick()
    found = ledger.read(lambda it: it.execute(sa.select(operation_rows.c.id, operation_rows.c.state)).all())
    assert dict(map(tuple, found)) == {"op_1": "running", "op_2": "done"}


def test_check_with_a_bug_stops_no_other_and_is_logged_once(
    clock: Clock, ledger: Ledger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    ledger.write(
        lambda connection: operations.create(connection, "op_1", Operation("replay", Selection()), time.time())
    )

    def due() -> None:
        raise KeyError("payload")

    monkeypatch.setattr(clock, "due", due)
    clock.tick()
    clock.tick()
    assert caplog.text.count("clock.bug check=due error='KeyError at") == 1
    assert "payload" not in caplog.text
    assert states(ledger) == {"tsk_1:ops": "queued"}  # the operations come after it


def test_ledger_that_is_unavailable_is_logged_once(postgres: PostgresProcess, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gate = Gate(postgres.port)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}"
    clock = Clock(with_tables(Ledger(url)), ["ops"], retain=None)
    with gate.shut():
        clock.tick()
        clock.tick()
    clock.tick()
    assert [line.split()[0] for line in caplog.messages if line.startswith("clock.")] == [
        "clock.trouble",
        "clock.recovered",
    ]
    clock.close()
    gate.close()


def test_send_that_ends_in_a_long_outage_is_sent_once(postgres: PostgresProcess, later: Later) -> None:
    # Given two claims that run out while nobody reaches the ledger
    gate = Gate(postgres.port)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}"
    ledger, clock = Ledger(url), Clock(Ledger(url), ["ops"], retain=None)
    with_tables(ledger)
    long_ago = time.time() - 60
    record(ledger, new_event("tsk_sent", "ops"), new_event("tsk_lost", "ops"), now=long_ago)
    claimed = claim(ledger, "ops", now=long_ago)
    with gate.shut():
        clock.tick()
    # When it is back, then the clock comes first, and takes neither
    clock.tick()
    assert set(states(ledger).values()) == {"sending"}
    # And the worker that lives writes down what it sent; the other one's claim lapses in the end
    settle(ledger, [each for each in claimed if each.run_id == "tsk_sent"], DeliveryMove.ACCEPT, now=time.time())
    clock.tick()
    assert states(ledger) == {"tsk_sent:ops": "delivered", "tsk_lost:ops": "sending"}
    later.now += clock_module.PATIENCE
    clock.tick()
    assert states(ledger) == {"tsk_sent:ops": "delivered", "tsk_lost:ops": "queued"}
    clock.close()
    ledger.close()
    gate.close()


def test_words_are_indexed_without_masked_values(ledger: Ledger, redis_url: str, tmp_path: Path) -> None:
    # Given the clock as `runhook clock` makes it
    (tmp_path / "c.yaml").write_text("sources: {skyvern: {secrets: [s]}}\nredact: ['**.iban']\n")
    url = ledger.url.render_as_string(hide_password=False)
    settings = Settings.from_env({"REDIS_URL": redis_url, "DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path)})
    it = build(settings, load(tmp_path / "c.yaml", {}), lambda _: True)
    it.tick()
    # When a run is recorded, and the clock ticks
    record(ledger, new_event("tsk_1", output={"payee": "Ada", "iban": "DE02"}))
    it.tick()
    it.close()

    # Then it is found by what it says
    def found(text: str) -> list[str]:
        rows = ledger.read(lambda connection: queries.list_runs(connection, Filter(text=text)))
        return [row["run_id"] for row in rows]

    assert found("ada") == ["tsk_1"]
    assert found("de02") == []
    assert ledger.read(coverage) == Coverage()


def test_audit_outlives_events_with_short_retention(ledger: Ledger) -> None:
    # Given a clock that keeps events for an hour, and actions of now and of two years ago
    clock = Clock(ledger, ["ops"], retain=3600.0)
    for action in ("old", "new"):
        ledger.write(lambda it: audit.record(it, AuditActor("cli", "ada"), action, {}, 1))  # noqa: B023
    old = sa.update(audit_table).where(audit_table.c.action == "old").values(at=time.time() - 2 * 365 * 86_400)
    ledger.write(lambda it: it.execute(old))
    # When it sweeps what is past its time
    clock.tidy()
    # Then only the old one is gone
    assert [row.action for row in ledger.read(audit.list_actions)] == ["new"]
    clock.close()


@pytest.mark.parametrize(
    ("config", "left"),
    [
        ("", ["old", "young"]),
        ("retention: {events: 1h}", ["young"]),
        ("retention: {submissions: 1h}", ["young"]),
        ("retention: {events: 1h, submissions: 1d}", ["old", "young"]),
    ],
)
def test_clock_removes_old_submissions_and_their_runs(
    ledger: Ledger, redis_url: str, tmp_path: Path, config: str, left: list[str]
) -> None:
    # Given two submissions whose runs never reported, one of them older than an hour
    now = ledger.now()
    ages = {"old": now - 7200, "young": now}
    asked = [submission_row(name, "skyvern", at, run_id=name) for name, at in ages.items()]
    begun = [run_row("skyvern", name, at, events=0) for name, at in ages.items()]
    ledger.write(lambda it: [it.execute(sa.insert(submissions), asked), it.execute(sa.insert(runs), begun)])
    # When the clock of a config ticks
    (tmp_path / "c.yaml").write_text(f"sources: {{skyvern: {{secrets: [s]}}}}\n{config}\n")
    url = ledger.url.render_as_string(hide_password=False)
    settings = Settings.from_env({"REDIS_URL": redis_url, "DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path)})
    clock = build(settings, load(tmp_path / "c.yaml", {}), lambda _: True)
    clock.tick()
    clock.close()
    # Then the old one is removed with its run at its age, which by default is that of events
    for column in (submissions.c.id, runs.c.run_id):
        assert ledger.read(lambda it: it.scalars(sa.select(column).order_by(column)).all()) == left  # noqa: B023


def test_outage_that_ends_within_a_tick_lapses_nothing(
    clock: Clock, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a claim that ran out while the ledger hung
    long_ago = time.time() - 60
    record(ledger, new_event("tsk_1", "ops"), now=long_ago)
    claim(ledger, "ops", now=long_ago)

    # When it answers right after the first check has given it up
    def hung() -> None:
        raise LedgerUnavailable("no answer")

    monkeypatch.setattr(clock, "read_agenda", hung)
    clock.tick()
    # Then the worker has time to renew its claim
    assert states(ledger) == {"tsk_1:ops": "sending"}
