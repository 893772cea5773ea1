"""From the ledger to a sink, with a real Valkey, both databases, and a sink that does what the test tells it."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

from handlers import Delivery, Receipt, Refused, Sink, SinkOptions, Unavailable
from handlers.s3.sink import S3Sink
from receiver.config.destinations import RetryPolicy
from receiver.delivery import claim_budget, runner
from receiver.delivery.runner import SinkRunner
from receiver.domain import breaker
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.database.database_clock import DatabaseClock
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.runtime.throttle import SharedRate
from tests.servers.gate import Gate
from tests.servers.http import Reply, ScriptedServer
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import ValkeyProcess
from tests.support import queries
from tests.support.ledger import claim, every_lane, new_event, record, with_tables
from tests.support.mirror import Loopback
from tests.support.runners import BatchSink, ScriptedSink, accept, rows
from tests.support.waiting import PATIENCE, Stopwatch, eventually

Start = Callable[..., SinkRunner]


@pytest.fixture
def start(ledger: Ledger, redis_url: str) -> Iterator[Start]:
    """Starts a runner for a sink; what is left at the end of the test is stopped."""
    made: list[SinkRunner] = []
    client = redis.Redis.from_url(redis_url, socket_timeout=10)

    def begin(
        sink: Sink[SinkOptions],
        *,
        concurrency: int = 8,
        on: Ledger | None = None,
        rate: SharedRate | None = None,
        lane_limit: int | None = None,
        on_due: Callable[[Collection[str]], None] = lambda _: None,
        fails_for: float = PATIENCE,
        **retry: Any,
    ) -> SinkRunner:
        policy = RetryPolicy(**{"first": 100, **retry})
        it = SinkRunner(
            *(on or ledger, sink, policy, concurrency, client, f"w{len(made)}"),
            rate=rate,
            lane_limit=lane_limit,
            on_due=on_due,
            fails_for=fails_for,
        )
        made.append(it)
        it.start()
        return it

    yield begin
    for each in made:
        end(each)
    client.close()


def end(it: SinkRunner) -> bool:
    """Stop a runner, and return whether all was settled."""
    it.stop()
    ended = it.join(time.monotonic() + PATIENCE)
    it.close()
    return ended


def states(ledger: Ledger, **wanted: Any) -> Counter[str]:
    return Counter(row["state"] for row in rows(ledger, **wanted))


def delivered(ledger: Ledger, count: int) -> Callable[[], bool]:
    return lambda: states(ledger) == {"delivered": count}


def make_due(ledger: Ledger) -> None:
    """Make what waits due now, as the clock does when its time has come."""
    ledger.write(lambda connection: recovery.make_due(connection, time.time() + 1e6))
    ledger.write(lambda connection: connection.exec_driver_sql("UPDATE deliveries SET due_at = 0"))


def _raise(error: Exception) -> Receipt:
    raise error


class Together:
    """Counts how many sends are under way at once."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.now = self.most = 0
        self._seconds = seconds
        self._lock = threading.Lock()

    def __call__(self, delivery: Delivery) -> Receipt:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(self._seconds)
        with self._lock:
            self.now -= 1
        return accept(delivery)


# --- One sink


def test_due_deliveries_are_sent_and_their_receipts_kept(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops", "other") for n in range(20)))
    sink = ScriptedSink(accept)

    it = start(sink)

    eventually(lambda: states(ledger, sink="ops") == {"delivered": 20})
    assert sorted(each.run_id for each in sink.seen) == sorted(f"tsk_{n}" for n in range(20))
    assert states(ledger, sink="other") == {"queued": 20}
    assert rows(ledger, sink="ops", run_id="tsk_3")[0]["receipt"] == {
        "id": "r-tsk_3",
        "keys": ["a", "b"],
        "urls": {"run.json": "https://x/run.json"},
    }
    eventually(lambda: it.idle)
    assert it.held() == []


def test_a_route_that_failed_is_no_problem_of_the_body(ledger: Ledger, start: Start) -> None:
    event = new_event("tsk_1", "ops")
    record(ledger, event._replace(note="route big can't be evaluated: the types don't fit"))
    sink = ScriptedSink(accept)
    start(sink)
    eventually(delivered(ledger, 1))
    assert [each.problem for each in sink.seen] == [""]


def test_a_sink_that_takes_many_gets_batches(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(120)))
    sink = BatchSink(lambda delivery: accept(delivery) if delivery.run_id != "tsk_7" else _raise(Refused("no")))

    start(sink)

    eventually(lambda: states(ledger) == {"delivered": 119, "dead": 1})
    assert sum(sink.sizes) == 120
    assert max(sink.sizes) == 50
    assert [row["run_id"] for row in rows(ledger, state=["dead"])] == ["tsk_7"]


