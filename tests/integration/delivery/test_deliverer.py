"""From the ledger to a sink, with a real Valkey, both databases, and a sink that does what the test tells it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from handlers import Delivery, Receipt, Refused, Sink, SinkOptions, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery.claimer import POISONED
from receiver.delivery.deliverer import Deliverer
from receiver.domain import breaker
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.deliveries import claims, recovery
from receiver.ledger.events import NewDelivery
from receiver.runtime.throttle import SharedRate
from receiver.wakeups import deliver_queue, flag_key, wake
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support import queries
from tests.support.ledger import every_lane, new_event, record, with_tables
from tests.support.scripted_sink import BatchSink, ScriptedSink, accept, rows
from tests.support.waiting import PATIENCE, Stopwatch, eventually

Answer = Callable[[Delivery], Receipt]


@pytest.fixture
def deliver(ledger: Ledger, redis_url: str) -> Iterator[Callable[..., Deliverer]]:
    made: list[Deliverer] = []

    def make(
        sink: Sink[SinkOptions],
        *,
        concurrency: int = 8,
        rate: SharedRate | None = None,
        idle_wait: float = 0.02,
        **retry: Any,
    ) -> Deliverer:
        connection = redis.Redis.from_url(redis_url, socket_timeout=10)
        it = Deliverer(
            Ledger(str(ledger.url.render_as_string(hide_password=False))),
            sink,
            RetryPolicy(**{"first": 100, **retry}),
            concurrency,
            connection,
            f"w{len(made)}",
            rate=rate,
            idle_wait=idle_wait,
        )
        made.append(it)
        return it

    yield make
    for each in made:
        each.close()


def claimed_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Return what is being sent, as the ledger has it."""
    query = "SELECT id, claim_number FROM deliveries WHERE state = 'sending'"
    return ledger.read(lambda connection: [dict(row._mapping) for row in connection.exec_driver_sql(query)])


def make_due(ledger: Ledger) -> None:
    """Make what waits due now, as the clock does when its time has come."""
    ledger.write(lambda connection: recovery.make_due(connection, time.time() + 1e6))
    ledger.write(lambda connection: connection.exec_driver_sql("UPDATE deliveries SET due_at = 0"))


# --- One sink


def test_no_more_is_claimed_than_memory_has_room_for(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "CLAIM_BYTES", 25_000)
    record(ledger, *(new_event(f"tsk_{n}", "ops", output="x" * 10_000) for n in range(12)))
    under_way, most = 0, 0
    counting = threading.Lock()

    def slow(delivery: Delivery) -> Receipt:
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with counting:
            under_way -= 1
        return accept(delivery)

    deliver(ScriptedSink(slow)).run(lambda: False)
    assert {row["state"] for row in rows(ledger)} == {"delivered"}
    assert most <= 4, "two by one claim, and two more while these are no more than one claim takes"


def test_a_claim_takes_a_bounded_number_and_the_next_one_follows_at_once(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more free slots than one claim takes, and sends that end only when there is one in each slot
    monkeypatch.setattr(claims, "CLAIM_MOST", 3)
    monkeypatch.setattr("receiver.delivery.claimer.CLAIM_AGAIN", 1e6)
    monkeypatch.setattr("receiver.delivery.deliverer.CLAIM_AGAIN", 1e6)
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(15)))
    begun, sizes = threading.Semaphore(0), Counter[int]()
    counted = threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        begun.release()
        if not counted.wait(PATIENCE):
            raise Refused("not all slots were used")
        return accept(delivery)

    def count() -> None:
        for _ in range(15):
            begun.acquire(timeout=PATIENCE)
        sizes.update(row["claim_number"] for row in claimed_rows(ledger))
        counted.set()

    counting = threading.Thread(target=count)
    counting.start()
    deliver(ScriptedSink(answer, timeout=4 * PATIENCE), concurrency=15).run(lambda: False)
    counting.join()
    # Then each claim has taken as many as one may
    assert {row["state"] for row in rows(ledger)} == {"delivered"}
    assert sorted(sizes.values()) == [3, 3, 3, 3, 3]


