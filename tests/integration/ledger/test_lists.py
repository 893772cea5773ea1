"""Each list, with every filter, has the rows that a plain model of it has, whatever its pages are; and what an action
on "all that match" selects are the same rows."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from receiver.domain.words import document, parse_query
from receiver.ledger import Ledger
from receiver.ledger.database.dialect import json_text
from receiver.ledger.lists import paging
from receiver.ledger.lists.deliveries import list_attempts, list_deliveries
from receiver.ledger.lists.events import list_events
from receiver.ledger.lists.filters import FULL_ID, Filter, of_deliveries, of_events
from receiver.ledger.lists.runs import list_runs
from receiver.ledger.lists.submissions import list_submissions
from receiver.ledger.schema import attempts, deliveries, events, runs, submissions
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import (
    NOW,
    attempt_row,
    delivery_row,
    event_row,
    index_words,
    new_event,
    queue_all_words,
    record,
    run_row,
    submission_row,
    with_tables,
)

SOURCES = ["a", "b", "a.b"]
RUN_IDS = ["tsk_1", "tsk_10", "tsk_11", "TSK_1", "wr_2", "wr_%", "wr__3", "tsk_é"]
STATUSES = ["completed", "failed", "timed_out", ""]
TYPES = ["task_v1", "workflow_run"]
WORKFLOWS = [None, "wpid_1", "wpid_2"]
TITLES = [None, "Weekly Invoices", "invoices: 100 %", "Ärger_mit \\ 'x'"]
REASONS = [None, "Timeout after 30 s", "no such ELEMENT"]
LABELS: list[dict[str, str]] = [{}, {"team": "Billing"}, {"team": "billing", "n": "1"}, {"te": "m", "x": 'é, "q"'}]
SINKS, ROUTES = ["db", "ops"], ["all", "failed"]
# What ids begin with: the second of a run, or nothing, of those that are hashes alone.
SECONDS = ["", "g855e2ff", "g855e300", "vfffffff"]
SUBMISSION_STATES = ["accepted", "rejected"]
DISPOSITIONS = ["new", "repeat", "test"]
OUTCOMES = ["refused", "accepted"]  # of an even number, and of an odd one
STATES = ["delivered", "dead", "waiting", "queued"]
TIMES = [1000.0, 1000.25, 1001.0, 1003.5]


class World:
    """A ledger, and what is in it as the model sees it."""

    def __init__(self, ledger: Ledger, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self.ledger = ledger
        self.runs = {(each["source"], each["run_id"]): each for each in rows["runs"]}
        self.events, self.deliveries, self.submissions = rows["events"], rows["deliveries"], rows["submissions"]

    def run_of(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self.runs.get((row["source"], row["run_id"]))

    def deliveries_of(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [each for each in self.deliveries if each["event_id"] == event["id"]]

    def event_of(self, delivery: Mapping[str, Any]) -> Mapping[str, Any]:
        return next(each for each in self.events if each["id"] == delivery["event_id"])


def _rows() -> dict[str, list[dict[str, Any]]]:
    draw = random.Random(1)
    pick = draw.choice

    def some_id(kind: str, second: str) -> str:
        return f"{kind}_{second}{draw.getrandbits(128):032x}"[:FULL_ID]

    def labels() -> str:
        return json_text(pick(LABELS))

    made, told, sent = [], [], []
    for source, run_id in itertools.product(SOURCES, RUN_IDS):
        if draw.random() < 0.9:
            of_run = {"outcome": pick(STATUSES), "final": pick([True, False]), "workflow_id": pick(WORKFLOWS)}
            of_run |= {"title": pick(TITLES), "failure_reason": pick(REASONS), "labels": labels()}
            count = pick([0, 1, 1, 2])
            of_run |= {"run_type": pick(TYPES), "events": count, "event_id": "evt_" if count else ""}
            made.append(run_row(source, run_id, pick(TIMES), **of_run))
    for seq in range(1, 41):
        second = pick(SECONDS)
        of_event = {"seq": seq, "run_type": pick(TYPES), "outcome": pick(STATUSES)}
        of_event |= {"disposition": pick(DISPOSITIONS), "problem": pick(["", "a timeout of a rule"])}
        event = event_row(some_id("evt", second), pick(SOURCES), pick([*RUN_IDS, ""]), pick(TIMES), **of_event)
        told.append(event)
        for sink in SINKS:
            if draw.random() < 0.8:
                of_delivery = {"route": pick(ROUTES), "state": pick(STATES), "attempts": pick([0, 1, 2, 5])}
                row = delivery_row(some_id("dlv", second), event, sink, pick(TIMES), **of_delivery)
                row |= {"reason": pick(["", "TIMEOUT of the sink"])}
                sent.append(row | {"updated_at": row["created_at"] + pick([0.0, 0.5, 2.0])})
    asked = []
    for number in range(40):
        of_run = {"run_id": pick(["", *RUN_IDS]), "run_type": pick(["", *TYPES]), "title": pick(TITLES)}
        state = {"state": pick(SUBMISSION_STATES), "reason": pick(["", "Timeout of Skyvern"]), "labels": labels()}
        asked.append(submission_row(f"sub_{number}", pick(SOURCES), pick(TIMES), **of_run, **state))
    tried = [
        attempt_row(each["id"], number, outcome=OUTCOMES[number % 2], receipt=pick([None, '{"id": "x"}']))
        for each in sent
        # One that is being sent has no row of its newest attempt yet.
        for number in range(1, each["attempts"] + (each["state"] != "queued"))
    ]
    return {"runs": made, "events": told, "deliveries": sent, "submissions": asked, "attempts": tried}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A ledger with some of everything, in which many rows are equal in much."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('lists') / 'ledger.db'}"
    else:
        server: PostgresProcess = request.getfixturevalue("postgres")
        url = server.url(server.create_database())
    ledger = with_tables(Ledger(url))
    rows = _rows()

    def fill(connection: sa.Connection) -> None:
        for table in (runs, events, deliveries, submissions, attempts):
            connection.execute(sa.insert(table), rows[table.name])

    ledger.write(fill)
    queue_all_words(ledger)
    index_words(ledger)
    yield World(ledger, rows)
    ledger.close()


# Rows that a page may look at here: a bound that few rows reach.
SCAN = 30


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([*(each for each in values if each), "none"])


def some_of(values: list[str]) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from([*values, "none"]), min_size=1).map(tuple)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "source": one_of(*SOURCES),
    "run_id": st.sampled_from(RUN_IDS),
    "run_prefix": one_of("t", "tsk_1", "wr_", "TSK", "tsk_10", "é"),
    "status": some_of(STATUSES),
    "run_type": one_of(*TYPES),
    "workflow": one_of(*WORKFLOWS),
    "title": one_of("INVOICES", "100 %", "_mit \\ '", "Ä", "ä"),
    "labels": st.sampled_from([*LABELS, {"team": "Bill"}, {"n": "1"}]),
    "route": one_of(*ROUTES),
    "sink": one_of(*SINKS),
    "state": some_of([*STATES, *SUBMISSION_STATES]),
    "disposition": some_of(DISPOSITIONS),
    "outcome": some_of(OUTCOMES),
    "reason": one_of("timeout", "element", "s"),
    "since": st.sampled_from(TIMES),
    "until": st.sampled_from(TIMES),
    "text": one_of("invoices tim", "ELEMENT", '"no such"', "100", "Ärger-mit x", "in* s"),
}
# Few at a time, so that something is left.
filters = st.sets(st.sampled_from(sorted(FIELDS)), max_size=3).flatmap(
    lambda names: st.builds(Filter, **{name: FIELDS[name] for name in sorted(names)})
)
each_filter = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def lowered(text: str | None) -> str:
    """As SQL's lower of the letters A-Z."""
    return "".join(each.lower() if each.isascii() else each for each in text or "")


