"""What a dispatcher hands on to a deliverer of the same worker that waits for it, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from handlers import Delivery, Receipt, Refused, SinkOptions, Unavailable
from receiver import wakeups
from receiver.delivery import gathering
from receiver.delivery.offer import ROOM
from receiver.delivery.settlement import Settlement
from receiver.dispatch.recorder import EventRecorder
from receiver.domain import breaker
from receiver.domain.event import Event
from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims, lanes
from receiver.ledger.deliveries.recovery import release_claims
from receiver.runtime.handover import Handover, Offer
from receiver.wakeups.record import queue_key
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support.handing_on import (
    Killed,
    OfferTaken,
    address,
    all_delivered,
    assert_sent_once_each,
    count_claims,
    events,
    kill,
    make_deliverer,
    make_recorder,
    offered,
    waiting,
)
from tests.support.ledger import with_tables
from tests.support.scripted_sink import BatchSink, ScriptedSink, accept, rows
from tests.support.waiting import PATIENCE, eventually


def count_settlements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets, with each settlement from now on, how many sends it settles."""
    made: list[int] = []
    settle = Settlement.settle

    def counting(self: Settlement, ledger: Ledger, tasks: Any, *arguments: Any) -> Any:
        made.append(len(tasks))
        return settle(self, ledger, tasks, *arguments)

    monkeypatch.setattr(Settlement, "settle", counting)
    return made


def make_due_elsewhere(ledger: Ledger, redis_url: str, batch: Sequence[Event]) -> None:
    """Record events as a dispatcher of another worker does, and nudge."""
    woken = make_recorder(ledger, redis_url, None).dispatch(batch)
    for _ in range(2):  # the first one only raises the flag, for there is no job here that had it raised
        wakeups.wake_sinks(redis.Redis.from_url(redis_url), woken)


def test_what_comes_alone_is_sent_without_being_claimed_or_woken_for(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer that waits
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=3), handover):
        claimed = count_claims(monkeypatch)
        # When an event is dispatched
        woken = make_recorder(ledger, redis_url, handover).dispatch(events())
        # Then nobody need be woken for it, and it is delivered as any other
        assert woken == []
        eventually(lambda: all_delivered(ledger))
        assert_sent_once_each(ledger, sink)
        assert claimed == []
        # And the next one takes the same way
        eventually(lambda: offered(handover))


def test_sends_that_end_one_after_the_other_are_settled_together(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer whose settlements wait for others, for as long as this test takes
    sink, recorder = BatchSink(accept), make_recorder(ledger, redis_url, handover)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, gather=10 * PATIENCE), handover):
        settled = count_settlements(monkeypatch)
        for number, each in enumerate(events(4)):
            # When one comes, then it is sent at once, whatever waits to be settled
            assert recorder.dispatch([each]) == []
            eventually(lambda number=number: len(sink.seen) == number + 1)
            eventually(lambda: offered(handover))
        assert [row["state"] for row in rows(ledger)] == ["sending"] * 4
        # And a stop settles all of them
    assert settled == [4]
    assert all_delivered(ledger, 4)
    assert_sent_once_each(ledger, sink, 4)


@pytest.mark.parametrize("trouble", [Refused("no"), Unavailable("not now"), ValueError()])
def test_what_fails_is_settled_at_once_with_all_that_waited(
    ledger: Ledger, redis_url: str, handover: Handover, trouble: Exception
) -> None:
    def answer(delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_1":
            raise trouble
        return accept(delivery)

    sink, recorder = BatchSink(answer), make_recorder(ledger, redis_url, handover)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, gather=10 * PATIENCE), handover):
        first, second = events(2)
        recorder.dispatch([first])
        eventually(lambda: sink.seen and offered(handover))
        recorder.dispatch([second])
        ends = {"dead" if isinstance(trouble, Refused) else "waiting", "delivered"}
        eventually(lambda: {row["state"] for row in rows(ledger)} == ends)


def test_no_more_wait_to_be_settled_than_a_killed_worker_may_have_sent_again(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MOST_UNSETTLED", 3)
    sink, recorder = BatchSink(accept), make_recorder(ledger, redis_url, handover)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, gather=10 * PATIENCE), handover):
        for each in events(3):
            assert recorder.dispatch([each]) == []
            eventually(lambda: offered(handover))
        eventually(lambda: all_delivered(ledger, 3))