def test_a_batch_with_too_few_answers_is_retried(ledger: Ledger, start: Start) -> None:
    class Short(BatchSink):
        def send_many(self, deliveries: Any) -> list[Receipt | Exception]:
            return super().send_many(deliveries)[:-1]

    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(3)))
    start(Short(accept))
    eventually(lambda: states(ledger) == {"waiting": 3})
    assert {row["reason"] for row in rows(ledger)} == {"RuntimeError in the sink's code"}


@pytest.mark.parametrize("seconds", [0.0, 0.3], ids=["fast", "slow"])
def test_no_more_is_held_than_memory_has_room_for(ledger: Ledger, start: Start, seconds: float) -> None:
    large = "x" * (2 * claim_budget.MOST_BYTES // 5)
    record(ledger, *(new_event(f"tsk_{n}", "ops", output=large) for n in range(6)))
    counting = Together(seconds)
    start(ScriptedSink(counting))
    eventually(delivered(ledger, 6))
    assert counting.most <= 3, "two of one claim, and at least one by the next"


def test_concurrency_holds_in_a_process(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(60)))
    counting = Together()
    start(ScriptedSink(counting), concurrency=3)
    eventually(delivered(ledger, 60))
    assert 1 < counting.most <= 3


# --- Errors, retries and breakers


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Refused("410 gone"), "dead", "410 gone"),
        (Unavailable("503"), "waiting", "503"),
        (KeyError("password=hunter2"), "waiting", "KeyError in the sink's code"),
    ],
)
def test_the_three_kinds_of_error(ledger: Ledger, start: Start, error: Exception, state: str, reason: str) -> None:
    record(ledger, new_event("tsk_1", "ops"))

    start(ScriptedSink(lambda _: _raise(error)))

    eventually(lambda: states(ledger) == {state: 1})
    (row,) = rows(ledger)
    assert (row["reason"], row["attempts"], row["spent"]) == (reason, 1, 1)


def test_retries_keep_the_key_until_attempts_are_spent(ledger: Ledger, start: Start) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    sink = ScriptedSink(lambda _: _raise(Unavailable("down")))
    it = start(sink, attempts=3)

    for number in range(1, 4):
        eventually(lambda n=number: len(sink.seen) == n and states(ledger) == {"dead" if n == 3 else "waiting": 1})  # type: ignore[misc]
        make_due(ledger)
        it.poke()

    eventually(lambda: it.idle)
    (row,) = rows(ledger)
    assert (row["state"], row["attempts"]) == ("dead", 3)
    assert {each.key for each in sink.seen} == {row["id"]}
    assert [each.attempt for each in sink.seen] == [1, 2, 3]
    kept = ledger.read(lambda connection: queries.list_attempts(connection, row["id"]))
    assert [each["outcome"] for each in kept] == ["unavailable"] * 3


def test_retry_after_is_honoured(ledger: Ledger, start: Start) -> None:
    record(ledger, new_event("tsk_1", "ops"))

    start(ScriptedSink(lambda _: _raise(Unavailable("429", retry_after=5000))), first=1)

    eventually(lambda: states(ledger) == {"waiting": 1})
    (row,) = rows(ledger)
    assert row["due_at"] - row["updated_at"] >= 4990