def part(wanted: str, *texts: str | None) -> bool:
    return not wanted or any(text is not None and lowered(wanted) in lowered(text) for text in texts)


def common(wanted: Filter, row: Mapping[str, Any], moment: str) -> bool:
    return (
        wanted.source in ("", row["source"])
        and wanted.run_id in ("", row["run_id"])
        and row["run_id"].startswith(wanted.run_prefix)
        and (wanted.since is None or row[moment] >= wanted.since)
        and (wanted.until is None or row[moment] < wanted.until)
    )


def of_run(wanted: Filter, run: Mapping[str, Any] | None) -> bool:
    """Whether what only a run has is wanted; None: there is no such run."""
    if run is None:
        return not (wanted.workflow or wanted.title or wanted.labels or wanted.text)
    return (
        wanted.workflow in ("", run["workflow_id"])
        and part(wanted.title, run["title"])
        and wanted.labels.items() <= json.loads(run["labels"]).items()
        and (not wanted.text or (run["events"] > 0 and says(run, wanted.text)))
    )


def says(run: Mapping[str, Any], text: str) -> bool:
    return parse_query(text).matches(document(run["title"], run["failure_reason"], None))


def of_delivery(wanted: Filter, row: Mapping[str, Any]) -> bool:
    return (
        wanted.sink in ("", row["sink"])
        and wanted.route in ("", row["route"])
        and (not wanted.state or row["state"] in wanted.state)
    )


