"""Replay, cancel and resubmit: by id or by filter, previewed and guarded, and in the audit."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from receiver.api.service import Service
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import short_id
from receiver.domain.new_event import NewEvent
from receiver.errors import Conflict, Forbidden, Invalid, NotAsExpected, NotFound, RequestError
from receiver.ledger import Ledger, operations
from tests.support import api
from tests.support.api import actor, call, done
from tests.support.ledger import claim, new_event, record, settle, states, step_operations


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Service:
    """Two runs dead at ops and delivered at chat, one that waits for both; and a dead one of another source."""
    it = api.service(ledger, tmp_path)
    now = time.time() - 100
    other = new_event("tsk_9", "ops")
    object.__setattr__(other.event, "source", "other")
    record(ledger, new_event("tsk_1", "ops", "chat"), new_event("tsk_2", "ops", "chat"), other, now=now)
    settle(ledger, claim(ledger, "ops", now=now), DeliveryMove.DIE, now=now)
    settle(ledger, claim(ledger, "chat", now=now), DeliveryMove.ACCEPT, now=now, receipt={"id": "r"})
    record(ledger, new_event("tsk_3", "ops", "chat"), now=now)
    return it


def work_off(it: Service) -> None:
    """What the clock does."""
    while it.ledger.read(operations.count_running):
        step_operations(it.ledger, time.time())


def in_state(it: Service, *wanted: str) -> set[str]:
    return {name for name, state in states(it.ledger).items() if state in wanted}


def test_all_that_match_are_replayed_as_previewed(service: Service) -> None:
    # Given a preview of the dead letters of one source
    before = states(service.ledger)
    preview = call(service, "replay", sink="ops", source="skyvern", dry_run=True)
    assert (preview["dry_run"], preview["count"], preview["operation"]) == (True, 2, None)
    assert {each["run_id"] for each in preview["examples"]} == {"tsk_1", "tsk_2"}
    assert states(service.ledger) == before
    assert done(service) == []

    # When exactly these are replayed
    parameters = {"sink": "ops", "source": "skyvern", "expect": preview["count"], "until": preview["until"]}
    begun = call(service, "replay", **parameters)
    work_off(service)

    # Then they are, and the operation and the audit say so
    assert in_state(service, "queued") == {"tsk_1:ops", "tsk_2:ops", "tsk_3:ops", "tsk_3:chat"}
    told = call(service, "get_operation", id=begun["operation"]["id"])
    assert (told["state"], told["done"], told["total"], told["actor"]) == ("done", 2, 2, "ada")
    assert done(service) == [("replay", "ada", 2, "done")]
    (row,) = call(service, "list_audit")["items"]
    assert row["detail"] == told["id"]
    assert row["selection"] == {"source": "skyvern", "sink": "ops", "until": preview["until"]}
    assert told["selection"]["until"] == preview["until"]


def test_others_than_expected_are_not_replayed(service: Service) -> None:
    # Given a preview, and one more that matches by now
    preview = call(service, "replay", dry_run=True)
    settle(service.ledger, claim(service.ledger, "ops", now=time.time()), DeliveryMove.DIE, now=time.time())
    before = states(service.ledger)

    # When all that were previewed are to be replayed
    with pytest.raises(NotAsExpected) as refused:
        call(service, "replay", expect=preview["count"], until=preview["until"])

    # Then none is, and the new count is told
    assert (preview["count"], refused.value.count) == (3, 4)
    assert states(service.ledger) == before
    assert done(service) == []
    assert call(service, "list_operations")["items"] == []


@pytest.mark.parametrize(
    ("name", "parameters", "error", "words"),
    [
        ("replay", {}, Invalid, "expect: give the exact number"),
        ("replay", {"state": ["queued"], "expect": 1}, Invalid, "only dead, delivered, waiting and cancelled"),
        ("replay", {"sink": "slak", "expect": 1}, Invalid, "unknown sink slak; the config has ops"),
        ("replay", {"ids": ["tsk_3"]}, NotFound, "nothing to replay of it; what was delivered"),
        ("replay", {"ids": ["tsk_1", "tsk_7"]}, Invalid, "ids: tsk_7: unknown run"),
        ("cancel", {"ids": ["tsk_1", "dlv_123456789012"]}, NotFound, "tsk_1: there is nothing to cancel of it"),
        ("cancel", {"status": ["faild"], "dry_run": True}, Invalid, "unknown status; did you mean failed?"),
        (
            "replay",
            {"ids": ["evt_123456789012"], "state": ["cancelled"], "dry_run": True},
            Invalid,
            "ids: evt_123456789012: unknown event",
        ),
        ("replay", {"ids": ["dlv_12"]}, Invalid, "12 to 32 digits and letters"),
        ("replay", {"ids": [" "]}, Invalid, "an id is empty"),
        ("replay", {"expect": -1}, Invalid, "expect"),
        ("replay", {"rate": "nan", "ids": ["tsk_1"]}, Invalid, "rate"),
        ("cancel", {"ids": ["tsk_1"]}, NotFound, "only pending deliveries"),
        ("replay", {"ids": ["tsk_1"], "state": ["cancelled"]}, NotFound, "nothing to replay of it"),
        ("reroute", {"into": "callback", "ignore_routes": True, "since": "1h"}, Invalid, "for their own runs"),
        ("reroute", {"ignore_routes": True, "since": "1h"}, Invalid, "name the sink"),
        ("resubmit", {"ids": ["tsk_1"]}, Invalid, "no sink of type resubmit"),
        ("cancel_operation", {"id": "op_1"}, NotFound, "not found"),
    ],
)
def test_a_wrong_call_changes_nothing(
    service: Service, name: str, parameters: dict[str, Any], error: type[RequestError], words: str
) -> None:
    before = states(service.ledger)
    with pytest.raises(error) as refused:
        call(service, name, **parameters)
    assert words in str(refused.value)
    assert states(service.ledger) == before
    assert done(service) == []


def test_what_is_named_is_done_at_once(service: Service) -> None:
    # When a run is named
    told = call(service, "replay", ids=["tsk_1"])
    # Then the clock is not needed
    assert (told["operation"]["state"], told["count"]) == ("done", 1)
    assert "tsk_1:ops" in in_state(service, "queued")
    # And what was delivered only by force
    assert call(service, "replay", ids=["tsk_2"], sink="chat", force=True)["count"] == 1
    assert "tsk_2:chat" in in_state(service, "queued")


def begin_alike() -> tuple[NewEvent, NewEvent]:
    """Two events of one run, for ops and chat, whose ids begin alike as far as tables show them."""
    by_beginning: dict[str, NewEvent] = {}
    for number in itertools.count():
        event = new_event("tsk_600635710436290806", "ops", "chat", number=number)
        other = by_beginning.setdefault(short_id(event.event.id), event)
        if other is not event:
            return other, event
    raise AssertionError


def test_a_cut_id_that_two_begin_with_is_taken_for_neither(service: Service) -> None:
    # Given two events whose ids begin alike
    one, other = begin_alike()
    record(service.ledger, one, other)
    cut = short_id(one.event.id)
    before = states(service.ledger)
    # When what is done is to be of the one that begins so
    for name, parameters in (
        ("cancel", {"ids": [cut]}),
        ("cancel", {"ids": ["tsk_1", cut], "dry_run": True}),
        ("cancel", {"event_id": cut, "dry_run": True}),
        ("cancel", {"event_id": cut, "expect": 4}),
        ("cancel", {"event_id": "e", "expect": 4}),
        ("replay", {"ids": [cut], "expect": 4}),
    ):
        with pytest.raises(Invalid) as refused:
            call(service, name, **parameters)
        # Then it is refused with both, and nothing is done
        where = f"event_id: {parameters['event_id']}" if "event_id" in parameters else f"ids: {cut}"
        assert str(refused.value).startswith(f"{where}: ambiguous; matches evt_")
        assert where.endswith("e") or {one.event.id, other.event.id} <= set(str(refused.value).split())
    assert states(service.ledger) == before
    assert done(service) == []
    # And the whole id is that event alone
    assert call(service, "cancel", ids=[one.event.id])["count"] == 2


def test_a_cut_id_takes_what_began_so_when_it_was_given(service: Service) -> None:
    # Given an event, and one to come whose id begins alike
    one, other = begin_alike()
    record(service.ledger, one)
    for delivery in ("ops", "chat"):
        settle(service.ledger, claim(service.ledger, delivery, now=time.time()), DeliveryMove.DEFER, due_at=2e9)
    # When it is replayed, by its cut id, in an operation that is worked off later
    begun = call(service, "replay", ids=[short_id(one.event.id)], state=["waiting"], rate=0.001)["operation"]
    record(service.ledger, other)
    # Then the operation is of that event alone
    assert call(service, "get_operation", id=begun["id"])["selection"]["event_ids"] == [one.event.id]


def test_what_waits_is_cancelled_and_brought_back(service: Service) -> None:
    waiting = in_state(service, "queued")
    count = call(service, "cancel", dry_run=True)["count"]
    assert call(service, "cancel", expect=count)["operation"]["kind"] == "cancel"
    work_off(service)
    assert in_state(service, "cancelled") == waiting == {"tsk_3:ops", "tsk_3:chat"}

    assert call(service, "replay", ids=["tsk_3"], sink="ops", state=["cancelled"])["count"] == 1
    assert in_state(service, "queued") == {"tsk_3:ops"}
    assert done(service) == [("cancel", "ada", 2, "done"), ("replay", "ada", 1, "done")]


def test_failed_runs_are_submitted_again_through_their_sink(service: Service, ledger: Ledger, tmp_path: Path) -> None:
    # Given a config with a sink that submits again, a failed run, one that failed long ago, and completed ones
    sink = {"type": "resubmit", "base_url": "http://127.0.0.1:1", "key": "rhk_1_2"}
    it = api.service(ledger, tmp_path, sinks={"again": sink})
    record(ledger, new_event("tsk_5", status="failed"), now=time.time() - 60)
    record(ledger, new_event("tsk_6", status="failed"), now=time.time() - 3 * 86400)

    # When all that failed are submitted again
    assert call(it, "resubmit", dry_run=True)["examples"][0]["run_id"] == "tsk_5"
    with pytest.raises(NotAsExpected):
        call(it, "resubmit", expect=2)
    told = call(it, "resubmit", expect=1)

    # Then the one is, and only once
    assert in_state(it, "queued") - {"tsk_3:ops", "tsk_3:chat"} == {"tsk_5:again"}
    assert (told["operation"], told["count"]) == (None, 1)
    assert done(it) == [("resubmit", "ada", 1, "done")]
    with pytest.raises(NotFound, match="that again has no delivery of"):
        call(it, "resubmit", ids=["tsk_5"])
    with pytest.raises(Invalid, match="only failed, terminated, timed_out runs"):
        call(it, "resubmit", status=["completed"], expect=4)


@pytest.mark.parametrize("named", [0, 1, 2], ids=["first", "update", "repeat"])
def test_any_event_of_a_failed_run_names_its_result(ledger: Ledger, tmp_path: Path, named: int) -> None:
    # Given a result that was completed and told again, and one of another run
    sink = {"type": "resubmit", "base_url": "http://127.0.0.1:1", "key": "rhk_1_2"}
    it = api.service(ledger, tmp_path, sinks={"again": sink})
    first = new_event("tsk_1", status="failed")
    update = new_event("tsk_1", disposition="update", status="failed", recording_url="r")
    repeat = new_event("tsk_1", disposition="repeat", status="failed", step_count=7)
    events = [first, *(each._replace(repeat_of=first.event.id) for each in (update, repeat))]
    record(ledger, *events[:1], new_event("tsk_2", status="failed"), now=time.time() - 60)
    for event in events[1:]:
        record(ledger, event, now=time.time() - 60)

    # When one of its events is named, then the run is submitted again once, with all that is known
    assert call(it, "resubmit", ids=[short_id(events[named].event.id)])["count"] == 1
    assert [each.event_id for each in claim(ledger, "again", now=time.time() + 1)] == [update.event.id]


def test_an_operation_that_runs_is_stopped(service: Service) -> None:
    begun = call(service, "replay", expect=3, rate=0.001)["operation"]
    assert begun["state"] == "running"
    assert call(service, "cancel_operation", id=begun["id"])["state"] == "cancelled"
    work_off(service)
    assert len(in_state(service, "dead")) == 3
    with pytest.raises(Conflict, match="it is cancelled"):
        call(service, "cancel_operation", id=begun["id"])
    assert [row[0] for row in done(service)] == ["replay", "operation.cancel"]


def test_a_key_of_one_source_acts_on_its_own(service: Service) -> None:
    mine, theirs = actor("skyvern"), actor("other")
    # What is another's is as if it were not there, and all that match are one's own
    for ids in (["tsk_9"], ["tsk_9", "tsk_1"]):
        with pytest.raises(Invalid, match="tsk_9: unknown run"):
            call(service, "replay", mine, ids=ids)
    assert call(service, "replay", mine, dry_run=True)["count"] == 2
    begun = call(service, "replay", theirs, expect=1)["operation"]
    assert begun["source"] == "other"

    # And so are its operations and its lines of the audit
    for name in ("get_operation", "cancel_operation"):
        with pytest.raises(NotFound):
            call(service, name, mine, id=begun["id"])
    for name in ("list_operations", "list_audit"):
        assert call(service, name, mine)["items"] == []
        assert len(call(service, name, theirs)["items"]) == 1
    with pytest.raises(Forbidden):
        call(service, "replay", mine, source="other", ids=["tsk_9"])
    work_off(service)
    assert in_state(service, "dead") == {"tsk_1:ops", "tsk_2:ops"}