def test_an_open_breaker_parks_deliveries_unspent(ledger: Ledger, start: Start) -> None:
    # Given a sink that is down, and more deliveries than open its breaker
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(30)))
    up = threading.Event()
    sink = ScriptedSink(lambda delivery: accept(delivery) if up.is_set() else _raise(Unavailable("down")))
    it = start(sink, concurrency=2, attempts=2, first=0.001)

    # When it is tried, then only a few were sent, and nothing is dead
    eventually(lambda: it.idle and ledger.read(every_lane)[0].breaker == "open")
    tried = len(sink.seen)
    assert tried <= breaker.THRESHOLD + 2

    # And a probe that fails spends nothing
    for number in range(1, 6):
        ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
        make_due(ledger)
        it.poke()
        eventually(lambda n=number: len(sink.seen) == tried + n and it.idle)  # type: ignore[misc]
    assert states(ledger)["dead"] == 0
    assert max(row["spent"] for row in rows(ledger)) == 1

    # And one that succeeds lets all of them through, without another poke
    up.set()
    ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
    make_due(ledger)
    it.poke()
    eventually(delivered(ledger, 30))


def test_held_deliveries_are_handed_back_when_the_sink_fails(ledger: Ledger, start: Start) -> None:
    # Given a sink that is fast, and then down
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    sink = ScriptedSink(lambda delivery: accept(delivery) if len(sink.seen) <= 30 else _raise(Unavailable("down")))
    it = start(sink, concurrency=2, first=100)
    # Then its breaker opens after a few, and the others wait as if no worker had ever claimed them
    eventually(lambda: it.idle and ledger.read(lanes.any_shut))
    assert len(sink.seen) <= 30 + breaker.THRESHOLD + 2
    found = Counter((row["state"], row["attempts"], row["spent"]) for row in rows(ledger))
    assert found["queued", 0, 0] == 100 - len(sink.seen)
    assert {state for state, _, _ in found} == {"delivered", "waiting", "queued"}


# --- Stops and waits


def test_a_send_that_hangs_is_given_up_and_delays_no_other(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(6)))
    release = threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_0":
            release.wait(60)
        return accept(delivery)

    watch = Stopwatch()
    it = start(ScriptedSink(answer, timeout=2.0), concurrency=2)
    eventually(lambda: states(ledger) == {"delivered": 5, "waiting": 1})
    release.set()
    watch.at_most(30)
    assert rows(ledger, run_id="tsk_0")[0]["reason"] == "the send did not end within 2 s"
    assert not it.gave_up


def test_what_is_held_behind_sends_that_hang_is_sent_by_others(ledger: Ledger, start: Start) -> None:
    # Given one place, of a sink that was fast, so that more is held than that, and then hangs once
    record(ledger, new_event("tsk_first", "ops"))
    release = threading.Event()
    sink = ScriptedSink(accept, timeout=2)
    it = start(sink, concurrency=1)
    eventually(lambda: it.idle and states(ledger) == {"delivered": 1})
    sink.answer = lambda delivery: (release.wait(PATIENCE) if len(sink.seen) == 2 else None, accept(delivery))[1]
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(4)))
    it.poke()
    eventually(lambda: len(it.held()) == 4)
    # When that send is given up, then the others do not wait for its thread
    eventually(lambda: states(ledger) == {"delivered": 4, "waiting": 1})
    release.set()


def test_a_place_left_by_a_hung_send_is_used_once(ledger: Ledger, start: Start) -> None:
    # Given one place, whose send hangs until after it was given up
    record(ledger, new_event("tsk_0", "ops"))
    release, counting = threading.Event(), Together()
    sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=2)
    it = start(sink, concurrency=1)
    eventually(lambda: states(ledger) == {"waiting": 1})
    # When its thread comes back, and more is due
    sink.answer = counting
    release.set()
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(1, 20)))
    it.poke()
    # Then still one is sent at a time
    eventually(lambda: states(ledger) == {"waiting": 1, "delivered": 19})
    assert counting.most == 1


def test_runner_with_many_hung_sends_gives_up(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(9)))
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=0.01)
    it = start(sink, concurrency=1)
    while not it.gave_up:
        eventually(lambda: it.idle or it.gave_up)
        ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
        it.poke()
    # Then it says why, and claims nothing more
    assert it.gave_up == "the sink ops left 5 hung sends behind"
    tried = len(sink.seen)
    assert it.room() == 0
    it.poke()
    end(it)
    assert len(sink.seen) == tried
    release.set()


