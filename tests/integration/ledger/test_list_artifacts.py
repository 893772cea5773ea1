"""The files of runs with where they are stored, bodies as they may be shown, and results that are overdue."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.api import artifacts
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import delivery_id
from receiver.domain.redaction import Redactor
from receiver.ledger import Ledger
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.lists import missing
from receiver.ledger.lists.bodies import read_body
from receiver.ledger.lists.deliveries import list_attempts, list_deliveries
from receiver.ledger.lists.filters import Filter
from receiver.ledger.lists.paging import Key, KeysetList, Page, Walk
from receiver.ledger.schema import deliveries, events, polls, runs, submissions
from tests.support.ledger import claim, new_event, poll_row, record, run_row, settle

REDACTOR = Redactor(["**.password"])
TOKEN = "sub_" + "ab" * 16
SIGNED = "?X-Amz-Signature=s3cr3t"
FILES: dict[str, Any] = {
    "downloaded_files": [{"url": f"https://u:p@files.test/a/invoice.pdf{SIGNED}", "filename": "invoice.pdf"}],
    "recording_url": f"https://files.test/rec.webm{SIGNED}",
    "screenshot_urls": [f"https://files.test/{n}.png{SIGNED}" for n in (1, 2)],
}


def all_pages(
    ledger: Ledger, page: Callable[[sa.Connection, Key | None, int], Page], limit: int
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: Key | None = None
    while True:
        found, rest = ledger.read(lambda connection: page(connection, after, limit))  # noqa: B023
        assert len(found) <= limit
        rows += found
        if rest is None:
            return rows
        after = tuple(json.loads(json.dumps(rest)))


@pytest.fixture
def mirrored(ledger: Ledger) -> Ledger:
    """Two runs with files, of which one has been mirrored by two sinks."""
    record(ledger, new_event("tsk_1", "s3", "local", **FILES))
    record(ledger, new_event("tsk_2", recording_url="https://files.test/other.webm"), now=1_700_000_009.0)
    names = ("invoice.pdf", "recording.webm", "screenshot-1.png", "screenshot-2.png")
    urls = {name: f"https://bucket.test/{name}?signature=s3cr3t" for name in names}
    keys = ["s3://b/e/run.json", *(f"s3://b/files/{name}" for name in names)]
    settle(ledger, claim(ledger, "s3"), DeliveryMove.ACCEPT, receipt={"id": "s3://b/e/", "keys": keys, "urls": urls})
    places = ("invoice-0123456789ab.pdf", "recording-0123456789ab.webm", "screenshot-1234.png", "screenshot-2345.png")
    shared = {name: f"/m/files/{place}" for name, place in zip(names, places, strict=True)}
    settle(
        ledger,
        claim(ledger, "local"),
        DeliveryMove.ACCEPT,
        receipt={"id": "/m/e/", "keys": ["/m/e/run.json", *shared.values()], "files": shared},
        now=1_700_000_001.0,
    )
    return ledger


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_files_are_listed_with_where_they_are_stored(mirrored: Ledger, limit: int) -> None:
    # When all files are listed, page by page
    found = all_pages(
        mirrored, lambda it, after, most: artifacts.files_of_runs(it, Filter(), after, most, REDACTOR), limit
    )
    # Then those of the run that changed last come first, each once
    assert [(row["run_id"], row["name"]) for row in found] == [
        ("tsk_2", "recording.webm"),
        ("tsk_1", "invoice.pdf"),
        ("tsk_1", "recording.webm"),
        ("tsk_1", "screenshot-1.png"),
        ("tsk_1", "screenshot-2.png"),
    ]
    # And each says where it is, by every sink that has told it for certain
    stored = [{each["sink"]: each["url"] or each["key"] for each in row["stored"]} for row in found]
    assert stored == [
        {},
        {"s3": "https://bucket.test/invoice.pdf", "local": "/m/files/invoice-0123456789ab.pdf"},
        {"s3": "https://bucket.test/recording.webm", "local": "/m/files/recording-0123456789ab.webm"},
        {"s3": "https://bucket.test/screenshot-1.png", "local": "/m/files/screenshot-1234.png"},
        {"s3": "https://bucket.test/screenshot-2.png", "local": "/m/files/screenshot-2345.png"},
    ]
    # And no signature and no user's name is shown
    assert "s3cr3t" not in json.dumps(found)
    assert "u:p" not in json.dumps(found)


def test_thousands_of_files_are_found_where_they_are_at_once(ledger: Ledger) -> None:
    # Given a run that names as many files as a body may, and a sink that has stored them
    names = [f"{number}.pdf" for number in range(5000)]
    files = [{"url": f"https://files.test/{name}", "filename": name} for name in names]
    record(ledger, new_event("tsk_1", "local", downloaded_files=files))
    keys = [f"/m/files/{name}" for name in names]
    settle(ledger, claim(ledger, "local"), DeliveryMove.ACCEPT, receipt={"id": "/m/", "keys": keys})
    # When a page of them is listed, then it does not compare each with each
    began = time.thread_time()
    found, _ = ledger.read(lambda it: artifacts.files_of_runs(it, Filter(), None, 50, REDACTOR))
    assert time.thread_time() - began < 3
    assert [row["stored"][0]["key"] for row in found] == keys[:50]


@pytest.mark.parametrize(("source", "there"), [("skyvern", 1), ("other", 0)])
def test_a_place_that_is_made_up_shows_nothing_of_another_source(mirrored: Ledger, source: str, there: int) -> None:
    wanted, delivery = Filter(source=source), delivery_id(new_event("tsk_1", **FILES).event.id, "s3")
    files, _ = mirrored.read(lambda it: artifacts.files_of_runs(it, wanted, (0.0, "tsk_2", "skyvern", 0), 50, REDACTOR))
    attempts, _ = mirrored.read(lambda it: list_attempts(it, wanted, (0.0, delivery, 9), 50))
    assert (len(files), len(attempts)) == (there, there)


def test_row_changed_while_a_page_is_read_is_not_shown_twice(mirrored: Ledger) -> None:
    # A delivery that goes from state to state is met in both of their walks.
    it = deliveries.c
    listing, walk = KeysetList((it.sink,), (it.updated_at, it.id)), Walk([[it.state == "delivered"]] * 2)
    rows, rest = mirrored.read(lambda connection: listing.page(connection, walk, None, 50))
    assert ([row["sink"] for row in rows], rest) == (["local", "s3"], None)
    # Retention removes a delivery and its event after the delivery was read, and before the event is.
    mirrored.write(lambda connection: connection.execute(sa.delete(events)))
    assert mirrored.read(lambda connection: list_deliveries(connection, Filter(), None, 50)) == ([], None)


def test_a_page_of_files_reads_a_bounded_number_of_bytes(mirrored: Ledger) -> None:
    found, rest = mirrored.read(lambda it: artifacts.files_of_runs(it, Filter(), None, 50, REDACTOR, 1))
    assert [row["run_id"] for row in found] == ["tsk_2"]
    assert rest is not None
    found, rest = mirrored.read(lambda it: artifacts.files_of_runs(it, Filter(), rest, 50, REDACTOR, 1))
    assert [row["run_id"] for row in found] == ["tsk_1"] * 4
    assert rest is None


def test_the_files_of_one_run(mirrored: Ledger) -> None:
    for wanted, count in ((Filter(run_id="tsk_1"), 4), (Filter(run_id="tsk_1", source="other"), 0)):
        found, rest = mirrored.read(
            lambda it, wanted=wanted: artifacts.files_of_runs(it, wanted, None, 50, REDACTOR)  # type: ignore[misc]
        )
        assert len(found) == count
        assert rest is None


def test_a_body_is_shown_without_what_is_to_be_masked(ledger: Ledger) -> None:
    # Given an event whose body has our callback URL, and what the config masks by now
    event = new_event("tsk_1", webhook_callback_url=f"https://us.test/webhooks/skyvern/{TOKEN}", password="s3cr3t")
    record(ledger, event)
    # When its body is read
    body = ledger.read(lambda it: read_body(it, event.event.id, REDACTOR))
    # Then what it kept is there, but for our token, and what is masked is not in the rest
    assert body is not None
    assert (body.source, body.run_id, body.problem) == ("skyvern", "tsk_1", "")
    assert TOKEN.encode() not in body.raw
    assert b"s3cr3t" in body.raw
    assert TOKEN.encode() not in body.redacted
    assert b"s3cr3t" not in body.redacted
    assert body.run["password"] == "[redacted]"
    assert body.run["output"] == {"n": 1}
    # And of another source there is none
    assert ledger.read(lambda it: read_body(it, event.event.id, REDACTOR, source="other")) is None


def test_what_is_overdue_is_listed_by_when_it_is_due(ledger: Ledger) -> None:
    # Given submissions and runs, of which some are due, or were asked for in vain
    now = ledger.read(database_now)
    common = {"source": "a", "key_id": "k", "call": "tasks", "state": "accepted", "request_hash": "h"}
    asked = ["due", "again", "early", "done", "first"]
    known = [("tsk_due", False), ("tsk_more", True), ("tsk_later", False)]  # tsk_more is only polled for more data
    due = [("a", "due", -5), ("a", "early", 50), ("a", "first", -9)]
    due += [("b", "tsk_due", -7), ("b", "tsk_more", -7), ("b", "tsk_later", 7)]

    def fill(connection: sa.Connection) -> None:
        rows = [{**common, "created_at": now, "updated_at": now, "id": each} for each in asked]
        connection.execute(sa.insert(submissions), rows)
        connection.execute(sa.insert(runs), [run_row("b", run_id, now, final=final) for run_id, final in known])
        connection.execute(sa.insert(polls), [poll_row(source, key, now, now + at) for source, key, at in due])
        connection.execute(sa.insert(polls), [poll_row("a", "again", now, now + 99, polls=3)])

    ledger.write(fill)
    for limit in (1, 2, 3, 50):
        # When what is missing is listed
        found = all_pages(ledger, lambda it, after, most: missing.list_missing(it, Filter(), after, most), limit)
        # Then what is due first comes first
        assert [row["submission_id"] or row["run_id"] for row in found] == ["first", "tsk_due", "due", "again"]
    found = ledger.read(lambda it: missing.list_missing(it, Filter(source="b"), None, 50))[0]
    assert [row["run_id"] for row in found] == ["tsk_due"]
