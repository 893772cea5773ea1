"""The address of a caller's own webhook: shown to nobody else, and refused at once where it can never be called."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.servers.http import ScriptedServer
from tests.servers.skyvern import Simulate, SkyvernSimulator
from tests.servers.submitting import Make
from tests.servers.valkey import free_port
from tests.support.waiting import Stopwatch

SECRET = "https://user:pass-word@app.example/hook?token=s3cr3t"
WORDS = ("app.example", "pass-word", "s3cr3t")


def visible(answer: httpx2.Response) -> str:
    return answer.text + str(dict(answer.headers))


def test_webhook_url_is_shown_to_its_own_key_only(submitting: Make, simulate_skyvern: Simulate) -> None:
    rig = submitting(simulate_skyvern(run_seconds=1.0).url)
    run_id = rig.client.post("/v1/run/agents", json={"agent_id": "w", "webhook_url": SECRET}).json()["run_id"]
    theirs = {"x-api-key": rig.key("submit", "read", "operate")}
    ways = [
        f"/v1/runs/{run_id}",
        f"/v1/runs/{run_id}?wait=100",
        f"/v1/runs/{run_id}",
        f"/v1/runs/{run_id}?from=skyvern",
        f"/v1/runs/{run_id}/",
        f"/v1/workflows/runs/{run_id}",
        "/v1/runs",
    ]
    for path in ways:
        with ThreadPoolExecutor() as pool:  # at once: they must not share an answer
            mine = pool.submit(rig.client.get, path)
            other = pool.submit(lambda path=path: rig.client.get(path, headers=theirs))  # type: ignore[misc]
        assert mine.result().status_code == other.result().status_code, path
        assert not any(word in visible(other.result()) for word in WORDS), path
        assert "/webhooks/skyvern" not in visible(other.result()), path
        if run_id in path and "/workflows/" not in path:
            assert "s3cr3t" in visible(mine.result()), path

    assert rig.client.get(f"/v1/runs/{run_id}", headers=theirs).json()["run_request"]["webhook_url"] is None
    assert "x-runhook-webhook-url" not in rig.client.get(f"/v1/runs/{run_id}?from=skyvern", headers=theirs).headers


def test_resubmitted_run_shows_the_caller_its_webhook_url(
    submitting: Make, skyvern_simulator: SkyvernSimulator
) -> None:
    rig = submitting(skyvern_simulator.url)
    first = rig.client.post("/v1/run/agents", json={"agent_id": "w", "webhook_url": SECRET}).json()["run_id"]
    labels = {"runhook-chain": first, "runhook-try": "2"}
    second = rig.client.post(
        "/v1/run/agents",
        json={"agent_id": "w", "webhook_url": SECRET, "labels": labels},
        headers={"x-api-key": rig.key("submit", "read", "resubmit")},
    ).json()["run_id"]

    mine = rig.client.get(f"/v1/runs/{second}?wait=10")
    other = rig.client.get(f"/v1/runs/{second}?wait=10", headers={"x-api-key": rig.key("read")})

    assert mine.json()["run_request"]["webhook_url"] == SECRET
    assert other.json()["run_request"]["webhook_url"] is None


def test_other_key_retries_without_seeing_the_url(
    submitting: Make, skyvern_simulator: SkyvernSimulator, caller: ScriptedServer
) -> None:
    rig = submitting(skyvern_simulator.url, delivering=True, allowed_addresses=["127.0.0.1"])
    hook = caller.url + "/s3cr3t"
    body = {"agent_id": "w", "webhook_url": hook}
    run_id = rig.client.post("/v1/run/agents", json=body).json()["run_id"]
    caller.wait_for_requests(1)
    path, theirs = f"/v1/runs/{run_id}/retry_webhook", {"x-api-key": rig.key("operate")}

    answer = rig.client.post(path, headers=theirs)
    with ScriptedServer() as other:
        elsewhere = rig.client.post(path, headers=theirs, json={"webhook_url": other.url})
        (received,) = other.requests

    assert (answer.json()["error"], answer.json()["status_code"]) == (None, 204)
    assert [answer.json()[f"{each}_webhook_url"] for each in ("default", "target")] == [None, None]
    assert "s3cr3t" not in visible(answer)
    assert elsewhere.json()["target_webhook_url"] == other.url
    assert "s3cr3t" not in visible(elsewhere)
    assert b"s3cr3t" not in received.body
    assert json.loads(received.body)["run_request"]["webhook_url"] is None
    assert elsewhere.json()["payload"].encode() == received.body
    assert json.loads(caller.requests[0].body)["run_request"]["webhook_url"] == hook


def test_invalid_webhook_url_is_refused_before_the_run(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, dispatching=False)
    refused = {
        "ftp://pw.example/": "Invalid URL: ",
        "http://user:pw@10.0.0.1/x": "The host in your url is blocked: 10.",
    }
    for url, words in refused.items():
        text = json.dumps({"prompt": "p", "webhook_url": url}).encode()
        answer = rig.client.post("/v1/run/tasks", content=text, headers={"idempotency-key": "one"})
        assert answer.status_code == 400, url
        assert answer.json().keys() == {"detail"}
        assert answer.json()["detail"].startswith(words), answer.text
        assert "pw" not in answer.text
    legacy = {"url": "https://x.example", "navigation_goal": "g", "webhook_callback_url": "http://10.0.0.1/"}
    assert rig.client.post("/api/v1/tasks", json=legacy).status_code == 400

    assert rig.rows() == []
    assert not skyvern_simulator.world.runs
    good = rig.task(webhook_url="https://app.example/h", headers={"idempotency-key": "one"})
    assert good.status_code == 200  # what was refused holds no key


def test_valid_webhook_url_is_kept(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, dispatching=False, allowed_addresses=["10.1.0.0/16"])

    for given, kept in ((None, ""), (" app.example/h\n", "https://app.example/h"), ("http://10.1.2.3/h",) * 2):
        answer = rig.client.post("/v1/run/agents", json={"agent_id": "w", "webhook_url": given})
        assert (answer.status_code, rig.rows()[-1]["callback_url"]) == (200, kept)
        assert answer.json()["run_request"]["webhook_url"] == (kept or None)


def test_webhook_url_at_skyverns_api_is_refused(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, dispatching=False)

    answer = rig.task(webhook_url=skyvern_simulator.url + "/api/v1/internal/auth/repair")

    assert (answer.status_code, rig.rows()) == (400, [])


def test_resubmit_scope_reads_the_webhook_url(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url)
    run_id = rig.task(webhook_url=SECRET).json()["run_id"]
    again = {"x-api-key": rig.key("submit", "read", "resubmit")}

    answer = rig.client.get(f"/v1/runs/{run_id}?from=skyvern", headers=again)

    assert answer.headers["x-runhook-webhook-url"] == SECRET


def test_other_key_sees_failure_without_the_host(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url, delivering=True, allowed_addresses=["127.0.0.1"])
    run_id = rig.task(webhook_url=f"http://127.0.0.1:{free_port()}/").json()["run_id"]
    rig.client.get(f"/v1/runs/{run_id}?wait=10")
    path = f"/v1/runs/{run_id}/retry_webhook"

    mine = rig.client.post(path).json()["error"]
    theirs = rig.client.post(path, headers={"x-api-key": rig.key("operate")}).json()["error"]

    assert "127.0.0.1" in mine
    assert theirs == mine.replace("127.0.0.1", "the caller's server")


def test_invalid_url_for_a_retry_is_refused(submitting: Make, skyvern_simulator: SkyvernSimulator) -> None:
    rig = submitting(skyvern_simulator.url)
    run_id = rig.task().json()["run_id"]
    rig.client.get(f"/v1/runs/{run_id}?wait=10")
    watch = Stopwatch()

    for url in ("ftp://x", "http://127.0.0.1/", "http://"):
        answer = rig.client.post(f"/v1/runs/{run_id}/retry_webhook", json={"webhook_url": url})
        assert answer.status_code == 400, url
        assert isinstance(answer.json()["detail"], str)

    watch.at_most(10)
