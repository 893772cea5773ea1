"""The clock sends the wake-ups that Redis lost, and repairs what killed workers left."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
import sqlalchemy as sa

from receiver.clock import QUIET_TICK, TICK, Clock, build
from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.inbox.stream import STREAM
from receiver.ledger import Ledger, actions, audit, retention
from receiver.ledger.actions import Action, Selection
from receiver.ledger.audit import AuditActor
from receiver.ledger.deliveries import lanes, links, recovery
from receiver.ledger.events import NewDelivery
from receiver.ledger.filters import Filter
from receiver.ledger.schema import audit as audit_table
from receiver.ledger.schema import deliveries, events
from receiver.ledger.words import Coverage, coverage
from receiver.wakeups import DISPATCH, deliver_queue, flag_key
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess
from tests.support import queries
from tests.support.backlog import fill
from tests.support.ledger import claim, new_event, record, settle, states, with_tables
from tests.support.waiting import PATIENCE


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    it = redis.Redis.from_url(redis_url, socket_timeout=5)
    yield it
    it.close()


@pytest.fixture
def clock(ledger: Ledger, redis_url: str) -> Iterator[Clock]:
    connection = redis.Redis.from_url(redis_url, socket_timeout=2)
    it = Clock(ledger, ["ops", "results"], connection, retain=None, give_up={"ops": 60.0, "results": 600.0})
    yield it
    it.close()


def woken(client: redis.Redis) -> set[str]:
    queues = [DISPATCH, deliver_queue("ops"), deliver_queue("results")]
    return {queue for queue in queues if client.exists(flag_key(queue))}


def test_a_quiet_system_is_left_alone(clock: Clock, client: redis.Redis) -> None:
    clock.tick()

    assert woken(client) == set()


def test_a_tick_that_finds_nothing_is_one_look_at_the_ledger_and_one_request_to_redis(
    clock: Clock, ledger: Ledger, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a clock that has seen to all that is rarely to be done
    clock.tick()
    monkeypatch.setattr("receiver.clock.REDIS_EVERY", 0.0)
    client.config_resetstat()
    asked: list[str] = []
    for name in ("read", "write"):
        really = getattr(Ledger, name)

        def noted(*these: Any, _name: str = name, _really: Any = really, **options: Any) -> Any:
            asked.append(_name)
            return _really(*these, **options)

        monkeypatch.setattr(Ledger, name, noted)

    # When it ticks
    clock.tick()

    # Then that is one query, and two commands
    assert asked == ["read"]
    assert {name: each["calls"] for name, each in cast("Any", client.info("commandstats")).items()} == {
        "cmdstat_config|resetstat": 1,
        "cmdstat_exists": 1,
        "cmdstat_xlen": 1,
    }


def test_dead_workers_are_looked_for_at_each_tick_while_one_of_them_may_hold_something(
    ledger: Ledger, redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    connection = redis.Redis.from_url(redis_url, socket_timeout=2)
    clock = Clock(ledger, ["ops"], connection, retain=None, reap=lambda: looks.append(1) or 0)
    monkeypatch.setattr("receiver.clock.IDLE_REAP_EVERY", 3600.0)
    monkeypatch.setattr("receiver.clock.REDIS_EVERY", 0.0)

    def looks_in(ticks: int) -> int:
        looks.clear()
        for _ in range(ticks):
            clock.tick()
        return len(looks)

    # Given a clock that has looked for those of before, and nothing that one could hold, then it looks no more
    looks_in(2)
    assert looks_in(3) == 0

    # When a worker has a claim, then it looks again, at each tick but the one that sees the claim first
    record(ledger, new_event("tsk_1", "ops"))
    claimed = claim(ledger, "ops", now=time.time())
    assert looks_in(3) == 2
    # And no more when the claim has ended
    settle(ledger, claimed, DeliveryMove.ACCEPT, now=time.time())
    clock.tick()
    assert looks_in(3) == 0

    # When an event is in the inbox, which a worker may have read, then it looks again
    client.xadd("runhook:inbox", {"event": "x"})
    assert looks_in(3) == 2
    clock.close()


def test_a_clock_rests_for_longer_only_while_nothing_is_to_be_done_before(clock: Clock, ledger: Ledger) -> None:
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
    assert TICK < rest_with("waiting", 1.9) < QUIET_TICK
    assert TICK < rest_with("sending", 1.9) < QUIET_TICK
    # When something waits for a worker, or has come due, then it looks again soon
    assert rest_with("queued", -1.0) == rest_with("waiting", -1.0) == TICK


def test_deliveries_whose_wake_up_redis_lost_are_found_in_the_ledger(
    clock: Clock, ledger: Ledger, client: redis.Redis
) -> None:
    record(ledger, new_event("tsk_1", "ops"))

    clock.tick()

    assert woken(client) == {deliver_queue("ops")}
    assert client.llen(f"rq:queue:{deliver_queue('ops')}") == 1


def test_an_inbox_that_nobody_reads_rings_for_the_dispatcher(clock: Clock, client: redis.Redis) -> None:
    client.xadd(STREAM, {"id": "x"})

    clock.tick()

    assert woken(client) == {DISPATCH}


def test_what_waits_behind_a_breaker_that_stays_open_ends_when_its_sinks_time_is_up(
    clock: Clock, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "PAGE", 2)
    monkeypatch.setattr("receiver.clock.STEPS", 60.0)
    now = time.time()
    record(ledger, *(new_event(f"tsk_{n}", "ops", "results") for n in range(5)), now=now - 120)
    for sink in ("ops", "results"):
        lane = Lane(sink, sink, False, "open", 9, now + 60, "away", opened_at=now - 120)
        ledger.write(lambda connection, lane=lane: lanes.put(connection, lane, now))

    clock.tick()

    assert set(states(ledger, sink="ops").values()) == {"dead"}
    assert set(states(ledger, sink="results").values()) == {"queued"}


def test_the_end_of_a_long_backlog_holds_up_no_other_check_and_no_other_sink(
    clock: Clock, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two sinks that are never there, with more waiting than one step ends
    monkeypatch.setattr(recovery, "PAGE", 2)
    monkeypatch.setattr("receiver.clock.STEPS", 0.0)
    now = time.time()
    record(ledger, *(new_event(f"tsk_{n}", "ops", "results") for n in range(3)), now=now - 1200)
    for sink in ("ops", "results"):
        lane = Lane(sink, sink, False, "open", 9, now + 60, "away", opened_at=now - 1200)
        ledger.write(lambda connection, lane=lane: lanes.put(connection, lane, now))

    def left() -> list[int]:
        return [list(states(ledger, sink=sink).values()).count("queued") for sink in ("ops", "results")]

    # When a check's time is up after each step, then the next check goes on with the rest
    clock.slow()
    assert left() == [1, 1]
    monkeypatch.setattr("receiver.clock.SLOW_EVERY", 0.0)
    clock.slow()
    assert left() == [0, 0]


def test_a_retry_that_is_due_is_queued_and_its_sink_woken(clock: Clock, ledger: Ledger, client: redis.Redis) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DEFER, due_at=time.time() + 3600)
    clock.tick()
    assert (states(ledger), woken(client)) == ({"tsk_1:ops": "waiting"}, set())

    ledger.write(lambda connection: connection.execute(sa.update(deliveries).values(due_at=time.time() - 1)))
    clock.tick()

    assert (states(ledger), woken(client)) == ({"tsk_1:ops": "queued"}, {deliver_queue("ops")})


def test_a_lapsed_claim_is_taken_back_and_sent_again(clock: Clock, ledger: Ledger, client: redis.Redis) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    claim(ledger, "ops", now=1_700_000_000.0)  # its worker and its supervisor are gone

    clock.tick()

    assert (states(ledger), woken(client)) == ({"tsk_1:ops": "queued"}, {deliver_queue("ops")})


def test_a_replay_is_worked_off_and_its_sinks_woken(clock: Clock, ledger: Ledger, client: redis.Redis) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    ledger.write(lambda connection: actions.create(connection, "op_1", Action("replay", Selection()), time.time()))

    clock.tick()

    assert (states(ledger), woken(client)) == ({"tsk_1:ops": "queued"}, {deliver_queue("ops")})


def test_a_held_delivery_that_nobody_released_is_released(clock: Clock, ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", NewDelivery("ops", "r", after=("results",))))

    clock.tick()

    assert states(ledger) == {"tsk_1:ops": "queued"}


def test_a_tick_queues_all_that_is_due_and_each_sweep_goes_on_where_the_last_one_ended(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more of everything than one transaction takes
    monkeypatch.setattr(recovery, "DUE_AT_ONCE", 10)
    monkeypatch.setattr(recovery.make_due, "__defaults__", (10,))
    monkeypatch.setattr(links, "PAGE", 10)
    monkeypatch.setattr(retention, "BATCH", 10)
    monkeypatch.setattr("receiver.clock.SLOW_EVERY", 0.0)
    monkeypatch.setattr("receiver.clock.TIDY_EVERY", 0.0)
    clock = Clock(ledger, ["ops", "held"], redis.Redis.from_url(redis_url), retain=3600.0)
    fill(ledger, 35, "ops", "waiting", events=35)
    fill(ledger, 25, "held", "held", after='["removed"]', events=35)

    def there() -> Counter[str]:
        rows = ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(limit=1000)))
        return Counter(row["state"] for row in rows)

    # When the clock has time, then one tick does it all
    monkeypatch.setattr("receiver.clock.STEPS", PATIENCE)
    clock.tick()
    assert there() == {"queued": 60}
    # And when it has none, each tick does a step: of the old events, the first are still waited for
    monkeypatch.setattr("receiver.clock.STEPS", 0.0)
    newer = sa.select(events.c.id).order_by(events.c.seq).offset(10).limit(25)
    ended = sa.update(deliveries).where(deliveries.c.event_id.in_(newer)).values(state="delivered")
    ledger.write(lambda connection: connection.execute(ended))
    kept = there()["queued"]
    clock.tick()
    assert there().total() == 60
    for _ in range(3):
        clock.tick()
    assert there() == {"queued": kept}
    clock.close()


def test_a_tick_makes_the_steps_that_it_has_time_for_and_one_for_what_has_a_rate(
    clock: Clock, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an operation of several steps
    monkeypatch.setattr(actions, "STEP", 10)
    fill(ledger, 35, "ops", "dead", events=35)

    def begin(name: str, rate: float = 0.0) -> None:
        ledger.write(lambda it: actions.create(it, name, Action("replay", Selection(), rate=rate), time.time()))

    begin("op_1")
    # When the clock has no time, a tick makes one step; and all of them when it has
    with monkeypatch.context() as short:
        short.setattr("receiver.clock.STEPS", 0.0)
        clock.operations()
        assert Counter(states(ledger).values())["queued"] <= 10
        done = ledger.read(lambda it: actions.get(it, "op_1"))
        assert done is not None
        assert done.done == 10
    monkeypatch.setattr("receiver.clock.STEPS", PATIENCE)
    clock.operations()
    finished = ledger.read(lambda it: actions.get(it, "op_1"))
    assert finished is not None
    assert (finished.state, finished.done) == ("done", 35)
    # And what has a rate gets no more than that
    settle(ledger, claim(ledger, "ops", limit=35, now=time.time() + 1), DeliveryMove.DIE)
    begin("op_2", rate=0.001)
    clock.operations()
    slow = ledger.read(lambda it: actions.get(it, "op_2"))
    assert slow is not None
    assert (slow.state, slow.done) == ("running", 1)


def test_the_audit_outlives_events_that_are_kept_for_a_short_time(ledger: Ledger, redis_url: str) -> None:
    # Given a clock that keeps events for an hour, and actions of now and of two years ago
    clock = Clock(ledger, ["ops"], redis.Redis.from_url(redis_url), retain=3600.0)
    for action in ("old", "new"):
        ledger.write(lambda it: audit.record(it, AuditActor("cli", "ada"), action, {}, 1))  # noqa: B023
    old = sa.update(audit_table).where(audit_table.c.action == "old").values(at=time.time() - 2 * 365 * 86_400)
    ledger.write(lambda it: it.execute(old))
    # When it sweeps what is past its time
    clock.tidy()
    # Then only the old one is gone
    assert [row.action for row in ledger.read(audit.list_actions)] == ["new"]
    clock.close()


def test_a_redis_that_is_away_is_told_once_and_stops_nothing_else(
    ledger: Ledger, valkey_factory: Callable[..., ValkeyProcess], caplog: pytest.LogCaptureFixture
) -> None:
    server = valkey_factory()
    clock = Clock(ledger, ["ops"], redis.Redis.from_url(server.url, socket_timeout=1), retain=None)
    record(ledger, new_event("tsk_1", "ops"))
    claim(ledger, "ops", now=1_700_000_000.0)
    server.kill()

    with caplog.at_level(logging.INFO, "runhook.clock"):
        clock.tick()
        clock.tick()
        assert states(ledger) == {"tsk_1:ops": "queued"}
        server.start()
        clock.tick()

    told = [record.message.split()[0] for record in caplog.records if record.message.startswith("clock.tr")]
    assert told == ["clock.trouble"]
    assert "clock.well again" in caplog.messages
    clock.close()


def test_trouble_that_lasts_is_told_once_though_not_every_tick_would_find_it(
    clock: Clock, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given an inbox that something else has written, and a clock that has looked at Redis for the last time for long
    caplog.set_level(logging.WARNING, "runhook")
    monkeypatch.setattr("receiver.clock.REDIS_EVERY", float("inf"))
    client.set(STREAM, "of somebody else")
    clock.tick()
    # When that goes on for many ticks
    for _ in range(3):
        clock.tick()
    # Then it is told once, and is over when it is
    assert [line.split()[0] for line in caplog.messages] == ["clock.trouble"]
    client.delete(STREAM)
    clock.tick()
    assert caplog.messages[1:] == ["clock.well again"]


def test_a_send_that_ends_in_a_long_outage_of_the_ledger_is_not_sent_again(
    postgres: PostgresProcess, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two claims that run out while nobody reaches the ledger
    gate = Gate(postgres.port)
    url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}"
    ledger, clock = Ledger(url), Clock(Ledger(url), ["ops"], redis.Redis.from_url(redis_url), retain=None)
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
    monkeypatch.setattr("receiver.clock.PATIENCE", 0.0)
    clock.tick()
    assert states(ledger) == {"tsk_sent:ops": "delivered", "tsk_lost:ops": "queued"}
    clock.close()
    ledger.close()
    gate.close()


def test_what_a_run_says_is_indexed_and_what_the_config_masks_is_not(
    ledger: Ledger, redis_url: str, tmp_path: Path
) -> None:
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
