"""Today's rules on old events through the API: call by call, each source for itself, and in the audit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from receiver.api import reroutes
from receiver.api.service import Service
from receiver.errors import Invalid
from receiver.ledger import Ledger, stats
from tests.support import api
from tests.support.api import actor, call, done
from tests.support.ledger import new_event, record, states

ROUTES = [{"name": "everything", "to": ["ops"]}, {"name": "failures", "when": {"status": "failed"}, "to": ["chat"]}]


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Service:
    """Of two results of one source ops has had both, and of one of another source nobody has had any."""
    now = ledger.now() - 60
    record(ledger, new_event("tsk_1", "ops"), new_event("tsk_2", "ops", status="failed"), now=now)
    record(ledger, new_event("tsk_3", source="other"), now=now)
    return api.service(ledger, tmp_path, routes=ROUTES)


def test_calls_go_on_where_the_one_before_ended(service: Service) -> None:
    # Given calls that tell of one page of events each
    def call(**given: Any) -> reroutes.RerouteResult:
        return reroutes.reroute(service, actor(), reroutes.RerouteParameters(since="1h", **given), most=1)

    before = states(service.ledger)
    # When the rules are only asked, then each event is told of once, the newest first, and nothing is made
    told, after = [], ""
    while after is not None:
        answer = call(dry_run=True, after=after)
        told += [(each.run_id, each.reaches, each.added) for each in answer.events]
        assert answer.made == 0
        after = answer.next
    assert told == [
        ("tsk_3", ("ops",), ("ops",)),
        ("tsk_2", ("ops", "chat"), ("chat",)),
        ("tsk_1", ("ops",), ()),
    ]
    assert states(service.ledger) == before
    assert done(service) == []
    # When they are applied, then each sink gets what it lacks, and only the first time
    for made in (2, 0):
        counts, after = [], ""
        while after is not None:
            answer = call(after=after)
            counts.append(answer.made)
            after = answer.next
        assert sum(counts) == made
    assert {name for name in states(service.ledger) if name not in before} == {"tsk_3:ops", "tsk_2:chat"}
    assert {(action, outcome) for action, _, _, outcome in done(service)} == {("reroute", "done")}
    assert sum(count for _, _, count, _ in done(service)) == 2


def test_one_of_one_source_reroutes_its_own_only(service: Service) -> None:
    answer = call(service, "reroute", actor("skyvern"), since="1h")
    assert [each["run_id"] for each in answer["events"]] == ["tsk_2", "tsk_1"]
    assert "tsk_3:ops" not in states(service.ledger)
    # And is not told whether there is a run of another source
    assert call(service, "reroute", actor("skyvern"), run="tsk_3")["events"] == []


def test_one_sink_is_given_what_it_lacks(service: Service) -> None:
    assert call(service, "reroute", since="1h", into="chat")["made"] == 1
    assert states(service.ledger).keys() == {"tsk_1:ops", "tsk_2:ops", "tsk_2:chat"}


def test_what_is_not_said_or_not_there_is_refused(service: Service) -> None:
    for given, problem in (
        ({}, "say which events"),
        ({"since": "1h", "into": "opps"}, "unknown sink opps"),
        ({"run": "tsk_404"}, "unknown run"),
        ({"since": "1h", "after": "x"}, "after"),
    ):
        with pytest.raises(Invalid, match=problem):
            call(service, "reroute", **given)


def test_sink_gets_all_results_regardless_of_the_routes(service: Service) -> None:
    assert call(service, "reroute", since="1h", into="chat", ignore_routes=True, dry_run=True)["made"] == 0
    given = {"since": "1h", "into": "chat", "ignore_routes": True}
    # When it is interrupted, then the next call creates only what is missing
    parameters = reroutes.RerouteParameters(**given, source="other")
    assert reroutes.reroute(service, actor(), parameters).made == 1
    assert [call(service, "reroute", **given)["made"] for _ in range(2)] == [2, 0]
    assert {name for name in states(service.ledger) if name.endswith("chat")} == {
        "tsk_1:chat",
        "tsk_2:chat",
        "tsk_3:chat",
    }


def test_reroute_ends_the_problem_of_an_outdated_event(ledger: Ledger, tmp_path: Path) -> None:
    # Given an event with a failed rule, whose run has continued since
    failed = new_event("tsk_1", status="running", disposition="interim")
    record(ledger, failed._replace(note="route big can't be evaluated: the types don't fit"), now=ledger.now() - 60)
    record(ledger, new_event("tsk_1"), now=ledger.now() - 30)
    assert ledger.read(lambda it: stats.newest(it, 0.0)).unrouted == 1
    # When correct rules are applied, then it is skipped, and is a problem no longer
    assert call(api.service(ledger, tmp_path, routes=ROUTES), "reroute", since="1h")["left"] == 1
    assert ledger.read(lambda it: stats.newest(it, 0.0)).unrouted == 0


def test_reroute_ends_the_problem_of_a_failed_of_a_failed_rule(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an event for which a rule could not be evaluated
    failed = new_event("tsk_1")._replace(note="route big can't be evaluated: the types don't fit")
    record(ledger, failed, now=ledger.now() - 60)

    def reroute(rule: str, **given: Any) -> int:
        routes = [{"name": "big", "when": rule, "to": ["ops"]}]
        call(api.service(ledger, tmp_path, routes=routes), "reroute", since="1h", **given)
        return ledger.read(lambda it: stats.newest(it, 0.0)).unrouted

    # Then it stays a problem while the rule fails, is only tried, or is applied for one sink or to older events,
    # and ends once correct rules were applied
    assert reroute("double(run.status) > 5.0") == 1
    assert reroute("double(run.status) > 5.0", after="1") == 1
    assert reroute('run.status == "completed"', dry_run=True) == 1
    assert reroute('run.status == "completed"', into="chat") == 1
    assert reroute('run.status == "completed"', into="ops", ignore_routes=True) == 1
    # And a call that ends before the event, because it may take no more, leaves it to the next one
    record(ledger, new_event("tsk_2"), now=ledger.now() - 30)
    monkeypatch.setattr("receiver.ledger.reroutes.PAGE", 1)
    page = reroutes.RerouteParameters(since="1h")
    service = api.service(
        ledger, tmp_path, routes=[{"name": "big", "when": 'run.status == "completed"', "to": ["ops"]}]
    )
    following = reroutes.reroute(service, actor(), page, most=1).next
    assert following
    assert ledger.read(lambda it: stats.newest(it, 0.0)).unrouted == 1
    assert reroute('run.status == "completed"', after=following) == 0