def test_hung_sends_count_only_until_they_end(ledger: Ledger, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given one place, whose sends end after they were given up
    monkeypatch.setattr(runner, "GRACE", 0.2)
    release = {f"tsk_{number}": threading.Event() for number in range(1, runner.WORN_OUT + 3)}
    answer = lambda delivery: (release[delivery.run_id].wait(PATIENCE), accept(delivery))[1]  # noqa: E731
    sink = ScriptedSink(answer, timeout=0.01)
    it = start(sink, concurrency=1)
    # When there are more of them than a runner bears that hang
    for number, run_id in enumerate(release, 1):
        record(ledger, new_event(run_id, "ops"))
        ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
        it.poke()
        eventually(lambda number=number: states(ledger) == {"waiting": number})  # type: ignore[misc]
        release[run_id].set()
    # Then it still serves its sink
    sink.answer = accept
    record(ledger, new_event("tsk_last", "ops"))
    ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
    it.poke()
    eventually(lambda: states(ledger, run_id="tsk_last") == {"delivered": 1})
    assert not it.gave_up


def test_s3_sink_ends_its_send_within_its_timeout(ledger: Ledger, start: Start) -> None:
    # Given a bucket whose server takes long for each call, and does not answer the fifth
    with ScriptedServer() as server:
        server.script += [Reply(200, body=b"<ListBucketResult></ListBucketResult>", delay=1.8)] * 4
        server.default = Reply(until=threading.Event())
        options = {"bucket": "runs", "endpoint_url": server.url, "access_key_id": "a", "secret_access_key": "b"}
        sink = S3Sink("ops", S3Sink.Options.model_validate({**options, "timeout": 8}), Loopback())
        record(ledger, new_event("tsk_1", "ops"))
        # When it is sent to, then the sink itself says why it failed, and no thread is left behind
        start(sink)
        eventually(lambda: states(ledger) == {"waiting": 1})
        assert rows(ledger)[0]["reason"] != "the send did not end within 8 s"


def test_sends_that_hang_leave_no_other_place_empty(ledger: Ledger, start: Start) -> None:
    # Given sends in three of four places that end only when the last one has begun
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(5)))
    begun, last = threading.Semaphore(4), threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        if not begun.acquire(blocking=False):
            last.set()
        elif delivery is not sink.seen[0] and not last.wait(PATIENCE):
            raise Refused("the last one did not get a place")
        return accept(delivery)

    sink = ScriptedSink(answer, timeout=4 * PATIENCE)
    start(sink, concurrency=4)

    # Then the fourth place was used again
    eventually(delivered(ledger, 5))


def test_what_is_held_is_told_until_it_is_settled(ledger: Ledger, start: Start) -> None:
    # Given a send that takes longer than a claim holds
    record(ledger, new_event("tsk_1", "ops"))
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=2 * PATIENCE)
    it = start(sink)
    (held,) = eventually(it.held)
    # When its process renews what is held
    until = rows(ledger)[0]["claim_until"]
    assert ledger.write(lambda connection: claims.renew(connection, "w0", it.held(), until + 60)) == [held]
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, until + 1)) == 0
    release.set()
    # Then it does not lapse, and is sent once
    eventually(delivered(ledger, 1))
    assert held.id == rows(ledger)[0]["id"]
    eventually(lambda: it.held() == [])
    assert len(sink.seen) == 1


def given_one_claim(ledger: Ledger, it: SinkRunner, run_id: str) -> None:
    """Give a runner without work what the dispatcher would: a delivery that is claimed for it."""
    eventually(lambda: it.idle)
    record(ledger, new_event(run_id, "ops"))
    it.take(claim(ledger, "ops", it.owner, 9, time.time()))


def test_hung_send_that_was_handed_over_is_given_up(ledger: Ledger, start: Start) -> None:
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=1)
    it = start(sink)
    given_one_claim(ledger, it, "tsk_1")
    eventually(lambda: states(ledger) == {"waiting": 1})
    release.set()


