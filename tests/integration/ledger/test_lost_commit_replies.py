"""Each writer of the ledger, when its COMMIT reaches PostgreSQL and the reply is lost: what it returns and records.

The table names each function that product code runs in a writing transaction; one that it lacks fails a test.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from handlers import Receipt, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import SendTask
from receiver.delivery.settlement import Settlement
from receiver.dispatch import reroute
from receiver.dispatch.reroute import ReroutePage
from receiver.domain import api_key
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.liveness import ProcessBeat
from receiver.domain.new_event import NewDelivery
from receiver.domain.redaction import Redactor
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger import (
    Connection,
    Ledger,
    OutcomeUnknown,
    account,
    heartbeats,
    operations,
    polls,
    retention,
    schema,
    watches,
)
from receiver.ledger.access import api_keys, audit, console_sessions, redis_losses
from receiver.ledger.access.api_keys import Key
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.access.console_sessions import ConsoleSession
from receiver.ledger.account import AgentChange
from receiver.ledger.database import clock_correction, copying
from receiver.ledger.deliveries import claims, lanes, recovery, resend
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.lists import words
from receiver.ledger.recording import load, write
from receiver.ledger.reroutes import EventNote
from receiver.ledger.runs import RunStatus, run_statuses
from receiver.ledger.selection import Selection
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.ledger.verbs import Operation
from receiver.ledger.watches import ActiveRun
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support.api import actor, call, service
from tests.support.ledger import NOW, claim, new_event, record, settle, states, with_tables
from tests.support.ledger_writers import all_writers

ME = AuditActor("cli", "ada")
SUB = "sub_1"
RUN = ("skyvern", "tsk_1")
OLD = NOW + 86_400.0
UNCOUNTED: Any = SimpleNamespace(add_attempt=lambda *_: None)

Step = Callable[[Ledger], Any]


class Writer(NamedTuple):
    """`covers`: the ledger's functions. `prepare`: returns what `write` is given. `value`: "same" as with a reply;
    "rest" for a sweep, whose second run takes what the first has left; "unknown" if it raises OutcomeUnknown."""

    covers: str
    write: Callable[[Ledger, Any], Any]
    prepare: Step = lambda _: None
    value: str = "same"


def plain(work: Callable[..., Any], *given: Any, **more: Any) -> Callable[[Ledger, Any], Any]:
    """A writer of one call."""
    return lambda ledger, _: ledger.write(lambda it: work(it, *given, **more))


def noted(work: Callable[..., Any], *given: Any, **more: Any) -> Callable[[Ledger, Any], Any]:
    """An action with its line in the audit, as the API writes it."""

    def act(connection: Connection) -> None:
        work(connection, *given, **more)
        audit.record(connection, ME, "test", {}, 1)

    return lambda ledger, _: ledger.write(act)


def run_and_deliveries(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops", NewDelivery("results", "everything", after=("ops",))))


def waiting(ledger: Ledger) -> None:
    run_and_deliveries(ledger)
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DEFER, due_at=NOW + 5)


def dead(ledger: Ledger) -> None:
    run_and_deliveries(ledger)
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)


def claimed(ledger: Ledger) -> Any:
    run_and_deliveries(ledger)
    return claim(ledger, "ops")


def delivered(ledger: Ledger) -> None:
    run_and_deliveries(ledger)
    for sink in ("ops", "results"):
        settle(ledger, claim(ledger, sink), DeliveryMove.ACCEPT)


def pending(ledger: Ledger, key: str | None = None) -> None:
    new = NewSubmission(SUB, "skyvern", "k1", "tasks", "hash", labels={"team": "a"}, idempotency_key=key)
    ledger.write(lambda it: lifecycle.begin(it, new, NOW))


def accepted(ledger: Ledger) -> None:
    pending(ledger)
    outcome = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_1", status=200, body=b"{}", due_at=NOW)
    ledger.write(lambda it: lifecycle.record_outcome(it, SUB, outcome, NOW))


def withdrawn(ledger: Ledger) -> None:
    pending(ledger)
    ledger.write(lambda it: lifecycle.withdraw(it, SUB, NOW))


def asked(ledger: Ledger) -> None:
    ledger.write(lambda it: polls.ask(it, "skyvern", {"tsk_1": NOW}, NOW))


def leased(ledger: Ledger) -> Any:
    asked(ledger)
    return ledger.write(lambda it: polls.lease_due(it, "skyvern", NOW, 9))[0]


def shut_lane(ledger: Ledger) -> None:
    gate = Lane("ops", "ops", breaker="open", failures=5, until=NOW + 60, opened_at=NOW)
    ledger.write(lambda it: lanes.put(it, gate, NOW))


def key_of(name: str) -> Key:
    return Key(name, "shop", f"hash of {name}", "rh_", frozenset({"view"}), "skyvern", None, NOW)


def a_key(ledger: Ledger) -> None:
    ledger.write(lambda it: api_keys.create(it, key_of("k1")))


def begin(key: str | None) -> Callable[[Ledger, Any], Any]:
    new = NewSubmission(SUB, "skyvern", "k1", "tasks", "hash", idempotency_key=key)
    return plain(lifecycle.begin, new, NOW)


def refuse(ledger: Ledger, _: Any) -> Any:
    outcome = SubmitOutcome(SubmissionMove.REJECT, status=422, body=b"{}", reason="status 422", release=True)
    return ledger.write(lambda it: lifecycle.record_outcome(it, SUB, outcome, NOW + 1))


def accept(ledger: Ledger, _: Any) -> Any:
    outcome = SubmitOutcome(SubmissionMove.ACCEPT, "tsk_1", status=200, body=b"{}", due_at=NOW + 9)
    return ledger.write(lambda it: lifecycle.record_outcome(it, SUB, outcome, NOW + 1))


def settle_unavailable(ledger: Ledger, found: Any) -> Any:
    task = SendTask(found, time.monotonic(), answers=[Unavailable("down")])
    return Settlement("ops", RetryPolicy(), "w", UNCOUNTED).settle(ledger, [task])


def settle_accepted(ledger: Ledger, found: Any) -> Any:
    task = SendTask(found, time.monotonic(), answers=[Receipt("r")])
    return Settlement("ops", RetryPolicy(), "w", UNCOUNTED).settle(ledger, [task])


def replay(ledger: Ledger) -> None:
    dead(ledger)
    ledger.write(lambda it: operations.create(it, "op_1", Operation("replay", Selection()), NOW + 10))


def begin_replay(connection: Connection) -> None:
    made = operations.create(connection, "op_1", Operation("replay", Selection()), NOW + 10)
    operations.take_step(connection, made, NOW + 10)


def added(ledger: Ledger, _: Any) -> int:
    event = new_event("tsk_1").event.id
    return reroute.apply(ledger, ReroutePage([], [AddedDelivery(event, *RUN, "late", "today")], 0, 0))


def given(ledger: Ledger, _: Any) -> int:
    event = new_event("tsk_1").event.id
    page = ReroutePage([], [AddedDelivery(event, *RUN, "late", "backfill")], 0, 0, to_newest=True)
    return reroute.apply(ledger, page)


def with_note(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1")._replace(note="a rule failed"))


def noted_again(ledger: Ledger, _: Any) -> int:
    note = EventNote(new_event("tsk_1").event.id, "a rule failed", "")
    return reroute.apply(ledger, ReroutePage([], [], 0, 0, [note]))


def undo(ledger: Ledger) -> None:
    run_and_deliveries(ledger)
    cancel = Operation("cancel", Selection())
    ledger.write(lambda it: operations.take_step(it, operations.create(it, "op_0", cancel, NOW), NOW))
    cancelled = Operation("replay", Selection(state=("cancelled",)))
    ledger.write(lambda it: operations.create(it, "op_1", cancelled, NOW + 10))


def the_result(ledger: Ledger) -> RunStatus:
    delivered(ledger)
    return ledger.read(lambda it: run_statuses(it, [RUN]))[RUN]


def attempt(ledger: Ledger) -> Any:
    delivered(ledger)
    found = ledger.read(lambda it: it.execute(sa.select(schema.attempts.c.delivery_id)).scalars().first())
    return SimpleNamespace(delivery_id=found, number=1)


def in_use(ledger: Ledger) -> None:
    """A deployment that has recorded a webhook, and a process that started before it."""
    record(ledger, new_event("tsk_1"), now=time.time())
    ledger.write(lambda it: heartbeats.put(it, ProcessBeat("w", "dispatch", "h", 1, "1", "", 1.0)))


def seen_once(ledger: Ledger) -> None:
    ledger.write(lambda it: watches.lease(it, "skyvern", NOW))
    ledger.write(lambda it: watches.remember(it, "skyvern", [ActiveRun("tsk_1", "running", NOW, NOW)], NOW))


CHANGE = AgentChange("skyvern", "wpid_1", None, "https://here", NOW)
SESSION = ConsoleSession("digest", "ada", "credential", NOW, NOW + 60)
BEAT = ProcessBeat("worker", "dispatch", "host", 1, "1.0", "", NOW)
WAITS = clock_correction.LongestWaits(("ops",), 60.0, 60.0, 60.0)

WRITERS: dict[str, Writer] = {
    # Submissions
    "a submission": Writer("lifecycle.begin", begin(None)),
    "a submission with a key": Writer("lifecycle.begin", begin("its key")),
    "a submission withdrawn": Writer("lifecycle.withdraw", plain(lifecycle.withdraw, SUB, NOW), pending),
    "a run's id": Writer("lifecycle.record_outcome", accept, pending),
    "a refusal": Writer("lifecycle.record_outcome", refuse, lambda it: pending(it, "its key")),
    "an answer": Writer("lifecycle.set_answer", plain(lifecycle.set_answer, SUB, 200, b"{}", NOW), accepted),
    "a lost answer resolved": Writer(
        "lifecycle.resolve",
        lambda it, _: it.write(lambda c: lifecycle.resolve(c, SUB, SubmissionMove.ACCEPT, NOW, run_id="tsk_1")),
        pending,
    ),
    "a submission missed": Writer(
        "lifecycle.resolve", plain(lifecycle.resolve, SUB, SubmissionMove.MISS, NOW), pending, "rest"
    ),
    # Events and deliveries
    "copies counted": Writer(
        "write.count_copies",
        plain(write.count_copies, [replace(new_event("tsk_1").event, received_at=NOW + 9)]),
        run_and_deliveries,
    ),
    "a failed attempt": Writer("attempts.settle lanes.put", settle_unavailable, claimed),
    "an accepted attempt": Writer("attempts.settle", settle_accepted, claimed),
    "claims renewed": Writer(
        "claims.renew",
        lambda it, found: it.write(lambda c: claims.renew(c, "w", found, OLD)),
        claimed,
    ),
    "claims released": Writer("recovery.release_claims", plain(recovery.release_claims, "w", NOW), claimed, "rest"),
    "claims lapsed": Writer("recovery.lapse_claims", plain(recovery.lapse_claims, OLD), claimed, "rest"),
    "deliveries due": Writer("recovery.make_due", plain(recovery.make_due, OLD), waiting, "rest"),
    "held deliveries": Writer(
        "recovery.sweep_held", plain(recovery.sweep_held, NOW, ["results"]), run_and_deliveries, "rest"
    ),
    "deliveries given up": Writer(
        "recovery.expire",
        plain(recovery.expire, "ops", 60.0, OLD),
        lambda it: (
            run_and_deliveries(it),
            it.write(lambda c: lanes.put(c, Lane("ops", "ops", False, "open", 5, OLD, "down", opened_at=NOW), OLD)),
        ),
        "rest",
    ),
    "a rerouted event": Writer("reroutes.add", added, run_and_deliveries),
    "a result given to a sink": Writer("reroutes.add", given, run_and_deliveries),
    "the note of an event": Writer("reroutes.put_notes", noted_again, with_note),
    "cancelled deliveries replayed": Writer("operations.step", plain(operations.step, "op_1", NOW + 11), undo, "rest"),
    "a webhook sent again": Writer(
        "resend.resend",
        lambda it, run: it.write(lambda c: resend.resend(c, run, "ops", "everything", "ops", OLD, "", "")),
        the_result,
    ),
    # Operations and other actions with a line in the audit
    "an operation": Writer("operations.create operations.take_step audit.record", noted(begin_replay), dead, "unknown"),
    "an operation cancelled": Writer("operations.cancel", noted(operations.cancel, "op_1", NOW), replay, "unknown"),
    "a step": Writer("operations.step", plain(operations.step, "op_1", NOW + 11), replay, "rest"),
    "an action begun": Writer(
        "audit.record", plain(audit.record, ME, "sink.test", {}, 0, outcome=audit.BEGUN), value="unknown"
    ),
    "an action ended": Writer(
        "audit.end",
        lambda it, number: it.write(lambda c: audit.end(c, number, audit.DONE, 1)),
        lambda it: it.write(lambda c: audit.record(c, ME, "sink.test", {}, 0, outcome=audit.BEGUN)),
    ),
    "a key": Writer("api_keys.create", noted(api_keys.create, key_of("k2")), value="unknown"),
    "a key replaced": Writer("api_keys.replace", noted(api_keys.replace, "k1", "k2", OLD), a_key, "unknown"),
    "a key revoked": Writer("api_keys.revoke", noted(api_keys.revoke, "k1", NOW), a_key, "unknown"),
    "a key used": Writer("api_keys.mark_used", plain(api_keys.mark_used, "k1", NOW), a_key),
    "a sink paused": Writer("lanes.set_paused", noted(lanes.set_paused, "ops", True, NOW), value="unknown"),
    "a sink resumed": Writer("lanes.probe_at_once", noted(lanes.probe_at_once, ["ops"], NOW), shut_lane, "unknown"),
    "times corrected": Writer(
        "clock_correction.correct", plain(clock_correction.correct, NOW - 900, WAITS), run_and_deliveries, "unknown"
    ),
    "a loss of Redis": Writer("redis_losses.record_loss", plain(redis_losses.record_loss), in_use, "unknown"),
    # Retention and the search index
    "old events": Writer("retention.remove", plain(retention.remove, OLD), delivered, "rest"),
    "old submissions": Writer(
        "retention.remove_submissions", plain(retention.remove_submissions, OLD), withdrawn, "rest"
    ),
    "idle runs": Writer(
        "retention.remove_idle_runs",
        plain(retention.remove_idle_runs, OLD),
        lambda it: it.write(lambda c: load.lock(c, [RUN], NOW, needed=[RUN])),
        "rest",
    ),
    "old lanes": Writer(
        "retention.remove_lanes",
        plain(retention.remove_lanes, OLD),
        lambda it: it.write(lambda c: lanes.put(c, Lane("a lane", "ops"), NOW)),
        "rest",
    ),
    "a run erased": Writer("retention.erase", plain(retention.erase, RUN, "ada", NOW), delivered, "rest"),
    "files forgotten": Writer(
        "retention.forget_receipt", lambda it, found: it.write(lambda c: retention.forget_receipt(c, found)), attempt
    ),
    "words indexed": Writer("words.index", plain(words.index, Redactor([])), run_and_deliveries, "rest"),
    "old actions": Writer(
        "audit.remove",
        plain(audit.remove, 1e11),
        lambda it: it.write(lambda c: audit.record(c, ME, "x", {}, 1)),
        "rest",
    ),
    "old operations": Writer(
        "operations.remove",
        plain(operations.remove, OLD),
        lambda it: it.write(lambda c: operations.create(c, "op_1", Operation("replay", Selection()), NOW)),
        "rest",
    ),
    "a heartbeat": Writer("heartbeats.put", plain(heartbeats.put, BEAT)),
    "old heartbeats": Writer("heartbeats.forget", plain(heartbeats.forget), in_use),
    "a session": Writer("console_sessions.create", plain(console_sessions.create, SESSION)),
    "a session ended": Writer(
        "console_sessions.end",
        plain(console_sessions.end, "digest"),
        lambda it: it.write(lambda c: console_sessions.create(c, SESSION)),
    ),
    # Polls and walks
    "a poll": Writer("polls.ask", plain(polls.ask, "skyvern", {"tsk_1": NOW}, NOW)),
    "a poll planned": Writer("polls.plan", plain(polls.plan, RUN, NOW, NOW)),
    "a poll hastened": Writer("polls.hasten", plain(polls.hasten, [RUN], NOW), asked),
    "an end": Writer("polls.note_end", plain(polls.note_end, RUN, NOW), asked),
    "a note cleared": Writer(
        "polls.clear_note",
        plain(polls.clear_note, RUN),
        lambda it: it.write(lambda c: polls.ask(c, "skyvern", {"tsk_1": NOW}, NOW, grace=9.0)),
    ),
    "a poll postponed": Writer(
        "polls.postpone", lambda it, poll: it.write(lambda c: polls.postpone(c, poll, OLD, NOW, "x")), leased
    ),
    "a poll stopped": Writer("polls.stop", plain(polls.stop, [RUN], "gone"), accepted),
    "polls leased": Writer("polls.lease_due", plain(polls.lease_due, "skyvern", OLD, 9), asked),
    "a walk": Writer(
        "watches.lease", lambda it, _: getattr(it.write(lambda c: watches.lease(c, "skyvern", NOW)), "source", None)
    ),
    "a page": Writer(
        "watches.renew watches.remember watches.forget polls.ask",
        lambda it, _: it.write(
            lambda c: (
                watches.renew(c, "skyvern", NOW + 1),
                watches.remember(c, "skyvern", [ActiveRun("tsk_2", "running", NOW, NOW)], NOW),
                watches.forget(c, "skyvern", ["tsk_1"]),
                polls.ask(c, "skyvern", {"tsk_1": NOW}, NOW, found_by=polls.IMPORT, grace=9.0),
            )
        ),
        seen_once,
    ),
    "a walk ended": Writer("watches.finish", plain(watches.finish, "skyvern", NOW, OLD, NOW), seen_once),
    "a walk broken off": Writer("watches.break_off", plain(watches.break_off, "skyvern", OLD, "down"), seen_once),
    "a gap": Writer("watches.record_gap", plain(watches.record_gap, "skyvern", NOW), seen_once),
    "agents": Writer("account.replace_agents", plain(account.replace_agents, "skyvern", {"w": ("A", None)}, NOW)),
    "a change": Writer("account.record_change", plain(account.record_change, CHANGE)),
    "a change forgotten": Writer(
        "account.forget_change",
        plain(account.forget_change, "skyvern", "wpid_1"),
        lambda it: it.write(lambda c: account.record_change(c, CHANGE)),
    ),
    "an agent's URL": Writer(
        "account.set_agent_url",
        plain(account.set_agent_url, "skyvern", "w", "https://here"),
        lambda it: it.write(lambda c: account.replace_agents(c, "skyvern", {"w": ("A", None)}, NOW)),
    ),
}

# Writers with tests of their own: the recording of events, and claims, below.
ELSEWHERE = {
    *("write.write", "load.load", "load.lock", "load.erased", "binding.bind", "polls.after_events", "claims.claim"),
}
# Read and lock only, though they share statements with writers.
READERS = {"operations.get", "polls.of_runs", "submissions.get", "submissions.list_submissions"}


@contextmanager
def behind(postgres: PostgresProcess, name: str, gate: Gate) -> Iterator[Ledger]:
    it = Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{name}")
    it.read(lambda connection: connection.exec_driver_sql(f"SELECT '{64 * 'x'}'"), transaction=False)
    yield it
    it.close()


def contents(ledger: Ledger) -> dict[str, list[str]]:
    """All rows, with times of this hour masked: they are the database's. Numbers of rows may have gaps."""

    def masked(column: sa.Column[Any], value: Any) -> Any:
        if column.name == "seq":
            return "a number"
        return "now" if isinstance(value, float) and abs(value - time.time()) < 3600 else value

    def read(connection: Connection) -> dict[str, list[str]]:
        return {
            table.name: sorted(
                str([masked(column, value) for column, value in zip(table.c, row, strict=True)])
                for row in connection.execute(sa.select(table))
            )
            for table in schema.metadata.sorted_tables
        }

    return ledger.read(read)