def test_what_is_due_is_sent_and_its_receipt_kept(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops", "other") for n in range(20)))
    sink = ScriptedSink(accept)

    deliver(sink).run(lambda: False)

    assert sorted(each.run_id for each in sink.seen) == sorted(f"tsk_{n}" for n in range(20))
    assert {row["state"] for row in rows(ledger, sink="ops")} == {"delivered"}
    assert {row["state"] for row in rows(ledger, sink="other")} == {"queued"}
    assert rows(ledger, sink="ops", run_id="tsk_3")[0]["receipt"] == {
        "id": "r-tsk_3",
        "keys": ["a", "b"],
        "urls": {"run.json": "https://x/run.json"},
    }


def test_a_route_that_could_not_be_evaluated_is_no_problem_of_the_body(
    ledger: Ledger, deliver: Callable[..., Deliverer]
) -> None:
    event = new_event("tsk_1", "ops")
    record(ledger, event._replace(note="route big can't be evaluated: the types don't fit"))
    sink = ScriptedSink(accept)

    deliver(sink).run(lambda: False)

    assert [each.problem for each in sink.seen] == [""]


def test_a_sink_that_takes_many_gets_batches(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(120)))
    sink = BatchSink(lambda delivery: accept(delivery) if delivery.run_id != "tsk_7" else _raise(Refused("no")))

    deliver(sink).run(lambda: False)

    assert sum(sink.sizes) == 120
    assert max(sink.sizes) == 50
    assert [row["run_id"] for row in rows(ledger, state=["dead"])] == ["tsk_7"]
    assert len(rows(ledger, state=["delivered"])) == 119


def test_a_delivery_that_comes_alone_costs_one_claim(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counter[str]()
    claim = claims.claim

    def counting(*arguments: Any, **named: Any) -> Any:
        counted["claims"] += 1
        return claim(*arguments, **named)

    monkeypatch.setattr(claims, "claim", counting)
    record(ledger, new_event("tsk_1", "ops"))

    deliver(ScriptedSink(accept)).run(lambda: False)

    assert {row["state"] for row in rows(ledger)} == {"delivered"}
    assert counted["claims"] == 1, "the claim has seen that nothing else was due"


def test_what_comes_during_the_last_send_is_delivered_by_the_same_job(
    ledger: Ledger, deliver: Callable[..., Deliverer], redis_url: str
) -> None:
    client = redis.Redis.from_url(redis_url)
    queue = deliver_queue("ops")

    def another_comes(delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_1":
            record(ledger, new_event("tsk_2", "ops"))
            wake(client, queue)
        return accept(delivery)

    record(ledger, new_event("tsk_1", "ops"))
    wake(client, queue)  # whose job this is: its flag is up

    deliver(ScriptedSink(another_comes), idle_wait=1.0).run(lambda: False)  # else a slow Redis says it too late

    client.close()
    assert [row["state"] for row in rows(ledger)] == ["delivered", "delivered"]


# --- Errors, retries and breakers


def _raise(error: Exception) -> Receipt:
    raise error


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Refused("410 gone"), "dead", "410 gone"),
        (Unavailable("503"), "waiting", "503"),
        (KeyError("password=hunter2"), "waiting", "KeyError in the sink's code"),
    ],
)
def test_the_three_kinds_of_error(
    ledger: Ledger, deliver: Callable[..., Deliverer], error: Exception, state: str, reason: str
) -> None:
    record(ledger, new_event("tsk_1", "ops"))

    deliver(ScriptedSink(lambda _: _raise(error))).run(lambda: False)

    (row,) = rows(ledger)
    assert (row["state"], row["reason"], row["attempts"], row["spent"]) == (
        state,
        reason,
        1,
        1,
    )


