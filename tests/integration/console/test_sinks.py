"""Sinks: what their pages show, and what their buttons do, for whom."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.ledger.deliveries import attempts, lanes
from receiver.ledger.schema import deliveries
from tests.servers.submitting import Submitting
from tests.support.api import done
from tests.support.console import Browser, forms
from tests.support.ledger import claim, new_event, record, result_of, settle, states

AsPerson = Callable[[str], Browser]


@pytest.fixture
def shut(operated: Submitting) -> Submitting:
    """ops has something that waits behind an open breaker, and gone has left the config."""
    now = time.time()
    record(operated.ledger, new_event("tsk_1", "ops", "gone"), now=now - 60)
    lane = Lane("ops", "ops", breaker="open", failures=5, until=now + 600, reason="it is down", opened_at=now - 50)
    operated.ledger.write(lambda it: lanes.put(it, lane, now))
    return operated


def lane_of(server: Submitting, name: str) -> Lane:
    return server.ledger.read(lambda it: lanes.find(it, name)) or Lane(name, name)


def test_each_sink_is_told(shut: Submitting, as_person: AsPerson) -> None:
    admin = as_person("admin")
    page = admin.get("/sinks").text
    assert "it is down" in page
    assert "/console/deliveries?sink=ops&amp;state=queued" in page
    assert "orphaned" in page
    one = admin.get("/sinks/ops").text
    assert "it is down" in one
    assert '<span class="badge bad">down</span>' in one
    assert "next try" in one
    assert admin.get("/sinks/nothing").status_code == 404


def test_failing_sink_shows_what_its_server_responds(operated: Submitting, as_person: AsPerson) -> None:
    # Given three attempts that failed alike, an open breaker, and a delivery that was never tried
    now = time.time()
    record(operated.ledger, *(new_event(f"tsk_{each}", "ops") for each in range(4)), now=now - 60)
    for number in range(3):
        tried = [
            result_of(each, DeliveryMove.DEFER)._replace(
                outcome="unavailable",
                reason="crm answered 500",
                response="licence expired\u202e",
                started_at=now - 50 + number,
                due_at=now + 900,
            )
            for each in claim(operated.ledger, "ops", limit=1, now=now - 50 + number)
        ]
        operated.ledger.write(lambda it, tried=tried: attempts.settle(it, "w", tried, now))  # type: ignore[misc]
    lane = Lane("ops", "ops", breaker="open", until=now + 600, reason="crm answered 500", opened_at=now - 50)
    operated.ledger.write(lambda it: lanes.put(it, lane, now))
    admin = as_person("admin")
    # Then the response is in the problem with the number of runs, on the pages of sinks, and at the deliveries
    front = admin.get("/").text
    assert "crm answered 500: licence expired\ufffd; 4 deliveries of 4 runs wait" in front
    for path in ("/sinks", "/sinks/ops", "/deliveries?sink=ops"):
        assert "licence expired" in admin.get(path).text, path
    # And equal attempts are one line
    newest = admin.get("/sinks/ops").text.split("Newest attempts")[1]
    assert newest.count("<td>") == 1
    assert '<div class="soft small">3 times since ' in newest
    # And each page of the delivery that was not tried says what it waits for
    reason = "waits for ops, which is probed first: crm answered 500"
    query = sa.select(deliveries.c.id, deliveries.c.run_id).where(deliveries.c.attempts == 0)
    untried = operated.ledger.read(lambda it: it.execute(query).one())
    for path in (f"/deliveries/{untried.id}", f"/runs/{untried.run_id}", "/deliveries?sink=ops"):
        page = admin.get(path).text
        assert reason in page.replace("Waits for", "waits for"), path
        assert "next probe" in page, path
        assert re.search(r'due <time class="until"[^>]*>now<', page) is None, path
    # When its server can't be reached any longer, then its last response is no longer why
    operated.ledger.write(lambda it: lanes.put(it, Lane("ops", "ops"), now))
    (probed,) = claim(operated.ledger, "ops", limit=1, now=now)
    operated.ledger.write(lambda it: lanes.put(it, lane, now))
    gone = result_of(probed, DeliveryMove.DEFER)._replace(reason="connection refused", started_at=now, ended_at=now)
    operated.ledger.write(lambda it: attempts.settle(it, "w", [gone], now))
    assert "licence expired" not in admin.get("/sinks").text
    # When it is paused, then that is the reason
    admin.act("pause_sink", sink="ops", sure="yes")
    page = admin.get(f"/deliveries/{untried.id}").text
    assert "Waits until ops is resumed: it is paused" in page
    assert "next probe</dt><dd>none" in page
    for path in ("/sinks", "/sinks/ops"):
        assert not re.search("next (probe|try)", admin.get(path).text), path


def test_sink_whose_attempts_are_old_is_not_called_unused(operated: Submitting, as_person: AsPerson) -> None:
    # Given a sink that was sent to before 2,500 attempts of another
    now = time.time() - 100
    for sink, count in (("ops", 1), ("results", 2500)):
        record(operated.ledger, *(new_event(f"tsk_{sink}_{each}", sink) for each in range(count)), now=now)
        for at in range(0, count, 250):
            claimed = claim(operated.ledger, sink, limit=250, now=now + at)
            settle(operated.ledger, claimed, DeliveryMove.ACCEPT, now=now + at)
    page = as_person("admin").get("/sinks/ops").text
    assert "No attempts yet" not in page
    assert 'None of the newest attempts of all sinks was for ops. <a href="/console/deliveries?sink=ops">' in page


def test_long_backlog_is_not_counted_as_10000(operated: Submitting, as_person: AsPerson) -> None:
    # Given more deliveries of a sink than are counted, of which some were sent a while ago
    now = time.time()
    record(operated.ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "ops"), now=now - 60)
    settle(operated.ledger, claim(operated.ledger, "ops", limit=1, now=now - 30), DeliveryMove.ACCEPT, now=now - 30)
    copy = {column.name: column for column in deliveries.c}
    copy |= {"id": sa.bindparam("one"), "event_id": sa.bindparam("of")}
    chosen = sa.select(*copy.values()).where(deliveries.c.state == "queued").limit(1)
    rows = [{"one": f"dlv_{number:032x}", "of": f"evt_{number:032x}"} for number in range(10_000)]
    statement = deliveries.insert().from_select(list(copy), chosen)
    operated.ledger.write(lambda it: it.execute(statement, rows))
    # Then the pages say that there are more, and when they will have been sent
    admin = as_person("admin")
    for path in ("/sinks", "/sinks/ops"):
        assert "10,000+ queued" in admin.get(path).text, path
    assert "<b>10,000+</b><span>deliveries pending</span>" in admin.get("/").text
    assert re.search(
        r"<dt>drained in</dt><dd>more than \d+ d, at 20[-0-9]+ [0-9:]+ UTC</dd>", admin.get("/sinks/ops").text
    )


def test_sink_page_shows_its_rate_and_all_attempts(
    submitting: Callable[..., Submitting], hashed_password: str, tmp_path: Path
) -> None:
    # Given a sink with a rate, 60 results that it took at different times, and one that waits for the rate
    ops = {"type": "files", "path": str(tmp_path), "rate": "20/m"}
    server = submitting("http://127.0.0.1:9", dispatching=False, console_password=hashed_password, sinks={"ops": ops})
    now = time.time() - 100
    record(server.ledger, *(new_event(f"tsk_{number}", "ops") for number in range(61)), now=now)
    for at in range(60):
        settle(server.ledger, claim(server.ledger, "ops", limit=1, now=now + at), DeliveryMove.ACCEPT, now=now + at)
    admin = Browser(server.url)
    admin.sign_in()
    page = admin.get("/sinks/ops").text
    # Then the pages say that it is limited
    assert "<dt>rate</dt><dd>at most 20/m, " in page
    for path in ("/", "/sinks"):
        assert re.search("past its time: at most 20/m", admin.get(path).text), path
    # And attempts stand in the order of time, with a link to older ones
    older = re.findall(r'href="/console(/sinks/ops[^"]*)" rel="next">Older attempts', page)
    begun = [*attempt_times(page), *attempt_times(admin.get(older[0].replace("&amp;", "&")).text)]
    assert begun == sorted(begun, reverse=True)
    assert len(begun) == 60
    admin.session.close()


def attempt_times(page: str) -> list[str]:
    """When the attempts on a sink's page began."""
    return re.findall(r'datetime="([^"]+)"', page.partition("Newest attempts")[2].partition("</section>")[0])


