"""manifest.json, latest.json, and the order of a run's events."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from handlers.mirror.manifest import (
    SkippedFile,
    StoredFile,
    event_order,
    latest_document,
    manifest_document,
    order_in_latest,
    stored_files,
)
from handlers.testing.conformance import make_delivery

SHA = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_manifest_reads_back_what_it_wrote() -> None:
    kept = StoredFile(
        "a.pdf", "download", 3, SHA, "application/pdf", "https://x/a", "a_1", True, "", "2026-03-01T00:00:00Z"
    )
    document = manifest_document(make_delivery(), [kept], [SkippedFile("b", "recording", "gone", size=4)])
    assert stored_files(document) == {"a.pdf": kept}
    assert json.loads(document)["skipped"] == [{"name": "b", "kind": "recording", "reason": "gone", "size": 4}]


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[]", b'{"files": [{}]}', b'{"files": [1]}', b'{"files": 1}', b"null", b"\xff"]
)
def test_a_manifest_that_can_not_be_read_counts_as_not_there(document: bytes) -> None:
    assert stored_files(document) == {}
    assert order_in_latest(document) is None


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ({"modified_at": "2026-03-01T10:00:00.1"}, {"modified_at": "2026-03-01T10:00:00.2Z"}),
        ({"modified_at": "2026-03-01T12:00:00+02:00"}, {"modified_at": "2026-03-01T10:00:01"}),
        ({"modified_at": "2026-03-02T10:00:00"}, {"modified_at": "2026-03-01T10:00:00", "attempt": 2}),
        ({"modified_at": "never"}, {"modified_at": "2026-03-01T10:00:00"}),
        ({"attempt": True, "modified_at": None}, {"attempt": 2, "modified_at": None}),
        ({"attempt": "9", "modified_at": None}, {"attempt": 2, "modified_at": None}),
        ({"modified_at": None}, {"modified_at": None}),
    ],
)
def test_the_events_of_a_run_are_in_order(older: dict[str, Any], newer: dict[str, Any]) -> None:
    first, second = make_delivery({"run_id": "r", **older}), make_delivery({"run_id": "r", **newer})
    assert event_order(first) < event_order(second)
    assert order_in_latest(latest_document(second, "x/")) == event_order(second)


def test_a_document_can_always_be_written() -> None:
    delivery = make_delivery(
        body=b'{"run_id": "\\ud800", "status": "\\ud800"}', received_at=datetime(2026, 3, 1, tzinfo=UTC)
    )
    assert json.loads(manifest_document(delivery, [], []))["received_at"] == "2026-03-01T00:00:00Z"
