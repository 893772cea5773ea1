"""Totals over time, on both databases: what is counted is what a count of every row gives."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.support import timestamps
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger, operations, totals
from receiver.ledger.deliveries import recovery
from receiver.ledger.lists.filters import Filter
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.selection import Selection
from receiver.ledger.totals import DELIVERY_DIMENSIONS, RUN_DIMENSIONS, Span
from receiver.ledger.verbs import Operation
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import (
    claim,
    delivery_row,
    event_row,
    new_event,
    record,
    run_row,
    settle,
    step_operations,
    with_tables,
)

HOUR = 3600.0
NOW = 1_700_000_000.0
ALL = Span(0.0, NOW + 1)


@dataclass
class World:
    ledger: Ledger
    runs: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]

    def count_runs(self, *given: Any, **named: Any) -> totals.Counted:
        return self.ledger.read(lambda connection: totals.count_runs(connection, *given, **named))

    def count_deliveries(self, *given: Any, **named: Any) -> totals.Counted:
        return self.ledger.read(lambda connection: totals.count_deliveries(connection, *given, **named))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('totals') / 'ledger.db'}"
    else:
        server: PostgresProcess = request.getfixturevalue("postgres")
        url = server.url(server.create_database())
    ledger, draw = with_tables(Ledger(url)), random.Random(3)
    made, told, sent = [], [], []
    for n in range(200):
        outcome = draw.choice(["completed", "completed", "failed", "running", "canceled"])
        changed = NOW - draw.randrange(0, 40) * HOUR / 4
        of_event = {
            "run_type": draw.choice(["task_v1", "workflow_run"]),
            "outcome": outcome,
            "final": outcome != "running",
        }
        of_run = {
            "workflow_id": draw.choice([None, "wpid_1"]),
            "title": draw.choice([None, "Invoices"]),
            "failure_reason": draw.choice(["Timeout after 3 s", "Timeout after 4 s"]) if outcome == "failed" else None,
            "finished_at": changed - 10 if n % 3 else None,
        }
        run = run_row(draw.choice(["a", "b"]), f"r{n}", changed, **of_event, **of_run)
        event = event_row(f"evt_{n:032x}", run["source"], run["run_id"], changed, **of_event)
        made.append(run)
        told.append(event)
        for sink in ("db", "ops"):
            state = draw.choice(["delivered", "delivered", "dead", "waiting", "cancelled"])
            row = delivery_row(f"dlv_{n:030x}{sink[:2]}", event, sink, changed, state=state)
            row |= {"route": draw.choice(["all", "failed"]), "reason": "503" if state == "dead" else ""}
            sent.append(row | {"updated_at": changed + draw.choice([0.0, 5.0])})
    # Of these nothing is known but that Skyvern is to be asked for them.
    unknown = {**made[0], "run_id": "unknown", "events": 0}

    def fill(connection: sa.Connection) -> None:
        for table, rows in ((runs, [*made, unknown]), (events, told), (deliveries, sent)):
            connection.execute(sa.insert(table), rows)

    ledger.write(fill)
    yield World(ledger, made, sent)
    ledger.close()


def keys(counted: totals.Counted) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for each in counted.groups:
        found[(*each.key, each.bucket)] += each.count
    return found


OF_RUN = {"status": "outcome", "workflow": "workflow_id", "reason": "failure_reason"}


@pytest.mark.parametrize("by", [(name,) for name in RUN_DIMENSIONS] + [("status", "workflow", "reason")])
@pytest.mark.parametrize("bucket", [None, HOUR])
def test_runs_are_counted_by_what_they_have_in_common(world: World, by: tuple[str, ...], bucket: float | None) -> None:
    span = Span(NOW - 5 * HOUR, NOW)
    within = [run for run in world.runs if span.since <= run["updated_at"] < span.until]
    counted = world.count_runs(Filter(), span, by, bucket)
    assert keys(counted) == Counter(
        (
            *(run[OF_RUN.get(name, name)] or "" for name in by),
            None if bucket is None else int(run["updated_at"] // bucket),
        )
        for run in within
    )
    assert (counted.all.count, counted.since) == (len(within), span.since)
    assert counted.all.good == sum(run["outcome"] == "completed" for run in within)
    assert counted.all.ended == sum(run["final"] and run["outcome"] != "canceled" for run in within)
    assert sum(each.good for each in counted.groups) == counted.all.good


@pytest.mark.parametrize("by", [(name,) for name in DELIVERY_DIMENSIONS] + [("sink", "state", "workflow", "status")])
def test_deliveries_are_counted_by_what_they_have_in_common(world: World, by: tuple[str, ...]) -> None:
    of_run = {run["run_id"]: run for run in world.runs}

    def value(row: dict[str, Any], name: str) -> str:
        if name in ("status", "run_type", "workflow", "title"):
            row = of_run[row["run_id"]]
        return row["reason" if name == "reason" else OF_RUN.get(name, name)] or ""

    counted = world.count_deliveries(Filter(), ALL, by)
    wanted = [row for row in world.deliveries if row["updated_at"] < ALL.until]
    assert keys(counted) == Counter((*(value(row, name) for name in by), None) for row in wanted)
    assert counted.all.good == sum(row["state"] == "delivered" for row in wanted)
    assert counted.all.ended == sum(row["state"] in ("delivered", "dead") for row in wanted)


def test_what_the_filter_leaves_out_is_not_counted(world: World) -> None:
    # A time in the filter is not that of the count
    wanted = Filter(source="a", reason="TIMEOUT", since=NOW + 99)
    of_a = [run for run in world.runs if run["source"] == "a" and run["failure_reason"]]
    assert world.count_runs(wanted, ALL).all.count == len(of_a) > 0
    own = [row for row in world.deliveries if row["sink"] == "ops" and row["updated_at"] < ALL.until]
    assert world.count_deliveries(Filter(sink="ops"), ALL, ("state",)).all.count == len(own) > 0


@pytest.mark.parametrize("scan", [1, 10, 199, 200, 201])  # with the one that no event has reported, there are 201
def test_a_count_says_from_when_on_it_is_complete(world: World, scan: int) -> None:
    counted = world.count_runs(Filter(), replace(ALL, scan=scan), ("source",))
    newest = sorted((run["updated_at"] for run in [*world.runs, world.runs[0]]), reverse=True)
    assert counted.since == (newest[scan] if scan < 201 else ALL.since)
    assert counted.all.count == sum(run["updated_at"] >= counted.since for run in world.runs) >= min(scan, 200)
    # And so does one of deliveries, whichever of their states has most
    sent = world.count_deliveries(Filter(), replace(ALL, scan=scan), ("state",))
    assert sent.all.count == sum(counted_in(sent, row) for row in world.deliveries)


def counted_in(counted: totals.Counted, row: dict[str, Any]) -> bool:
    return counted.since <= row["updated_at"] < ALL.until


def test_all_are_counted_though_there_are_too_many_groups(world: World) -> None:
    counted = world.count_runs(Filter(), replace(ALL, groups=2), ("status", "source"))
    assert len(counted.groups) == 2
    assert counted.all.count == 200


def test_how_old_results_were_when_they_were_delivered(world: World) -> None:
    of_run = {run["run_id"]: run for run in world.runs}
    found = world.ledger.read(lambda connection: totals.ages(connection, Filter(), ALL))
    for sink in ("db", "ops"):
        assert found[sink] == sorted(
            row["updated_at"] - of_run[row["run_id"]]["finished_at"]
            for row in world.deliveries
            if row["sink"] == sink
            and row["state"] == "delivered"
            and row["updated_at"] < ALL.until
            and of_run[row["run_id"]]["finished_at"] is not None
        )


def test_a_replay_has_no_age(ledger: Ledger) -> None:
    # Given deliveries that were accepted at once, put off and refused, of runs that ended 5 s before
    finished = timestamps.iso(NOW - 5)
    for run_id, move in (("once", DeliveryMove.ACCEPT), ("late", DeliveryMove.DEFER), ("dead", DeliveryMove.DIE)):
        record(ledger, new_event(run_id, "ops", finished_at=finished))
        settle(ledger, claim(ledger, "ops"), move, now=NOW + 1, due_at=NOW + 50)
    # When the second is tried again, and the other two are replayed
    ledger.write(lambda it: recovery.make_due(it, NOW + 60))
    settle(ledger, claim(ledger, "ops", now=NOW + 60), DeliveryMove.ACCEPT, now=NOW + 60)
    before = ledger.read(lambda it: totals.ages(it, Filter(), Span(0.0, NOW + 100)))
    for run_id in ("once", "dead"):
        selection = Selection(run_id=run_id)
        ledger.write(
            lambda it, s=selection: operations.create(
                it, f"op_{s.run_id}", Operation("replay", s, force=True), NOW + 90
            )
        )  # type: ignore[misc]
    step_operations(ledger, NOW + 90)
    settle(ledger, claim(ledger, "ops", now=NOW + 90), DeliveryMove.ACCEPT, now=NOW + 90)
    # Then these two have no age any more
    assert before == {"ops": [6.0, 65.0]}
    assert ledger.read(lambda it: totals.ages(it, Filter(), Span(0.0, NOW + 100))) == {"ops": [65.0]}


@pytest.mark.parametrize("wanted", [Filter(), Filter(source="a"), Filter(sink="ops"), Filter(state=("dead",))])
@pytest.mark.parametrize("most", [2, 2000])
def test_how_old_results_were_over_time(world: World, wanted: Filter, most: int) -> None:
    span = Span(NOW - 5 * HOUR, NOW)
    of_run = {run["run_id"]: run for run in world.runs}
    within: dict[int, list[tuple[float, float | None]]] = {}
    for row in world.deliveries:
        if (
            span.since <= row["updated_at"] < span.until
            and row["state"] == "delivered"
            and (not wanted.source or row["source"] == wanted.source)
            and (not wanted.sink or row["sink"] == wanted.sink)
            and not wanted.state
        ):
            ended = of_run[row["run_id"]]["finished_at"]
            age = None if ended is None else row["updated_at"] - ended
            within.setdefault(int(row["updated_at"] // HOUR), []).append((row["updated_at"], age))
    found = world.ledger.read(lambda connection: totals.ages_over_time(connection, wanted, span, HOUR, 1, most))
    # Then they are of the newest in each
    if most == 2000:
        assert found == {
            bucket: sorted(age for _, age in rows if age is not None)
            for bucket, rows in within.items()
            if any(age is not None for _, age in rows)
        }
    assert all(len(ages) <= most for ages in found.values())
    assert found.keys() <= within.keys()
    assert bool(found) == bool(within)


def test_only_the_states_that_are_wanted_are_looked_at(world: World) -> None:
    # Given more delivered ones than one count looks at, and fewer dead ones
    dead = [row for row in world.deliveries if row["state"] == "dead" and row["updated_at"] < ALL.until]
    counted = world.count_deliveries(Filter(state=("dead",)), replace(ALL, scan=len(dead)), ("reason",))
    # Then all of the dead ones are counted
    assert (counted.all.count, counted.since) == (len(dead), ALL.since)
    assert world.ledger.read(lambda connection: totals.ages(connection, Filter(state=("dead",)), ALL)) == {}