def test_a_sink_is_paused_and_goes_on(shut: Submitting, as_person: AsPerson) -> None:
    admin = as_person("admin")
    asked = admin.click(admin.get("/sinks/results"), "Pause")
    assert "Pause this sink?" in asked.text
    assert not lane_of(shut, "results").paused
    after = admin.click(asked, "Pause")
    assert "results is paused" in after.text
    assert re.search("<dt>paused</dt><dd><time.*</time> by admin</dd>", after.text)
    assert lane_of(shut, "results").paused
    assert "results resumed." in admin.click(after, "Resume").text
    assert not lane_of(shut, "results").paused
    # And one whose breaker is open is tried at once
    assert "1 shut breaker" in admin.click(admin.get("/sinks/ops"), "Try now").text
    assert lane_of(shut, "ops").until <= time.time()
    assert [line[0] for line in done(shut)] == ["sink.pause", "sink.resume", "sink.resume"]


def test_a_sample_is_sent_and_what_became_of_it_is_said(
    operated: Submitting, as_person: AsPerson, tmp_path: Path
) -> None:
    admin = as_person("admin")
    page = admin.get("/sinks/results")
    sent = admin.click(admin.click(page, "Send a sample"), "Send a sample")
    assert "The sample was accepted" in sent.text
    assert list((tmp_path / "results").rglob("*.json*"))
    # When the sink can't take it
    (tmp_path / "ops").write_text("a file where its folder is to be")
    failed = admin.click(admin.click(admin.get("/sinks/ops"), "Send a sample"), "Send a sample")
    assert 'class="card notice bad"' in failed.text
    assert [(line[0], line[3]) for line in done(operated)] == [("sink.test", "done"), ("sink.test", "failed")]


