"""The first page: numbers with the lists behind them, and to whom it shows what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from receiver.checks.finding import REMEDIES
from receiver.console.pages import overview
from receiver.domain.delivery import DeliveryMove
from receiver.domain.liveness import ProcessBeat
from receiver.ledger import heartbeats
from receiver.ledger.schema import deliveries
from tests.servers.console import ConsoleDeployment, console_deployment
from tests.servers.submitting import Submitting
from tests.support.console import Browser
from tests.support.ledger import claim, new_event, record, settle


def figure(page: str, name: str) -> tuple[str, str]:
    """Return the value of a number on the page, and where its link leads."""
    found = re.search(rf'<(?:a|div) class="figure[^"]*"(?: href="([^"]*)")?><b>([^<]*)</b><span>{name}</span>', page)
    assert found, name
    return found[2], (found[1] or "").replace("&amp;", "&")


@pytest.fixture
def results(console_server: Submitting) -> float:
    """Two completed runs and a failed one, of which one delivery is dead. Returns when."""
    now = console_server.ledger.now() - 10
    for number, status in enumerate(["completed", "completed", "failed"]):
        record(console_server.ledger, new_event(f"tsk_{number}", "results", status=status), now=now)
    claimed = claim(console_server.ledger, "results", limit=1, now=now + 1)
    settle(console_server.ledger, claimed, DeliveryMove.DIE, now=now + 1)
    return now


@pytest.mark.usefixtures("results")
def test_numbers_lead_to_their_lists(browser: Browser, console_server: Submitting) -> None:
    # Given also a run of each other end, and a failed one that Skyvern starts again
    ends = enumerate(("canceled", "terminated", "timed_out"), 3)
    others = [new_event(f"tsk_{number}", status=status) for number, status in ends]
    again = new_event("tsk_6", status="failed", attempt=1, retry_pending=True)
    record(console_server.ledger, *others, again, now=console_server.ledger.now() - 10)
    browser.sign_in()
    page = browser.get("/").text
    assert figure(page, "runs") == ("7", "/console/runs?since=24h")
    assert figure(page, "successful") == ("40 %", "/console/runs?since=24h&status=completed")
    assert figure(page, "failed, terminated or timed out") == ("3", "/console/incidents?window=24h")
    assert figure(page, "dead letters")[0] == "1"
    assert figure(page, "results overdue")[0] == "0"
    assert figure(page, "deliveries pending")[0] == "2"
    assert figure(page, "deliveries retrying")[0] == "0"
    # And the parts of the chart add up to these numbers
    shown = "2 completed, 1 failed, 2 terminated or timed out, 2 other or active"
    assert f'<desc id="runs-desc">{shown}</desc>' in page


@pytest.mark.usefixtures("results")
def test_a_problem_leads_to_where_it_is_mended(browser: Browser) -> None:
    # Given a sink with a dead delivery, and a deployment in which no part runs
    browser.sign_in()
    page = browser.get("/").text
    # Then the new dead letters are a problem, with the command that mends it and a button
    problem = page.split("Dead letters: 1 of ")[1].split("</section>")[0]
    assert "<code>runhook replay --sink results</code>" in problem
    assert '<a class="button" href="/console/dead">Show dead letters</a>' in problem
    # And what no page can fix has its command
    assert re.search(r"<p>No [^<]* is running.*<code>runhook worker</code>", page, re.DOTALL)
    # And each page that a problem leads to is there
    for _, path in overview.LINKS.values():
        assert browser.get(path).status_code == 200, path


@pytest.mark.usefixtures("results")
def test_incidents_and_sinks_stand_before_the_charts(browser: Browser) -> None:
    browser.sign_in()
    page = browser.get("/").text
    incidents = page.split('id="incidents"')[1].split("</section>")[0]
    path = re.search(r'<a href="/console/incidents\?window=24h#(inc_\w+)">', incidents)
    assert path
    assert f'id="{path[1]}"' in browser.get("/incidents?window=24h").text
    places = [page.index(f'id="{name}"') for name in ("figures", "sinks", "incidents", "charts", "newest")]
    assert places == sorted(places)
    # And deliveries that were not accepted are no success
    assert re.search(r'data-head="delivered">0 of 3<', page)


@pytest.mark.usefixtures("results")
def test_cancelled_delivery_is_not_shown_as_waiting(browser: Browser, console_server: Submitting) -> None:
    # Given a dead delivery, and two that wait, of which a person cancels one
    query = sa.select(deliveries.c.id).where(deliveries.c.state == "queued").limit(1)
    queued = console_server.ledger.read(lambda it: it.execute(query).scalar_one())
    browser.sign_in()
    browser.act("cancel", ids=queued, sure="yes")
    # Then the Overview and the page of the sink count two
    assert re.search(r'data-head="delivered">0 of 2<', browser.get("/").text)
    assert '<desc id="deliveries-desc">1 waiting, 1 dead</desc>' in browser.get("/sinks/results").text


def test_problem_names_its_sink_and_has_a_button(deployment: ConsoleDeployment) -> None:
    # Given a sink with a name in small letters, which an operator has paused
    it = Browser(deployment.url.removesuffix("/console"))
    it.sign_in()
    it.act("pause_sink", sink="crm", sure="yes")
    # Then the first page names it as the config does, and resumes it
    page = it.get("/")
    assert "<p>crm was paused" in page.text
    assert "runhook sink resume" not in page.text
    assert "crm resumed." in it.click(page, "Resume").text
    it.session.close()


def test_many_sinks_leave_room_for_other_news(module_redis_url: str, tmp_path: Path) -> None:
    # Given more sinks than the page has room for, of which the last one is paused
    with console_deployment(module_redis_url, tmp_path, more_sinks=30) as deployment:
        it = Browser(deployment.url.removesuffix("/console"))
        it.sign_in()
        it.act("pause_sink", sink="sink29", sure="yes")
        listed = it.get("/").text.split('id="sinks"')[1].split("</section>")[0]
        it.session.close()
    # Then the paused one is on it, and a link leads to the others
    names = re.findall(r'<tr data-href="/console/sinks/(\w+)"', listed)
    assert len(names) == 12
    assert "sink29" in names
    assert ">All 35 sinks</a>" in listed


def test_deliveries_that_run_are_one_line_of_the_processes(deployment: ConsoleDeployment) -> None:
    it = Browser(deployment.url.removesuffix("/console"))
    it.sign_in()
    processes = it.get("/").text.split('id="parts"')[1]
    assert 'deliver <span class="soft">(6 sinks)</span>' in processes
    assert "deliver:" not in processes
    assert "<td>dispatch</td>" in processes
    assert "Spool of this host: 0 ·" in processes
    it.session.close()


def test_each_linked_problem_code_exists() -> None:
    assert overview.LINKS.keys() <= REMEDIES.keys()


@pytest.mark.usefixtures("results")
def test_a_window_is_in_the_url(browser: Browser) -> None:
    browser.sign_in()
    page = browser.get("/?window=7d").text
    assert '<a href="/console/?window=7d" aria-current="true"' in page
    assert figure(page, "runs") == ("3", "/console/runs?since=7d")
    answer = browser.get("/?window=2d")
    assert answer.status_code == 422
    assert "window: must be 1h, 24h, 7d" in answer.text


@pytest.mark.usefixtures("results")
def test_people_of_one_source_see_their_own_numbers(browser: Browser) -> None:
    # Given somebody of the source of these
    browser.sign_in("olga")
    page = browser.get("/").text
    assert figure(page, "dead letters")[0] == "1"
    assert "0 delivered, 1 dead" in page
    # And of a source that has none of these
    browser.sign_in("ana")
    page = browser.get("/").text
    assert figure(page, "runs")[0] == "0"
    assert figure(page, "dead letters")[0] == "0"
    assert "results" not in re.sub(r"<span>[^<]*</span>|<h2>[^<]*</h2>", "", page.split("<main", 1)[1])
    assert "No data in this period." in page


def test_silent_sinks_of_one_host_are_one_line(browser: Browser, console_server: Submitting) -> None:
    # Given a worker with two sinks that ended unexpectedly
    beats = [ProcessBeat(f"w.{name}", f"deliver:{name}", "lost-host", 1, "1", "", 1.0) for name in ("results", "ops")]
    console_server.ledger.write(lambda it: heartbeats.put(it, *beats))
    console_server.ledger.write(lambda it: it.exec_driver_sql("UPDATE heartbeats SET beat_at = beat_at - 300"))
    browser.sign_in()
    page = browser.get("/").text.partition("<h2>Processes</h2>")[2]
    # Then they are one line of the table
    row = next(each for each in page.split("<tr") if "lost-host" in each)
    assert page.count("lost-host</td>") == 1
    assert "(2 sinks)" in row
    assert ">silent</span>" in row
