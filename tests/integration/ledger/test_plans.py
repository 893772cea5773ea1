"""How the databases plan what is run for each event that comes alone: PostgreSQL once a session, and for tables of any
size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger, statements
from receiver.ledger.deliveries import claimed, claims, lanes
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import load_bodies, load_handed_on
from receiver.ledger.schema import metadata, submissions
from receiver.ledger.submissions import binding
from tests.support.backlog import analyze
from tests.support.events import body, event
from tests.support.handing_on import make_recorder
from tests.support.ledger import NOW, new_event, record, settle_in, with_tables

# PostgreSQL compares plans for given values with one for any after so many executions.
CUSTOM_PLANS = 5
_PREPARED = (
    "SELECT name, statement, custom_plans, generic_plans, cardinality(parameter_types) AS parameters"
    " FROM pg_prepared_statements WHERE name LIKE 'runhook%%' AND cardinality(parameter_types) > 0"
)


def take_through(ledger: Ledger, number: int) -> None:
    """Take one event from its record to the settlement of its delivery."""
    run_id = f"tsk_{number}"
    record(ledger, new_event(run_id, "ops"))
    wanted = [binding.Wanted("skyvern", run_id)]
    ledger.write(lambda it: statements.run(it, binding.candidates(wanted), lanes.SHUT.with_values(b_lanes=["ops"])))
    taken = ledger.write(lambda it: claims.claim(it, "ops", 8, "w", number, NOW, 15))
    (loaded,) = ledger.write(lambda it: load_bodies(it, taken))
    handed_on = ledger.write(lambda it: load_handed_on(it, "w", number, [loaded.id], NOW))
    assert handed_on is not None
    assert [each.id for each in handed_on] == [loaded.id]
    accepted = AttemptResult(
        loaded.id, loaded.event_id, loaded.created_at, 1, DeliveryMove.ACCEPT, "accepted", "", NOW, NOW, receipt={}
    )
    ledger.write(lambda it: settle_in(it, "w", {number: [accepted]}, NOW))


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[Ledger]:
    """One that has one session, and of whose tables PostgreSQL has no statistics: those of rows that were there before
    stay when the rows are gone."""
    with_tables(Ledger(postgres_url)).close()
    it = Ledger(postgres_url)
    yield it
    it.close()


def plans(ledger: Ledger) -> dict[str, tuple[int, str]]:
    """How often each prepared statement was planned for its values, and its plan for any."""

    def look(connection: Connection) -> dict[str, tuple[int, str]]:
        found = {}
        for row in connection.exec_driver_sql(_PREPARED).all():
            nulls = ", ".join(["NULL"] * row.parameters)
            connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            lines = connection.exec_driver_sql(f"EXPLAIN EXECUTE {row.name}({nulls})").scalars()
            found[row.statement] = (row.custom_plans, "\n".join(lines))
        return found

    return ledger.write(look)


def test_what_an_event_alone_needs_is_planned_once_and_never_reads_a_whole_table(ledger: Ledger) -> None:
    # Given a ledger of which PostgreSQL has no statistics yet, when events come through it one by one
    for number in range(4 * CUSTOM_PLANS):
        take_through(ledger, number)

    # Then no statement is planned for its values again and again
    found = plans(ledger)
    assert len(found) >= 13
    assert [statement for statement, (custom, _) in found.items() if custom > CUSTOM_PLANS] == []
    # And those that name rows find them by their key, however many there will be
    assert [plan for _, plan in found.values() if "Seq Scan" in plan] == []
    by_id = [plan for statement, (_, plan) in found.items() if re.search(r"deliveries\.id = \$\d", statement)]
    assert len(by_id) >= 3
    assert [plan for plan in by_id if "pk_deliveries" not in plan] == []
    # And what waits for an event is found by the index of all that waits
    (held,) = [plan for statement, (_, plan) in found.items() if "deliveries.event_id = $" in statement]
    assert "ix_deliveries_held" in held


def test_what_an_event_alone_needs_reads_no_whole_table_of_sqlite(tmp_path: Path, redis_url: str) -> None:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    asked: set[str] = set()

    def listen(connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        driver.set_trace_callback(asked.add)

    for use in ledger.write, ledger.read:  # each has a connection that stays
        use(listen)
    # When events come through it one by one: the first of their runs, one with a token, one more of a run, and a repeat
    recorder = make_recorder(ledger, redis_url, None)
    first = event(body("tsk_a"))
    for number, each in enumerate([first, event(body("tsk_b"), submission_id="s"), event(body("tsk_a", n=2)), first]):
        recorder.dispatch([each])
        take_through(ledger, number)
    # Then each statement finds its rows by an index, however many there will be
    plans = {
        statement: ledger.read(lambda it, of=statement: it.exec_driver_sql(f"EXPLAIN QUERY PLAN {of}").all())  # type: ignore[misc]
        for statement in asked
        if statement.startswith(("SELECT", "WITH", "INSERT", "UPDATE"))
    }
    ledger.close()
    assert len(plans) >= 25
    whole = re.compile(rf"SCAN ({'|'.join(metadata.tables)})\b")
    assert [statement for statement, plan in plans.items() if any(whole.match(row.detail) for row in plan)] == []


@pytest.mark.parametrize("token", ["", "sub_1"])
def test_the_submission_of_an_event_alone_is_found_by_a_plan_that_is_kept_among_many(
    ledger: Ledger, token: str
) -> None:
    # Given submissions of which every other one has its run, all of which PostgreSQL knows
    rows = [
        {"id": f"sub_{number}", "source": "skyvern", "run_id": f"tsk_{number}" if number % 2 else ""}
        for number in range(3000)
    ]
    others = {"key_id": "key_1", "call": "tasks", "state": "pending", "request_hash": "", "created_at": NOW}
    ledger.write(lambda it: it.execute(sa.insert(submissions), [{**row, **others, "updated_at": NOW} for row in rows]))
    ledger.write(lambda it: it.exec_driver_sql("ANALYZE submissions"))
    # When the submission of one run after the other is looked for, by its callback URL or by its own id
    for number in range(4 * CUSTOM_PLANS):
        wanted = [binding.Wanted("skyvern", f"tsk_{number}", token)]
        ledger.write(lambda it, wanted=wanted: statements.run(it, binding.candidates(wanted)))  # type: ignore[misc]
    # Then PostgreSQL has one plan for them all, of both indexes
    ((custom, plan),) = [look for statement, look in plans(ledger).items() if "FROM submissions" in statement]
    assert custom <= CUSTOM_PLANS
    assert "pk_submissions" in plan
    assert "ix_submissions_source_run_id" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("tokens", [("", ""), ("sub_1", ""), ("sub_1", "sub_2")])
def test_submissions_are_found_by_both_indexes_of_sqlite(tmp_path: Path, tokens: tuple[str, str]) -> None:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    wanted = [binding.Wanted("skyvern", f"tsk_{number}", token) for number, token in enumerate(tokens)]
    ((statement, values),) = filter(None, [binding.candidates(wanted)])
    look, given = statement.on_sqlite.text, statement.on_sqlite.parameters(values)
    explain = f"EXPLAIN QUERY PLAN {look}"
    explained = ledger.read(lambda it: [row.detail for row in it.exec_driver_sql(explain, given)])
    ledger.close()
    assert [line for line in explained if line.startswith("SCAN submissions")] == []
    searched = [line for line in explained if line.startswith("SEARCH submissions")]
    assert [line.partition("USING INDEX ")[2] for line in searched] == [
        "sqlite_autoindex_submissions_1 (id=?)",
        "ix_submissions_source_run_id (source=? AND run_id=?)",
    ]


@pytest.mark.parametrize("known", [False, True])
def test_a_claim_finds_on_sqlite_the_event_of_a_delivery_by_its_run(tmp_path: Path, known: bool) -> None:
    # Given a ledger that SQLite has looked at, or one that it hasn't
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    for number in range(50):
        record(ledger, new_event(f"tsk_{number}", "ops"))
    if known:
        analyze(ledger)
    # When it plans what finds the oldest that are due, with their events, or what was handed on
    looks = (
        (claims._OLDEST, {"b_sink": "ops", "b_now": NOW, "b_limit": 8}),
        (claimed._HANDED_ON, {"b_ids": ["dlv_1", "dlv_2"], "b_owner": "w", "b_number": 1}),
    )
    for statement, values in looks:
        look, given = f"EXPLAIN QUERY PLAN {statement.on_sqlite.text}", statement.on_sqlite.parameters(values)
        explained = ledger.read(lambda it, look=look, given=given: [  # type: ignore[misc]
            row.detail for row in it.exec_driver_sql(look, given)
        ])  # fmt: skip
        # Then an event is found by its run, and by its id only where it has none
        searched = [line.partition("USING INDEX ")[2] for line in explained if line.startswith("SEARCH events")]
        assert searched == ["ix_events_source_run_id (source=? AND run_id=?)", "uq_events_id (id=?)"]
    ledger.close()
