"""What a GET of a run leaves behind: nothing, as long as the run has not ended."""

from __future__ import annotations

import pytest
import redis

from receiver.inbox import STREAM
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Make
from tests.support import queries
from tests.support.events import body

JSON = {"content-type": "application/json"}
TIMES = {"created_at": "2026-11-25T10:00:00", "modified_at": "2026-11-25T10:00:01"}


@pytest.mark.parametrize(
    "state",
    [
        {"status": "created"},
        {"status": "queued"},
        {"status": "running"},
        {"status": "paused"},
        {"status": "failed", "retry_pending": True},
        {"status": "something_new"},
    ],
    ids=lambda state: "-".join(map(str, state.values())),
)
@pytest.mark.parametrize("path", ["", "?from=skyvern"])
def test_a_run_that_has_not_ended_is_shown_and_not_noted(
    submitting: Make, scripted_server: ScriptedServer, redis_url: str, state: dict[str, object], path: str
) -> None:
    # Given a run of ours
    rig = submitting(scripted_server.url, dispatching=False)
    scripted_server.script = [Reply(200, body("tsk_1", "queued", **TIMES), JSON)]
    assert rig.task().json()["run_id"] == "tsk_1"
    scripted_server.default = Reply(200, body("tsk_1", **state, **TIMES), JSON)
    before = rig.rows()

    # When it is asked for
    answer = rig.client.get(f"/v1/runs/tsk_1{path}")

    # Then its caller sees it, nothing is on its way to the ledger, and it is polled no sooner and no later
    assert (answer.status_code, answer.json()["status"]) == (200, state["status"])
    client = redis.Redis.from_url(redis_url)
    assert client.xlen(STREAM) == 0
    client.close()
    assert rig.rows() == before
    assert [row["outcome"] for row in rig.ledger.read(lambda c: queries.list_runs(c, queries.Filter()))] in ([], [""])


@pytest.mark.parametrize("path", ["/v1/runs/tsk_1", "/v1/runs/tsk_1?from=skyvern", "/v1/runs/tsk_1/timeline"])
@pytest.mark.parametrize("base", ["", "https://before.example/hooks"], ids=["our-url", "our-url-before"])
def test_callback_token_is_never_shown(submitting: Make, scripted_server: ScriptedServer, path: str, base: str) -> None:
    # Given a run of ours whose webhook could not be delivered, as Skyvern says with its URL; that may have been
    # submitted when we had another public URL
    rig = submitting(scripted_server.url, dispatching=False)
    scripted_server.script = [Reply(200, body("tsk_1", "queued", **TIMES), JSON)]
    assert rig.task(webhook_url="https://app.example/done").json()["run_id"] == "tsk_1"
    token = rig.rows()[0]["id"]
    ours = f"{base or rig.url}/webhooks/skyvern/{token}"
    said = body(
        "tsk_1",
        "running",
        **TIMES,
        webhook_callback_url=ours,
        run_request={"webhook_url": ours},
        webhook_failure_reason=f"Failed to send webhook to {ours}: 502",
    )
    scripted_server.default = Reply(200, said, JSON)

    # When its own caller asks for it, and another one
    own = rig.client.get(path)
    other = rig.client.get(path, headers={"x-api-key": rig.key("read")})

    # Then each sees the caller's own URL or none, and nobody the token
    assert (own.status_code, other.status_code) == (200, 200)
    assert token not in own.text + other.text
    assert own.json()["webhook_callback_url"] == "https://app.example/done"
    assert other.json()["webhook_callback_url"] is None
    assert other.json()["webhook_failure_reason"].startswith("Failed to send webhook to ")