def test_lone_delivery_is_settled_by_its_sender(ledger: Ledger, start: Start) -> None:
    # Given a runner without work, and a delivery of which another one waits
    names: list[str] = []
    sink = ScriptedSink(lambda delivery: (names.append(threading.current_thread().name), accept(delivery))[1])
    it = start(sink, on_due=lambda _: names.append(threading.current_thread().name))
    eventually(lambda: it.idle)
    record(ledger, new_event("tsk_1", "ops", NewDelivery("other", "r", after=("ops",))))
    # When it is handed over, then the thread that sends it also settles it
    it.take(claim(ledger, "ops", it.owner, 9, time.time()))
    eventually(lambda: len(names) == 2)
    assert names[0] == names[1]


def test_stop_waits_for_the_settlement_of_a_sender(
    ledger: Ledger, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a runner whose sender settles a delivery
    other = Ledger(str(ledger.url.render_as_string(hide_password=False)))
    it = start(ScriptedSink(accept), on=other)
    eventually(lambda: it.idle)
    begun, release, write = threading.Event(), threading.Event(), other.write
    monkeypatch.setattr(other, "write", lambda work: (begun.set(), release.wait(PATIENCE), write(work))[2])
    given_one_claim(ledger, it, "tsk_1")
    assert begun.wait(PATIENCE)
    # When it is stopped meanwhile, then it ends after the settlement
    it.stop()
    assert not it.join(time.monotonic() + 0.2)
    release.set()
    assert it.join(time.monotonic() + PATIENCE)
    assert states(ledger) == {"delivered": 1}
    other.close()


def test_send_starts_only_while_its_claim_holds(ledger: Ledger, start: Start) -> None:
    # Given two claims whose process stood still until they may have lapsed, of which one was renewed meanwhile
    sink = ScriptedSink(accept)
    it = start(sink, concurrency=1)
    eventually(lambda: it.idle)
    release = threading.Event()
    sink.answer = lambda delivery: (release.wait(PATIENCE), accept(delivery))[1]
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(3)))
    claimed = claim(ledger, "ops", "w0", 9, time.time())
    it.take(claimed[:1])
    eventually(lambda: sink.seen)
    for each in claimed[1:]:
        each.start_by = ledger.now()
    it.take(claimed[1:])
    claimed[2].start_by += PATIENCE
    # When a place is free, then that one is sent, and the other only by a new claim, as if it had never had one
    release.set()
    eventually(delivered(ledger, 3))
    assert [each.key for each in sink.seen] == [claimed[0].id, claimed[2].id, claimed[1].id]
    assert {row["attempts"] for row in rows(ledger)} == {1}


class SleepingHost(DatabaseClock):
    """The clocks of a host that slept for `slept` seconds, which time.monotonic() does not count."""

    def __init__(self) -> None:
        self.slept = 0.0
        super().__init__(lambda: time.monotonic() + self.slept, lambda: time.time() + self.slept)

    def add_reading(self, asked_at: float, answered_at: float, answer: float) -> None:
        super().add_reading(asked_at, answered_at, answer + self.slept)


def test_host_that_slept_starts_no_earlier_claim(ledger: Ledger, start: Start) -> None:
    # Given one send under way, and two claims that wait for its place
    host, release = SleepingHost(), threading.Event()
    with closing(Ledger(ledger.url.render_as_string(hide_password=False), clock=host)) as own:
        sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=2 * PATIENCE)
        it = start(sink, concurrency=1, on=own)
        eventually(lambda: it.idle)
        record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(3)))
        it.take(claim(ledger, "ops", "w0", 9, own.now()))
        eventually(lambda: sink.seen)
        # When the host sleeps until another one has taken over what it had claimed, and the place is free again
        host.slept = 60.0
        assert ledger.write(lambda connection: recovery.lapse_claims(connection, time.time() + 60)) == 3
        assert len(claim(ledger, "ops", "other", 9, time.time() + 60)) == 3
        release.set()
        # Then it starts none of them
        eventually(lambda: it.idle)
        assert len(sink.seen) == 1
        end(it)


