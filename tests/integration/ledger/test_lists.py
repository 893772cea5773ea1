"""Each list, with every filter, has the rows that a plain model of it has, whatever its pages are; and what an action
on "all that match" selects are the same rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from receiver.domain.redaction import Redactor
from receiver.domain.words import document, parse_query
from receiver.ledger import Ledger
from receiver.ledger.filters import Filter
from receiver.ledger.lists import paging
from receiver.ledger.lists.runs import list_runs
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.text_index.indexing import TextIndexer
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import with_tables

SOURCES = ["a", "b", "a.b"]
RUN_IDS = ["tsk_1", "tsk_10", "tsk_11", "TSK_1", "wr_2", "wr_%", "wr__3", "tsk_é"]
STATUSES = ["completed", "failed", "timed_out", ""]
TYPES = ["task_v1", "workflow_run"]
WORKFLOWS = [None, "wpid_1", "wpid_2"]
TITLES = [None, "Weekly Invoices", "invoices: 100 %", "Ärger_mit \\ 'x'"]
REASONS = [None, "Timeout after 30 s", "no such ELEMENT"]
LABELS: list[dict[str, str]] = [{}, {"team": "Billing"}, {"team": "billing", "n": "1"}, {"te": "m", "x": 'é, "q"'}]
SINKS, ROUTES = ["db", "ops"], ["all", "failed"]
STATES = ["delivered", "dead", "waiting", "queued"]
TIMES = [1000.0, 1000.25, 1001.0, 1003.5]


@dataclass
class World:
    """A ledger, and what is in it as the model sees it."""

    ledger: Ledger
    runs: dict[tuple[str, str], dict[str, Any]]
    events: list[dict[str, Any]]
    deliveries: list[dict[str, Any]]


def _rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    draw = random.Random(1)
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for source in SOURCES:
        for run_id in RUN_IDS:
            if draw.random() < 0.9:
                made[source, run_id] = {
                    "source": source,
                    "run_id": run_id,
                    "run_type": draw.choice(TYPES),
                    "outcome": draw.choice(STATUSES),
                    "workflow_id": draw.choice(WORKFLOWS),
                    "title": draw.choice(TITLES),
                    "failure_reason": draw.choice(REASONS),
                    "labels": json.dumps(draw.choice(LABELS)),
                    "events": (count := draw.choice([0, 1, 1, 2])),
                    "event_id": "evt_" if count else "",
                    "first_seen_at": 1.0,
                    "updated_at": draw.choice(TIMES),
                }
    told, sent = [], []
    for seq in range(1, 61):
        source, run_id = draw.choice(SOURCES), draw.choice([*RUN_IDS, ""])
        told.append(
            {
                "seq": seq,
                "id": f"evt_{draw.getrandbits(128):032x}",
                "source": source,
                "run_id": run_id,
                "via": "webhook",
                "run_type": draw.choice(TYPES),
                "status": "s",
                "outcome": draw.choice(STATUSES),
                "attempt": 1,
                "retry_pending": False,
                "final": True,
                "fingerprint": "f",
                "output_null": False,
                "disposition": draw.choice(["new", "repeat", "test"]),
                "unrouted": False,
                "problem": draw.choice(["", "a timeout of a rule"]),
                "submission_id": "",
                "received_at": 999.0,
                "recorded_at": draw.choice(TIMES),
                "body": b"{}",
            }
        )
        for sink in SINKS:
            if draw.random() < 0.8:
                created = draw.choice(TIMES)
                sent.append(
                    {
                        "id": f"dlv_{draw.getrandbits(128):032x}",
                        "event_id": told[-1]["id"],
                        "sink": sink,
                        "lane": sink,
                        "route": draw.choice(ROUTES),
                        "source": source,
                        "run_id": run_id,
                        "state": draw.choice(STATES),
                        "reason": draw.choice(["", "TIMEOUT of the sink"]),
                        "due_at": 0.0,
                        "created_at": created,
                        "updated_at": created + draw.choice([0.0, 0.5, 2.0]),
                    }
                )
    return list(made.values()), told, sent


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A ledger with some of everything, in which many rows are equal in much."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('lists') / 'ledger.db'}"
    else:
        server: PostgresProcess = request.getfixturevalue("postgres")
        url = server.url(server.create_database())
    ledger = with_tables(Ledger(url))
    some, told, sent = _rows()

    def fill(connection: sa.Connection) -> None:
        for table, rows in ((runs, some), (events, told), (deliveries, sent)):
            connection.execute(sa.insert(table), rows)

    ledger.write(fill)
    TextIndexer(ledger, Redactor([])).run(60)
    yield World(ledger, {(each["source"], each["run_id"]): each for each in some}, told, sent)
    ledger.close()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that few rows reach."""
    monkeypatch.setattr(paging, "SCAN", 12)
    monkeypatch.setattr(paging, "_FIRST", 4)


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
    "state": some_of(STATES),
    "reason": one_of("timeout", "element", "s", "\0", "\ud800"),
    "since": st.sampled_from(TIMES),
    "until": st.sampled_from(TIMES),
    "text": one_of("invoices tim", "ELEMENT", '"no such"', "100", "Ärger-mit x", "in* s"),
}
# Few at a time, so that something is left.
filters = st.sets(st.sampled_from(sorted(FIELDS)), max_size=3).flatmap(
    lambda names: st.builds(Filter, **{name: FIELDS[name] for name in sorted(names)})
)
each_filter = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
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