def test_a_delivery_is_tried_until_its_attempts_are_spent_with_the_same_key(
    ledger: Ledger, deliver: Callable[..., Deliverer]
) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    sink = ScriptedSink(lambda _: _raise(Unavailable("down")))
    deliverer = deliver(sink, attempts=3)

    for _ in range(5):
        deliverer.run(lambda: False)
        make_due(ledger)

    (row,) = rows(ledger)
    assert (row["state"], row["attempts"]) == ("dead", 3)
    assert {each.key for each in sink.seen} == {row["id"]}
    assert [each.attempt for each in sink.seen] == [1, 2, 3]
    kept = ledger.read(lambda connection: queries.list_attempts(connection, row["id"]))
    assert [each["outcome"] for each in kept] == ["unavailable"] * 3


def test_retry_after_is_honoured(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, new_event("tsk_1", "ops"))

    deliver(ScriptedSink(lambda _: _raise(Unavailable("429", retry_after=5000))), first=1).run(lambda: False)

    (row,) = rows(ledger)
    assert row["due_at"] - row["updated_at"] >= 4990


def test_an_open_breaker_parks_deliveries_without_spending_their_attempts(
    ledger: Ledger, deliver: Callable[..., Deliverer]
) -> None:
    # given a sink that is down, and more deliveries than open its breaker
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(30)))
    up = threading.Event()
    sink = ScriptedSink(lambda delivery: accept(delivery) if up.is_set() else _raise(Unavailable("down")))
    deliverer = deliver(sink, concurrency=2, attempts=2, first=0.001)

    # when it is tried, then only a few were sent, and nothing is dead
    deliverer.run(lambda: False)
    tried = len(sink.seen)
    assert tried <= breaker.THRESHOLD + 2
    (lane,) = ledger.read(every_lane)
    assert lane.breaker == "open"

    # and a probe that fails spends nothing
    for _ in range(5):
        ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
        make_due(ledger)
        deliverer.run(lambda: False)
    assert len(sink.seen) == tried + 5
    assert rows(ledger, state=["dead"]) == []
    assert max(row["spent"] for row in rows(ledger)) == 1

    # and one that succeeds lets all of them through
    up.set()
    ledger.write(lambda connection: connection.exec_driver_sql("UPDATE lanes SET until = 0"))
    make_due(ledger)
    deliverer.run(lambda: False)
    assert {row["state"] for row in rows(ledger)} == {"delivered"}


# --- Stops and waits


def test_a_send_that_hangs_is_given_up_and_holds_up_nobody(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(6)))
    release = threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_0":
            release.wait(60)
        return accept(delivery)

    watch = Stopwatch()
    deliver(ScriptedSink(answer, timeout=2.0), concurrency=2).run(lambda: False)
    release.set()

    watch.at_most(30)
    assert {row["run_id"]: row["state"] for row in rows(ledger)} == {
        "tsk_0": "waiting",
        **{f"tsk_{n}": "delivered" for n in range(1, 6)},
    }
    assert rows(ledger, run_id="tsk_0")[0]["reason"] == "no answer within 2 s"


def test_sends_that_hang_keep_no_other_slot_empty(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given sends in three of four slots that end only when the last one has begun, and nothing that is prefetched
    monkeypatch.setattr("receiver.delivery.prefetch.FAST", 0.0)
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(5)))
    begun, last = threading.Semaphore(4), threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        if not begun.acquire(blocking=False):
            last.set()
        elif delivery is not sink.seen[0] and not last.wait(PATIENCE):
            raise Refused("the last one did not get a slot")
        return accept(delivery)

    # When all are sent
    sink = ScriptedSink(answer, timeout=4 * PATIENCE)
    deliver(sink, concurrency=4).run(lambda: False)

    # Then the fourth slot was used again
    assert {row["state"] for row in rows(ledger)} == {"delivered"}


