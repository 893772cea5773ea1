"""A ledger that the code before revision 0004 made, with rows of every kind: nothing is lost, and work goes on.

tests/support/data/ledger-0003.sql is such a ledger as SQLite dumps it. The SQL of its rows suits no other database, so
PostgreSQL gets the same rows in the tables that the migrations up to 0003 make.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger, api_keys, marks, migrate, replays
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.selection import Selection, count
from tests.support.ledger import NOW, claim, lock_runs, new_event, record, settle, states, with_tables
from tests.support.paths import ROOT

DUMP = (ROOT / "tests" / "support" / "data" / "ledger-0003.sql").read_text()
TABLES = ("attempts", "deliveries", "events", "keys", "lanes", "operations", "runs", "submissions")
FAST, SLOW = "fast@host_1.44444444", "slow@host/with.slash.55555555"

Rows = dict[str, list[dict[str, Any]]]


def content(connection: sa.Connection) -> Rows:
    """All rows of all tables, in the order of their text."""
    found: Rows = {}
    for name in TABLES:
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        rows = [dict(row._mapping) for row in connection.execute(sa.select(table))]
        found[name] = sorted(rows, key=lambda row: str(sorted(row.items())))
    return found


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("old") / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DUMP)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = content(connection)
    engine.dispose()
    return found


@pytest.fixture
def old(ledger_url: str, before: Rows) -> Iterator[Ledger]:
    """The old ledger, brought up to date."""
    it = Ledger(ledger_url)
    if it.dialect == "sqlite":
        with closing(sqlite3.connect(Path(str(it.url.database)))) as connection:
            connection.executescript(DUMP)
    else:
        it.write(lambda connection: copy(connection, before))
    migrate.ensure_schema(it)
    yield it
    it.close()


def copy(connection: sa.Connection, before: Rows) -> None:
    config = Config()
    config.set_main_option("script_location", "receiver/ledger/migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "0003")
    for name, rows in before.items():
        connection.execute(sa.insert(sa.Table(name, sa.MetaData(), autoload_with=connection)), rows)
    connection.exec_driver_sql("SELECT setval(pg_get_serial_sequence('events', 'seq'), (SELECT max(seq) FROM events))")


NEW_COLUMNS: dict[str, dict[str, Any]] = {
    "attempts": {"delivery_created_at": 0.0},
    "events": {"statement": "", "extent": "", "completion": ""},
    "submissions": {"request": None},
    "deliveries": {"tried_at": None, "target_key": ""},
    "operations": {"source": "", "actor": ""},
    "keys": {"expires_at": None, "replaced_by": ""},
    "lanes": {"paused_at": 0.0, "opened_at": 0.0},
    "runs": {"retried_from": None, "retried_by": None, "noted_at": None, "due_at": None, "polls": 0, "found_by": ""},
}


def in_todays_words(table: str, row: dict[str, Any]) -> dict[str, Any]:
    row = dict(row)
    if table == "events" and row["disposition"] == "news":
        row["disposition"] = "new"
    if table == "keys":
        row["scopes"] = row["scopes"].replace("again", "resubmit")
    if table == "deliveries":
        claimed = row.pop("claim")
        owner, _, number = claimed.removesuffix("+").rpartition("/")
        row |= {"claim_owner": owner, "claim_number": int(number or 0), "prefetched": claimed.endswith("+")}
    return row | NEW_COLUMNS.get(table, {})


def test_the_old_ledger_has_rows_of_every_kind(before: Rows) -> None:
    kinds = {
        ("deliveries", "state"): "held queued sending waiting delivered dead cancelled",
        ("events", "disposition"): "news interim repeat superseded unreadable",
        ("submissions", "state"): "pending accepted rejected unknown lost",
    }
    for (table, column), wanted in kinds.items():
        assert {row[column] for row in before[table]} == set(wanted.split()), table
    assert set(" ".join(row["scopes"] for row in before["keys"]).split()) == {"submit", "read", "operate", "again"}
    claimed = {row["claim"] for row in before["deliveries"]}
    assert claimed == {"", f"{FAST}/12", f"{FAST}/12+", f"{SLOW}/7"}


def test_every_row_is_kept(old: Ledger, before: Rows) -> None:
    after = old.read(content)
    for table in TABLES:
        wanted = [in_todays_words(table, row) for row in before[table]]
        assert sorted(wanted, key=lambda row: str(sorted(row.items()))) == after[table], table


def test_what_older_versions_left_in_the_inbox_is_let_in_for_a_day(old: Ledger, tmp_path: Path) -> None:
    until = old.read(lambda it: marks.read(it, marks.UNSIGNED_UNTIL))
    assert until is not None
    assert 86_000 < until - time.time() <= 86_400
    assert marks.UnsignedEntries(old)()
    # And a new ledger has no older version
    new = with_tables(Ledger(f"sqlite:///{tmp_path / 'new.db'}"))
    assert not marks.UnsignedEntries(new)()
    new.close()


def test_work_goes_on(old: Ledger) -> None:
    # Given owners that live: their claims are theirs, and what is prefetched takes none of the slots
    assert old.write(lambda it: claims.renew(it, FAST, {12}, NOW + 100)) == 4
    assert old.write(lambda it: claims.renew(it, SLOW, {7}, NOW + 100)) == 1
    more = old.write(lambda it: claims.claim(it, "fast", 9, "w", 1, NOW + 41, 15, concurrency=3))
    assert len(more) == 1
    settle(old, more, DeliveryMove.ACCEPT, receipt={"id": "r"})
    # When one of them ends what it had, then what waited for that is released
    (sent,) = (row for row in old.read(content)["deliveries"] if row["claim_owner"] == SLOW)
    told = {name: sent[name] for name in ("id", "event_id", "created_at")} | {"attempt_number": 1}
    waiting_for = [Claimed(**(dict.fromkeys(Claimed.__slots__, "") | told))]  # type: ignore[arg-type]
    assert settle(old, waiting_for, DeliveryMove.ACCEPT, SLOW, claim_number=7, receipt={"id": "r"}) == ["after"]
    # And when the other is found dead, what it had prefetched and never started is as it was
    assert old.write(lambda it: recovery.release_claims(it, FAST, NOW + 42, frozenset())) == 4
    of_fast = [row for row in old.read(content)["deliveries"] if row["sink"] == "fast" and row["state"] == "queued"]
    assert sorted((row["attempts"], row["spent"]) for row in of_fast) == [(0, 0), (0, 0), (0, 0), (1, 1), (1, 1)]
    # And what was running, waiting and paused goes on until everything has ended
    assert old.write(lambda it: replays.step(it, NOW + 60)).sinks == ["dead"]
    assert old.write(lambda it: recovery.make_due(it, NOW + 2000)) == 4
    old.write(lambda it: lanes.set_paused(it, "dead", False, NOW + 2000))
    for sink in ("after", "archive", "callback", "dead", "fast", "lapsed", "waiting"):
        while taken := claim(old, sink, now=NOW + 2000):
            settle(old, taken, DeliveryMove.ACCEPT, receipt={"id": "r"})
    found = states(old)
    assert {state for name, state in found.items() if "cancelled" not in name} == {"delivered"}
    assert found["tsk_cancelled:cancelled"] == "cancelled"


def test_what_is_new_is_told_from_what_was_there(old: Ledger) -> None:
    known = old.write(lambda it: lock_runs(it, [("skyvern", "tsk_news")], NOW + 60))
    assert len(known["skyvern", "tsk_news"].history) == 3
    assert len(record(old, new_event("tsk_news", "archive"), new_event("tsk_after", "archive"))) == 1
    # A backfill takes what was new, and no repeat
    everything = Selection(until=NOW + 60)
    taken = old.read(lambda it: count(it, "backfill", everything, "later"))
    assert taken == len([row for row in old.read(content)["events"] if row["disposition"] in ("new", "news")])
    assert len(old.read(api_keys.every)) == 5
