"""What is handed on whole is what the ledger has, and is sent without asking it; what might not be, is asked for."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from handlers import Delivery, Receipt, SinkOptions, Unavailable
from receiver.config.destinations import RouteConfig
from receiver.delivery import offer
from receiver.delivery.offer import FRESH, ROOM
from receiver.delivery.sender import SenderPool
from receiver.domain import breaker
from receiver.domain.event import Event, event_id
from receiver.domain.run import parse
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger import events as recording
from receiver.ledger.deliveries import lanes, recovery
from receiver.ledger.deliveries.claimed import load_handed_on
from receiver.ledger.deliveries.packed_claims import unpack
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.records import NewSubmission
from receiver.runtime.handover import LARGEST, HandedOn, Handover, Offer
from tests.servers.gate import Gate, Mode
from tests.servers.postgres import PostgresProcess
from tests.support.button import press
from tests.support.handing_on import (
    EVERYTHING,
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
from tests.support.scripted_sink import BatchSink, accept, rows
from tests.support.waiting import PATIENCE, eventually

SUBMITTED = "sub_" + 32 * "a"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, what is handed on arrives in time."""
    monkeypatch.setattr(offer, "FRESH", PATIENCE)


def event(fields: Mapping[str, Any], via: str = "webhook", submission_id: str = "") -> Event:
    body = json.dumps({"run_id": "tsk_1", "status": "completed", "total": "many", **fields}).encode()
    return Event(event_id("skyvern", body), "skyvern", body, time.time(), via, submission_id)


def handed_on(
    ledger: Ledger, redis_url: str, handover: Handover, batch: Sequence[Event], *routes: RouteConfig, **options: Any
) -> HandedOn:
    """Dispatch a batch with an offer out, and return the answer to it."""
    handover.put(Offer("w", 7, ROOM))
    make_recorder(ledger, redis_url, handover, *routes, **options).dispatch(batch)
    answer = handover.receive()
    assert answer is not None
    return answer


def as_the_ledger_has_it(ledger: Ledger, answer: HandedOn) -> list[dict[str, Any]]:
    found = ledger.read(
        lambda connection: load_handed_on(connection, answer.owner, answer.claim_number, answer.ids, time.time())
    )
    assert found is not None
    found = [dataclasses.replace(each, event_seq=0) for each in found]  # no body is left to be loaded by it
    return sorted((dataclasses.asdict(each) for each in found), key=lambda each: str(each["id"]))


def assert_whole(ledger: Ledger, answer: HandedOn, count: int) -> list[dict[str, Any]]:
    """What was handed on is the very same that the ledger has."""
    whole = sorted((dataclasses.asdict(each) for each in unpack(answer.packed)), key=lambda each: str(each["id"]))
    assert len(whole) == count
    assert whole == as_the_ledger_has_it(ledger, answer)
    return whole


def submit(ledger: Ledger, **fields: Any) -> None:
    new = NewSubmission(SUBMITTED, "skyvern", "k1", "tasks", "its hash", **fields)
    ledger.write(lambda connection: lifecycle.begin(connection, new, 1.0))


BIG = RouteConfig(name="big", when="run.total > 5", to=["ops"])
ODD = {"output": 'line 1\nline 2 "quoted" \N{SNOWMAN}', "password": "swordfish", "n": 2**70}
BATCHES: dict[str, list[Event]] = {
    "a new run": [event({})],
    "odd text, secrets and numbers": [event(ODD)],
    "a body that is not pretty": [event({"output": "\x00\ud800"})],
    "a poll": [event({}, "poll")],
    "two of one run, and another": [event({"status": "failed"}), event({}), event({"run_id": "tsk_2"})],
    "one of a submitted run": [event({}, submission_id=SUBMITTED)],
}


FAILED = RouteConfig(name="failed", when={"status": "failed"}, to=["failures"])
COMPLETED = RouteConfig(name="completed", when={"status": "completed"}, to=["ops"])