def has_delivery(wanted: Filter, rows: Iterable[Mapping[str, Any]]) -> bool:
    asked = bool(wanted.sink or wanted.route or wanted.state)
    return not asked or any(of_delivery(wanted, each) for each in rows)


def told(wanted: Filter, row: Mapping[str, Any]) -> bool:
    return (not wanted.status or row["outcome"] in wanted.status) and wanted.run_type in ("", row["run_type"])


def reason_of(run: Mapping[str, Any] | None) -> str | None:
    return run["failure_reason"] if run else None


def is_wanted_run(world: World, wanted: Filter, run: Mapping[str, Any]) -> bool:
    key = (run["source"], run["run_id"])
    its = [each for each in world.events if (each["source"], each["run_id"]) == key]
    return (
        run["events"] > 0
        and common(wanted, run, "updated_at")
        and told(wanted, run)
        and of_run(wanted, run)
        and part(wanted.reason, run["failure_reason"])
        and any(each["id"].startswith(wanted.event_id) for each in its or [{"id": ""}])
        and has_delivery(wanted, [each for each in world.deliveries if (each["source"], each["run_id"]) == key])
    )


def is_wanted_event(world: World, wanted: Filter, event: Mapping[str, Any]) -> bool:
    run = world.run_of(event)
    return (
        common(wanted, event, "recorded_at")
        and event["id"].startswith(wanted.event_id)
        and (not wanted.disposition or event["disposition"] in wanted.disposition)
        and told(wanted, event)
        and of_run(wanted, run)
        and part(wanted.reason, event["problem"], reason_of(run))
        and has_delivery(wanted, world.deliveries_of(event))
    )


def is_wanted_delivery(world: World, wanted: Filter, delivery: Mapping[str, Any]) -> bool:
    run = world.run_of(delivery)
    return (
        common(wanted, delivery, "created_at")
        and delivery["event_id"].startswith(wanted.event_id)
        and told(wanted, world.event_of(delivery))
        and of_run(wanted, run)
        and part(wanted.reason, delivery["reason"], reason_of(run))
        and of_delivery(wanted, delivery)
    )


def is_wanted_submission(world: World, wanted: Filter, row: Mapping[str, Any]) -> bool:
    run = world.run_of(row)
    return (
        common(wanted, row, "created_at")
        and (not wanted.state or row["state"] in wanted.state)
        and (not wanted.status or (run is not None and run["outcome"] in wanted.status))
        and wanted.run_type in ("", row["run_type"], run["run_type"] if run else "")
        and of_run(replace(wanted, title="", labels={}), run)
        and part(wanted.title, row["title"], run["title"] if run else None)
        and wanted.labels.items() <= json.loads(row["labels"]).items()
        and part(wanted.reason, row["reason"], reason_of(run))
    )


List = Callable[[sa.Connection, Filter, paging.Key | None, int, int], paging.Page]