def test_the_claim_of_a_slow_send_is_renewed_until_it_ends(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a send that takes longer than a claim holds
    monkeypatch.setattr("receiver.delivery.deliverer.RENEW", 0.05)
    record(ledger, new_event("tsk_1", "ops"))
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(PATIENCE), accept(delivery))[1], timeout=2 * PATIENCE)
    thread = threading.Thread(target=deliver(sink).run, args=(lambda: False,))
    thread.start()
    try:
        first = eventually(lambda: rows(ledger, state=["sending"]))[0]["claim_until"]
        # When the time of its first claim is over
        eventually(lambda: rows(ledger)[0]["claim_until"] > first)
        lapsed = ledger.write(lambda connection: recovery.lapse_claims(connection, first + 0.001))
    finally:
        release.set()
        thread.join(PATIENCE)
    # Then it has not lapsed, and was sent once
    assert lapsed == 0
    assert [(row["state"], row["attempts"]) for row in rows(ledger)] == [("delivered", 1)]
    assert len(sink.seen) == 1


def test_a_stop_ends_claims_and_what_is_under_way_is_finished(
    ledger: Ledger, deliver: Callable[..., Deliverer]
) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    stopped = threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        stopped.set()
        time.sleep(0.05)
        return accept(delivery)

    deliver(ScriptedSink(answer), concurrency=4).run(stopped.is_set)

    states = [row["state"] for row in rows(ledger)]
    assert states.count("sending") == 0
    assert 0 < states.count("delivered") < 100
    assert {row["attempts"] for row in rows(ledger, state=["queued"])} == {0}


def test_a_sink_that_waited_for_another_gets_its_receipt(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, new_event("tsk_1", "archive", NewDelivery("ops", "r", after=("archive",))))
    archive, ops = ScriptedSink(accept), ScriptedSink(accept)
    archive.name = "archive"

    deliver(ops).run(lambda: False)
    assert ops.seen == []
    deliver(archive).run(lambda: False)
    deliver(ops).run(lambda: False)

    assert ops.seen[0].receipts["archive"] is not None
    assert ops.seen[0].receipts["archive"]["urls"] == {"run.json": "https://x/run.json"}