@pytest.mark.parametrize("known_one", ["completed", "failed"])
def test_sink_without_offer_is_woken_beside_one_that_is_handed_on(
    postgres_ledger: Ledger, redis_url: str, handover: Handover, known_one: str
) -> None:
    # Given a run that is known, and an offer
    recorder = make_recorder(postgres_ledger, redis_url, handover, FAILED, COMPLETED)
    recorder.dispatch([event({"run_id": "tsk_0"})])
    handover.put(Offer("w", 7, ROOM))
    # When there is news of that run beside new ones
    new = [event({"run_id": f"tsk_{number}"}) for number in (1, 2, 3)]
    woken = recorder.dispatch([*new, event({"run_id": "tsk_0", "status": known_one, "output": 2})])
    # Then all deliveries to the sink that made the offer are handed on, and the other sink is woken
    answer = handover.receive()
    assert answer is not None
    assert len(answer.ids) == (4 if known_one == "completed" else 3)
    assert woken == ([] if known_one == "completed" else ["failures"])


@pytest.mark.parametrize("name", BATCHES)
def test_what_is_handed_on_whole_is_what_the_ledger_has(
    ledger: Ledger, redis_url: str, handover: Handover, name: str
) -> None:
    # Given a submission, a rule that can't be evaluated and a name whose values are secret
    submit(ledger, labels={"team": "billing"}, request={"prompt": "Get the price", "url": "https://example.com/1"})
    # When a dispatcher takes an offer for these
    batch = BATCHES[name]
    answer = handed_on(ledger, redis_url, handover, batch, BIG, EVERYTHING, redact=["password"])
    # Then all is handed on, as the ledger has it
    whole = assert_whole(ledger, answer, len(batch))
    assert b"swordfish" not in answer.packed
    assert [each["problem"].startswith("route big ") for each in whole] == [True] * len(batch)
    if batch[0].submission_id:
        assert whole[0]["labels"] == {"team": "billing"}
        assert json.loads(whole[0]["completion"])


def test_a_further_event_of_a_run_says_that_there_are_others(
    ledger: Ledger, redis_url: str, handover: Handover
) -> None:
    # Given a run that was submitted, and has an event
    submit(ledger, labels={"team": "billing"})
    handed_on(ledger, redis_url, handover, [event({"status": "failed"}, submission_id=SUBMITTED)])
    # When another one is handed on, which does not name the submission
    answer = handed_on(ledger, redis_url, handover, [event({})])
    # Then it is as the ledger has it
    (whole,) = assert_whole(ledger, answer, 1)
    assert (whole["run_events"], whole["labels"]) == (2, {"team": "billing"})


