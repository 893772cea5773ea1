"""Slots, and what is queued behind them. The threads are real; only the moment is chosen."""

import copy
import json
import pickle
import threading
import time
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime

import pytest

from handlers import Delivery, Receipt, Refused, Sink, SinkOptions
from handlers.testing.conformance import NoServices
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import SendTask, to_delivery
from receiver.delivery.sender import SenderPool
from receiver.ledger.deliveries.claimed import Claimed
from receiver.runtime.process import Bell
from tests.support.button import press
from tests.support.events import count_parses
from tests.support.waiting import PATIENCE, eventually


class Counting(Sink[SinkOptions]):
    Options = SinkOptions

    def __init__(self) -> None:
        super().__init__("counting", SinkOptions(timeout=5), NoServices())
        self.sent: list[str] = []
        self._counting = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        with self._counting:
            self.sent.append(delivery.key)
        return Receipt(delivery.key)


def task(name: str) -> SendTask:
    claimed = Claimed(
        name, f"evt_{name}", "counting", "counting", "all", 1, 0, False, "skyvern", "tsk_1", "completed", "webhook", "",
        time.time(), {}, (), body=b'{"task_id": "tsk_1", "status": "completed"}', prefetched=True,
    )  # fmt: skip
    return SendTask(1, [claimed], {})


class JustThen:
    """The lock under which a slot passes on. Queues `late` as soon as a send has left its slot empty, and goes on when
    that has been sent."""

    def __init__(self, late: SendTask) -> None:
        self._lock = threading.Lock()
        self._late = late
        self.senders: SenderPool | None = None

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self.senders is not None and threading.current_thread() is not threading.main_thread():
            senders, self.senders = self.senders, None
            senders.enqueue(self._late)
            eventually(lambda: self._late.ended, every=0.001)


def test_what_is_queued_just_when_a_slot_becomes_empty_is_sent_once_and_collected() -> None:
    sink = Counting()
    senders = SenderPool(sink, slots=2, limit=5.0)
    senders._handover = handover = JustThen(task("second"))  # type: ignore[assignment]
    handover.senders = senders

    senders.start(task("first"))
    found: list[SendTask] = []
    eventually(lambda: found.extend(senders.collect(1.0)) or not senders)
    senders.close()

    for thread in threading.enumerate():
        if "send-counting-" in thread.name:
            thread.join(120)

    assert [each.claimed[0].id for each in found] == ["first", "second"]
    assert sorted(sink.sent) == ["first", "second"]


def test_a_slot_whose_send_was_collected_is_no_more_free_for_what_is_queued() -> None:
    """It belongs to the next claim: a queued task that took it too would be one send more than there are slots."""
    senders = SenderPool(Counting(), slots=1, limit=5.0)
    senders.start(task("first"))
    found: list[SendTask] = []
    eventually(lambda: found.extend(senders.collect(1.0)) or not senders)

    senders.enqueue(task("second"))

    assert [each.claimed[0].id for each in found] == ["first"]
    assert found[0].next_task is None
    assert senders.queued == 1
    senders.close()


@pytest.mark.parametrize(
    ("spent", "attempts", "last"),
    [(0, 3, False), (1, 3, False), (2, 3, True), (5, 3, True), (0, 1, True)],
)
@pytest.mark.parametrize(("since", "over"), [(None, False), (50, False), (70, True)])
def test_a_sink_is_told_which_attempt_is_the_last(
    spent: int, attempts: int, last: bool, since: float | None, over: bool
) -> None:
    tried_at = None if since is None else time.time() - since
    claimed = replace(task("first").claimed[0], spent=spent, tried_at=tried_at)
    policy = RetryPolicy(attempts=attempts, give_up_after=60)

    assert to_delivery(claimed, {}, policy).last_attempt == (last or over)
    assert not to_delivery(claimed, {}).last_attempt


@pytest.mark.parametrize(("events", "others"), [(1, False), (2, True)])
def test_a_sink_is_told_whether_the_run_has_other_events(events: int, others: bool) -> None:
    claimed = replace(task("first").claimed[0], run_events=events)

    assert to_delivery(claimed, {}).other_events == others


def test_a_sink_is_given_what_was_claimed() -> None:
    body = b'{"run_id": "wr_1", "run_type": "new", "status": "failed"}'
    claimed = Claimed(
        *("dlv_1", "evt_1", "counting", "lane", "route", 7, 2, False, "source", "wr_1", "completed", "webhook", "of"),
        *(1.5, {"team": "a"}, ("archive",)),
        body=body,
        completion='{"summary": "s"}',
        run_events=2,
    )
    receipts = {"archive": {"id": "1"}}

    delivery = to_delivery(claimed, receipts, RetryPolicy(attempts=3))

    given = {field.name: getattr(delivery, field.name) for field in fields(Delivery)}
    assert given == {
        "key": "dlv_1",
        "event_id": "evt_1",
        "sink": "counting",
        "attempt": 7,
        "source": "source",
        "run_id": "wr_1",
        "run_type": "new",
        "status": "completed",
        "body": body,
        "payload": body,
        "received_at": datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC),
        "run": given["run"] | {"run_id": "wr_1", "run_type": "new", "status": "failed", "summary": "s"},
        "via": "webhook",
        "route": "route",
        "problem": "",
        "labels": {"team": "a"},
        "receipts": receipts,
        "test": False,
        "other_events": True,
        "last_attempt": True,
    }
    assert isinstance(delivery, Delivery)
    with pytest.raises(FrozenInstanceError):
        delivery.key = "other"  # type: ignore[misc]
    assert copy.copy(delivery) == replace(delivery) == pickle.loads(pickle.dumps(delivery)) == delivery