@pytest.mark.parametrize("sent", [True, False], ids=["after a send", "before any"])
def test_a_ledger_that_goes_away_makes_nothing_be_sent_twice(
    ledger: Ledger, deliver: Callable[..., Deliverer], redis_url: str, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    # Given a ledger that is gone when the delivery is claimed, or when it was sent and is to be settled
    record(ledger, new_event("tsk_1", "ops"))
    sink = ScriptedSink(accept)
    it = deliver(sink)
    client = redis.Redis.from_url(redis_url)
    client.set(flag_key(deliver_queue("ops")), "x")
    write, calls = it._ledger.write, iter([sent])

    def until_then(work: Callable[[Any], Any]) -> Any:
        if next(calls, False):
            return write(work)
        raise LedgerUnavailable("gone")

    monkeypatch.setattr("receiver.runtime.outage.RETRY_AFTER", 0.0)
    monkeypatch.setattr(it._ledger, "write", until_then)
    it.run(lambda: False)

    # Then only what is known to nobody else keeps a wake-up for itself; the clock finds the rest
    assert len(sink.seen) == sent
    assert client.exists(flag_key(deliver_queue("ops"))) == sent
    assert client.llen("rq:queue:deliver:ops") == sent
    # And when it is back, all is delivered once
    monkeypatch.setattr(it._ledger, "write", write)
    it.run(lambda: False)
    assert [row["state"] for row in rows(ledger)] == ["delivered"]
    assert len(sink.seen) == 1
    client.close()


# --- Several workers


def test_many_deliverers_send_each_delivery_once(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    sinks = [ScriptedSink(accept) for _ in range(3)]
    threads = [threading.Thread(target=deliver(sink).run, args=(lambda: False,)) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    sent = [each.key for sink in sinks for each in sink.seen]
    assert len(sent) == len(set(sent)) == 100


def test_concurrency_holds_over_all_workers(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(24)))
    now, most, lock, together = 0, 0, threading.Lock(), threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now > 1:
                together.set()
        together.wait(60)
        time.sleep(0.02)
        with lock:
            now -= 1
        return accept(delivery)

    threads = [
        threading.Thread(target=deliver(ScriptedSink(answer), concurrency=3).run, args=(lambda: False,))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    deliver(ScriptedSink(answer), concurrency=3).run(lambda: False)

    assert {row["state"] for row in rows(ledger)} == {"delivered"}
    assert 1 < most <= 3


# --- Prefetching


def at_work(deliverer: Deliverer) -> bool:
    """Whether a send is under way, after which what is queued starts."""
    tasks = list(deliverer._senders._running.values())
    while tasks:
        task = tasks.pop()
        if not task.ended:
            return True
        tasks += [task.next_task] if task.next_task else []
    return False


def test_the_slots_of_a_fast_sink_are_not_empty_while_the_ledger_commits(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.delivery.prefetch.FAST", 60.0)  # a busy machine makes each send slow
    # Given a sink that answers fast, and a ledger that does so only when twice as much went out as there are slots
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(60)))

    def answer(delivery: Delivery) -> Receipt:
        time.sleep(0.03)  # what is prefetched must outlast a commit of a busy disk
        return accept(delivery)

    sink = ScriptedSink(answer)
    deliverer = deliver(sink, concurrency=2)
    meanwhile = 0

    write = deliverer._ledger.write

    def slowly(work: Callable[[Any], Any]) -> Any:
        nonlocal meanwhile
        result = write(work)
        before = len(sink.seen)
        if at_work(deliverer) and deliverer._senders.queued >= 4:
            eventually(lambda: len(sink.seen) >= before + 4, every=0.002)
            meanwhile += 4
        return result

    monkeypatch.setattr(deliverer._ledger, "write", slowly)
    # Then it gets them all, each once
    deliverer.run(lambda: False)
    assert meanwhile >= 4  # more on a machine that has nothing else to do
    assert {(row["state"], row["attempts"]) for row in rows(ledger)} == {("delivered", 1)}
    assert len(sink.seen) == 60


def test_a_fast_sink_uses_all_its_slots_though_few_are_free_when_it_claims(
    ledger: Ledger, deliver: Callable[..., Deliverer], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given sends in six of eight slots that end only when all eight are used, and more that come when the seventh ends
    monkeypatch.setattr("receiver.delivery.prefetch.FAST", 60.0)  # a busy machine makes each send slow
    monkeypatch.setattr("receiver.delivery.claimer.CLAIM_AGAIN", 1e6)
    others, all_used = threading.Semaphore(7), threading.Event()

    def answer(delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_0":
            record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(7, 40)))
        elif delivery.run_id != "tsk_first" and not others.acquire(blocking=False):
            all_used.set()
        elif delivery.run_id != "tsk_first" and not all_used.wait(PATIENCE):
            raise Refused("not all slots were used")
        return accept(delivery)

    deliverer = deliver(ScriptedSink(answer, timeout=4 * PATIENCE), concurrency=8)
    record(ledger, new_event("tsk_first", "ops"))
    deliverer.run(lambda: False)  # then the sink is known to be fast
    # When they are delivered, and nothing is claimed for the time that has passed
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(7)))
    deliverer.run(lambda: False)
    # Then the two free slots were used too
    assert {row["state"] for row in rows(ledger)} == {"delivered"}


def test_concurrency_holds_over_workers_that_prefetch(ledger: Ledger, deliver: Callable[..., Deliverer]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(150)))
    now, most, lock = 0, 0, threading.Lock()

    def answer(delivery: Delivery) -> Receipt:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return accept(delivery)

    def work(deliverer: Deliverer) -> None:
        while not done.is_set():  # as the wake-ups have it
            deliverer.run(done.is_set)

    done = threading.Event()
    sinks = [ScriptedSink(answer) for _ in range(3)]
    threads = [threading.Thread(target=work, args=(deliver(sink, concurrency=3),)) for sink in sinks]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(len(sink.seen) for sink in sinks) == 150)
    done.set()
    for thread in threads:
        thread.join(60)

    assert {(row["state"], row["attempts"]) for row in rows(ledger)} == {("delivered", 1)}
    assert sum(len(sink.seen) for sink in sinks) == 150
    assert most <= 3


