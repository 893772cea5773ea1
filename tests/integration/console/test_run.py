"""The page of a run: its times, one line for each delivery with its attempts, and what is not there, in plain words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from receiver.domain.delivery import DeliveryMove
from tests.servers.submitting import Submitting
from tests.support.console import Browser
from tests.support.demo_runs import FILES, store_files
from tests.support.ledger import claim, new_event, record, settle, states

AsPerson = Callable[[str], Browser]


def settled(server: Submitting, sink: str, move: DeliveryMove, now: float, **fields: Any) -> None:
    settle(server.ledger, claim(server.ledger, sink, now=now), move, now=now, **fields)


def test_failed_delivery_comes_first_with_response_and_resend(operated: Submitting, as_person: AsPerson) -> None:
    # Given a run that one sink accepted with a note, and another one refused
    now = time.time()
    record(operated.ledger, new_event("tsk_1", "results", "ops"), now=now)
    settled(operated, "results", DeliveryMove.ACCEPT, now, receipt={"id": "row 1", "note": "already there"})
    settled(operated, "ops", DeliveryMove.DIE, now, response='{"error": "<b>amount</b> is not a number"}')
    admin = as_person("admin")
    page = admin.get("/runs/tsk_1")
    # Then each sink has one line, the refused one first and open, with the server's words
    lines = re.findall(r'<details class="delivery"[^>]*?( open)?>.*?<b>(\w+)</b>', page.text, re.DOTALL)
    assert lines == [(" open", "ops"), ("", "results")]
    assert "&lt;b&gt;amount&lt;/b&gt; is not a number" in page.text
    # And times are absolute, the routing is no entry of the timeline, and good news is no warning
    when = time.strftime("%H:%M:%S", time.gmtime(now))
    assert re.search(rf">20\d\d-\d\d-\d\d {when}</time>", page.text)
    assert "By route" not in page.text.partition('id="timeline"')[2].partition("</section>")[0]
    assert "already there" in page.text
    assert 'id="missing"' not in page.text
    # When it is sent again from there
    admin.click(admin.click(page, "Resend"), "Replay 1")
    assert states(operated.ledger, sink="ops") == {"tsk_1:ops": "queued"}


def test_request_of_a_delivery_stands_beside_its_responses(
    submitting: Callable[..., Submitting], hashed_password: str
) -> None:
    # Given a delivery to an HTTP sink that its server refused
    server = submitting(
        "http://127.0.0.1:9",
        dispatching=False,
        console_password=hashed_password,
        sinks={"crm": {"type": "http", "url": "https://crm.example.com/hook?token=s3cret"}},
        routes=[{"name": "everything", "to": ["crm"]}],
    )
    now, new = time.time(), new_event("tsk_1", "crm")
    record(server.ledger, new, now=now)
    (claimed,) = claim(server.ledger, "crm", now=now)
    settle(server.ledger, [claimed], DeliveryMove.DIE, now=now, response="unknown customer")
    admin = Browser(server.url)
    admin.sign_in()
    key = f'<span class="mono">{claimed.id}</span>'
    request = f"POST https://crm.example.com (http), idempotency key {key}, event of {len(new.body)} B"
    # Then each page with its attempts shows what was sent, without the secrets of the address
    for path in ("/runs/tsk_1", f"/events/{claimed.event_id}", f"/deliveries/{claimed.id}"):
        page = admin.get(path).text
        assert request in page
        assert "unknown customer" in page
        assert "s3cret" not in page
    admin.session.close()


def test_run_says_why_a_failed_one_counts_as_completed(operated: Submitting, as_person: AsPerson) -> None:
    reason = "Failed to send webhook. task_id=tsk_1"
    record(operated.ledger, new_event("tsk_1", status="failed", failure_reason=reason), now=time.time())
    record(operated.ledger, new_event("tsk_2", output={"total": "1450.00", "count": 3}), now=time.time())
    admin = as_person("admin")
    assert f"{reason} · Only its webhook failed, so it counts as completed." in admin.get("/runs/tsk_1").text
    # And texts that look like numbers are quoted
    page = admin.get("/runs/tsk_2").text
    assert "counts as" not in page
    assert '<span class="text">&#34;1450.00&#34;</span>' in page
    assert '<span class="number">3</span>' in page


def test_unreadable_body_is_not_said_to_be_routed(operated: Submitting, as_person: AsPerson) -> None:
    new = new_event("", disposition="unreadable")
    record(operated.ledger, new, now=time.time())
    page = as_person("admin").get(f"/events/{new.event.id}").text
    assert "no route matches" not in page
    assert "runhook reconcile --import --now" in page
    assert "It was not routed, because it can&#39;t be read." in page
    # And its run without an id is not a link
    assert '<span class="soft">without an id</span>' in page


def test_failed_run_is_not_said_to_have_output_later(operated: Submitting, as_person: AsPerson) -> None:
    record(operated.ledger, new_event("tsk_1", status="failed", output=None), now=time.time())
    record(operated.ledger, new_event("tsk_2", status="running", output=None), now=time.time())
    admin = as_person("admin")
    assert "None: the run failed." in admin.get("/runs/tsk_1").text
    assert "Not yet: the run has not ended." in admin.get("/runs/tsk_2").text
    assert 'id="missing"' not in admin.get("/runs/tsk_1").text


@pytest.fixture
def archiving(submitting: Callable[..., Submitting], hashed_password: str, tmp_path: Path) -> Callable[..., Submitting]:
    sinks = {"archive": {"type": "files", "path": str(tmp_path)}}
    return partial(submitting, "http://127.0.0.1:9", dispatching=False, console_password=hashed_password, sinks=sinks)


def test_running_run_shows_where_its_result_goes(archiving: Callable[..., Submitting]) -> None:
    # Given a route for results, and a run that only an interim event has reported
    server = archiving(routes=[{"name": "invoices", "when": {"title": "Invoices"}, "to": ["archive"]}])
    for run, title in (("tsk_1", "Invoices"), ("tsk_2", "Orders")):
        running = new_event(run, status="running", title=title, output=None, disposition="interim")
        record(server.ledger, running, now=time.time())
    record(server.ledger, new_event("tsk_3", title="Orders"), now=time.time())
    admin = Browser(server.url)
    admin.sign_in()
    # Then its page says why nothing is sent, and where a result like it goes
    unsent = "Nothing to send yet: the run has not ended, and no route with interim: true matches."
    page = admin.get("/runs/tsk_1").text
    assert f"{unsent} If it completes, its result goes to archive." in page
    assert "running, interim, no route with interim: true matches" in page
    assert "The run had not ended" in admin.get(f"/events/{running.event.id}").text
    # And a run that no route takes says no more than that
    assert f"{unsent}</p>" in admin.get("/runs/tsk_2").text
    assert "No route sends this run anywhere." in admin.get("/runs/tsk_3").text
    admin.session.close()


def test_erased_run_says_so_and_leads_nowhere(archiving: Callable[..., Submitting], tmp_path: Path) -> None:
    # Given a run whose files a sink has stored
    server = archiving()
    place = store_files(server.ledger, tmp_path, "tsk_1", "archive", title="Jane Doe", output={"name": "Jane Doe"})
    admin = Browser(server.url)
    admin.sign_in()
    before = admin.get("/runs/tsk_1").text
    assert "<video" in before
    assert "Jane Doe" in before
    # When it is erased
    headers = {"authorization": f"Bearer {server.key('view', 'erase')}"}
    told = httpx2.post(f"{server.url}/api/v1/runs/tsk_1/erase", json={}, headers=headers).json()
    assert (len(told["copies"]), told["failed"], told["held"]) == (len(FILES), [], [])
    assert not place.exists()
    # Then its page tells when and by whom, and has no content, no file and no button that would send it
    page = admin.get("/runs/tsk_1").text
    assert re.search(r"Erased at 20[-0-9T:.]+Z by app\.", page)
    assert [word for word in ("Jane Doe", "<video", "invoice", "Send again", 'id="files"') if word in page] == []
    admin.session.close()
