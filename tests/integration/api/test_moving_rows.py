"""Lists page by page, and rows that change meanwhile: docs/reference/api.md, Pages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from receiver.api.service import Service
from receiver.domain.delivery import DeliveryMove
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger
from tests.support import api
from tests.support.api import call
from tests.support.ledger import claim, new_event, record, settle


def runs_of(pages: list[dict[str, Any]]) -> list[str]:
    return [row["run_id"] for page in pages for row in page["items"]]


def pages_behind(service: Service, page: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page["next"]:
        page = call(service, "list_deliveries", limit=1, after=page["next"])
        found.append(page)
    return found


def test_changed_row_moves_to_the_first_page(ledger: Ledger, tmp_path: Path) -> None:
    # Given deliveries, the first page of which has been read
    service, began = api.service(ledger, tmp_path), time.time()
    for number in (1, 2, 3):
        record(ledger, new_event(f"tsk_{number}", "ops"), now=began - 600 + number)
    first = call(service, "list_deliveries", limit=1)
    assert runs_of([first, *pages_behind(service, first)]) == ["tsk_3", "tsk_2", "tsk_1"]
    # When the one that is last changes
    call(service, "cancel", ids=["tsk_1"])
    # Then the pages behind lack it, and whoever looks at the front again finds it, as the only one since then
    assert runs_of(pages_behind(service, first)) == ["tsk_2"]
    again = call(service, "list_deliveries", limit=500)["items"]
    changed_at = {row["run_id"]: row["updated_at"] for row in again}
    assert list(changed_at) == ["tsk_1", "tsk_3", "tsk_2"]
    assert [run for run, at in changed_at.items() if at > changed_at["tsk_3"]] == ["tsk_1"]


@pytest.mark.parametrize("name", ["list_runs", "list_operations", "list_audit", "list_keys", "list_quarantine"])
def test_pages_of_one_row_are_the_whole_list(ledger: Ledger, tmp_path: Path, name: str) -> None:
    # Given three rows of each list
    service, now = api.service(ledger, tmp_path), time.time() - 60
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(3)), now=now)
    settle(ledger, claim(ledger, "ops", now=now), DeliveryMove.DIE, now=now)
    for number in range(3):
        call(service, "create_key", name=str(number), scopes=["view"], source="other")
        call(service, "replay", ids=[f"tsk_{number}"])
        body = b"[%d]" % number
        refused = QuarantinedRequest.of("skyvern", "0" * 64, body, "", now)
        Quarantine(tmp_path / "quarantine", 100, 1 << 20).add(refused, body)
    # When the list is read row by row
    rows, after = [], ""
    while after is not None:
        page = call(service, name, limit=1, after=after)
        assert len(page["items"]) == 1
        rows, after = rows + page["items"], page["next"]
    # Then it is the whole list
    assert rows == call(service, name)["items"]
    assert len(rows) == (6 if name == "list_audit" else 3)