def asks_for_delivery(wanted: Filter) -> bool:
    return bool(wanted.sink or wanted.route or wanted.state)


def expected_runs(world: World, wanted: Filter) -> list[tuple[str, str]]:
    def is_wanted(run: Mapping[str, Any]) -> bool:
        key = (run["source"], run["run_id"])
        own = [each for each in world.deliveries if (each["source"], each["run_id"]) == key]
        told = [each for each in world.events if (each["source"], each["run_id"]) == key]
        return (
            run["events"] > 0
            and common(wanted, run, "updated_at")
            and (not wanted.status or run["outcome"] in wanted.status)
            and wanted.run_type in ("", run["run_type"])
            and of_run(wanted, run)
            and part(wanted.reason, run["failure_reason"])
            and any(each["id"].startswith(wanted.event_id) for each in told or [{"id": ""}])
            and (not asks_for_delivery(wanted) or any(of_delivery(wanted, each) for each in own))
        )

    found = [run for run in world.runs.values() if is_wanted(run)]
    found.sort(key=lambda run: (run["updated_at"], run["source"], run["run_id"]), reverse=True)
    return [(run["source"], run["run_id"]) for run in found]


List = Callable[[sa.Connection, Filter, paging.Key | None, int], paging.Page]


def pages(world: World, page: List, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    """All rows, page by page; each key goes through JSON, as a cursor does."""
    rows: list[dict[str, Any]] = []
    after: paging.Key | None = None
    for _ in range(500):
        found, rest = world.ledger.read(lambda connection: page(connection, wanted, after, limit))  # noqa: B023
        assert len(found) <= limit
        rows += found
        if rest is None:
            return rows
        assert after is None or rest < after  # it comes on
        after = tuple(json.loads(json.dumps(rest)))
    raise AssertionError("no end")


@each_filter
@given(wanted=filters, limit=st.sampled_from([1, 2, 7, 100]), number=st.integers(0, 200))
def test_runs(world: World, wanted: Filter, limit: int, number: int) -> None:
    if number < len(world.events):
        wanted = replace(wanted, event_id=world.events[number]["id"][: 12 if number % 2 else None])
    found = pages(world, list_runs, wanted, limit)
    assert [(row["source"], row["run_id"]) for row in found] == expected_runs(world, wanted)