def test_what_is_prefetched_when_its_sink_meets_trouble_is_handed_back_untried(
    ledger: Ledger, deliver: Callable[..., Deliverer]
) -> None:
    # Given a sink that answers fast, and then not at all any more
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(100)))
    sink = ScriptedSink(lambda delivery: accept(delivery) if len(sink.seen) <= 30 else _raise(Unavailable("down")))
    # When it is delivered to
    deliver(sink, concurrency=2, first=100).run(lambda: False)
    # Then its breaker opens after a few, and the others wait as if nobody had ever claimed them
    assert len(sink.seen) <= 30 + breaker.THRESHOLD + 2
    states = Counter((row["state"], row["attempts"], row["spent"]) for row in rows(ledger))
    assert states["queued", 0, 0] == 100 - len(sink.seen)
    assert {state for state, _, _ in states} == {"delivered", "waiting", "queued"}


# --- Claims that nobody heard of


def test_a_claim_whose_commit_was_not_heard_of_is_handed_back_by_its_owner_and_not_renewed(
    postgres: PostgresProcess, redis_url: str
) -> None:
    # Given a claim that is committed, and a connection that breaks before its worker hears of it
    with Gate(postgres.port) as gate:
        url = f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}"
        ledger = with_tables(Ledger(url))
        record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(4)))
        sink = ScriptedSink(accept)
        client = redis.Redis.from_url(redis_url, socket_timeout=10)
        deliverer = Deliverer(Ledger(url), sink, RetryPolicy(), 2, client, "w", idle_wait=0.02)
        cut = gate.catch(b"COMMIT", "cut", after=b"attempts=(deliveries.attempts")
        # When it goes on, and no clock takes back what has lapsed
        deliverer.run(lambda: False)
        cut.wait(0)
        # Then the sink's slots were not lost: each was sent, once, and at its first attempt
        assert {(row["state"], row["attempts"]) for row in rows(ledger)} == {("delivered", 1)}
        assert len(sink.seen) == 4
        deliverer.close()
        ledger.close()


def test_a_delivery_whose_attempts_all_ended_with_their_worker_is_dead_and_not_sent_once_more(
    ledger: Ledger, deliver: Callable[..., Deliverer]
) -> None:
    # Given a delivery with a budget of two, whose worker was killed both times, and one that waits for it
    record(ledger, new_event("tsk_deadly", "ops", NewDelivery("next", "all", after=("ops",))))
    at = time.time()
    for number in (1, 2):
        now = at + 100 * number
        ledger.write(lambda it, n=number, now=now: claims.claim(it, "ops", 9, "dead", n, now, 15))  # type: ignore[misc]
        ledger.write(lambda it, now=now: recovery.release_claims(it, "dead", now))  # type: ignore[misc]
    make_due(ledger)
    sink = ScriptedSink(accept)
    it = deliver(sink, attempts=2)
    # When it is due
    it.run(lambda: False)
    # Then nobody sends it, it is dead with the reason, no attempt was added, and what waited for it goes on
    assert sink.seen == []
    (row,) = rows(ledger, sink="ops")
    assert (row["state"], row["attempts"], row["reason"]) == ("dead", 2, POISONED)
    assert rows(ledger, sink="next")[0]["state"] == "queued"


# --- Rates


def test_a_rate_holds_over_all_workers_and_spends_no_attempts(
    ledger: Ledger, deliver: Callable[..., Deliverer], redis_url: str
) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(10)))
    client = redis.Redis.from_url(redis_url)
    sinks = [ScriptedSink(accept) for _ in range(2)]
    for sink in sinks:
        deliver(sink, rate=SharedRate(client, "ops", (4, 3600.0))).run(lambda: False)

    assert sum(len(sink.seen) for sink in sinks) == 4
    assert sorted(row["state"] for row in rows(ledger)) == ["delivered"] * 4 + ["queued"] * 6
    assert {row["spent"] for row in rows(ledger, state=["queued"])} == {0}
    client.close()