@pytest.mark.parametrize("kind", ["task", "workflow"])
def test_a_sink_is_told_that_a_test_webhook_is_one(kind: str) -> None:
    claimed = task("first").claimed[0]

    assert to_delivery(replace(claimed, body=press(kind)), {}).test
    assert not to_delivery(claimed, {}).test


def test_what_is_wrong_with_a_body_is_told_who_reads_it() -> None:
    unreadable = to_delivery(replace(task("first").claimed[0], body=b"no JSON"), {})

    assert "JSON" in unreadable.problem
    assert (unreadable.run, unreadable.run_type) == ({}, "")


def test_no_sink_sees_our_callback_url_but_the_one_that_puts_the_callers_in_its_place() -> None:
    token = "sub_0123456789abcdef0123456789abcdef"
    ours = f"https://hooks.example/webhooks/skyvern/{token}"
    run = {"run_id": "wr_1", "status": "failed", "webhook_callback_url": ours, "run_request": {"webhook_url": ours}}
    claimed = replace(task("first").claimed[0], body=json.dumps(run).encode())

    seen = to_delivery(claimed, {})
    assert json.loads(seen.body) == seen.run
    assert (seen.run["webhook_callback_url"], seen.run["run_request"]) == (None, {"webhook_url": None})
    assert to_delivery(replace(claimed, sink="callback"), {}).body == claimed.body


def test_a_delivery_of_a_batch_is_parsed_when_its_sink_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many(Counting):
        batch_size = 8

        def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
            assert (len(deliveries), len(parsed)) == (3, 0)
            assert [(each.key, len(parsed)) for each in deliveries] == [("a", 1), ("b", 2), ("c", 3)]
            assert (deliveries[0].key, deliveries[-1].key) == ("a", "c")
            assert [each.key for each in deliveries[1:]] == ["b", "c"]
            with pytest.raises(IndexError):
                deliveries[3]
            return super().send_many(deliveries)

    parsed = count_parses(monkeypatch)
    senders = SenderPool(Many(), 2, 5.0)
    senders.start(SendTask(1, [task(name).claimed[0] for name in "abc"], {}))
    (ended,) = senders.collect(60)
    assert ended.answers == [Receipt("a"), Receipt("b"), Receipt("c")]
    senders.close()


def test_each_of_a_batch_that_no_claim_of_this_worker_has_started_is_noted_before_it_is_sent() -> None:
    class Many(Counting):
        batch_size = 8

    started: list[str] = []
    sink = Many()
    senders = SenderPool(sink, 2, 5.0, started.extend)
    one, other = task("a").claimed[0], task("b").claimed[0]
    senders.start(SendTask(1, [one, other, replace(other, id="c", prefetched=False)], {}))
    (ended,) = senders.collect(60)
    assert ended.accepted
    assert (started, sorted(sink.sent)) == (["a", "b"], ["a", "b", "c"])
    senders.close()


def test_who_waits_for_other_things_than_ends_is_woken_by_trouble_and_not_by_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Refusing(Counting):
        def send(self, delivery: Delivery) -> Receipt:
            if delivery.key == "refused":
                raise Refused("no")
            return super().send(delivery)

    rings: list[None] = []
    ring = Bell.ring
    senders = SenderPool(Refusing(), 4, 600.0)
    accepted, refused, other = task("accepted"), task("refused"), Bell()
    waits = threading.Thread(target=lambda: senders.wait(PATIENCE, [other.fileno()], for_all=False))
    # Given one that waits for something else
    waits.start()
    eventually(lambda: senders._waits)
    monkeypatch.setattr(Bell, "ring", lambda self: (rings.append(None), ring(self)))
    # When a send is accepted, and that comes
    senders.start(accepted)
    eventually(lambda: accepted.ended and accepted in senders._ended)
    eventually(lambda: not senders._handover.locked())
    assert (rings, waits.is_alive()) == ([], True)
    ring(other)
    waits.join(PATIENCE)
    # Then it was woken by that alone, and finds what has ended
    assert senders.ended() == [accepted]
    # And a send that is refused wakes it
    other.clear()
    waits = threading.Thread(target=lambda: senders.wait(PATIENCE, [other.fileno()], for_all=False))
    waits.start()
    senders.start(refused)
    waits.join(PATIENCE)
    assert not waits.is_alive()
    assert senders.ended() == [refused]
    senders.close()