def test_paused_sink_gets_nothing_after_the_sends_under_way(ledger: Ledger, start: Start) -> None:
    # Given a fast sink, for which more is claimed than is under way
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    steps, sink = threading.Semaphore(5), ScriptedSink(accept)
    sink.answer = lambda delivery: (steps.acquire(timeout=PATIENCE), accept(delivery))[1]
    it = start(sink, concurrency=2)
    eventually(lambda: states(ledger)["delivered"] == 5)
    eventually(lambda: len(it.held()) > 2)
    # When an operator pauses it, and the next send ends
    ledger.write(lambda connection: lanes.set_paused(connection, "ops", True, time.time()))
    begun = len(sink.seen)
    steps.release()
    eventually(lambda: states(ledger)["delivered"] == 6)
    eventually(lambda: len(it.held()) <= 2)
    for _ in range(9):
        steps.release()
    # Then only what had begun by then is sent, and the rest waits unspent
    eventually(lambda: it.idle)
    assert len(sink.seen) <= begun + 1
    assert {row["attempts"] for row in rows(ledger, state=["queued"])} == {0}


def test_stop_finishes_open_sends_and_hands_back_the_rest(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    begun = threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        begun.set()
        time.sleep(0.05)
        return accept(delivery)

    it = start(ScriptedSink(answer), concurrency=4)
    begun.wait(PATIENCE)
    assert end(it)

    found = states(ledger)
    assert found["sending"] == 0
    assert 0 < found["delivered"] < 100
    assert {row["attempts"] for row in rows(ledger, state=["queued"])} == {0}


def test_a_stopped_runner_hands_back_what_it_is_given(ledger: Ledger, start: Start) -> None:
    # Given a runner that is asked to stop while a send is under way
    record(ledger, new_event("tsk_1", "ops"))
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=2 * PATIENCE)
    it = start(sink)
    eventually(lambda: sink.seen)
    it.stop()
    # When the dispatcher hands it what it has recorded as claimed
    assert it.room() == 0
    record(ledger, new_event("tsk_2", "ops"))
    it.take(ledger.write(lambda connection: claims.claim(connection, "ops", 9, "w0", time.time())))
    # Then that is queued as if it had never been claimed
    eventually(lambda: rows(ledger, run_id="tsk_2")[0]["state"] == "queued")
    release.set()
    assert it.join(time.monotonic() + PATIENCE)
    assert {(row["state"], row["attempts"]) for row in rows(ledger)} == {("queued", 0), ("delivered", 1)}


def test_a_sink_gets_the_receipt_of_the_one_it_waited_for(ledger: Ledger, start: Start) -> None:
    record(ledger, new_event("tsk_1", "archive", NewDelivery("ops", "r", after=("archive",))))
    archive, ops = ScriptedSink(accept), ScriptedSink(accept)
    archive.name = "archive"
    waiting = start(ops)
    eventually(lambda: waiting.idle)
    assert ops.seen == []

    # When the first one has it, then the other's runner is poked
    start(archive, on_due=lambda sinks: waiting.poke() if "ops" in sinks else None)

    eventually(delivered(ledger, 2))
    assert ops.seen[0].receipts["archive"] is not None
    assert ops.seen[0].receipts["archive"]["urls"] == {"run.json": "https://x/run.json"}


