"""What is done again and again costs no more with a long backlog than with a short one, on both databases."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa

from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.ledger.schema import deliveries
from tests.support import backlog
from tests.support.backlog import CALLBACK, OPERATIONS, effort, fill, look_of_the_clock, shut_lanes
from tests.support.ledger import NOW

# More than one statement takes: `retention.BATCH` and `links.PAGE`.
SMALL, LARGE = 600, 15_000


def efforts(ledger: Ledger) -> dict[str, int]:
    return {name: effort(ledger, work) for name, work in OPERATIONS.items()}


def test_regular_work_costs_no_more_with_a_long_backlog(ledger: Ledger) -> None:
    # Given a ledger with some of everything, about which the database has learnt
    backlog.make(ledger, SMALL)
    backlog.analyze(ledger)
    before = efforts(ledger)
    # When there is fifty times as much of everything
    backlog.make(ledger, LARGE)
    # Then nothing costs much more: neither by what the database knew then, nor by what it learns now
    for learnt in (False, True):
        if learnt:
            backlog.analyze(ledger)
        now = efforts(ledger)
        assert {name: (before[name], cost) for name, cost in now.items() if cost > 3 * before[name] + 500} == {}, learnt


def test_claim_past_many_shut_lanes_reads_a_bounded_number(ledger: Ledger) -> None:
    # Given a few hundred lanes, all shut, each with its backlog
    def claim(connection: Connection) -> None:
        many = ManyLanes(16, 4, Counter(), 0, Rotation(), (64, 100), 200)
        assert not claims.claim(connection, CALLBACK, 16, "w", NOW, many=many)

    fill(ledger, 1200, CALLBACK, lanes=400)
    shut_lanes(ledger, 400, until=NOW + 1000)
    before = effort(ledger, claim)
    # When there are ten times as many
    fill(ledger, 12_000, CALLBACK, lanes=4000)
    shut_lanes(ledger, 4000, until=NOW + 1000)
    # Then one claim costs the same
    assert effort(ledger, claim) < 1.5 * before + 60


def test_clock_reads_little_of_a_backlog_even_once_delivered(
    ledger: Ledger,
) -> None:
    # Given a long backlog, of which the database knows nothing yet, and then all
    fill(ledger, LARGE)
    assert effort(ledger, look_of_the_clock) < 500
    backlog.analyze(ledger)
    assert effort(ledger, look_of_the_clock) < 500
    # When all of it is delivered, which the database has not learnt, then the clock's look costs no more
    ledger.alter(lambda connection: connection.execute(sa.update(deliveries).values(state="delivered")))
    assert effort(ledger, look_of_the_clock) < 500


def test_settlement_reads_no_earlier_deliveries(
    ledger: Ledger,
) -> None:
    # Given a new ledger, of which the database has learnt nothing
    fill(ledger, 300, "new")
    before = effort(ledger, OPERATIONS["settle"])
    # When thousands have been delivered, then the settlement of twenty costs as much as it did
    fill(ledger, 6_000, "new", "delivered")
    assert effort(ledger, OPERATIONS["settle"]) < 1.5 * before + 60
