"""Routes with their counts, and a body explained against them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from receiver.api.service import Service
from receiver.domain.new_event import NewDelivery
from receiver.errors import Invalid
from receiver.ledger import Ledger, stats
from tests.support import api
from tests.support.api import actor, call
from tests.support.ledger import new_event, record

ROUTES = [
    {"name": "failures", "when": {"status": "failed"}, "to": ["ops"]},
    {
        "name": "everything",
        "when": 'run.status == "completed"',
        "to": ["results", {"sink": "chat", "after": "results"}],
    },
]
RAW = '{"run_id": "tsk_1", "status": "completed"}'


@pytest.fixture
def service(ledger: Ledger, tmp_path: Path) -> Service:
    return api.service(ledger, tmp_path, routes=ROUTES)


def test_routes_tell_what_they_have_made_lately(service: Service) -> None:
    # Given events of two sources by two routes, one of which is gone, an old one, and one that no route matches
    ledger, now = service.ledger, time.time()
    theirs = new_event("tsk_2", NewDelivery("ops", "gone"))
    object.__setattr__(theirs.event, "source", "other")
    record(ledger, new_event("tsk_1", "ops", "chat"), theirs, now=now - 60)
    record(ledger, new_event("tsk_0", "ops"), now=now - 2 * 86_400)

    # Then each tells its own
    told = call(service, "list_routes")
    assert [(row["name"], row["configured"], row["deliveries"]) for row in told["items"]] == [
        ("failures", True, {}),
        ("everything", True, {"queued": 2}),
        ("gone", False, {"queued": 1}),
    ]
    assert told["items"][1]["to"] == [{"sink": "results", "after": []}, {"sink": "chat", "after": ["results"]}]
    of_one = call(service, "list_routes", actor("other"))["items"]
    assert [row["deliveries"] for row in of_one] == [{}, {}, {"queued": 1}]
    assert call(service, "list_routes", since="3d")["items"][1]["deliveries"] == {"queued": 3}

    # And with very many events, those of the newest, and it says of which
    assert service.ledger.read(lambda it: stats.count_routes(it, 0.0, newest=2)).since > 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"body": {"run_id": "tsk_1", "status": "failed"}}, {"failures": "ops"}),
        ({"raw": '{"run_id": "wr_1", "status": "completed"}'}, {"everything": "chat results"}),
        ({"raw": "[" * 9}, {}),
        ({"body": {}}, {}),
    ],
)
def test_a_body_is_explained(service: Service, given: dict[str, Any], expected: dict[str, str]) -> None:
    told = call(service, "explain", **given)
    by_route: dict[str, str] = {}
    for each in sorted(told["deliveries"], key=lambda row: str(row["sink"])):
        by_route[each["route"]] = f"{by_route.get(each['route'], '')} {each['sink']}".strip()
    assert by_route == expected
    assert bool(told["problem"]) is ("run_id" not in str(given))
    if not told["problem"]:
        assert {row["route"]: row["matched"] for row in told["routes"]} == {
            "failures": "failures" in expected,
            "everything": "everything" in expected,
        }
        assert all(row["why"] for row in told["routes"])


@pytest.mark.parametrize("given", [{}, {"body": {"run_id": "t"}, "raw": "x"}, {"raw": "x", "source": "third"}])
def test_what_can_not_be_explained(service: Service, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        call(service, "explain", **given)
