"""SQLite learns what is in a ledger that has grown, so that a long backlog costs no more than a short one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from receiver.clock import Clock
from receiver.ledger import Ledger, planner
from tests.support import backlog
from tests.support.backlog import OPERATIONS, effort
from tests.support.ledger import new_event, record, with_tables


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Ledger]:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield ledger
    ledger.close()


def costs(ledger: Ledger) -> dict[str, int]:
    return {name: effort(ledger, OPERATIONS[name]) for name in ("metrics", "orphans")}


def test_connections_that_are_open_read_less_once_it_has_learnt(sqlite: Ledger) -> None:
    # Given a ledger with a long backlog, and another process's connection to it
    backlog.make(sqlite, 2_000)
    other = Ledger(sqlite.url.render_as_string(hide_password=False))
    before = costs(other)
    # When the clock lets it learn
    known = planner.learn(sqlite, 0)
    # Then all that is done again and again reads a part of it
    assert known == 2_000
    assert {name: (before[name], cost) for name, cost in costs(other).items() if cost > 0.6 * before[name]} == {}
    other.close()


def test_it_learns_anew_when_it_has_grown_much(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST", 10)
    looks: list[bool] = []
    look = planner._look
    monkeypatch.setattr(planner, "_look", lambda connection: (looks.append(True), look(connection))[0])
    known, times = 0, []
    for count in (9, 10, 39, 40):
        backlog.fill(ledger, count, events=count)
        known = planner.learn(ledger, known)
        times.append(len(looks))
    # SQLite at 10 and at 40; PostgreSQL does so by itself
    assert times == ([0, 1, 1, 2] if ledger.dialect == "sqlite" else [0, 0, 0, 0])


def test_the_clock_lets_it_learn(sqlite: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "LEAST", 1)
    record(sqlite, new_event("tsk_1", "ops"))
    clock = Clock(sqlite, ["ops"], redis.Redis.from_url(redis_url), retain=None)
    clock.slow()
    known = "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'events'"
    assert sqlite.read(lambda connection: connection.exec_driver_sql(known).scalar_one()) > 0
    clock.close()