@pytest.mark.parametrize("writes", [0, 1], ids=["before the claim", "before the settlement"])
def test_a_ledger_outage_makes_nothing_be_sent_twice(
    ledger: Ledger, start: Start, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    # Given a ledger that is gone when the delivery is claimed, or when it was sent and is to be settled
    record(ledger, new_event("tsk_1", "ops"))
    sink, back, failed = ScriptedSink(accept), threading.Event(), threading.Semaphore(0)
    write, calls = ledger.write, iter(range(writes))
    other = Ledger(str(ledger.url.render_as_string(hide_password=False)))

    def until_then(work: Callable[[Any], Any]) -> Any:
        if back.is_set() or next(calls, None) is not None:
            return write(work)
        failed.release()
        raise LedgerUnavailable("gone")

    monkeypatch.setattr(other, "write", until_then)
    it = start(sink, on=other)
    for _ in range(2):
        assert failed.acquire(timeout=PATIENCE)
    assert len(sink.seen) == writes
    assert not it.idle
    # When it is back
    back.set()
    # Then all is delivered once
    eventually(delivered(ledger, 1))
    assert len(sink.seen) == 1
    assert end(it)
    other.close()


class Buggy(Ledger):
    """A ledger whose writes raise an error that no outage explains, from the second one on."""

    def write(self, work: Callable[[Any], Any]) -> Any:
        self.writes = getattr(self, "writes", 0) + 1
        if self.writes == 1 or self.well:
            return super().write(work)
        raise TypeError("a bug")

    well = False


@pytest.fixture
def buggy(ledger: Ledger) -> Iterator[Buggy]:
    it = Buggy(str(ledger.url.render_as_string(hide_password=False)))
    yield it
    it.close()


def test_runner_whose_errors_last_gives_up(
    ledger: Ledger, buggy: Buggy, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    sink = ScriptedSink(accept)
    it = start(sink, on=buggy, fails_for=1.5)
    # When they last, then it ends, says why, and takes no more
    eventually(lambda: it.gave_up)
    assert "sink ops could not be served" in it.gave_up
    assert "TypeError at test_runner.py" in it.gave_up
    assert it.room() == 0
    assert not it.join(time.monotonic() + PATIENCE)
    assert 2 < buggy.writes <= 5, "it tries more than once, and waits between two tries"
    # And logged that once, with its cause
    (line,) = (each.getMessage() for each in caplog.records if "deliver.paused" in each.getMessage())
    assert "sink=ops" in line
    assert "TypeError" in line
    # And what it held can be sent by another process
    ledger.write(lambda connection: recovery.release_claims(connection, it.owner, time.time()))
    start(sink)
    eventually(delivered(ledger, 1))


def test_runner_that_recovers_from_errors_goes_on(ledger: Ledger, buggy: Buggy, start: Start) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    it = start(ScriptedSink(accept), on=buggy)
    eventually(lambda: it.trouble)
    buggy.well = True
    eventually(delivered(ledger, 1))
    eventually(lambda: not it.trouble)
    assert not it.gave_up
    assert end(it)


def test_trouble_ends_when_a_sender_settles_all(ledger: Ledger, buggy: Buggy, start: Start) -> None:
    # Given a runner that could not settle a delivery, and waits before it tries again
    record(ledger, new_event("tsk_1", "ops"))
    it = start(ScriptedSink(accept), on=buggy)
    eventually(lambda: it.trouble)
    # When a sender settles that one with its own
    buggy.well = True
    record(ledger, new_event("tsk_2", "ops"))
    it.take(claim(ledger, "ops", it.owner, 9, time.time()))
    eventually(delivered(ledger, 2))
    # Then the runner reports no more trouble
    eventually(lambda: not it.trouble)


# --- Several processes


def test_several_runners_send_each_delivery_once(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    sinks = [ScriptedSink(accept) for _ in range(3)]
    for sink in sinks:
        start(sink)
    eventually(delivered(ledger, 100))
    sent = [each.key for sink in sinks for each in sink.seen]
    assert len(sent) == len(set(sent)) == 100


def test_claim_is_kept_though_its_commit_had_no_reply(postgres: PostgresProcess, start: Start) -> None:
    # Given a claim that is committed, and a connection that breaks before its worker hears of it
    with Gate(postgres.port) as gate:
        url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}"
        ledger = with_tables(Ledger(url))
        record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(4)))
        sink, worker = ScriptedSink(accept), Ledger(url)
        cut = gate.catch(b"COMMIT\0", "cut", after=b"attempts=(deliveries.attempts")
        it = start(sink, concurrency=4, on=worker)
        cut.wait()
        # Then the worker has the claim: each is sent at once, and by its first attempt
        eventually(delivered(ledger, 4))
        assert len(sink.seen) == 4
        assert {row["attempts"] for row in rows(ledger)} == {1}
        assert end(it)
        worker.close()
        ledger.close()


# --- Rates and lanes