class SlowFirst(BatchSink):
    """Answers to the first of `events` once `go_on` is set."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.options = SinkOptions(timeout=PATIENCE)
        self.go_on = threading.Event()

    def _answer(self, delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_0":
            assert self.go_on.wait(PATIENCE)
        return accept(delivery)


def test_what_comes_while_a_send_is_under_way_is_not_claimed_either(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer that waits, and is sending something
    sink, recorder = SlowFirst(), make_recorder(ledger, redis_url, handover)
    first, *others = events(3)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover), handover):
        claimed = count_claims(monkeypatch)
        recorder.dispatch([first])
        eventually(lambda: sink.seen and offered(handover))
        # When more comes
        assert recorder.dispatch(others) == []
        # Then that is sent in the slot that is free, however long the first one takes
        eventually(lambda: len(sink.seen) == 3)
        sink.go_on.set()
        eventually(lambda: all_delivered(ledger, 3))
        assert_sent_once_each(ledger, sink, 3)
        assert claimed == []


def test_what_is_due_is_claimed_although_what_is_new_is_handed_on(
    ledger: Ledger, redis_url: str, handover: Handover
) -> None:
    # Given a deliverer that is sending something and has an offer out
    sink = SlowFirst()
    first, second = events(2)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover), handover):
        make_recorder(ledger, redis_url, handover).dispatch([first])
        eventually(lambda: sink.seen and offered(handover))
        # When a dispatcher of another worker makes something due, and nudges
        make_due_elsewhere(ledger, redis_url, [second])
        # Then it is sent beside the first, which does not end
        eventually(lambda: len(sink.seen) == 2)
        sink.go_on.set()
        eventually(lambda: all_delivered(ledger, 2))
        assert_sent_once_each(ledger, sink, 2)


def test_an_offer_is_out_while_what_has_just_come_is_claimed(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer that waits
    sink, claim = BatchSink(accept), claims.claim
    offers: list[bool] = []

    def looking(*arguments: Any, **named: Any) -> claims.Claims:
        offers.append(offered(handover))
        return claim(*arguments, **named)

    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=3), handover):
        monkeypatch.setattr(claims, "claim", looking)
        # When a dispatcher of another worker makes something due, and nudges
        make_due_elsewhere(ledger, redis_url, events())
        eventually(lambda: all_delivered(ledger))
        # Then what comes while that is claimed could have been handed on
        assert any(offers)


def test_an_offer_that_is_taken_by_who_dies_is_replaced_while_the_deliverer_always_has_work(
    ledger: Ledger, redis_url: str, handover: Handover
) -> None:
    # Given a deliverer that is sending something, and whose offer a dispatcher has taken that is dead by then
    sink = SlowFirst()
    first, second = events(2)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover), handover):
        make_recorder(ledger, redis_url, handover).dispatch([first])
        eventually(lambda: sink.seen and offered(handover))
        assert handover.take()
        # When another one makes something due, and nudges
        make_due_elsewhere(ledger, redis_url, [second])
        # Then that is sent, and there is an offer again while the first send is still under way
        eventually(lambda: len(sink.seen) == 2)
        eventually(lambda: offered(handover))
        sink.go_on.set()
        eventually(lambda: all_delivered(ledger, 2))


def test_no_offer_is_left_behind_by_a_job_that_ends(ledger: Ledger, redis_url: str, handover: Handover) -> None:
    # Given a deliverer that is sending something and has an offer out
    sink, leaving = SlowFirst(), threading.Event()
    deliverer = make_deliverer(address(ledger), redis_url, sink, handover)
    make_recorder(ledger, redis_url, None).dispatch(events(1))
    job = threading.Thread(target=lambda: deliverer.run(leaving.is_set))
    job.start()
    eventually(lambda: sink.seen)
    # When its job must end, and does
    leaving.set()
    sink.go_on.set()
    job.join()
    # Then no dispatcher finds an offer, and what was under way is settled
    assert not offered(handover)
    assert all_delivered(ledger)
    deliverer.close()


def test_what_is_handed_on_after_the_job_has_ended_that_offered_is_sent_by_the_next_one_at_once(
    ledger: Ledger, redis_url: str, handover: Handover
) -> None:
    # Given a deliverer whose offer a dispatcher has taken, and whose job must end before that answers
    sink, leaving = BatchSink(accept), threading.Event()
    deliverer = make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)
    job = threading.Thread(target=lambda: deliverer.run(leaving.is_set))
    job.start()
    recorder = make_recorder(ledger, redis_url, OfferTaken(handover))
    leaving.set()
    job.join()
    # When it answers, and so wakes nobody
    assert recorder.dispatch(events()) == []
    # Then the job that has ended has seen to it that there is a next one, and it sends what was handed on
    assert redis.Redis.from_url(redis_url).llen(queue_key(wakeups.deliver_queue("ops"))) == 1
    deliverer.run(lambda: False)
    assert all_delivered(ledger)
    assert_sent_once_each(ledger, sink)
    deliverer.close()


def test_more_than_is_offered_is_claimed_at_once(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=3), handover):
        claimed = count_claims(monkeypatch)
        assert make_recorder(ledger, redis_url, handover).dispatch(events(ROOM + 1)) == []
        eventually(lambda: all_delivered(ledger, ROOM + 1))
        assert claimed
        assert_sent_once_each(ledger, sink, ROOM + 1)


@pytest.mark.parametrize("how", ["paused", "shut"])
def test_a_sink_that_is_paused_or_shut_while_an_offer_is_out_is_sent_nothing(
    ledger: Ledger, redis_url: str, handover: Handover, how: str
) -> None:
    def shut(connection: Any) -> None:
        if how == "paused":
            lanes.set_paused(connection, "ops", True, ledger.now())
        else:
            lanes.put(
                connection, breaker.Lane("ops", "ops", False, "open", 5, ledger.now() + 600, "gone"), ledger.now()
            )

    # Given a deliverer that waits, and whose sink is paused then
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=1), handover):
        ledger.write(shut)
        # When an event is dispatched
        make_recorder(ledger, redis_url, handover).dispatch(events())
        # Then it is due, untried, and no offer is made
        eventually(lambda: [row["state"] for row in rows(ledger)] == ["queued"])
        assert [(row["attempts"], row["spent"]) for row in rows(ledger)] == [(0, 0)]
        assert not offered(handover, 0.3)
    assert sink.seen == []


def test_a_dispatcher_that_is_killed_when_it_has_committed_loses_and_spends_nothing(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)):
        with monkeypatch.context() as patch:
            patch.setattr(OfferTaken, "hand_on", kill)
            with pytest.raises(Killed):
                make_recorder(ledger, redis_url, OfferTaken(handover)).dispatch(events())
        eventually(lambda: all_delivered(ledger))
    assert_sent_once_each(ledger, sink)


def test_a_dispatcher_that_is_killed_before_it_has_committed_holds_up_nobody(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)):
        with monkeypatch.context() as patch:
            patch.setattr("receiver.ledger.events.record", kill)
            patch.setattr(OfferTaken, "hand_on", lambda *_, **_more: None)
            with pytest.raises(Killed):
                make_recorder(ledger, redis_url, OfferTaken(handover)).dispatch(events())
        assert rows(ledger) == []
        # When the next dispatcher takes the event again
        eventually(lambda: offered(handover))
        make_recorder(ledger, redis_url, handover).dispatch(events())
        eventually(lambda: all_delivered(ledger))
    assert_sent_once_each(ledger, sink)


def test_what_is_handed_on_to_a_deliverer_that_is_killed_is_sent_by_the_next_one_untried(
    ledger: Ledger, redis_url: str, handover: Handover
) -> None:
    # Given a dispatcher that takes the offer of a deliverer which is dead by then, its claims released
    handover.put(Offer("killed", 1, ROOM))
    ledger.write(lambda connection: release_claims(connection, "killed", ledger.now(), ()))
    make_recorder(ledger, redis_url, handover).dispatch(events())
    assert [row["state"] for row in rows(ledger)] == ["sending"]
    # Then its successor need not wait until the claim lapses
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)):
        eventually(lambda: all_delivered(ledger), 10)
    assert_sent_once_each(ledger, sink)


def test_a_commit_whose_answer_the_dispatcher_never_heard_makes_nothing_be_sent_twice(
    postgres: PostgresProcess, redis_url: str, handover: Handover
) -> None:
    with Gate(postgres.port) as gate:
        path = postgres.create_database()
        ledger = with_tables(Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/{path}"))
        behind = Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{path}")
        sink = BatchSink(accept)
        with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=1), handover):
            cut = gate.catch(b"COMMIT", "cut", after=b"INSERT INTO deliveries")
            make_recorder(behind, redis_url, handover).dispatch(events())
            cut.wait(0)
            eventually(lambda: all_delivered(ledger))
        assert_sent_once_each(ledger, sink)
        behind.close()
        ledger.close()


def test_two_workers_of_a_sink_send_each_delivery_once(ledger: Ledger, redis_url: str) -> None:
    # Given two workers, each with a dispatcher and a deliverer
    handovers = [Handover(), Handover()]
    sinks = [BatchSink(accept), BatchSink(accept)]
    batch = events(60)
    with (
        waiting(make_deliverer(address(ledger), redis_url, sinks[0], handovers[0], "w0"), handovers[0]),
        waiting(make_deliverer(address(ledger), redis_url, sinks[1], handovers[1], "w1"), handovers[1]),
    ):
        # When both dispatch at once, as what one has taken may come to the other again
        ledgers = [Ledger(address(ledger)) for _ in handovers]
        recorders = [make_recorder(one, redis_url, each) for one, each in zip(ledgers, handovers, strict=True)]

        def dispatch(recorder: EventRecorder) -> None:
            for each in batch:
                recorder.dispatch([each])

        threads = [threading.Thread(target=dispatch, args=[each]) for each in recorders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: all_delivered(ledger, 60))
    sinks[0].seen += sinks[1].seen
    assert_sent_once_each(ledger, sinks[0], 60)
    for it in (*handovers, *ledgers):
        it.close()


def test_a_sink_whose_slots_are_counted_over_all_workers_offers_nothing(
    ledger: Ledger, redis_url: str, handover: Handover
) -> None:
    with waiting(make_deliverer(address(ledger), redis_url, ScriptedSink(accept), handover, idle_wait=0.1)):
        assert not offered(handover, 0.5)


def test_an_offer_is_withdrawn_when_redis_goes_away(ledger: Ledger, handover: Handover) -> None:
    deliverer = make_deliverer(address(ledger), "redis://127.0.0.1:1", BatchSink(accept), handover)
    with pytest.raises(redis.ConnectionError):
        deliverer.run(lambda: False)
    assert not offered(handover)
    deliverer.close()
