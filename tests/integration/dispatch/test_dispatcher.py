"""From the inbox to the ledger, with a real Valkey and both databases."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import redis
import sqlalchemy as sa

from receiver.dispatch.dispatcher import CHUNK_BYTES, Dispatcher
from receiver.domain.event import Event, event_id
from receiver.domain.frame import FORGED, FRAME, MACS, NO_EVENT, UNKNOWN_SOURCE, EntryKeys, head_of, read_frame
from receiver.domain.liveness import DISPATCH, ProcessBeat, deliver
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.inbox import ASIDE, GROUP, STREAM
from receiver.inbox.reader import InboxReader
from receiver.ledger import Ledger, LedgerDataError, heartbeats, retention, runs
from receiver.ledger.access import audit, redis_losses
from receiver.ledger.deliveries import claims
from receiver.ledger.migrate import ensure_schema
from receiver.ledger.recording import write
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from receiver.telemetry import workers
from receiver.wakeups import flag_key
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support import queries
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.events import RUN_IDS, body, count_parses, event, press
from tests.support.inbox import append, taken_again
from tests.support.ledger import event_body, with_tables

ROUTES = [
    RouteConfig(name="everything", to=["results", "archive"]),
    RouteConfig(name="failures", when={"status": ["failed", "timed_out"]}, to=["ops"]),
    RouteConfig(name="big", when="run.output.total > 1000.0", to=["billing"]),
]
KEYS = EntryKeys({"skyvern": ["secret"]})
WITH_TESTS = [*ROUTES, RouteConfig(name="tests", when={"run_type": "task_v1"}, to=["ops"], test=True)]


Make = Callable[..., Dispatcher]


@pytest.fixture
def make(ledger: Ledger, redis_url: str) -> Iterator[Make]:
    """Makes dispatchers, and closes them at the end."""
    with contextlib.ExitStack() as stack:

        def begin(
            routes: Sequence[RouteConfig] = ROUTES,
            redactor: Redactor | None = None,
            name: str = "d1",
            keys: EntryKeys | None = None,
            on: Ledger = ledger,
            **options: Any,
        ) -> Dispatcher:
            connection = redis.Redis.from_url(redis_url, socket_timeout=10)
            reader = InboxReader(connection, name, keys)
            return stack.enter_context(
                contextlib.closing(
                    make_dispatcher(on, Router(routes), redactor or Redactor([]), reader, connection, **options)
                )
            )

        yield begin


@pytest.fixture
def dispatcher(make: Make) -> Dispatcher:
    return make(redactor=Redactor(["**.secret"]))


@pytest.fixture
def guarded(make: Make) -> Dispatcher:
    """A dispatcher that checks signatures."""
    return make(keys=KEYS)


def deliveries(ledger: Ledger) -> dict[str, list[str]]:
    found = ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter()))
    by_run: dict[str, list[str]] = {}
    for row in found:
        by_run.setdefault(row["run_id"], []).append(row["sink"])
    return {run: sorted(sinks) for run, sinks in by_run.items()}


def dispositions(ledger: Ledger) -> list[tuple[str, bool]]:
    found = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    return [(row["disposition"], row["unrouted"]) for row in reversed(found)]


def once() -> Callable[[], bool]:
    """A stop that lets one round through."""
    rounds = iter([False])
    return lambda: next(rounds, True)


def test_unreadable_event_is_not_compared(dispatcher: Dispatcher, ledger: Ledger) -> None:
    # Given an event that names its run and can't be understood
    dispatch(dispatcher, [event(json.dumps({"run_id": "tsk_1"}).encode())])

    # When the run's result comes, and again with files signed anew
    files = [[{"filename": "a", "checksum": "c", "url": f"https://x/?sig={each}"}] for each in "12"]
    dispatch(dispatcher, [event(body("tsk_1", downloaded_files=each)) for each in files])

    assert dispositions(ledger) == [("unreadable", True), ("new", False), ("repeat", False)]


def test_same_body_again_is_counted_once_each(make: Make, ledger: Ledger) -> None:
    # Given a result and the press of a test button
    dispatcher = make(routes=WITH_TESTS)
    for first in (event(body("tsk_1")), event(press())):
        again = [dataclasses.replace(first, received_at=first.received_at + n) for n in (1, 2, 3)]
        dispatch(dispatcher, [first])

        # When each comes again: together, once more, read from the inbox twice, and as the answer to a poll
        dispatch(dispatcher, [first, *again[:2]])
        dispatch(dispatcher, again[:2])
        dispatch(dispatcher, [again[2]])
        dispatch(dispatcher, [dataclasses.replace(again[2], received_at=first.received_at + 4, via="poll")])

    # Then the three webhooks are counted, and nothing else is recorded
    rows = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    assert [(row["copies"], row["copied_at"] - row["received_at"]) for row in rows] == [(3, 3.0), (3, 3.0)]


def test_recorded_events_leave_the_inbox_and_wake_their_sinks(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str
) -> None:
    append(redis_url, event(body("tsk_1")), event(body("tsk_2", "failed", failure_reason="x")))

    dispatcher.run(once())

    assert deliveries(ledger) == {"tsk_1": ["archive", "results"], "tsk_2": ["archive", "ops", "results"]}
    client = redis.Redis.from_url(redis_url)
    assert client.xlen(STREAM) == 0
    assert {sink: client.exists(flag_key(deliver(sink))) for sink in ("results", "archive", "ops", "billing")} == {
        "results": 1,
        "archive": 1,
        "ops": 1,
        "billing": 0,
    }
    client.close()


def read_last(redis_url: str, at: float) -> None:
    """Make an empty inbox, from which an entry of that time was read."""
    with redis.Redis.from_url(redis_url) as client:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        client.xadd(STREAM, {"any": "entry"}, id=f"{int(at) * 1000}-0")
        client.xreadgroup(GROUP, "d0", {STREAM: ">"})
        client.xtrim(STREAM, maxlen=0)


@pytest.mark.parametrize(("age", "ahead"), [(10, 0), (10, 3600), (3600, 0)])
def test_older_copy_of_redis_is_recorded_as_a_loss(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str, age: int, ahead: int
) -> None:
    # Given a process that ran before the newest webhook, whose receiver's clock may be ahead, and a Redis that last had
    # one before that
    now = time.time()
    ledger.write(lambda it: heartbeats.put(it, ProcessBeat("d", DISPATCH, "host", 1, "1", "", now - 7200)))
    dispatch(dispatcher, [dataclasses.replace(event(body("tsk_1")), received_at=now + ahead)])
    read_last(redis_url, now - age)

    # When the dispatcher starts, and starts again
    dispatcher.run(once())
    dispatcher.run(once())

    # Then a loss is recorded once, but not for clocks that differ
    losses = ledger.read(lambda it: audit.list_actions(it, actions=[redis_losses.LOSS]))
    assert len(losses) == (age == 3600)


def test_slow_read_of_the_ledger_is_no_loss_of_redis(make: Make, ledger: Ledger, redis_url: str) -> None:
    # Given a process that ran before the newest webhook, and an inbox that was last read an hour ago
    now = time.time()
    ledger.write(lambda it: heartbeats.put(it, ProcessBeat("d", DISPATCH, "host", 1, "1", "", now - 7200)))
    read_last(redis_url, now - 3600)
    append(redis_url, event(body("tsk_1")))

    # When another dispatcher records an event while the first one waits for the ledger
    other = make(name="d2")

    class SlowLedger(Ledger):
        def read(self, *arguments: Any, **options: Any) -> Any:
            if not dispositions(ledger):
                other.run(once())
            return super().read(*arguments, **options)

    with contextlib.closing(SlowLedger(ledger.url.render_as_string(hide_password=False))) as slow:
        make(on=slow).run(once())

    # Then no loss is recorded
    assert dispositions(ledger) == [("new", False)]
    assert ledger.read(lambda it: audit.list_actions(it, actions=[redis_losses.LOSS])) == []


def test_body_is_parsed_once_from_inbox_to_ledger(
    dispatcher: Dispatcher, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [body("tsk_1"), body("tsk_2", output={"total": 5000, "secret": "s"}), b"not json"]
    append(redis_url, *map(event, contents))
    parsed = count_parses(monkeypatch)

    dispatcher.run(once())

    assert sorted(each for each in parsed if each in contents) == sorted(contents)


def test_events_are_due_though_the_reply_to_the_commit_was_lost(
    postgres: PostgresProcess, make: Make, redis_url: str
) -> None:
    # Given a connection to the ledger that breaks before the dispatcher hears that its events are recorded
    append(redis_url, event(body("tsk_1")))
    with Gate(postgres.port) as gate:
        ledger = with_tables(
            Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{postgres.create_database()}")
        )
        it = make(on=ledger)
        cut = gate.catch(b"COMMIT\0", "cut", after=b"INSERT INTO deliveries")
        # When it tries again
        it.run(once())
        cut.wait()
        # Then they are recorded once, and the sinks' processes are woken
        assert (
            redis.Redis.from_url(redis_url).exists(*(flag_key(deliver(each)) for each in ("results", "archive"))) == 2
        )
        assert deliveries(ledger) == {"tsk_1": ["archive", "results"]}
        look = ledger.read(lambda each: claims.due_sinks(each, ["results", "archive"], ledger.now()))
        assert sorted(look) == ["archive", "results"]
        it.close()


def test_batch_of_a_killed_dispatcher_is_recorded_once(dispatcher: Dispatcher, ledger: Ledger, redis_url: str) -> None:
    append(redis_url, event(body("tsk_1")), event(body("tsk_2")))
    client = redis.Redis.from_url(redis_url)
    reader = InboxReader(client, "killed")
    reader.ensure()
    taken = reader.read()
    dispatch(dispatcher, [entry.event for entry in taken if entry.event])  # committed, never acknowledged

    reclaimed = taken_again(client, "d2")
    dispatch(dispatcher, [entry.event for entry in reclaimed if entry.event])

    assert len(reclaimed) == 2
    assert deliveries(ledger) == {"tsk_1": ["archive", "results"], "tsk_2": ["archive", "results"]}
    client.close()


def test_only_new_results_are_routed(dispatcher: Dispatcher, ledger: Ledger) -> None:
    first = body("wr_1", modified_at="2026-01-01T00:00:02", output={"a": 1})
    again = body("wr_1", modified_at="2026-01-01T00:00:03", output={"a": 1})
    older = body("wr_1", "failed", modified_at="2026-01-01T00:00:01")
    interim = body("wr_2", "failed", retry_pending=True)

    dispatch(dispatcher, [event(first)])
    dispatch(dispatcher, [event(again), event(older), event(interim), event(b"not json")])

    assert dispositions(ledger) == [
        ("new", False),
        ("repeat", False),
        ("superseded", False),
        ("interim", True),
        ("unreadable", True),
    ]
    assert deliveries(ledger) == {"wr_1": ["archive", "results"]}


def test_output_that_comes_after_a_later_null_is_routed(dispatcher: Dispatcher, ledger: Ledger) -> None:
    null, said = body("wr_1", "canceled", modified_at="2026-01-01T00:00:03"), {"a": 1}
    output = body("wr_1", "canceled", modified_at="2026-01-01T00:00:02", output=said)
    dispatch(dispatcher, [event(null)])
    dispatch(dispatcher, [event(output)])
    assert dispositions(ledger) == [("new", False), ("new", False)]
    result = ledger.read(lambda connection: runs.result(connection, "skyvern", "wr_1"))
    assert result is not None
    assert result.body == output
    # And output of an older status is routed too, though the run's status stays
    dispatch(dispatcher, [event(body("wr_2", "canceled", modified_at="2026-01-01T00:00:03"))])
    dispatch(dispatcher, [event(body("wr_2", modified_at="2026-01-01T00:00:02", output=said))])
    assert dispositions(ledger)[2:] == [("new", False), ("new", False)]
    result = ledger.read(lambda connection: runs.result(connection, "skyvern", "wr_2"))
    assert result is not None
    assert result.status.status == "canceled"


def test_test_webhooks_go_only_to_routes_for_tests(
    ledger: Ledger, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a route that takes tests, and others that do not
    dispatcher = make(WITH_TESTS)
    caplog.set_level("INFO", "runhook.dispatch")

    # When the button is pressed ten times, and once for a workflow, some of them in one batch
    presses = [event(press("task", number)) for number in range(10)]
    sinks = dispatch(dispatcher, presses[:1])
    for batch in (presses[1:4], presses[4:], [event(press("workflow"))], presses[:1]):
        dispatch(dispatcher, batch)

    # Then the tenth is as the first, the workflow's goes nowhere, and one that comes again is none
    assert sinks == ["ops"]
    assert dispositions(ledger) == [("test", False)] * 11
    assert deliveries(ledger) == {RUN_IDS["task"]: ["ops"] * 10}
    lines = [line for line in caplog.messages if "test webhook arrived, signature right" in line]
    assert [line.endswith("sinks=ops") for line in lines] == [True] * 10 + [False]
    assert "`test: true`" in lines[-1]
    # And no run was made of them
    assert ledger.read(lambda connection: queries.list_runs(connection, queries.Filter())) == []


def test_test_webhook_is_not_a_result_of_a_real_run(dispatcher: Dispatcher, ledger: Ledger) -> None:
    # Given a press for a chosen run, that the run's result follows, and another press
    dispatch(dispatcher, [event(press("task", 1, run_id="tsk_1"))])
    dispatch(dispatcher, [event(body("tsk_1", "failed", failure_reason="x")), event(press("task", 2, run_id="tsk_1"))])

    # Then the result is new, routed, and what the run has
    assert [each for each, _ in dispositions(ledger)] == ["test", "new", "test"]
    assert deliveries(ledger) == {"tsk_1": ["archive", "ops", "results"]}
    (run,) = ledger.read(lambda connection: queries.list_runs(connection, queries.Filter()))
    assert (run["outcome"], run["events"], run["event_id"]) == (
        "failed",
        1,
        event(body("tsk_1", "failed", failure_reason="x")).id,
    )
    # And what says the same as it later is a repeat, whatever the tests said
    dispatch(dispatcher, [event(body("tsk_1", "failed", failure_reason="x", modified_at="2027-01-01T00:00:00"))])
    assert dispositions(ledger)[-1] == ("repeat", False)


def test_test_webhook_of_an_erased_run_keeps_no_body(ledger: Ledger, make: Make) -> None:
    # Given a route for tests, and a run that was erased
    dispatcher = make(WITH_TESTS[-1:])
    dispatch(dispatcher, [event(body("tsk_1", run_type="task_v2"))])
    ledger.write(lambda it: retention.erase(it, ("skyvern", "tsk_1"), "ada", ledger.now()))
    # When the button is pressed for it, and for another run
    dispatch(dispatcher, [event(press("task", 1, run_id="tsk_1")), event(press("task", 2, run_id="tsk_2"))])
    # Then only the other test is kept and sent
    rows = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    assert {(row["run_id"], row["disposition"], row["size"] > 0) for row in rows} == {
        ("tsk_1", "new", False),
        ("tsk_1", "test", False),
        ("tsk_2", "test", True),
    }
    assert deliveries(ledger) == {"tsk_2": ["ops"]}


def test_rule_that_cannot_be_evaluated_does_not_match(dispatcher: Dispatcher, ledger: Ledger) -> None:
    dispatch(dispatcher, [event(body("tsk_1", output={"total": "many"}))])

    (row,) = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    assert row["problem"].startswith("route big ")
    assert deliveries(ledger) == {"tsk_1": ["archive", "results"]}


@pytest.mark.parametrize(
    "bad",
    [
        b'{"run_id":"bad","status":"completed","output":"\\u0000"}',
        b'{"run_id":"bad\\u0000","status":"completed","failure_reason":"a\\u0000b"}',
        b'{"run_id":"bad","status":"completed","output":"\\ud800"}',
        b'{"run_id":"bad\\ud800","status":"completed"}',
        b'{"run_id":"bad","status":"completed","output":NaN}',
        b'{"run_id":"bad","status":"completed","output":1e400}',
        b'{"run_id":"bad","status":"completed","output":' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"run_id":"bad","status":"completed","output":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"run_id":"bad","status":"completed","output":' + b"7" * 5000 + b"}",
        b'{"run_id":"bad","status":"completed","attempt":99999999999999999999}',
        b'{"run_id":"bad","status":"completed","output":"\xff\xfe"}',
        b'{"run_id":"bad","status":{"a":[1]}}',
        b'{"run_id":12,"status":"completed"}',
        b'{"run_id":"' + b"x" * 100_000 + b'","status":"completed"}',
        b"[1,2,3]",
        b"null",
        b"",
        b"\x00",
    ],
    ids=lambda bad: bad[:60].decode(errors="replace"),
)
def test_one_bad_body_is_kept_and_stops_none_of_its_neighbours(
    dispatcher: Dispatcher, ledger: Ledger, bad: bytes
) -> None:
    dispatch(dispatcher, [event(body("before")), event(bad), event(body("after"))])

    kept = deliveries(ledger)
    assert kept["before"] == kept["after"] == ["archive", "results"]
    assert event_body(ledger, event(bad).id) == bad


def refuse(monkeypatch: pytest.MonkeyPatch, run_id: str, error: Exception) -> None:
    """Let the recording of a batch with that run fail: those values that are known to do so are cleaned before."""
    real = write.write

    def picky(*given: Any, **more: Any) -> Any:
        batch = next(each for each in given if isinstance(each, list))
        if any(item.run.run_id == run_id for item in batch):
            raise error
        return real(*given, **more)

    monkeypatch.setattr(write, "write", picky)


def test_refused_batch_is_halved_until_the_culprit_is_marked(
    dispatcher: Dispatcher, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "tsk_5", LedgerDataError("DataError"))
    dispatch(dispatcher, [event(body(f"tsk_{n}")) for n in range(8)])

    assert sorted(deliveries(ledger)) == [f"tsk_{n}" for n in range(8) if n != 5]
    marked = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    assert [(row["run_id"], row["problem"]) for row in marked if row["disposition"] == "unreadable"] == [
        ("", "the ledger refused a value of it: DataError")
    ]


def test_event_too_large_for_memory_is_recorded_unread(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [body("tsk_1"), body("tsk_large"), body("tsk_2")]
    refuse(monkeypatch, "tsk_large", MemoryError())
    append(redis_url, *map(event, contents))
    dispatcher.run(once())
    assert deliveries(ledger).keys() == {"tsk_1", "tsk_2"}
    assert sorted(dispositions(ledger)) == [("new", False), ("new", False), ("unreadable", True)]
    assert event_body(ledger, event(contents[1]).id) == contents[1]


def test_body_that_fails_to_parse_stops_no_neighbour(
    ledger: Ledger, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Redactor):
        def may_match(self, body: bytes) -> bool:
            if b"tsk_bad" in body:
                raise ZeroDivisionError("of a secret")
            return super().may_match(body)

    dispatcher = make(redactor=Broken([]))
    bad = event(body("tsk_bad"))

    dispatch(dispatcher, [event(body("tsk_1")), bad, event(body("tsk_2"))])

    assert sorted(deliveries(ledger)) == ["tsk_1", "tsk_2"]
    rows = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    assert [(row["id"], row["disposition"], row["problem"]) for row in rows if row["problem"]] == [
        (bad.id, "unreadable", "could not be read: ZeroDivisionError")
    ]
    assert event_body(ledger, bad.id) == bad.body
    assert f"dispatch.unreadable event={bad.id}" in caplog.messages


def test_what_is_redacted_never_reaches_the_ledger(dispatcher: Dispatcher, ledger: Ledger) -> None:
    content = body("tsk_1", output={"secret": "hunter2", "n": 1})

    dispatch(dispatcher, [event(content)])

    stored = event_body(ledger, event(content).id)
    assert stored is not None
    assert b"hunter2" not in stored
    assert json.loads(stored)["output"]["n"] == 1


def test_unavailable_ledger_leaves_the_batch_in_the_inbox(make: Make, redis_url: str, tmp_path: Any) -> None:
    gone = Ledger(f"sqlite:///{tmp_path}/there/ledger.db")  # a ledger without tables
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    dispatcher = make(on=gone)
    append(redis_url, event(body("tsk_1")))
    connection.set(flag_key("dispatch"), "x")

    dispatcher.run(once())

    assert connection.exists(flag_key("dispatch")) == 0
    assert connection.xlen(STREAM) == 1
    ensure_schema(gone)
    dispatcher.run(once())
    assert deliveries(gone) == {"tsk_1": ["archive", "results"]}
    assert connection.xlen(STREAM) == 0
    connection.close()


def test_large_bodies_are_recorded_in_parts(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a batch of which no more than two fit into a chunk, and a process that is cut off in the third chunk
    large = "x" * (2 * CHUNK_BYTES // 5)
    append(redis_url, *(event(body(f"tsk_{n}", output=large)) for n in range(6)), event(body("tsk_6")))
    chunks: list[list[str]] = []
    record = dispatcher.recorder.record

    def watched(batch: Sequence[ParsedEvent]) -> list[str]:
        chunks.append([each.run.run_id for each in batch])
        if len(chunks) == 3:
            raise KeyboardInterrupt
        return record(batch)

    monkeypatch.setattr(dispatcher.recorder, "record", watched)
    with pytest.raises(KeyboardInterrupt):
        dispatcher.run(once())
    # Then what came before is in the ledger and out of the inbox
    assert chunks == [["tsk_0", "tsk_1"], ["tsk_2", "tsk_3"], ["tsk_4", "tsk_5", "tsk_6"]]
    assert deliveries(ledger).keys() == {"tsk_0", "tsk_1", "tsk_2", "tsk_3"}
    connection = redis.Redis.from_url(redis_url)
    assert connection.xlen(STREAM) == 3
    # And the next job goes on from there
    dispatcher.run(once())
    assert chunks[3:] == chunks[2:3]
    assert len(deliveries(ledger)) == 7
    assert connection.xlen(STREAM) == 0
    connection.close()


def test_forged_entries_are_set_aside(
    guarded: Dispatcher, ledger: Ledger, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given entries that were written past the receiver, among those of events
    with redis.Redis.from_url(redis_url) as client:
        append(redis_url, event(body("tsk_1")), keys=KEYS)
        (_, fields), *_ = cast("Any", client.xrange(STREAM))
        forged = event(body("tsk_forged"))
        head, later = head_of(forged), head_of(dataclasses.replace(event(body("tsk_1")), received_at=1_800_000_000.0))
        strangers: list[dict[Any, Any]] = [
            fields | {FRAME: fields[FRAME].replace(b'"at":', b'"at":9')},
            fields | {FRAME: head + b"\n" + body("tsk_1")},
            fields | {FRAME: head + b"\n" + forged.body},
            fields | {FRAME: later + b"\n" + body("tsk_1")},
            {name: value for name, value in fields.items() if name != MACS},
            {b"a": b"b"},
        ]
        for each in strangers:
            client.xadd(STREAM, each)
        append(redis_url, event(body("tsk_2")), keys=KEYS)
        # When they are dispatched
        guarded.run(once())
        # Then the events are in the ledger, and the rest is aside, logged and counted
        assert deliveries(ledger).keys() == {"tsk_1", "tsk_2"}
        assert client.xlen(STREAM) == 0
        why = [fields[b"why"].decode() for _, fields in cast("Any", client.xrange(ASIDE))]
        assert why == [NO_EVENT, NO_EVENT, FORGED, FORGED, FORGED, NO_EVENT]
        assert caplog.text.count("inbox.set_aside") == len(strangers)
        assert client.hget(workers.KEY, "set_aside") == b"6"
        # And what wakes the dispatcher next does so
        assert client.pttl(flag_key("dispatch")) == -2


def test_many_entries_of_a_stranger_are_few_lines(
    guarded: Dispatcher, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(200):
            client.xadd(STREAM, {b"a": b"b"})
        guarded.run(once())
        assert client.xlen(ASIDE) == 200
        assert client.hget(workers.KEY, "set_aside") == b"200"
    assert 0 < caplog.text.count("inbox.set_aside") < 40


def test_entries_of_a_new_secret_are_put_back(guarded: Dispatcher, make: Make, ledger: Ledger, redis_url: str) -> None:
    # Given a receiver that knows of a secret which its dispatcher does not, and a stranger
    now = {"skyvern": ["new secret"]}
    append(redis_url, event(body("tsk_1")), keys=EntryKeys(now))
    append(redis_url, event(body("tsk_forged")), keys=EntryKeys({"skyvern": ["guessed"]}))
    guarded.run(once())
    assert deliveries(ledger) == {}
    # When one begins that was given the new config
    make(name="d2", keys=EntryKeys(now)).run(once())
    # Then it takes in what is right now, and no more
    assert deliveries(ledger).keys() == {"tsk_1"}
    with redis.Redis.from_url(redis_url) as client:
        ((_, left),) = cast("Any", client.xrange(ASIDE))
        assert read_frame(left[FRAME]).body == body("tsk_forged")
        assert client.xlen(STREAM) == 0


def test_much_that_was_set_aside_delays_no_new_event(
    guarded: Dispatcher, make: Make, ledger: Ledger, redis_url: str
) -> None:
    # Given entries set aside that are right by now, and a dispatcher that has time for one of them in each job
    now = {"skyvern": ["secret", "new secret"]}
    old = [event(body(f"tsk_{number}")) for number in range(3)]
    append(redis_url, *old, keys=EntryKeys({"skyvern": ["new secret"]}))
    guarded.run(once())
    append(redis_url, event(body("tsk_new")), keys=EntryKeys(now))
    it = make(name="d2", keys=EntryKeys(now), put_back_for=0.0)
    # When it begins, then the new event is not behind all of them
    it.run(once())
    assert deliveries(ledger).keys() == {"tsk_0", "tsk_new"}
    # And in the end none is left
    for _ in range(3):
        it.run(once())
    assert deliveries(ledger).keys() == {"tsk_0", "tsk_1", "tsk_2", "tsk_new"}
    with redis.Redis.from_url(redis_url) as client:
        assert client.xlen(ASIDE) == 0


def test_events_of_an_unknown_source_reach_a_worker_with_it(
    guarded: Dispatcher, make: Make, ledger: Ledger, redis_url: str
) -> None:
    # Given a worker that knows all sources and has looked at what was set aside, and one whose config lacks a source
    both = EntryKeys({"skyvern": ["secret"], "other": ["third"]})
    knowing = make(name="d2", keys=both)
    knowing.run(once())
    other = Event(event_id("other", body("tsk_2")), "other", body("tsk_2"), time.time())
    append(redis_url, event(body("tsk_1")), other, event(body("tsk_3")), keys=both)
    # When the second one dispatches, then it records the others and sets those aside
    guarded.run(once())
    assert deliveries(ledger).keys() == {"tsk_1", "tsk_3"}
    with redis.Redis.from_url(redis_url) as client:
        ((_, aside),) = cast("Any", client.xrange(ASIDE))
        assert aside[b"why"].decode() == UNKNOWN_SOURCE
        # And the first one records them in its next job
        knowing.run(once())
        assert deliveries(ledger).keys() == {"tsk_1", "tsk_2", "tsk_3"}
        assert (client.xlen(STREAM), client.xlen(ASIDE)) == (0, 0)


def test_failed_recording_leaves_the_inbox_as_it_was(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise sa.exc.ProgrammingError("no such column", None, Exception())

    append(redis_url, event(body("tsk_1")), event(body("tsk_2")))
    with monkeypatch.context() as patch:
        patch.setattr(dispatcher.recorder, "record", broken)
        with pytest.raises(sa.exc.ProgrammingError):
            dispatcher.run(once())
    dispatcher.run(once())
    assert deliveries(ledger).keys() == {"tsk_1", "tsk_2"}


def test_body_too_large_for_memory_is_routed_by_its_facts(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str
) -> None:
    large = body("tsk_large", "failed", output=[[]] * 2_500_000, failure_reason="because")
    append(redis_url, event(body("tsk_1")), event(large), event(body("tsk_2")))
    dispatcher.run(once())
    assert deliveries(ledger) == {
        "tsk_1": ["archive", "results"],
        "tsk_2": ["archive", "results"],
        "tsk_large": ["archive", "ops", "results"],
    }
    assert event_body(ledger, event(large).id) == large
    found = ledger.read(lambda connection: queries.list_events(connection, queries.Filter()))
    (problem,) = (row["problem"] for row in found if row["run_id"] == "tsk_large")
    assert problem.startswith(parse(large).reading_note)
    # And the same again is known as such, with other URLs too
    again = body("tsk_large", "failed", output=[[]] * 2_500_000, failure_reason="because", recording_url="https://x/2")
    dispatch(dispatcher, [event(again)])
    assert dispositions(ledger)[-1][0] == "update"


def test_an_event_appended_while_a_job_ends_is_not_forgotten(
    dispatcher: Dispatcher, ledger: Ledger, redis_url: str
) -> None:
    # given a flag that is still up, so that the receiver sends no wake-up
    connection = redis.Redis.from_url(redis_url)
    connection.set(flag_key("dispatch"), "x")
    append(redis_url, event(body("tsk_late")))

    # when the job ends without another read of the inbox
    dispatcher.run(lambda: True)

    # then it read once more after lowering the flag, and woke the next one
    assert connection.exists(flag_key("dispatch")) == 1
    assert deliveries(ledger) == {"tsk_late": ["archive", "results"]}
    connection.close()


def test_a_read_takes_no_more_bytes_than_memory_has_room_for(redis_url: str) -> None:
    append(redis_url, *(event(body(f"tsk_{n}", output="x" * 20_000)) for n in range(40)))
    connection = redis.Redis.from_url(redis_url)
    reader = InboxReader(connection, "d1", read_bytes=100_000)
    reader.ensure()

    sizes = [len(reader.read(256)), len(reader.read(256, block_ms=100)), len(reader.read(10))]

    assert sizes == [5, 6, 5]
    assert sum(len(reader.read()) for _ in range(6)) == 24
    connection.close()