def test_a_rate_holds_over_all_workers_and_spends_no_attempts(ledger: Ledger, start: Start, redis_url: str) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(10)))
    client = redis.Redis.from_url(redis_url)
    sinks = [ScriptedSink(accept) for _ in range(2)]
    runners = [start(sink, rate=SharedRate(client, "ops", (4, 3600.0))) for sink in sinks]
    eventually(lambda: states(ledger) == {"delivered": 4, "queued": 6})
    for it in runners:
        it.poke()
        eventually(lambda it=it: it.idle)  # type: ignore[misc]
        assert it.room() == 0

    assert sum(len(sink.seen) for sink in sinks) == 4
    assert states(ledger) == {"delivered": 4, "queued": 6}
    assert {row["spent"] for row in rows(ledger, state=["queued"])} == {0}
    client.close()


def test_a_rate_counts_what_is_sent_and_not_the_places_for_it(ledger: Ledger, start: Start, redis_url: str) -> None:
    # Given a sink with more places than its rate allows
    client = redis.Redis.from_url(redis_url)
    it = start(ScriptedSink(accept), concurrency=8, rate=SharedRate(client, "ops", (4, 3600.0)))
    # When deliveries come one by one, then as many are sent as the rate says
    for number in range(6):
        record(ledger, new_event(f"tsk_{number}", "ops"))
        it.poke()
        eventually(lambda: it.idle)
        assert states(ledger)["delivered"] == min(number + 1, 4)
    client.close()


@pytest.mark.parametrize("fault", ["down", "full"])
def test_rated_sink_waits_unspent_while_redis_cannot_count(
    ledger: Ledger, start: Start, valkey_factory: Callable[..., ValkeyProcess], fault: str
) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    server = valkey_factory()
    if fault == "down":
        server.kill()
    else:
        with server.connect() as setting:
            setting.config_set("maxmemory", 1)
    with redis.Redis.from_url(server.url) as client:
        it = start(ScriptedSink(accept), rate=SharedRate(client, "ops", (4, 1.0)))
        eventually(lambda: it.idle)
        assert [(row["state"], row["attempts"]) for row in rows(ledger)] == [("queued", 0)]
        # When Redis is back, then the next look sends it
        if fault == "down":
            server.start()
        else:
            client.config_set("maxmemory", 0)
        it.poke()
        eventually(delivered(ledger, 1))


def test_a_slow_lane_keeps_no_other_from_the_free_places(ledger: Ledger, start: Start) -> None:
    # Given one lane whose sends hang, with a backlog, and many others
    release = threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        if delivery.run_id.startswith("slow"):
            release.wait(PATIENCE)
        return accept(delivery)

    def to(lane: str, run_id: str) -> Any:
        return new_event(run_id, NewDelivery("ops", "caller", lane=f"ops {lane}"))

    record(ledger, *(to("slow", f"slow_{n}") for n in range(20)))
    record(ledger, *(to(f"lane{n % 7}", f"tsk_{n}") for n in range(21)))
    it = start(ScriptedSink(answer, timeout=2 * PATIENCE), concurrency=4, lane_limit=2)
    # Then the others are delivered while as many of it hang as one lane may have
    eventually(lambda: states(ledger) == {"delivered": 21, "sending": 2, "queued": 18})
    assert it.room() == 0
    # And it goes on by itself
    release.set()
    eventually(delivered(ledger, 41))


def test_a_stop_during_a_claim_hands_back_what_it_took(ledger: Ledger, start: Start) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(3)))
    loads, stopped = threading.Event(), threading.Event()

    class Slow(Ledger):
        def read(self, *arguments: Any, **options: Any) -> Any:
            loads.set()
            assert stopped.wait(PATIENCE)
            return super().read(*arguments, **options)

    slow = Slow(str(ledger.url.render_as_string(hide_password=False)))
    it = start(ScriptedSink(accept), on=slow)
    assert loads.wait(PATIENCE)
    it.stop()
    stopped.set()

    assert it.join(time.monotonic() + PATIENCE)
    assert it.held() == []
    assert states(ledger) == {"queued": 3}
    slow.close()


def test_a_runner_ends_without_a_redis_that_hangs(ledger: Ledger, start: Start) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = redis.Redis(port=port, socket_timeout=60)
        it = SinkRunner(ledger, ScriptedSink(accept), RetryPolicy(), 1, client, "w")
        it.start()
        eventually(delivered(ledger, 1))
        watch = Stopwatch()
        assert end(it)
        watch.at_most(10)
        client.close()