def test_what_waits_for_a_sink_that_is_gone_is_given_to_another(shut: Submitting, as_person: AsPerson) -> None:
    admin = as_person("admin")
    assert "Give its deliveries to another sink" in admin.get("/sinks/gone").text
    assert "Give its deliveries to another sink" not in admin.get("/sinks/ops").text
    form = {"sink": "gone", "into": "results", "back": "/console/sinks/gone"}
    asked = admin.act("move_sink", **form)
    assert "Move the deliveries of this sink to the other one?" in asked.text
    before = states(shut.ledger)
    assert "tsk_1:gone" in before
    answer = admin.act("move_sink", **form, sure="yes")
    assert answer.status_code == 303, answer.text
    assert "Moved 1 of 1 deliveries so far." in admin.get("/sinks").text
    assert states(shut.ledger).keys() == {*before.keys() - {"tsk_1:gone"}, "tsk_1:results"}
    assert done(shut)[-1] == ("sink.move", "admin", 1, "done")
    # And nobody else's
    assert as_person("ana").act("move_sink", **form, sure="yes").status_code == 403


def test_what_waits_for_a_sink_that_is_gone_is_cancelled(shut: Submitting, as_person: AsPerson) -> None:
    admin = as_person("admin")
    asked = admin.click(admin.get("/sinks/gone"), "Cancel pending")
    admin.click(asked, "Cancel 1")
    assert states(shut.ledger, sink="gone") == {"tsk_1:gone": "cancelled"}


@pytest.mark.parametrize("name", ["ana", "bo"])
def test_a_sink_is_not_everybodys(shut: Submitting, as_person: AsPerson, name: str) -> None:
    # Given somebody who may only view, or who has one source
    person = as_person(name)
    for path in ("/sinks", "/sinks/ops"):
        page = person.get(path)
        assert page.status_code == 200
        labels = {label for form in forms(page.text) for label in form.buttons}
        assert not labels & {"Pause", "Try now", "Send a sample"}
    for action in ("pause_sink", "resume_sink", "test_sink"):
        assert person.act(action, sink="ops", sure="yes").status_code == 403
    assert lane_of(shut, "ops").breaker == "open"
    assert not done(shut)


def test_who_has_one_source_sees_what_concerns_it(shut: Submitting, as_person: AsPerson) -> None:
    page = as_person("bo").get("/sinks/ops").text
    assert "tsk_1" not in page
    assert "it is down" not in page
