"""retry_webhook of a run that was submitted here: our own delivery once more, answered as Skyvern answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from receiver.domain.signature import verify
from receiver.ledger import retention
from receiver.submit.limits import SubmitLimits
from simulator.faults import Fault
from tests.servers.http import Reply, ScriptedServer
from tests.servers.skyvern import Simulate, SkyvernSimulator
from tests.servers.submitting import Make, Submitting
from tests.support import queries
from tests.support.waiting import eventually

FIELDS = {"run_id", "run_type", "default_webhook_url", "target_webhook_url", "payload", "headers", "status_code"}
FIELDS |= {"latency_ms", "response_body", "error"}


@pytest.fixture
def rig(submitting: Make, skyvern_simulator: SkyvernSimulator) -> Submitting:
    return submitting(skyvern_simulator.url, delivering=True, allowed_addresses=["127.0.0.1"])


def deliveries(rig: Submitting) -> list[dict[str, Any]]:
    return rig.ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(sink="callback")))


def delivered(rig: Submitting, caller: ScriptedServer, **fields: Any) -> str:
    """A run whose caller has had its webhook."""
    run_id = str(rig.task(webhook_url=caller.url + "/hook", **fields).json()["run_id"])
    caller.wait_for_requests(1)
    eventually(lambda: [each["state"] for each in deliveries(rig)] == ["delivered"])
    return run_id


def test_retry_sends_the_delivery_under_its_key(
    rig: Submitting, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    run_id = delivered(rig, caller)

    answer = rig.client.post(f"/v1/runs/{run_id}/retry_webhook", headers={"content-length": "0"})

    reply = answer.json()
    first, second = caller.requests
    assert (answer.status_code, set(reply)) == (200, FIELDS | set(reply) & {"submission_id"})
    assert (reply["run_id"], reply["run_type"], reply["error"], reply["status_code"]) == (run_id, "task_v1", None, 204)
    assert reply["default_webhook_url"] == reply["target_webhook_url"] == caller.url + "/hook"
    assert reply["payload"].encode() == second.body == first.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == reply["headers"]["webhook-id"]
    assert verify(second.body, second.headers["x-skyvern-signature"], [rig.whole_key])
    assert isinstance(reply["latency_ms"], int)
    assert (len(deliveries(rig)), deliveries(rig)[0]["attempts"]) == (1, 2)
    assert "webhook_retries" not in skyvern_simulator.stats()


def test_failed_retry_is_200_with_error(rig: Submitting, caller: ScriptedServer) -> None:
    run_id = delivered(rig, caller)
    caller.script += [Reply(503), Reply(410)]

    away = rig.client.post(f"/v1/runs/{run_id}/retry_webhook").json()
    gone = rig.client.post(f"/v1/runs/{run_id}/retry_webhook").json()

    assert (away["status_code"], away["error"]) == (503, "the caller's server answered 503; it is tried again")
    assert (gone["status_code"], gone["error"]) == (410, "the caller's server answered 410")
    assert [each["state"] for each in deliveries(rig)] == ["dead"]


def test_other_address_gets_its_own_guarded_delivery(rig: Submitting, caller: ScriptedServer) -> None:
    run_id = delivered(rig, caller)
    path = f"/v1/runs/{run_id}/retry_webhook"
    with ScriptedServer() as other:
        reply = rig.client.post(path, json={"webhook_url": other.url + "/again"}).json()
        rig.client.post(path, json={"webhook_url": other.url + "/again"})
        refused = rig.client.post(path, json={"webhook_url": "http://169.254.169.254/x"})
        none = rig.client.post(path, json={"webhook_url": " "}).json()

        first, second = other.requests
    assert (reply["target_webhook_url"], reply["error"]) == (other.url + "/again", None)
    assert reply["default_webhook_url"] == caller.url + "/hook"
    assert first.headers["webhook-id"] == second.headers["webhook-id"] != caller.requests[0].headers["webhook-id"]
    assert verify(first.body, first.headers["x-skyvern-signature"], [rig.whole_key])
    assert refused.status_code == 400
    assert refused.json()["detail"] == "The host in your url is blocked: 169.254.169.254"
    assert none["target_webhook_url"] == caller.url + "/hook"
    assert len(caller.requests) == 2
    assert sorted(each["route"] for each in deliveries(rig)) == ["caller", "retry_webhook"]


def test_each_address_is_signed_with_its_givers_key(rig: Submitting, caller: ScriptedServer) -> None:
    # Given a run of one caller, and the key of another one, who may not see the first one's address
    run_id = delivered(rig, caller)
    other_key = rig.key("operate")
    path = f"/v1/runs/{run_id}/retry_webhook"

    # When both have it sent to an address that they give, which may be the first one's own
    with ScriptedServer() as elsewhere:
        for key in (other_key, rig.whole_key):
            rig.client.post(path, json={"webhook_url": elsewhere.url}, headers={"x-api-key": key})
        rig.client.post(path, json={"webhook_url": caller.url + "/hook"}, headers={"x-api-key": other_key})
        rig.client.post(path, headers={"x-api-key": other_key})

        # Then each is signed with the key of who gave the address, under an id of its own
        first, second = elsewhere.requests
    signed = [(each, key) for each, key in ((first, other_key), (second, rig.whole_key))]
    own = [(caller.requests[0], rig.whole_key), (caller.requests[1], other_key), (caller.requests[2], rig.whole_key)]
    for request, key in [*signed, *own]:
        assert verify(request.body, request.headers["x-skyvern-signature"], [key])
    ids = [request.headers["webhook-id"] for request in (first, second, *caller.requests)]
    assert len(set(ids)) == 4
    assert ids[2] == ids[4]


def test_retry_without_a_webhook_needs_an_address(rig: Submitting, caller: ScriptedServer) -> None:
    run_id = rig.task().json()["run_id"]
    rig.client.get(f"/v1/runs/{run_id}?wait=10")
    path = f"/v1/runs/{run_id}/retry_webhook"

    none = rig.client.post(path)
    named = rig.client.post(path, json={"webhook_url": caller.url})

    assert (none.status_code, none.json()["detail"]) == (400, "No webhook URL configured for the run.")
    assert (named.json()["error"], named.json()["default_webhook_url"], len(caller.requests)) == (None, None, 1)


def test_retry_without_a_worker_stays_due(
    submitting: Make, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    limits = SubmitLimits(retry_webhook=0.5)
    rig = submitting(skyvern_simulator.url, allowed_addresses=["127.0.0.1"], limits=limits)
    run_id = rig.task(webhook_url=caller.url).json()["run_id"]
    rig.client.get(f"/v1/runs/{run_id}?wait=10")

    reply = rig.client.post(f"/v1/runs/{run_id}/retry_webhook").json()

    assert reply["error"].startswith("not sent within 0.5 s; it stays due")
    assert (reply["status_code"], reply["latency_ms"]) == (None, None)
    assert [each["state"] for each in deliveries(rig)] == ["queued"]


def test_foreign_retry_is_passed_to_skyvern(
    rig: Submitting, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    run_id = skyvern_simulator.submit("elsewhere", webhook_url=caller.url)["run_id"]
    caller.wait_for_requests(1)

    reply = rig.client.post(f"/v1/runs/{run_id}/retry_webhook").json()

    assert (reply["target_webhook_url"], skyvern_simulator.stats()["webhook_retries"]) == (caller.url, 1)
    assert rig.client.post("/v1/runs/tsk_nowhere/retry_webhook").status_code == 404


def test_retry_of_a_running_run_is_400(submitting: Make, simulate_skyvern: Simulate) -> None:
    rig = submitting(simulate_skyvern(run_seconds=1000.0).url)
    run_id = rig.task(webhook_url="https://app.example/hook").json()["run_id"]
    path = f"/v1/runs/{run_id}/retry_webhook"

    running = rig.client.post(path, json={"webhook_url": None})

    assert running.status_code == 400
    assert "has not reached a terminal state" in running.json()["detail"]
    assert rig.client.post(path, json={"webhook_url": "ftp://x"}).status_code == 400
    assert rig.client.post(path, json={"webhook_url": 1}).status_code == 422
    assert rig.client.post(path, json=[]).status_code == 422


def test_retry_fetches_a_lost_result(submitting: Make, simulate_skyvern: Simulate, caller: ScriptedServer) -> None:
    sim = simulate_skyvern(ratios={Fault.LOSE: 1.0})
    rig = submitting(sim.url, delivering=True, polling=True, allowed_addresses=["127.0.0.1"])
    run_id = rig.task(webhook_url=caller.url).json()["run_id"]
    sim.wait_final(run_id)
    rig.client.get(f"/v1/runs/{run_id}")  # its end is noted, and waits for its webhook

    reply = rig.client.post(f"/v1/runs/{run_id}/retry_webhook").json()

    assert (reply["error"], reply["status_code"]) == (None, 204)
    assert caller.requests


def test_concurrent_retries_share_one_key(rig: Submitting, caller: ScriptedServer) -> None:
    run_id = delivered(rig, caller)
    caller.script += [Reply(204, delay=0.5)] * 2

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: rig.client.post(f"/v1/runs/{run_id}/retry_webhook").json(), range(2)))

    assert [each["error"] for each in answers] == [None, None]
    assert len({each.headers["webhook-id"] for each in caller.requests}) == 1


def test_legacy_retry_sends_the_delivery_again(
    rig: Submitting, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    run_id = delivered(rig, caller)

    rig.client.post(f"/api/v1/tasks/{run_id}/retry_webhook")

    assert len(caller.requests) == 2


def test_erased_run_keeps_no_request_and_sends_no_webhook(
    rig: Submitting, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    # Given a run that is erased once its caller has its webhook
    fields = {"prompt": "for Jane Doe", "webhook_url": caller.url + "/hook", "headers": {"idempotency-key": "k1"}}
    run_id = str(rig.task(**fields).json()["run_id"])
    caller.wait_for_requests(1)
    eventually(lambda: [each["state"] for each in deliveries(rig)] == ["delivered"])
    told = rig.ledger.write(lambda it: retention.erase(it, ("skyvern", run_id), "ada", rig.ledger.now()))
    assert told == 1

    # Then its webhook cannot be sent again
    refused = rig.client.post(f"/v1/runs/{run_id}/retry_webhook", headers={"content-length": "0"})
    assert (refused.status_code, "was erased" in refused.text) == (410, True)
    assert len(caller.requests) == 1
    # And the same submit gets the same run, and starts no other
    again = rig.task(**fields)
    assert (again.status_code, again.json()) == (200, {"run_id": run_id})
    assert len(skyvern_simulator.world.runs) == 1
    # And a GET gets what Skyvern still has, of which nothing is stored
    got = rig.client.get(f"/v1/runs/{run_id}")
    assert (got.status_code, got.headers["x-runhook-from"]) == (200, "skyvern")
    assert rig.client.get(f"/v1/runs/{run_id}?from=submission").status_code == 404
    assert "Jane Doe" not in str(rig.rows())