def large(run_id: str, size: int) -> Event:
    return event({"run_id": run_id, "output": "x" * size})


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("one that is too large", [large("tsk_1", LARGEST)]),
        ("many that are too large together", [large(f"tsk_{n}", LARGEST // 8) for n in range(8)]),
        ("a test, whose run is not looked at", [Event("evt_1", "skyvern", press("task"), 1.0)]),
    ],
)
def test_what_is_large_or_not_known_is_left_to_the_ledger(
    ledger: Ledger, redis_url: str, handover: Handover, name: str, batch: list[Event]
) -> None:
    route = RouteConfig(name="all", to=["ops"], test=True)
    answer = handed_on(ledger, redis_url, handover, batch, route)
    assert (answer.packed, len(answer.ids)) == (b"", len(batch))
    assert len(as_the_ledger_has_it(ledger, answer)) == len(batch)


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with each question to the ledger about what was handed on."""
    asked: list[int] = []

    def counting(*arguments: Any) -> Any:
        asked.append(1)
        return load_handed_on(*arguments)

    monkeypatch.setattr(offer, "load_handed_on", counting)
    return asked


@pytest.mark.usefixtures("patient")
def test_between_commit_and_send_the_ledger_is_not_asked(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = count_questions(monkeypatch)
    # Given a deliverer that waits
    sink = BatchSink(accept)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=3), handover):
        # When small events come, one, then several, then more than a message holds, and at last a large one
        make_recorder(ledger, redis_url, handover).dispatch(events(1))
        eventually(lambda: all_delivered(ledger) and offered(handover))
        make_recorder(ledger, redis_url, handover).dispatch(events(5))
        eventually(lambda: all_delivered(ledger, 5) and offered(handover))
        claimed = count_claims(monkeypatch)
        batch = [large(f"tsk_{number}", 4000) for number in range(5, 5 + sink.batch_size)]
        make_recorder(ledger, redis_url, handover).dispatch(batch)
        eventually(lambda: all_delivered(ledger, 5 + len(batch)) and offered(handover))
        assert (asked, claimed) == ([], [])
        make_recorder(ledger, redis_url, handover).dispatch([large("tsk_last", LARGEST)])
        # Then only this one is asked for
        eventually(lambda: all_delivered(ledger, 6 + len(batch)))
        assert asked == [1]
    assert_sent_once_each(ledger, sink, 6 + len(batch))
    # And a sink is given each as if it had been claimed
    assert sorted((each.run_id, each.attempt, each.route, each.via) for each in sink.seen) == sorted(
        (run_id, 1, "everything", "webhook") for run_id in ("tsk_last", *(f"tsk_{n}" for n in range(5 + len(batch))))
    )
    assert all(each.run == parse(each.body).data for each in sink.seen)


@pytest.mark.usefixtures("patient")
def test_a_pause_that_is_committed_while_the_dispatch_is_under_way_is_kept(
    postgres_ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer that waits, and whose sink is paused when a dispatcher has decided and recorded nothing
    ledger, sink = postgres_ledger, BatchSink(accept)
    operator, record = Ledger(address(ledger)), recording.record

    def pausing(*arguments: Any, **named: Any) -> Any:
        operator.write(lambda connection: lanes.set_paused(connection, "ops", True, operator.now()))
        return record(*arguments, **named)

    monkeypatch.setattr(recording, "record", pausing)
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=1), handover):
        make_recorder(ledger, redis_url, handover).dispatch(events())
        # Then nothing is sent
        eventually(lambda: [(row["state"], row["attempts"]) for row in rows(ledger)] == [("queued", 0)])
    assert sink.seen == []
    operator.close()


@pytest.mark.parametrize("reached", [True, False])
def test_a_commit_that_may_not_be_hands_on_ids_alone(
    postgres: PostgresProcess, redis_url: str, handover: Handover, reached: bool
) -> None:
    how: Mode = "cut" if reached else "before"
    with Gate(postgres.port) as gate:
        path = postgres.create_database()
        ledger = with_tables(Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/{path}"))
        behind = Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{path}")
        # Given an offer, and a dispatcher whose request with COMMIT is lost, or the reply to it
        handover.put(Offer("w", 7, ROOM))
        cut = gate.catch(b"COMMIT", how, after=b"INSERT INTO deliveries")
        thread = threading.Thread(target=lambda: make_recorder(behind, redis_url, handover).dispatch(events()))
        thread.start()
        cut.wait()
        gate.forget()
        thread.join()
        # Then only what a later try has made for certain is handed on whole
        answer = handover.receive()
        assert answer is not None
        assert bool(answer.packed) is not reached
        (found,) = as_the_ledger_has_it(ledger, answer)
        assert (found["id"],) == answer.ids
        if answer.packed:
            assert_whole(ledger, answer, 1)
        behind.close()
        ledger.close()


def test_a_commit_that_fails_hands_on_ids_alone(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a transaction that ends in trouble once all of it is done, as when the reply to its COMMIT is not to be had
    write = Ledger.write

    def written(self: Ledger, work: Callable[..., Any]) -> Any:
        write(self, work)
        raise LedgerUnavailable("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", written)
        handover.put(Offer("w", 7, ROOM))
        with pytest.raises(LedgerUnavailable):
            make_recorder(ledger, redis_url, handover).dispatch(events())
    # Then the deliverer is told ids, which it asks for
    answer = handover.receive()
    assert answer is not None
    assert (answer.packed, len(answer.ids)) == (b"", 1)


class StoppedOnce(Handover):
    """A deliverer's end whose process is stopped when it has received something, and goes on when `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[HandedOn] = []
        self.go_on = threading.Event()

    def receive(self) -> HandedOn | None:
        answer = super().receive()
        if answer is not None and not self.go_on.is_set():
            self.received.append(answer)
            assert self.go_on.wait(PATIENCE)
        return answer


def test_what_is_handed_on_to_a_deliverer_that_is_stopped_meanwhile_is_not_sent_when_its_claim_has_lapsed(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer that is stopped just when it has been handed something, however long that took
    monkeypatch.setattr(offer, "_ANSWER_WITHIN", PATIENCE)
    sink, handover = BatchSink(accept), StoppedOnce()
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)):
        make_recorder(ledger, redis_url, OfferTaken(handover)).dispatch(events())
        (answer,) = eventually(lambda: handover.received)
        assert answer.packed
        # When the clock lets its claim lapse, and it goes on
        ledger.write(lambda connection: recovery.lapse_claims(connection, ledger.now() + 100))
        eventually(lambda: time.monotonic() > answer.since + FRESH)
        handover.go_on.set()
        # Then it sends nothing under the claim that it had, but claims again
        ledger.write(lambda connection: connection.execute(sa.text("UPDATE deliveries SET due_at = 0")))
        eventually(lambda: all_delivered(ledger))
    assert [each.attempt for each in sink.seen] == [2]
    handover.close()