def pages(world: World, page: List, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    """All rows, page by page; each key goes through JSON, as a cursor does."""
    rows: list[dict[str, Any]] = []
    after: paging.Key | None = None
    for _ in range(500):
        found, rest = world.ledger.read(lambda connection: page(connection, wanted, after, limit, SCAN))  # noqa: B023
        assert len(found) <= limit
        rows += found
        if rest is None:
            return rows
        assert after is None or rest < after  # it comes on
        after = tuple(json.loads(json.dumps(rest)))
    raise AssertionError("no end")


def by_event(world: World, wanted: Filter, number: int) -> Filter:
    """The filter, now and then for one event or for those of which the id begins so."""
    if number >= len(world.events):
        return wanted
    return replace(wanted, event_id=world.events[number]["id"][: (None, 4, 12, 16)[number % 4]])


limits = st.sampled_from([3, 10, 100])
numbers = st.integers(0, 500)


@each_filter
@given(wanted=filters, limit=limits, number=numbers)
def test_runs(world: World, wanted: Filter, limit: int, number: int) -> None:
    wanted = by_event(world, wanted, number)
    expected = [run for run in world.runs.values() if is_wanted_run(world, wanted, run)]
    expected.sort(key=lambda run: (run["updated_at"], run["run_id"], run["source"]), reverse=True)
    found = [(row["source"], row["run_id"]) for row in pages(world, list_runs, wanted, limit)]
    keys = [(run["source"], run["run_id"]) for run in expected]
    # Found by words they come in the order of indexing, which is about that of their changes.
    assert (sorted(found) if wanted.text else found) == (sorted(keys) if wanted.text else keys)


@each_filter
@given(wanted=filters, limit=limits, number=numbers)
@example(wanted=Filter(disposition=("new", "repeat")), limit=10, number=500)
def test_events(world: World, wanted: Filter, limit: int, number: int) -> None:
    wanted = by_event(world, wanted, number)
    expected = [event for event in world.events if is_wanted_event(world, wanted, event)]
    expected.sort(key=lambda event: (event["recorded_at"], event["seq"]), reverse=True)
    assert [row["seq"] for row in pages(world, list_events, wanted, limit)] == [each["seq"] for each in expected]
    # And an action on all that match takes the same
    chosen = world.ledger.read(lambda it: it.scalars(sa.select(events.c.seq).where(*of_events(wanted))).all())
    assert sorted(chosen) == sorted(each["seq"] for each in expected)


def wanted_deliveries(world: World, wanted: Filter) -> list[dict[str, Any]]:
    found = [each for each in world.deliveries if is_wanted_delivery(world, wanted, each)]
    return sorted(found, key=lambda each: (each["updated_at"], each["id"]), reverse=True)


@each_filter
@given(wanted=filters, limit=limits, number=numbers)
# Two walks stop for the budget that both have used up, one of them before it says so.
@example(wanted=Filter(labels={"team": "billing", "n": "1"}, route="all"), limit=10, number=500)
def test_deliveries(world: World, wanted: Filter, limit: int, number: int) -> None:
    wanted = by_event(world, wanted, number)
    expected = [each["id"] for each in wanted_deliveries(world, wanted)]
    assert [row["id"] for row in pages(world, list_deliveries, wanted, limit)] == expected
    # And an action on all that match takes the same
    chosen = world.ledger.read(lambda it: it.scalars(sa.select(deliveries.c.id).where(*of_deliveries(wanted))).all())
    assert sorted(chosen) == sorted(expected)


@settings(each_filter, max_examples=10)
@given(wanted=filters, limit=limits, number=numbers)
def test_attempts(world: World, wanted: Filter, limit: int, number: int) -> None:
    wanted = by_event(world, wanted, number)
    expected = [
        (each["id"], number)
        for each in wanted_deliveries(world, wanted)
        for number in range(each["attempts"] - (each["state"] == "queued"), 0, -1)
        if not wanted.outcome or OUTCOMES[number % 2] in wanted.outcome
    ]
    found = pages(world, list_attempts, wanted, limit)
    assert [(row["delivery_id"], row["number"]) for row in found] == expected


@each_filter
@given(wanted=filters, limit=limits)
def test_submissions(world: World, wanted: Filter, limit: int) -> None:
    wanted = replace(wanted, sink="", route="")
    expected = [each for each in world.submissions if is_wanted_submission(world, wanted, each)]
    expected.sort(key=lambda each: (each["created_at"], each["id"]), reverse=True)
    found = pages(world, list_submissions, wanted, limit)
    assert [row["id"] for row in found] == [each["id"] for each in expected]


def test_row_met_by_several_walks_is_shown_once(ledger: Ledger) -> None:
    # Given a list with more rows than a page, each of which is met in three walks
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(5)))
    it = deliveries.c
    listing, walk = paging.KeysetList((it.run_id,), (it.updated_at, it.id)), paging.Walk([[it.state == "queued"]] * 3)
    # When it is read page by page, and what one statement returns are all the same two rows
    rows, rest = ledger.read(lambda connection: listing.page(connection, walk, None, 2, SCAN))
    found = [row["run_id"] for row in rows]
    while rest is not None:
        rows, rest = ledger.read(lambda connection: listing.page(connection, walk, rest, 2, SCAN))  # noqa: B023
        found += [row["run_id"] for row in rows]
    # Then there is each row once
    assert sorted(found) == [f"tsk_{number}" for number in range(5)]


@pytest.mark.parametrize("list_of", [list_runs, list_events, list_deliveries])
def test_rows_of_one_moment_are_looked_through_in_stretches_too(ledger: Ledger, list_of: List) -> None:
    # Given more rows of one moment than a page may look at, with some before and after them
    moments = [NOW] * 2 + [NOW + 1] * 100 + [NOW + 2] * 2
    for moment in sorted(set(moments)):
        numbers = [number for number, each in enumerate(moments) if each == moment]
        record(
            ledger, *(new_event(f"tsk_{n}", "ops", title="odd" if n % 51 == 1 else "even") for n in numbers), now=moment
        )
    # When those of a title are listed, which few have
    found, after, pages = list[str](), None, 0
    while pages == 0 or after is not None:
        rows, after = ledger.read(lambda it: list_of(it, Filter(title="odd"), after, 10, SCAN))  # noqa: B023
        found += [row["run_id"] for row in rows]
        pages += 1
    # Then each is found once, over pages that are bounded
    assert sorted(found) == ["tsk_1", "tsk_103", "tsk_52"]
    assert pages >= 3
