"""A page of any list, with any filter, first or late, reads no more of a large ledger than of a small one.

`python -m bench large` measures the same with a million runs.
"""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from receiver.ledger import Ledger
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.paging import Key
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW
from tests.support.listed import LISTS, NOT_OF_SUBMISSIONS, fill, filters_among

pytestmark = pytest.mark.long

SMALL, LARGE, LIMIT = 400, 8_000, 10
# What a page of up to 100 rows costs: rows and pages of PostgreSQL, hundreds of instructions of SQLite.
BOUND = {"postgresql": 2500, "sqlite": 100}
# What an index serves, in the order of the list or in small sets.
SERVED = [
    *(
        f"{name} by {what}"
        for name in ("runs", "events")
        for what in ("nothing", "status, rare", "source, rare", "run")
    ),
    *(f"deliveries by {what}" for what in ("nothing", "state", "state, dead", "source, rare", "run", "event")),
    *("runs by workflow", "runs by workflow, rare", "events by since", "events by until", "submissions by nothing"),
    *(f"{name}, a late page" for name in ("runs", "events", "deliveries", "submissions")),
]


# Rows that a page may look at here: a bound that few rows reach.
SCAN = 100


def efforts(ledger: Ledger, count: int) -> dict[str, int]:
    found = {}
    for name, (page, _) in LISTS.items():
        if name == "attempts":  # found by the search of deliveries
            continue
        for what, wanted in filters_among(count).items():
            if name != "submissions" or what not in NOT_OF_SUBMISSIONS:
                found[f"{name} by {what}"] = effort(ledger, lambda it: page(it, wanted, None, LIMIT, SCAN))  # noqa: B023
        after = ledger.read(lambda it: half_way(it, name))  # noqa: B023
        found[f"{name}, a late page"] = effort(ledger, lambda it: page(it, Filter(), after, LIMIT, SCAN))  # noqa: B023
    return found


def half_way(connection: sa.Connection, name: str) -> Key:
    key = LISTS[name][1].key
    middle = sa.select(sa.func.avg(key[0])).scalar_subquery()
    query = sa.select(*key).where(key[0] <= middle).order_by(*(each.desc() for each in key)).limit(1)
    return tuple(connection.execute(query).one())


def test_no_page_costs_more_with_many_rows_than_with_few(ledger: Ledger) -> None:
    # Given a ledger with some hundred runs, and what belongs to them
    fill(ledger, SMALL)
    analyze(ledger)
    # The most that any page costs there: a bound by the rows that a page may look at is the same for all filters
    before = efforts(ledger, SMALL)
    most = max(before.values())
    # When there is twenty times as much
    fill(ledger, LARGE)
    steps = {"how it was": lambda _: None, "how it is": analyze}
    if ledger.dialect == "sqlite":  # the other learns by itself
        steps["nothing"] = forget
    for knows, step in steps.items():
        step(ledger)
        now = efforts(ledger, LARGE)
        # Then no page costs much more, whatever the database knows of its tables
        assert {name: (before[name], cost) for name, cost in now.items() if cost > 2 * most} == {}, (knows, most)
        # And what an index serves costs what it did
        dearer = {name: (before[name], now[name]) for name in SERVED if now[name] > 3 * before[name] + 500}
        assert dearer == {}, knows


def test_page_is_bounded_without_statistics(ledger: Ledger) -> None:
    # Given a ledger of which the database has never collected statistics
    fill(ledger, LARGE)
    # When each page is read
    costs = efforts(ledger, LARGE)
    # Then it reads what it may look at: all rows would be 8,000 runs and 16,000 deliveries
    assert {name: cost for name, cost in costs.items() if cost > BOUND[ledger.dialect]} == {}


def forget(ledger: Ledger) -> None:
    """Have SQLite know nothing of its tables, as it does unless somebody has it look at them."""
    ledger.alter(lambda connection: connection.exec_driver_sql("DROP TABLE sqlite_stat1"))
    ledger.close()


def test_a_time_ends_a_list_though_many_rows_are_older(ledger: Ledger) -> None:
    # Given more runs than a page may look at, of which two have changed since a time
    fill(ledger, SMALL)
    wanted = Filter(since=NOW + (SMALL - 2) * 0.001 + 0.0005)
    for name, (page, _) in LISTS.items():
        if name != "submissions":  # of the last runs none has one
            # When what came since then is listed, of which there is less than a page
            rows, rest = ledger.read(lambda it: page(it, wanted, None, LIMIT, SCAN))  # noqa: B023
            # Then that is the end of it
            assert {row["run_id"] for row in rows} == {f"tsk_{SMALL - 1}", f"tsk_{SMALL}"}, name
            assert rest is None, name
