"""The audit: written with the action or around it, listed from the newest, and kept for long."""

from __future__ import annotations

import pytest

from receiver.ledger import Connection, Ledger
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.deliveries import lanes
from tests.support.ledger import every_lane

ME = AuditActor("cli", "ada")
KEY = AuditActor("key", "shop\0\ud800", "k1")


def test_what_was_done_is_listed_from_the_newest(ledger: Ledger) -> None:
    # Given actions of two sources
    before = ledger.now()
    ledger.write(lambda it: audit.record(it, ME, "sink.pause", {"sink": "ops"}, 1))
    ledger.write(lambda it: audit.record(it, KEY, "replay", {"state": ["dead"], "text": "\0"}, 7, source="a"))
    ledger.write(lambda it: audit.record(it, ME, "replay", {}, 9, source="b", detail="op_1"))

    # When they are listed
    rows = ledger.read(audit.list_actions)

    # Then all is told of each, in what a database takes
    assert [(row.action, row.actor, row.count, row.detail) for row in rows] == [
        ("replay", "ada", 9, "op_1"),
        ("replay", "shop?", 7, ""),
        ("sink.pause", "ada", 1, ""),
    ]
    assert (rows[1].actor_kind, rows[1].key_id, rows[1].selection) == ("key", "k1", {"state": ["dead"], "text": "\0"})
    assert all(row.outcome == "done" and row.ended_at == row.at and abs(row.at - before) < 60 for row in rows)

    # And page by page, and by what is asked for
    assert ledger.read(lambda it: audit.list_actions(it, after=(rows[0].id,), limit=1)) == [rows[1]]
    for wanted, found in (
        ({"source": "a"}, [1]),
        ({"actions": ["sink.pause"]}, [2]),
        ({"actor": "ada"}, [0, 2]),
        ({"since": rows[1].at}, [0, 1]),
        ({"until": rows[1].at}, [2]),
    ):
        assert ledger.read(lambda it: audit.list_actions(it, **wanted)) == [rows[n] for n in found], wanted  # type: ignore[arg-type] # noqa: B023


def test_an_action_elsewhere_is_begun_and_ended_once(ledger: Ledger) -> None:
    number = ledger.write(lambda it: audit.record(it, ME, "sink.test", {"sink": "ops"}, 1, outcome=audit.BEGUN))
    (begun,) = ledger.read(audit.list_actions)
    assert (begun.outcome, begun.ended_at) == ("begun", None)

    ledger.write(lambda it: audit.end(it, number, audit.FAILED, 0, "refused"))
    ledger.write(lambda it: audit.end(it, number, audit.DONE, 1))

    (ended,) = ledger.read(audit.list_actions)
    assert (ended.outcome, ended.count, ended.detail) == ("failed", 0, "refused")
    assert (ended.ended_at or 0) >= begun.at


def test_an_action_that_is_rolled_back_is_not_in_the_audit(ledger: Ledger) -> None:
    def pause_and_fail(connection: Connection) -> None:
        lanes.set_paused(connection, "ops", True, 1.0)
        audit.record(connection, ME, "sink.pause", {"sink": "ops"}, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.write(pause_and_fail)
    assert ledger.read(audit.list_actions) == []
    assert ledger.read(every_lane) == []


def test_the_oldest_are_removed_a_bounded_number_at_once(ledger: Ledger) -> None:
    for number in range(4):
        ledger.write(lambda it: audit.record(it, ME, str(number), {}, 1))  # noqa: B023
    newest = ledger.read(audit.list_actions)[0]

    assert [ledger.write(lambda it: audit.remove(it, newest.at, 2)) for _ in range(3)] == [2, 1, 0]
    assert ledger.read(audit.list_actions) == [newest]
