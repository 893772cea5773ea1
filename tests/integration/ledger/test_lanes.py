"""Many destinations behind one sink: a backlog for a dead one costs the others nothing, and old gates are removed."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger, retention
from receiver.ledger.deliveries import claims, fair_queue, lanes
from receiver.ledger.events import NewDelivery
from tests.support.ledger import NOW, new_event, record, settle


def to(lane: str, run_id: str) -> object:
    return new_event(run_id, NewDelivery("callback", "caller", lane=f"callback {lane}"))


def backlog(ledger: Ledger, lane: str, count: int, now: float = NOW) -> None:
    record(ledger, *(to(lane, f"{lane}_{number}") for number in range(count)), now=now)  # type: ignore[arg-type]


def shut(ledger: Ledger, lane: str, until: float = NOW + 1000) -> None:
    gate = Lane(f"callback {lane}", "callback", breaker="open", failures=5, until=until)
    ledger.write(lambda connection: lanes.put(connection, gate, NOW))


def taken(ledger: Ledger, limit: int = 8, lane_limit: int | None = 3, now: float = NOW + 9) -> Counter[str]:
    claimed = ledger.write(
        lambda connection: claims.claim(
            connection, "callback", limit, "w", 1, now, 15, concurrency=50, lane_limit=lane_limit
        )
    )
    return Counter(each.lane.removeprefix("callback ") for each in claimed)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "WINDOW", 10)


def test_what_is_due_behind_a_long_backlog_of_a_shut_lane_is_taken(ledger: Ledger) -> None:
    backlog(ledger, "dead", 40)
    shut(ledger, "dead")
    backlog(ledger, "a", 5, NOW + 1)
    backlog(ledger, "z", 1, NOW + 2)

    assert taken(ledger) == {"a": 3, "z": 1}
    assert taken(ledger) == {}  # the slots of a are taken, and z has nothing more


def test_a_lane_that_has_all_its_places_holds_up_nobody_behind_it(ledger: Ledger) -> None:
    backlog(ledger, "slow", 40)
    backlog(ledger, "b", 40, NOW + 1)
    backlog(ledger, "c", 1, NOW + 2)

    assert taken(ledger) == {"slow": 3, "b": 3, "c": 1}


def test_each_of_many_lanes_gets_its_turn(ledger: Ledger) -> None:
    backlog(ledger, "slow", 40)
    for number in range(30):
        backlog(ledger, f"lane{number:02}", 2, NOW + 1)

    first = taken(ledger)
    rest = Counter[str]()
    while more := taken(ledger, lane_limit=50):
        rest += more

    assert (first["slow"], first.total()) == (3, 8)
    assert max(count for lane, count in first.items() if lane != "slow") == 1
    assert (first + rest).total() == 50  # as many as may be claimed at once


def test_whether_anything_is_due_is_told_past_the_backlog(ledger: Ledger) -> None:
    backlog(ledger, "dead", 40)
    shut(ledger, "dead")

    def due(now: float) -> bool:
        return ledger.read(lambda connection: claims.has_due(connection, "callback", now))

    assert not due(NOW + 9)
    backlog(ledger, "zebra", 1, NOW + 1)
    assert due(NOW + 9)
    assert due(NOW + 2000)


def test_the_walk_from_lane_to_lane_uses_its_index(ledger: Ledger) -> None:
    backlog(ledger, "dead", 40)
    shut(ledger, "dead")
    plans: list[str] = []

    def ask(connection: sa.Connection) -> None:
        if ledger.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        word = "EXPLAIN QUERY PLAN " if ledger.dialect == "sqlite" else "EXPLAIN "

        @sa.event.listens_for(connection, "before_cursor_execute")
        def _explain(_c: object, _cur: object, statement: str, given: object, _ctx: object, _many: bool) -> None:
            if statement.startswith("WITH RECURSIVE"):
                rows = connection.connection.cursor().execute(word + statement, given).fetchall()  # type: ignore[attr-defined]
                plans.append("\n".join(str(row) for row in rows))

        fair_queue.choose(connection, "callback", {"callback dead"}, 4, NOW, lane_limit=2, claimed=Counter())

    ledger.read(ask)
    (plan,) = plans
    assert plan.count("ix_deliveries_queued_lane") >= 4  # the first lane, the next one, and the oldest of each


def test_old_gates_to_which_nothing_is_under_way_are_removed(ledger: Ledger) -> None:
    backlog(ledger, "busy", 1)
    backlog(ledger, "done", 1)
    claimed = ledger.write(
        lambda connection: claims.claim(connection, "callback", 9, "w", 1, NOW, 15, concurrency=50, lane_limit=1),
    )
    settle(ledger, [each for each in claimed if each.lane == "callback done"], DeliveryMove.DIE)
    settle(ledger, [each for each in claimed if each.lane == "callback busy"], DeliveryMove.DEFER, due_at=NOW + 5000)
    for lane in ("busy", "done", "closed"):
        shut(ledger, lane)
    ledger.write(lambda connection: lanes.set_paused(connection, "callback", False, NOW))

    assert ledger.write(lambda connection: retention.remove_lanes(connection, NOW)) == 0
    assert ledger.write(lambda connection: retention.remove_lanes(connection, NOW + 1)) == 2

    left = ledger.read(lanes.every)
    assert [each.lane for each in left] == ["callback", "callback busy"]