def masked_value(value: Any) -> str:
    return re.sub(r"\b\d{10}\.\d+", "a time", repr(value))


@pytest.mark.parametrize("name", WRITERS)
def test_writer_bears_a_lost_reply_to_its_commit(postgres: PostgresProcess, postgres_ledger: Ledger, name: str) -> None:
    writer, database = WRITERS[name], str(postgres_ledger.url.database)
    # Given what it returns and records when the reply comes
    given = writer.prepare(postgres_ledger)
    expected = writer.write(postgres_ledger, given)
    rows = contents(postgres_ledger)
    postgres.empty_tables(database, but=("alembic_version",))
    # When the connection breaks after the first COMMIT, before the reply
    given = writer.prepare(postgres_ledger)
    with Gate(postgres.port) as gate, behind(postgres, database, gate) as ledger:
        cut = gate.catch(b"COMMIT\0", "cut")
        if writer.value == "unknown":
            with pytest.raises(OutcomeUnknown):
                writer.write(ledger, given)
        else:
            found = writer.write(ledger, given)
        cut.wait()
    # Then it has recorded the same, once, and says the same or that the outcome is unknown
    assert contents(postgres_ledger) == rows
    if writer.value == "same":
        assert masked_value(found) == masked_value(expected)


def test_copy_without_a_reply_is_unknown(postgres: PostgresProcess, postgres_ledger: Ledger, tmp_path: Path) -> None:
    source = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    run_and_deliveries(source)
    with Gate(postgres.port) as gate, behind(postgres, str(postgres_ledger.url.database), gate) as ledger:
        cut = gate.catch(b"COMMIT\0", "cut")
        with pytest.raises(OutcomeUnknown):
            copying.copy(source, ledger, lambda _: None)
        cut.wait()
    assert states(postgres_ledger) == states(source)
    source.close()


def test_erasure_without_a_reply_counts_its_bodies(
    postgres: PostgresProcess, postgres_ledger: Ledger, tmp_path: Path
) -> None:
    delivered(postgres_ledger)
    postgres_ledger.write(lambda it: it.execute(sa.update(schema.runs).values(final=True)))
    with Gate(postgres.port) as gate, behind(postgres, str(postgres_ledger.url.database), gate) as ledger:
        cut = gate.catch(b"COMMIT\0", "cut", after=b"erased_at=")
        found = call(service(ledger, tmp_path), "erase_run", actor("", api_key.VIEW, api_key.ERASE), run_id="tsk_1")
        cut.wait()
    assert found["bodies"] == 1


def test_each_writer_has_a_test_with_a_lost_reply() -> None:
    covered = {each for writer in WRITERS.values() for each in writer.covers.split()}
    assert all_writers() - covered - ELSEWHERE - READERS == set()
