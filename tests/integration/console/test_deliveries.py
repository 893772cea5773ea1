"""Deliveries and dead letters: what their pages show, and what their buttons do, for whom."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.support.timestamps import iso
from receiver.domain.delivery import DeliveryMove, DeliveryState
from receiver.domain.submission import NewSubmission
from receiver.ledger.schema import deliveries
from receiver.ledger.submissions import lifecycle
from tests.servers.submitting import Submitting
from tests.support.api import done
from tests.support.console import Browser, forms
from tests.support.ledger import claim, new_event, record, settle, states

AsPerson = Callable[[str], Browser]


def dead(server: Submitting, *runs: str, source: str = "skyvern", sink: str = "results") -> dict[str, str]:
    """Dead letters of these runs; their ids by run."""
    now = time.time()
    record(server.ledger, *(new_event(run, sink, source=source) for run in runs), now=now)
    claimed = claim(server.ledger, sink, now=now)
    settle(server.ledger, claimed, DeliveryMove.DIE, now=now)
    return {each.run_id: each.id for each in claimed}


def test_deliveries_are_listed_filtered_and_told(operated: Submitting, as_person: AsPerson) -> None:
    # Given a dead letter, and a delivery that is due
    ids = dead(operated, "tsk_1")
    record(operated.ledger, new_event("tsk_2", "ops"), now=time.time())
    admin = as_person("admin")
    # Then both are listed, and a filter narrows them
    assert {"tsk_1", "tsk_2"} <= shown(admin.get("/deliveries").text)
    assert shown(admin.get("/deliveries?sink=ops&state=&reason=").text) == {"tsk_2"}
    assert shown(admin.get("/dead").text) == {"tsk_1"}
    # And its own page tells what became of it
    page = admin.get(f"/deliveries/{ids['tsk_1']}").text
    assert "refused" in page
    assert "/console/runs/tsk_1?source=skyvern" in page


def test_ids_lead_to_their_pages(operated: Submitting, as_person: AsPerson) -> None:
    # Given a run with an event and a delivery, and a submission whose run has no result yet
    new = new_event("tsk_1", "ops")
    record(operated.ledger, new, now=time.time())
    (claimed,) = claim(operated.ledger, "ops", now=time.time())
    operated.ledger.write(lambda it: lifecycle.begin(it, NewSubmission("sub_1", "skyvern", "k", "tasks", "x"), 1.0))
    admin = as_person("admin")
    assert '<form class="find" action="/console/find"' in admin.get("/").text
    # Then each id that is typed leads to its page
    for found, path in (
        ("tsk_1", "/runs/tsk_1"),
        (new.event.id, f"/events/{new.event.id}"),
        (claimed.id, f"/deliveries/{claimed.id}"),
        ("sub_1", "/submissions/sub_1"),
    ):
        answer = admin.get(f"/find?id=%20{found}")
        assert answer.headers["location"] == f"/console{path}"
        assert admin.get(path).status_code == 200


def test_pages_show_when_a_waiting_delivery_is_given_up(operated: Submitting, as_person: AsPerson) -> None:
    now = time.time()
    record(operated.ledger, new_event("tsk_1", "ops"), now=now)
    (claimed,) = claim(operated.ledger, "ops", now=now)
    settle(operated.ledger, [claimed], DeliveryMove.DEFER, now=now, due_at=now + 60)
    end = iso(now + 3 * 86_400)
    for path in ("/runs/tsk_1", f"/deliveries/{claimed.id}"):
        assert re.search(rf'given up.*<time class="until" datetime="{end}"', as_person("admin").get(path).text)


def test_receipt_that_repeats_the_id_is_not_shown(operated: Submitting, as_person: AsPerson, tmp_path: Path) -> None:
    # Given a delivery whose receipt is its own id, as of an HTTP sink, and one with a key
    now = time.time()
    record(operated.ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "results"), now=now)
    for sink in ("ops", "results"):
        (claimed,) = claim(operated.ledger, sink, now=now)
        receipt = {"id": claimed.id} if sink == "ops" else {"keys": ["runs/tsk_2/run.json"]}
        settle(operated.ledger, [claimed], DeliveryMove.ACCEPT, now=now, receipt=receipt)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", as_person("admin").get("/deliveries").text, re.DOTALL)
    # Then the list says "accepted", or what was written, and where each sink writes
    assert '<span class="brief">accepted</span>' in cells
    assert '<span class="brief">runs/tsk_2/run.json</span>' in cells
    assert not any(re.search(r">dlv_|^dlv_", each) for each in cells)
    assert any(f'<div class="soft small place">files {tmp_path}/ops</div>' in each for each in cells)


@pytest.mark.parametrize("state", list(DeliveryState))
def test_each_state_is_listed(operated: Submitting, as_person: AsPerson, state: DeliveryState) -> None:
    record(operated.ledger, new_event("tsk_1", "ops"), now=time.time())
    operated.ledger.write(lambda connection: connection.execute(deliveries.update().values(state=state.value)))
    admin = as_person("admin")
    answer = admin.get(f"/deliveries?state={state.value}")
    assert answer.status_code == 200
    assert "tsk_1" in shown(answer.text)
    assert "tsk_1" in shown(admin.get(f"/deliveries?state={state.value}").text)
    # And there is something to select it by where that leads somewhere
    assert ('type="checkbox" name="ids"' in answer.text) == ("selected</button>" in answer.text)


def test_the_form_keeps_what_the_address_says(operated: Submitting, as_person: AsPerson) -> None:
    dead(operated, "tsk_1")
    page = as_person("admin").get("/deliveries?state=dead&state=waiting&limit=5&run=tsk_1").text
    assert "<option selected>dead</option>" in page.replace("\n", "")
    assert "<option selected>waiting</option>" in page.replace("\n", "")
    assert '<input type="hidden" name="limit" value="5">' in page
    assert '<input name="run" value="tsk_1">' in page
    assert "<details open>" in page


def test_what_is_selected_is_asked_about_and_replayed(operated: Submitting, as_person: AsPerson) -> None:
    # Given three dead letters, and a delivery that is due already
    ids = dead(operated, "tsk_1", "tsk_2", "tsk_3")
    record(operated.ledger, new_event("tsk_4", "ops"), now=time.time())
    admin = as_person("admin")
    page = admin.get("/deliveries")
    due = next(each for each in page.text.split('"') if each.startswith("dlv_") and each not in ids.values())
    # When two of them and that one are selected
    asked = admin.click(page, "Replay selected", ids=[ids["tsk_1"], ids["tsk_2"], due])
    # Then the question is about those two
    assert "1 of those selected is left as is" in asked.text
    after = admin.click(asked, "Replay 2")
    assert "2 replayed." in after.text
    # And it leads to the operation, which leads to what became of them
    assert after.url.path.startswith("/console/operations/op_")
    (link,) = re.findall(r'href="/console(/deliveries\?[^"]*)">Show its deliveries', after.text)
    assert {"tsk_1", "tsk_2"} <= shown(admin.get(link).text)
    assert states(operated.ledger, sink="results") == {
        "tsk_1:results": "queued", "tsk_2:results": "queued", "tsk_3:results": "dead"
    }  # fmt: skip
    assert done(operated) == [("replay", "admin", 2, "done")]


def test_runs_that_are_selected_are_replayed(operated: Submitting, as_person: AsPerson) -> None:
    dead(operated, "tsk_1", "tsk_2", "tsk_3")
    admin = as_person("admin")
    asked = admin.click(admin.get("/runs"), "Replay selected", ids=["tsk_1", "tsk_3"])
    assert "2 replayed." in admin.click(asked, "Replay 2").text
    assert states(operated.ledger, state=("dead",)) == {"tsk_2:results": "dead"}
    # Who may only view has nothing to select
    assert 'name="ids"' not in as_person("ana").get("/runs").text


def test_nothing_selected_is_nothing_done(operated: Submitting, as_person: AsPerson) -> None:
    dead(operated, "tsk_1")
    admin = as_person("admin")
    answer = admin.click(admin.get("/dead"), "Replay selected")
    assert "Select some rows first." in answer.text
    assert states(operated.ledger) == {"tsk_1:results": "dead"}


def test_all_that_match_are_those_and_no_others(operated: Submitting, as_person: AsPerson) -> None:
    # Given dead letters of two sinks
    dead(operated, "tsk_1", "tsk_2")
    dead(operated, "tsk_3", sink="ops")
    admin = as_person("admin")
    asked = admin.click(admin.get("/dead?sink=results"), "Replay all that match")
    # When one more dies before the answer
    dead(operated, "tsk_4")
    operated.ledger.write(
        lambda it: it.exec_driver_sql("UPDATE deliveries SET state = 'queued' WHERE run_id = 'tsk_1'")
    )
    again = admin.click(asked, "Replay 2")
    # Then it is asked again, with the new count
    assert "What matches has changed meanwhile; nothing was done." in again.text
    assert "2 replayed." in admin.click(again, "Replay 2").text
    assert states(operated.ledger, state=("dead",)) == {"tsk_3:ops": "dead"}


def test_reasons_are_grouped_and_each_group_is_replayed(operated: Submitting, as_person: AsPerson) -> None:
    # Given dead letters that differ in particulars only, and another one
    dead(operated, "tsk_1", "tsk_2", "tsk_3")
    for run, reason in (("tsk_1", "answered 402: no credit for 12"), ("tsk_2", "answered 402: no credit for 9988")):
        operated.ledger.write(
            lambda it, run=run, reason=reason: it.exec_driver_sql(  # type: ignore[misc]
                f"UPDATE deliveries SET reason = '{reason}' WHERE run_id = '{run}'"
            )
        )
    admin = as_person("admin")
    page = admin.get("/dead")
    assert "Answered #: no credit for #" in page.text
    # When the first group's button is pressed
    asked = admin.click(page, "Replay")
    admin.click(asked, "Replay 2")
    assert states(operated.ledger, state=("dead",)) == {"tsk_3:results": "dead"}


def test_cancel_and_restore(operated: Submitting, as_person: AsPerson) -> None:
    record(operated.ledger, new_event("tsk_1", "ops"), now=time.time())
    admin = as_person("admin")
    page = admin.get("/deliveries?sink=ops")
    admin.click(admin.click(page, "Cancel all waiting"), "Cancel 1")
    assert states(operated.ledger) == {"tsk_1:ops": "cancelled"}
    cancelled = admin.get("/deliveries?state=cancelled")
    asked = admin.click(cancelled, "Replay all that match")
    admin.click(asked, "Replay 1")
    assert states(operated.ledger) == {"tsk_1:ops": "queued"}
    assert [line[0] for line in done(operated)] == ["cancel", "replay"]


def test_delivered_ones_are_sent_again_only_with_a_tick(operated: Submitting, as_person: AsPerson) -> None:
    # Given two results that a sink accepted, and a dead letter
    now = time.time()
    record(operated.ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "ops"), now=now)
    settle(operated.ledger, claim(operated.ledger, "ops", now=now), DeliveryMove.ACCEPT, now=now)
    ids = dead(operated, "tsk_3")
    admin = as_person("admin")
    every = admin.click(admin.get("/deliveries"), "Replay selected", ids=[*ids.values(), *delivered_ids(admin)])
    assert "Replay 3" in every.text
    for asked, button in (
        (every, "Replay 3"),
        (admin.click(admin.get("/deliveries?state=delivered"), "Replay all that match"), "Replay 2"),
        (admin.click(admin.get("/runs/tsk_1"), "Send again"), "Replay 1"),
    ):
        # When the question is answered without a tick, then it is asked again
        count = "1 was" if button == "Replay 1" else "2 were"
        again = admin.click(asked, button)
        assert f"{count} delivered already: send a second time" in again.text
    assert states(operated.ledger, state=("delivered",)) == {"tsk_1:ops": "delivered", "tsk_2:ops": "delivered"}
    # And with a tick they are sent again
    admin.click(again, "Replay 1", sure="yes")
    assert states(operated.ledger, sink="ops") == {"tsk_1:ops": "queued", "tsk_2:ops": "delivered"}
    # And dead letters need none
    assert "already" not in admin.click(admin.get("/dead"), "Replay all that match").text


def delivered_ids(admin: Browser) -> list[str]:
    """The ids of the deliveries in the list of those that are delivered."""
    return re.findall(r'name="ids" value="(dlv_\w+)"', admin.get("/deliveries?state=delivered").text)


@pytest.mark.parametrize(
    ("path", "on_all"),
    [
        ("/deliveries", ["Replay all dead"]),
        ("/deliveries?sink=results", ["Replay all dead"]),
        ("/deliveries?state=dead", ["Replay all that match"]),
    ],
)
def test_only_what_could_do_something_has_a_button(
    operated: Submitting, as_person: AsPerson, path: str, on_all: list[str]
) -> None:
    dead(operated, "tsk_1")
    labels = [label for each in forms(as_person("admin").get(path).text) for label in each.buttons]
    assert [label for label in labels if " all" in label] == on_all
    assert ("Cancel selected" in labels) == ("state" not in path)


def test_who_may_only_view_has_no_button(operated: Submitting, as_person: AsPerson) -> None:
    ids = dead(operated, "tsk_1")
    ana = as_person("ana")
    for path in ("/deliveries", "/dead", f"/deliveries/{ids['tsk_1']}"):
        page = ana.get(path).text
        assert [each.action for each in forms(page) if "/do/" in each.action] == []
        assert 'name="ids"' not in page
    answer = ana.post("/do/replay", form_token=ana.form_token, ids=ids["tsk_1"], sure="yes")
    assert answer.status_code == 403
    assert states(operated.ledger) == {"tsk_1:results": "dead"}


def test_who_has_one_source_sees_and_takes_nothing_of_another(operated: Submitting, as_person: AsPerson) -> None:
    # Given dead letters of two sources
    theirs = dead(operated, "tsk_1")["tsk_1"]
    own = dead(operated, "tsk_2", source="other")["tsk_2"]
    bo = as_person("bo")
    # Then only one is shown
    assert shown(bo.get("/dead").text) == {"tsk_2"}
    assert bo.get(f"/deliveries/{own}").status_code == 200
    assert bo.get(f"/deliveries/{theirs}").status_code == 404
    assert bo.get(f"/deliveries/{theirs}?source=skyvern").status_code == 403
    # And of what is selected, whoever made it up, only the own is taken
    asked = bo.click(bo.get("/dead"), "Replay selected", ids=[own, theirs])
    assert "1 replayed." in bo.click(asked, "Replay 1").text
    assert bo.post("/do/replay", form_token=bo.form_token, ids=theirs, sure="yes").status_code == 422
    assert states(operated.ledger, state=("dead",)) == {"tsk_1:results": "dead"}


def shown(page: str) -> set[str]:
    """The runs whose deliveries a page lists."""
    return {part.partition("?")[0] for part in page.split("/console/runs/")[1:]}