def test_a_deliverer_that_is_killed_before_it_sends_what_was_handed_on_loses_and_spends_nothing(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a deliverer that dies between the answer and the send
    died = threading.Event()
    sink = BatchSink(accept)

    def job() -> None:
        deliverer = make_deliverer(address(ledger), redis_url, sink, handover, "killed", idle_wait=3)
        try:
            while True:
                deliverer.run(lambda: False)
        except Killed:
            died.set()
            deliverer.close()

    with monkeypatch.context() as patch:
        patch.setattr(SenderPool, "start", kill)
        thread = threading.Thread(target=job)
        thread.start()
        eventually(lambda: offered(handover))
        make_recorder(ledger, redis_url, handover).dispatch(events())
        thread.join()
    assert died.is_set()
    assert [row["state"] for row in rows(ledger)] == ["sending"]
    # When its claims are released, as its supervisor does, who knows that it had not started it
    ledger.write(lambda connection: recovery.release_claims(connection, "killed", ledger.now(), ()))
    # Then the next one sends it, as its first attempt
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)):
        eventually(lambda: all_delivered(ledger))
    assert_sent_once_each(ledger, sink)


class SlowRefusal(BatchSink):
    """Is unavailable for the first of `events`, once `go_on` is set."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.options = SinkOptions(timeout=PATIENCE)
        self.go_on = threading.Event()

    def _answer(self, delivery: Delivery) -> Receipt:
        if delivery.run_id == "tsk_0":
            assert self.go_on.wait(PATIENCE)
            raise Unavailable("gone")
        return accept(delivery)


@pytest.mark.usefixtures("patient")
def test_what_was_handed_on_before_the_breaker_opened_is_not_sent_after_it(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "THRESHOLD", 1)
    monkeypatch.setattr(breaker, "LONGEST", 600.0)
    monkeypatch.setattr(breaker, "FIRST", 600.0)
    sink = SlowRefusal()
    first, second = events(2)

    def breaker_opens() -> None:
        sink.go_on.set()
        eventually(lambda: ledger.read(lanes.any_shut))

    # Given a deliverer that is sending something and has an offer out
    with waiting(make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=1), handover):
        make_recorder(ledger, redis_url, handover).dispatch([first])
        eventually(lambda: sink.seen and offered(handover))
        # When a dispatcher finds the lane open and commits, and what is being sent opens the breaker before it answers
        make_recorder(ledger, redis_url, OfferTaken(handover, breaker_opens)).dispatch([second])
        # Then that is not sent
        eventually(lambda: [row["state"] for row in rows(ledger, run_id="tsk_1")] == ["queued"])
    assert [each.run_id for each in sink.seen] == ["tsk_0"]


@pytest.mark.usefixtures("patient")
def test_what_is_handed_on_too_late_is_not_sent_again(
    ledger: Ledger, redis_url: str, handover: Handover, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a dispatcher that is stopped when it has committed, until its deliverer waits for the answer no more
    monkeypatch.setattr(offer, "_ANSWER_WITHIN", PATIENCE)
    sink = BatchSink(accept)
    first, second = events(2)
    deliverer = make_deliverer(address(ledger), redis_url, sink, handover, idle_wait=0.1)

    def not_awaited_any_more() -> None:
        eventually(lambda: deliverer._offers.taken)
        deliverer._offers._due = 0.0
        eventually(lambda: all_delivered(ledger))

    with waiting(deliverer):
        # When what it has made is queued again, and claimed and sent, before it answers
        make_recorder(ledger, redis_url, OfferTaken(handover, not_awaited_any_more)).dispatch([first])
        # Then it is not sent once more
        eventually(lambda: offered(handover))
        make_recorder(ledger, redis_url, None).dispatch([second])
        eventually(lambda: all_delivered(ledger, 2))
    assert_sent_once_each(ledger, sink, 2)
