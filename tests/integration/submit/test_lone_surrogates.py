"""Half a character, which JSON allows and no database stores, in each field of a submit and of a webhook."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from receiver.api.catalogue import ENDPOINTS
from receiver.domain.api_key import ALL_SOURCES, OPERATE, VIEW
from receiver.domain.event import Event, event_id
from receiver.domain.frame import EntryKeys
from receiver.ledger import account
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.schema import events
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Make, Submitting
from tests.support import inbox
from tests.support.waiting import eventually

HALF = "half \ud800"
# Members of a submit: which, and by which call.
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "title": ("/v1/run/tasks", {"title": HALF}),
    "prompt": ("/v1/run/tasks", {"prompt": HALF}),
    "agent_id": ("/v1/run/agents", {"agent_id": HALF}),
    "workflow_id": ("/v1/run/workflows", {"workflow_id": HALF}),
    "webhook_url": ("/v1/run/tasks", {"webhook_url": f"https://app.example/{HALF}"}),
    "label": ("/v1/run/tasks", {"labels": {"team": HALF}}),
    "name of a label": ("/v1/run/tasks", {"labels": {HALF: "a"}}),
    "deep inside": ("/v1/run/tasks", {"data_extraction_schema": {HALF: [{"a": HALF}]}}),
    "name of a member": ("/v1/run/tasks", {HALF: "a"}),
    "extra headers": ("/v1/run/tasks", {"extra_http_headers": {"a": HALF}}),
    "legacy callback": ("/api/v1/tasks", {"url": HALF, "webhook_callback_url": f"https://app.example/{HALF}"}),
}
# Members of a webhook.
TOLD = ("title", "failure_reason", "status", "run_type", "workflow_id", "run_id", "output", "app_url", "recording_url")


def answers_but_200(rig: Submitting, *more: str) -> dict[str, int]:
    """The status of each list of the JSON API, and of `more` below its root, unless it is 200."""
    every = [each.path for each in ENDPOINTS if each.method == "GET" and not each.path_names]
    paths = [each for each in every if each != "/artifacts/content"]  # which is no list
    headers = {"x-api-key": rig.key(VIEW, OPERATE, source=ALL_SOURCES), "accept": "application/json"}
    answers = {path: rig.client.get(f"/api/v1{path}", headers=headers) for path in (*paths, *more)}
    return {path: answer.status_code for path, answer in answers.items() if answer.status_code != 200}


@pytest.fixture
def rig(submitting: Make, scripted_server: ScriptedServer, ledger_url: str) -> Submitting:
    return submitting(scripted_server.url, database_url=ledger_url)


def test_half_character_in_a_submit_is_recorded_or_refused(rig: Submitting, scripted_server: ScriptedServer) -> None:
    for number, (field, (path, members)) in enumerate(MEMBERS.items()):
        # Given a Skyvern that takes each submit, and knows earlier runs of no such agent
        answer = {"run_id": f"tsk_{number}", "task_id": f"tsk_{number}", "title": HALF}
        scripted_server.default = Reply(200, json.dumps(answer).encode(), {"content-type": "application/json"})
        calls, rows = len(scripted_server.calls), len(rig.rows())
        # When a submit has half a character in a field
        said = rig.client.post(path, content=json.dumps({"prompt": "p", **members}).encode())
        # Then it is refused, and nothing is made; or the run is made, and recorded
        assert said.status_code in (200, 400, 422), (field, said.text)
        made = len(scripted_server.calls) - calls
        assert made == (said.status_code == 200), field
        new = rig.rows()[rows:]
        assert [(row["state"], row["run_id"]) for row in new] == [("accepted", f"tsk_{number}")] * made, field
    # And each list, run and submission can be read
    rows = rig.rows()
    assert answers_but_200(rig, *(f"/submissions/{row['id']}" for row in rows)) == {}
    for row in rows:
        found = rig.client.get(f"/v1/runs/{row['run_id']}?from=submission")
        assert found.status_code == 200, row["call"]


def test_half_character_in_a_webhook_breaks_no_list(rig: Submitting, redis_url: str) -> None:
    # Given a webhook with half a character in each field, of a run of its own
    base = {"status": "failed", "run_type": "task_v2", "output": {"n": 1}}
    contents = [json.dumps({"run_id": f"tsk_{field}", **base, field: HALF}).encode() for field in TOLD]
    sent = [Event(event_id("skyvern", each), "skyvern", each, 1_700_000_000.0) for each in contents]
    inbox.append(redis_url, *sent, keys=EntryKeys({"skyvern": ["other"]}))
    query = sa.select(events.c.run_id).where(events.c.id.in_([each.id for each in sent]))

    # When all are recorded
    def recorded() -> list[str]:
        found = list(rig.ledger.read(lambda it: it.execute(query).scalars().all()))
        return found if len(found) == len(sent) else []

    run_ids = eventually(recorded)

    # Then each list, event and run can be read
    paths = [f"/events/{each.id}" for each in sent] + [f"/runs/{quote(each)}" for each in run_ids]
    assert answers_but_200(rig, *paths) == {}


def test_half_character_from_skyvern_or_an_actor_breaks_no_list(rig: Submitting) -> None:
    rig.ledger.write(lambda it: account.replace_agents(it, "skyvern", {"wpid_1": (HALF, f"https://a/{HALF}")}, 1.0))
    rig.ledger.write(lambda it: audit.record(it, AuditActor("key", HALF), "replay", {"text": HALF}, 1, detail=HALF))
    assert answers_but_200(rig) == {}
