"""Actions over real HTTP, with real keys: previewed, guarded, done, and in the audit."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from receiver.domain.delivery import DeliveryMove
from tests.servers.submitting import Submitting
from tests.support.ledger import claim, new_event, record, settle, states, step_operations

OPERATOR = ("view", "operate")


def post(server: Submitting, path: str, key: str, **body: Any) -> httpx2.Response:
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        return client.post(f"/api/v1{path}", json=body, headers={"authorization": f"Bearer {key}"})


def get(server: Submitting, path: str, key: str) -> Any:
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        answer = client.get(f"/api/v1{path}", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def dead(api_server: Submitting) -> Submitting:
    """Two dead letters of callers' webhooks."""
    now = time.time() - 60
    record(api_server.ledger, new_event("tsk_1", "callback"), new_event("tsk_2", "callback"), now=now)
    settle(api_server.ledger, claim(api_server.ledger, "callback", now=now), DeliveryMove.DIE, now=now)
    return api_server


def test_all_that_were_counted_are_replayed_and_no_others(dead: Submitting) -> None:
    key = dead.key(*OPERATOR)
    # Given the count of the dead letters, and one more by the time that they are to be sent again
    counted = post(dead, "/deliveries/replay", key, dry_run=True).json()
    record(dead.ledger, new_event("tsk_3", "callback"), now=time.time() - 60)
    settle(dead.ledger, claim(dead.ledger, "callback", now=time.time()), DeliveryMove.DIE, now=time.time())

    # When the count is given back, then it is refused with the new one, and nothing is done
    refused = post(dead, "/deliveries/replay", key, expect=counted["count"], until=counted["until"])
    assert (refused.status_code, refused.headers["content-type"]) == (409, "application/problem+json")
    assert (counted["count"], refused.json()["count"]) == (2, 3)
    assert refused.json()["type"] == "urn:runhook:problem:not_as_expected"
    assert set(states(dead.ledger).values()) == {"dead"}

    # And with the new one all three are sent again, by the clock
    begun = post(dead, "/deliveries/replay", key, expect=3)
    assert begun.status_code == 200, begun.text
    step_operations(dead.ledger, time.time())
    assert set(states(dead.ledger).values()) == {"queued"}
    told = get(dead, f"/operations/{begun.json()['operation']['id']}", key)
    assert (told["state"], told["done"], told["source"], told["actor"]) == ("done", 3, "skyvern", "app")
    (row,) = get(dead, "/audit", key)["items"]
    assert (row["action"], row["count"], row["actor_kind"], row["actor"]) == ("replay", 3, "key", "app")
    assert row["key_id"]


def test_audit_names_the_client_behind_a_trusted_proxy(dead: Submitting) -> None:
    # Given a call from this host, and one that a proxy here passes on
    key = dead.key(*OPERATOR)
    post(dead, "/deliveries/replay", key, ids=["tsk_1"])
    headers = {"authorization": f"Bearer {key}", "x-forwarded-for": "203.0.113.9"}
    httpx2.post(f"{dead.url}/api/v1/deliveries/replay", json={"ids": ["tsk_2"]}, headers=headers, trust_env=False)

    # Then the audit has both addresses
    assert [row["address"] for row in get(dead, "/audit", key)["items"]] == ["203.0.113.9", "127.0.0.1"]


def test_key_created_over_the_api_works_until_it_is_revoked(dead: Submitting) -> None:
    # Given a key of all sources that makes one for one source
    master = dead.key(*OPERATOR, source="*")
    made = post(dead, "/keys", master, name="on call", scopes=list(OPERATOR), source="skyvern")
    assert made.status_code == 200, made.text
    assert made.headers["cache-control"] == "no-store"
    key, row = made.json()["key"], made.json()["row"]

    # Then that one acts, under its name, and can't give what it has not
    assert post(dead, "/deliveries/replay", key, ids=["tsk_1"]).json()["count"] == 1
    assert states(dead.ledger) == {"tsk_1:callback": "queued", "tsk_2:callback": "dead"}
    assert post(dead, "/keys", key, name="more", scopes=["submit"]).status_code == 403
    assert key not in str(get(dead, "/keys", master))
    newest, oldest = get(dead, "/audit", master)["items"]
    assert (newest["actor"], newest["key_id"], oldest["action"]) == ("on call", row["id"], "key.create")

    # And once it is revoked it is refused, as soon as no receiver remembers it
    assert post(dead, "/keys/revoke", master, ids=[row["id"]]).json() == {"count": 1}
    # and one that is not known makes it read the keys again
    assert post(dead, "/deliveries/replay", "rhk_unknown_x", dry_run=True).status_code == 401
    assert post(dead, "/deliveries/replay", key, dry_run=True).status_code == 401
