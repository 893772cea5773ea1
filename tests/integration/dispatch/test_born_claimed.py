"""New deliveries that a runner of the dispatcher's process gets from memory: what they are, and which are queued."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis

from receiver.config.destinations import RetryPolicy
from receiver.delivery.runner import SinkRunner
from receiver.delivery.send_task import to_delivery
from receiver.domain.breaker import Lane
from receiver.domain.callback_url import mask_bytes
from receiver.domain.event import Event, event_id
from receiver.domain.submission import NewSubmission
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.submissions import lifecycle
from receiver.routing.route import RouteConfig, ToSink
from tests.servers.gate import Gate, Mode
from tests.servers.postgres import PostgresProcess
from tests.support.dispatching import dispatch
from tests.support.events import count_parses, press
from tests.support.ledger import claim, hand_back, with_tables
from tests.support.runners import (
    EVERYTHING,
    BatchSink,
    ScriptedSink,
    Taking,
    accept,
    all_delivered,
    assert_sent_once_each,
    end,
    events,
    make_recorder,
    rows,
)
from tests.support.waiting import eventually

SUBMITTED = "sub_" + 32 * "a"
BIG = RouteConfig(name="big", when="run.total > 5", to=["ops"])
POLICY = RetryPolicy()


def event(fields: Mapping[str, Any], via: str = "webhook", submission_id: str = "") -> Event:
    body = json.dumps({"run_id": "tsk_1", "status": "completed", "total": "many", **fields}).encode()
    return Event(event_id("skyvern", body), "skyvern", body, time.time(), via, submission_id)


def submit(ledger: Ledger, **fields: Any) -> None:
    new = NewSubmission(SUBMITTED, "skyvern", "k1", "tasks", "its hash", **fields)
    ledger.write(lambda connection: lifecycle.begin(connection, new, 1.0))


ODD = {"output": 'line 1\nline 2 "quoted" \N{SNOWMAN}', "password": "swordfish", "n": 2**70}
CALLED_BACK = {"webhook_callback_url": f"https://hooks.example/webhooks/skyvern/{SUBMITTED}"}
BATCHES: dict[str, list[Event]] = {
    "a new run": [event({})],
    "odd text, secrets and numbers": [event(ODD)],
    "a body that is not pretty": [event({"output": "\x00\ud800"})],
    "a poll": [event({}, "poll")],
    "two of one run, and another": [event({"status": "failed"}), event({}), event({"run_id": "tsk_2"})],
    "one of a submitted run": [event({}, submission_id=SUBMITTED)],
    "one with Runhook's callback URL": [event(CALLED_BACK, submission_id=SUBMITTED)],
    "a test": [Event("evt_1", "skyvern", press("task"), 1.0)],
    "a large one": [event({"output": "x" * 2_000_000})],
}


@pytest.mark.parametrize("name", BATCHES)
def test_what_a_runner_gets_is_what_the_ledger_has(ledger: Ledger, redis_url: str, name: str) -> None:
    # Given a submission, a rule that can't be evaluated and a name whose values are secret
    submit(ledger, labels={"team": "billing"}, request={"prompt": "Get the price", "url": "https://example.com/1"})
    ops, batch = Taking(), BATCHES[name]
    routes = [BIG, EVERYTHING, RouteConfig(name="tests", to=["ops"], test=True)]
    # When events are dispatched that a runner of the process has room for
    assert dispatch(make_recorder(ledger, redis_url, *routes, redact=["password"], ops=ops), batch) == []
    # Then it gets each delivery as a claim of the ledger would bring it, and its sink is given the same
    assert {row["state"] for row in rows(ledger)} == {"sending"}
    hand_back(ledger, ops.taken)
    found = claim(ledger, "ops", now=time.time() + 5)
    assert by_id(ops.taken) == by_id(found)
    assert len(found) == len(batch)
    given = {each.id: to_delivery(each, POLICY) for each in found}
    assert {each.id: to_delivery(each, POLICY) for each in ops.taken} == given
    assert "swordfish" not in str(ops.taken)


def by_id(claimed: list[Claimed]) -> dict[str, dict[str, Any]]:
    ignored = {"run": None, "start_by": 0}
    return {each.id: dataclasses.asdict(each) | ignored | {"body": mask_bytes(each.body)} for each in claimed}


def test_sinks_of_an_event_share_its_masked_run(
    ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an event whose body names Runhook's callback URL, for two sinks
    submit(ledger)
    ops, chat = Taking(), Taking()
    route = RouteConfig(name="all", to=["ops", "chat"])
    dispatch(make_recorder(ledger, redis_url, route, ops=ops, chat=chat), [event(CALLED_BACK, submission_id=SUBMITTED)])
    # When both are given their delivery, then no body is parsed again
    parsed = count_parses(monkeypatch)
    runs = [to_delivery(each, POLICY).run for each in (*ops.taken, *chat.taken)]
    assert parsed == []
    assert [run["webhook_callback_url"] for run in runs] == [None, None]


def test_a_runner_gets_no_more_than_it_has_room_for(ledger: Ledger, redis_url: str) -> None:
    # Given two runners of this process, of which one has little room, and a sink in another process
    ops, chat = Taking(places=3), Taking(places=100)
    route = RouteConfig(name="all", to=["ops", "chat", "elsewhere"])
    # When more is dispatched, then the first ones are its own, and it is told that there is more
    assert dispatch(make_recorder(ledger, redis_url, route, ops=ops, chat=chat), events(5)) == ["elsewhere"]
    assert [each.run_id for each in ops.taken] == ["tsk_0", "tsk_1", "tsk_2"]
    assert (len(chat.taken), ops.pokes, chat.pokes) == (5, 1, 0)
    assert len(rows(ledger, sink="ops", state=["queued"])) == 2
    assert len(rows(ledger, sink="elsewhere", state=["queued"])) == 5


@pytest.mark.parametrize("shut", ["paused", "open"])
def test_a_shut_sink_gets_nothing(ledger: Ledger, redis_url: str, shut: str) -> None:
    if shut == "paused":
        ledger.write(lambda connection: lanes.set_paused(connection, "ops", True, 1.0))
    else:
        gate = Lane("ops", "ops", breaker="open", failures=5, until=time.time() + 1000)
        ledger.write(lambda connection: lanes.put(connection, gate, 1.0))
    ops = Taking()
    dispatch(make_recorder(ledger, redis_url, ops=ops), events(2))
    assert ops.taken == []
    assert [(row["state"], row["attempts"]) for row in rows(ledger)] == [("queued", 0)] * 2


def test_what_waits_for_another_sink_is_not_handed_on(ledger: Ledger, redis_url: str) -> None:
    ops, archive = Taking(), Taking()
    route = RouteConfig(name="all", to=["archive", ToSink(sink="ops", after="archive")])
    dispatch(make_recorder(ledger, redis_url, route, ops=ops, archive=archive), events())
    assert (ops.taken, len(archive.taken), ops.pokes) == ([], 1, 0)
    assert {row["sink"]: row["state"] for row in rows(ledger)} == {"archive": "sending", "ops": "held"}


def test_what_was_recorded_before_is_not_handed_on_again(ledger: Ledger, redis_url: str) -> None:
    ops = Taking()
    recorder = make_recorder(ledger, redis_url, ops=ops)
    for _ in range(2):
        dispatch(recorder, events())
    assert len(ops.taken) == 1


def test_a_failed_transaction_hands_nothing_on(ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a transaction that is committed although its dispatcher hears that the ledger is gone
    write, ops = Ledger.write, Taking()

    def written(self: Ledger, work: Callable[..., Any]) -> Any:
        write(self, work)
        raise LedgerUnavailable("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", written)
        with pytest.raises(LedgerUnavailable):
            dispatch(make_recorder(ledger, redis_url, ops=ops), events())
    # Then nobody has the claim, which lapses, and spends nothing
    assert ops.taken == []
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, ledger.now() + 16)) == 1
    assert [(row["state"], row["spent"]) for row in rows(ledger)] == [("queued", 0)]


@pytest.mark.parametrize("reached", [True, False], ids=["after the commit", "before it"])
def test_deliveries_are_handed_on_once_after_a_lost_commit(
    postgres: PostgresProcess, redis_url: str, reached: bool
) -> None:
    how: Mode = "cut" if reached else "before"
    with Gate(postgres.port) as gate:
        path = postgres.create_database()
        ledger = with_tables(Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/{path}"))
        behind = Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{path}")
        ops = Taking()
        # Given a dispatcher whose request with COMMIT is lost, or the reply to it
        cut = gate.catch(b"COMMIT\0", how, after=b"INSERT INTO deliveries")
        thread = threading.Thread(target=lambda: dispatch(make_recorder(behind, redis_url, ops=ops), events()))
        thread.start()
        cut.wait()
        gate.forget()
        thread.join()
        # Then its runner gets them, as they are claimed in the ledger
        assert [each.id for each in ops.taken] == [row["id"] for row in rows(ledger)]
        assert [(row["state"], row["attempts"]) for row in rows(ledger)] == [("sending", 1)]
        behind.close()
        ledger.close()


@pytest.fixture
def run(ledger: Ledger, redis_url: str) -> Iterator[Callable[..., SinkRunner]]:
    made: list[SinkRunner] = []
    client = redis.Redis.from_url(redis_url, socket_timeout=10)

    def start(sink: Any, concurrency: int = 8, **retry: Any) -> SinkRunner:
        made.append(SinkRunner(ledger, sink, RetryPolicy(**retry), concurrency, client, "w"))
        made[-1].start()
        eventually(lambda: made[-1].idle)
        return made[-1]

    yield start
    for each in made:
        end(each)
    client.close()


@pytest.mark.parametrize("kind", [ScriptedSink, BatchSink])
def test_new_deliveries_are_sent_without_a_claim(
    ledger: Ledger,
    redis_url: str,
    run: Callable[..., SinkRunner],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[ScriptedSink],
) -> None:
    # Given a runner with nothing to do
    sink = kind(accept)
    it = run(sink)
    monkeypatch.setattr(claims, "claim", None)
    recorder = make_recorder(ledger, redis_url, ops=it)
    # When events come one by one, and several at once, then they are delivered
    for count in (1, 2, 7):
        dispatch(recorder, events(count))
        eventually(lambda n=count: all_delivered(ledger, n))  # type: ignore[misc]
        eventually(lambda: it.idle)
    assert_sent_once_each(ledger, sink, 7)


def test_slow_sink_leaves_the_rest_in_the_ledger(
    ledger: Ledger, redis_url: str, run: Callable[..., SinkRunner]
) -> None:
    # Given a runner whose sends hang
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(60), accept(delivery))[1], timeout=120)
    it = run(sink, concurrency=4)
    recorder = make_recorder(ledger, redis_url, ops=it)
    # When more comes, then it holds as much as it sends
    dispatch(recorder, events(20))
    dispatch(recorder, events(30))
    assert sum(row["state"] == "sending" for row in rows(ledger)) == 4
    assert len(it.held()) == 4
    assert it.room() == 0
    # And the oldest goes first when there is room
    release.set()
    eventually(lambda: all_delivered(ledger, 30))
    assert_sent_once_each(ledger, sink, 30)


def test_new_deliveries_do_not_pass_a_backlog(ledger: Ledger, redis_url: str, run: Callable[..., SinkRunner]) -> None:
    # Given a runner that knows of a backlog
    dispatch(make_recorder(ledger, redis_url), events(20))
    release = threading.Event()
    sink = ScriptedSink(lambda delivery: (release.wait(60), accept(delivery))[1], timeout=120)
    it = SinkRunner(ledger, sink, POLICY, 4, redis.Redis.from_url(redis_url), "w")
    it.start()
    eventually(lambda: len(it.held()) == 4)
    # When a new event comes, then it is queued behind that
    dispatch(make_recorder(ledger, redis_url, ops=it), events(21)[20:])
    assert rows(ledger, run_id="tsk_20")[0]["state"] == "queued"
    release.set()
    eventually(lambda: all_delivered(ledger, 21))
    assert sink.seen[-1].run_id == "tsk_20"
    end(it)
