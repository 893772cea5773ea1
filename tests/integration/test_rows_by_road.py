"""A run's row in the database sink is the same by every road, and whichever of its deliveries is written first."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import Receipt
from receiver.ledger import Ledger
from tests.support import roads
from tests.support.ledger import with_tables
from tests.support.results_db import ResultsDb
from tests.support.roads import AGAIN, EARLY, NOW, ORDERS, WEBHOOK, Account, Road, run_of

pytestmark = pytest.mark.long

# Columns that tell of the event and not of the run.
OF_EVENT = {"run_id", "event_id", "via", "received_at", "modified_at", "delivered_at", "merged_from"}
# Columns that a road alone can't fill, for it does not say so: a task_v2's poll, and a poll that came too early.
ONLY_WEBHOOK = {"summary", "workflow_id"}
FILES = {"recording_url", "screenshot_urls", "downloaded_files"}


@pytest.fixture
def results(tmp_path: Path) -> Iterator[ResultsDb]:
    database = ResultsDb(f"sqlite:///{tmp_path}/results.db")
    yield database
    database.close()


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    yield Account(ledger)
    ledger.close()


def _row(rows: dict[str, dict[str, Any]], run_id: str) -> dict[str, str]:
    """A run's row, without the ids of its run, and signatures and checksums of its files."""
    found = {}
    for name, value in rows[run_id].items():
        if name not in OF_EVENT:
            text = str(value).replace(run_id, "").replace(run_id.rpartition("_")[2], "")
            found[name] = re.sub(r"sig=[^'&]*|[0-9a-f]{64}", "", text)
    return found


def test_every_road_and_order_of_delivery_makes_the_same_row(account: Account, results: ResultsDb) -> None:
    # Given runs of every type and ending that were submitted here, whose results come by every road
    bodies: list[list[tuple[dict[str, Any], str]]] = [[] for _ in range(max(map(len, ORDERS)))]
    orders: list[tuple[Road, ...]] = [(WEBHOOK,), *ORDERS]
    requests = {}
    for name, order in itertools.product(roads.FINISHED, orders):
        webhook = roads.webhook(name, NOW, run_of(name, order))
        requests[webhook["run_id"]] = roads.request_of(webhook)
        for number, road in enumerate(order):
            moved = datetime.fromisoformat(webhook["modified_at"]) + timedelta(milliseconds=number)
            body = road({**webhook, "modified_at": moved.isoformat()})
            bodies[number].append((body, "webhook" if road in (WEBHOOK, AGAIN) else "poll"))
    account.submitted(requests, {"team": "a"})
    for batch in bodies:
        account.take(*batch)

    # When the sink gets the deliveries, in any order
    deliveries = list(itertools.chain(*account.told("rows").values()))
    random.Random(5).shuffle(deliveries)
    sink = results.sink()
    for start in range(0, len(deliveries), 100):
        assert all(isinstance(answer, Receipt) for answer in sink.send_many(deliveries[start : start + 100]))

    # Then each run has the row that its webhook alone would have made
    rows = {row["run_id"]: row for row in results.rows()}
    for name, order in itertools.product(roads.FINISHED, orders):
        expected, found = _row(rows, run_of(name, (WEBHOOK,))), _row(rows, run_of(name, order))
        left_out = FILES if order == (EARLY,) else set()
        if "task_v2" in name and WEBHOOK not in order:
            left_out = left_out | ONLY_WEBHOOK
        for column in expected.keys() - left_out:
            assert found[column] == expected[column], (name, [road.__name__ for road in order], column)
        asked = {"workflow_title", "parameters", "workflow_id"} if "workflow" in name else {"prompt", "url"}
        asked |= {"workflow_run_id"} if "workflow" in name or "task_v2" in name else set()
        for column in (*asked, "errors", "labels", "started_at", "finished_at"):
            assert expected[column] != "None", (name, column)
