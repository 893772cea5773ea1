"""How PostgreSQL plans what is run for each event that comes alone: once a session, and for tables of any size."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger, requests
from receiver.ledger.deliveries import attempts, claims
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import load_bodies, load_handed_on
from receiver.ledger.schema import metadata
from receiver.ledger.submissions import binding
from tests.support.ledger import NOW, new_event, record

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
    ledger.write(lambda it: requests.run(it, binding.candidates(wanted)))
    claimed = ledger.write(lambda it: claims.claim(it, "ops", 8, "w", number, NOW, 15))
    (loaded,) = ledger.write(lambda it: load_bodies(it, claimed))
    handed_on = ledger.write(lambda it: load_handed_on(it, "w", number, [loaded.id], NOW))
    assert handed_on is not None
    assert [each.id for each in handed_on] == [loaded.id]
    accepted = AttemptResult(loaded.id, loaded.created_at, 1, DeliveryMove.ACCEPT, "accepted", "", NOW, NOW, receipt={})
    ledger.write(lambda it: attempts.settle(it, "w", {number: [accepted]}, NOW))


@pytest.fixture
def ledger(postgres_ledger: Ledger) -> Iterator[Ledger]:
    """One that has one session, and of whose tables PostgreSQL has no statistics: it would read one whole that it knows
    to be empty."""
    it = Ledger(postgres_ledger.url.render_as_string(hide_password=False))

    def forget(connection: Connection) -> None:
        for table in metadata.sorted_tables:
            if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is None:
                connection.exec_driver_sql(f"TRUNCATE {table.name}")

    it.write(forget)
    yield it
    it.close()


def test_what_an_event_alone_needs_is_planned_once_and_never_reads_a_whole_table(ledger: Ledger) -> None:
    # Given a ledger of which PostgreSQL has no statistics yet, when events come through it one by one
    for number in range(4 * CUSTOM_PLANS):
        take_through(ledger, number)

    def plans(connection: Connection) -> dict[str, tuple[int, str]]:
        found = {}
        for row in connection.exec_driver_sql(_PREPARED).all():
            nulls = ", ".join(["NULL"] * row.parameters)
            connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
            lines = connection.exec_driver_sql(f"EXPLAIN EXECUTE {row.name}({nulls})").scalars()
            found[row.statement] = (row.custom_plans, "\n".join(lines))
        return found

    # Then no statement is planned for its values again and again
    found = ledger.write(plans)
    assert len(found) >= 12
    # (but for the look at submissions: what PostgreSQL thinks of its OR depends on what was in these tables before)
    often = [statement for statement, (custom, _) in found.items() if custom > CUSTOM_PLANS]
    assert [statement for statement in often if "FROM submissions" not in statement] == []
    # And those that name rows find them by their key, however many there will be
    assert [plan for named, (_, plan) in found.items() if "Seq Scan" in plan and "FROM submissions" not in named] == []
    by_id = [plan for statement, (_, plan) in found.items() if re.search(r"deliveries\.id = \$\d", statement)]
    assert len(by_id) >= 5
    assert [plan for plan in by_id if "pk_deliveries" not in plan] == []
