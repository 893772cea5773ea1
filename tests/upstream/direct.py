"""What we rely on, checked at Skyvern itself: docs/reference/skyvern.md, section by section."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from receiver.domain import members
from receiver.domain.signature import HEADER, verify
from simulator import keys, test_button
from tests.support.waiting import eventually
from tests.upstream.report import Report
from tests.upstream.skyvern_server import SkyvernServer, http_block
from tests.upstream.target import Target

TOKEN = "sub_upstream_0123456789"


class Direct:
    """The checks that need no receiver of ours."""

    def __init__(self, skyvern: SkyvernServer, target: Target, report: Report) -> None:
        self.skyvern = skyvern
        self.target = target
        self.report = report
        self.agent = skyvern.agent("Direct agent", http_block("get", f"{target.url}/ok"))
        self.agent_id: str = self.agent["workflow_permanent_id"]

    def checks(self) -> list[Callable[[], None]]:
        """Return all of them."""
        return [
            self.headers,
            self.retries,
            self.refusals,
            self.agents,
            self.schedules,
            self.button,
            self.again,
            self.lists,
        ]

    def run(self, hook: str, agent_id: str = "", **members: Any) -> str:
        """Run the agent with a webhook of its own. Returns the run's id, when it is final."""
        body = {"agent_id": agent_id or self.agent_id, "webhook_url": f"{self.target.url}/hook/{hook}", **members}
        answer = self.skyvern.client.post("/v1/run/agents", json=body)
        assert answer.status_code == 200, answer.text[:500]
        run_id: str = answer.json()["run_id"]
        self.skyvern.wait_final(run_id)
        return run_id

    def headers(self) -> None:
        """The webhook's headers, path and query, and its signature."""
        self.run(f"headers/a%20b?t={TOKEN}&x=1")
        eventually(lambda: self.target.hooks("headers"))
        (request,) = self.target.hooks("headers")
        expect = self.report.expect
        expect("webhook, path and query", f"/hook/headers/a%20b?t={TOKEN}&x=1", request.path)
        expect("webhook, content-type", "application/json", request.headers.get("content-type"))
        expect("webhook, user-agent", "python-httpx", request.headers.get("user-agent", "").partition("/")[0])
        expect(
            "webhook, x-skyvern-timestamp is a number", True, request.headers.get("x-skyvern-timestamp", "").isdigit()
        )
        signature = request.headers.get(HEADER, "")
        expect("webhook, the key of the call signs", True, verify(request.body, signature, [self.skyvern.key]))
        expect("webhook, signature in lower-case hex", True, len(signature) == 64 and signature == signature.lower())
        compact = json.dumps(json.loads(request.body), ensure_ascii=False, separators=(",", ":")).encode()
        expect("webhook, body is compact JSON", compact, request.body)

    def retries(self) -> None:
        """Which answers to a webhook are tried again."""
        expected = {**dict.fromkeys((400, 401, 404, 409, 413), 1), **dict.fromkeys((403, 408, 425, 429, 503), 3)}
        for status, requests in expected.items():
            self.target.statuses[f"answered-{status}"] = [status] * 3
            self.run(f"answered-{status}")
            self._await_requests(status, requests)
        found = {status: self._requests(status) for status in expected}
        self.report.expect("requests of a webhook, by what it is answered with", expected, found)

    def _await_requests(self, status: int, count: int) -> None:
        eventually(lambda: self._requests(status) >= count, 15, what=lambda: f"webhook answered with {status}")

    def _requests(self, status: int) -> int:
        return len(self.target.hooks(f"answered-{status}"))

    def refusals(self) -> None:
        """The answers to what can't be done."""
        client, expect = self.skyvern.client, self.report.expect
        stranger = client.get("/v1/runs/tsk_1", headers={"x-api-key": "nobody"})
        expect("wrong key", [403, ["detail"]], [stranger.status_code, list(stranger.json())])
        unknown = client.get("/v1/runs/tsk_1")
        expect("unknown run", [404, ["detail"]], [unknown.status_code, list(unknown.json())])
        bad = client.post("/v1/run/tasks", json={})
        expect("a task without prompt", 422, bad.status_code)
        if bad.status_code == 422:
            members = ("type", "loc", "msg", "input")
            self.report.expect_members("a task without prompt, detail", members, bad.json()["detail"][0])
        going = client.post(
            "/v1/run/agents",
            json={"agent_id": self.skyvern.agent("Slow one", http_block("s", f"{self.target.url}/slow/2"))["agent_id"]},
        ).json()["run_id"]
        early = client.post(f"/v1/runs/{going}/retry_webhook", json={"webhook_url": f"{self.target.url}/hook/early"})
        expect("retry_webhook of a run that is on", 400, early.status_code)

    def agents(self) -> None:
        """An agent's members, ids, and how its webhook is set."""
        client, expect = self.skyvern.client, self.report.expect
        listed = self.skyvern.get("/v1/agents", page_size=100)
        self.report.expect_members("GET /v1/agents, an entry", keys.AGENT, listed[0])
        found = self.skyvern.get(f"/v1/agents/{self.agent_id}")
        self.report.expect_members("GET /v1/agents/{id}", (*keys.AGENT, "effective_default_engine"), found)
        expect("agent_id of an agent", self.agent_id, found.get("agent_id"))
        other = client.get(f"/v1/agents/{found['workflow_id']}")
        expect("GET /v1/agents/{w_…}", 404, other.status_code)
        hook = f"{self.target.url}/hook/of-agent"
        definition = {
            "title": found["title"],
            "webhook_callback_url": hook,
            "workflow_definition": {"parameters": [], "blocks": [http_block("get", f"{self.target.url}/ok")]},
        }
        kind = {"content-type": "application/x-yaml"}
        path = f"/api/v1/workflows/{self.agent_id}?expected_version="
        set_ = client.put(path + str(found["version"]), content=json.dumps(definition), headers=kind)
        expect("PUT with the version that is there", 200, set_.status_code)
        late = client.put(path + str(found["version"]), content=json.dumps(definition), headers=kind)
        expect("PUT with an older version", 409, late.status_code)
        changed = self.skyvern.get(f"/v1/agents/{self.agent_id}")
        got = [changed["version"], changed["webhook_callback_url"]]
        expect("an agent's version and webhook after the PUT", [found["version"] + 1, hook], got)
        run_id = client.post("/v1/run/agents", json={"agent_id": self.agent_id}).json()["run_id"]
        self.skyvern.wait_final(run_id)
        eventually(lambda: self.target.hooks("of-agent"))
        expect("webhook of a run without a URL of its own", run_id, self.target.bodies("of-agent")[0]["run_id"])

    def schedules(self) -> None:
        """A schedule's members; the id of its runs is checked as text, for a run would take a minute."""
        client, expect = self.skyvern.client, self.report.expect
        path = f"/v1/workflows/{self.agent_id}/schedules"
        made = client.post(path, json={"interval_seconds": 3600, "timezone": "UTC", "name": "hourly"})
        if not expect("POST a schedule", 200, made.status_code):
            return
        self.report.expect_members("POST a schedule", ("schedule", "next_runs"), made.json())
        listed = self.skyvern.get("/v1/schedules", page_size=100)
        self.report.expect_members("GET /v1/schedules", ("schedules", "total_count", "page", "page_size"), listed)
        self.report.expect_members("GET /v1/schedules, an entry", keys.SCHEDULE, listed["schedules"][0])
        schedule_id = made.json()["schedule"]["workflow_schedule_id"]
        expect("DELETE a schedule", 200, client.delete(f"{path}/{schedule_id}").status_code)
        digest = hashlib.sha256(f"{schedule_id}:2026-01-02T03:04:05+00:00".encode()).hexdigest()[:32]
        absent = client.get(f"/v1/runs/wr_sched_{digest}")
        expect("GET of a scheduled run that was not", 404, absent.status_code)

    def button(self) -> None:
        """The Test button: both bodies, pressed twice, and with a run's id."""
        for run_type, run_id in (("task", test_button.TASK_ID), ("workflow_run", test_button.WORKFLOW_RUN_ID)):
            name = f"button-{run_type}"
            press = {"webhook_url": f"{self.target.url}/hook/{name}", "run_type": run_type}
            for more in ({}, {}, {"run_id": "wr_of_my_own"}):
                answer = self.skyvern.client.post("/v1/internal/test-webhook", json={**press, **more})
                self.report.expect(f"Test button, {run_type}, answer", 200, answer.status_code)
            first, second, third = self.target.bodies(name)
            where = f"Test button, {run_type}"
            self.report.expect_members(where, keys.TEST_BUTTON[members.family(run_type)], first)
            expected = [run_id, "completed", "pbs_sample_123456"]
            found = [first["run_id"], first["status"], first["browser_session_id"]]
            self.report.expect(f"{where}, id, status and session", expected, found)
            differing = sorted(each for each in first if first[each] != second.get(each))
            times = ["created_at", "finished_at", "modified_at", "queued_at", "started_at"]
            self.report.expect(f"{where}, what differs from press to press", times, differing)
            self.report.expect(f"{where}, with a run's id", "wr_of_my_own", third["run_id"])

    def again(self) -> None:
        """A run that is started again by hand."""
        agent = self.skyvern.agent("Failing agent", http_block("get", f"{self.target.url}/bad"))["agent_id"]
        first = self.run(f"again?t={TOKEN}", agent)
        answer = self.skyvern.client.post(f"/v1/workflows/runs/{first}/retry")
        if not self.report.expect("POST …/retry", 200, answer.status_code):
            return
        second = answer.json()["run_id"]
        self.skyvern.wait_final(second)
        eventually(lambda: len(self.target.hooks("again")) == 2)
        one, other = self.target.bodies("again")
        self.report.expect(
            "a run started again, whose webhook comes to the same URL",
            [first, second],
            [one["run_id"], other["run_id"]],
        )
        links = [
            each[name]
            for each in (one, other)
            for name in ("retried_from_workflow_run_id", "retried_by_workflow_run_id")
        ]
        self.report.expect("a run started again by hand, what links it", [None] * 4, links)

    def lists(self) -> None:
        """GET /v1/runs: order, bounds, and what search_key finds; the runs of an agent."""
        client, expect = self.skyvern.client, self.report.expect
        entries = self.skyvern.get("/v1/runs", page_size=100)
        self.report.expect_members("GET /v1/runs, an entry", keys.LISTED, entries[0])
        created = [each["created_at"] for each in entries]
        expect("GET /v1/runs, newest first", sorted(created, reverse=True), created)
        expect("GET /v1/runs, page_size=101", 422, client.get("/v1/runs", params={"page_size": 101}).status_code)
        expect("GET /v1/runs, page=101", 422, client.get("/v1/runs", params={"page": 101}).status_code)
        found = self.skyvern.get("/v1/runs", search_key=TOKEN)
        expect("search_key finds our token in runs of agents", True, len(found) >= 3)
        task = {"prompt": "p", "url": f"{self.target.url}/ok", "title": "a title of its own"}
        token = TOKEN[::-1]
        run_id = client.post("/v1/run/tasks", json={**task, "webhook_url": f"{self.target.url}/hook/t?{token}"}).json()[
            "run_id"
        ]
        self.skyvern.wait_final(run_id)
        expect("search_key finds our token in tasks", [], self.skyvern.get("/v1/runs", search_key=token))
        by_title = [each["run_id"] for each in self.skyvern.get("/v1/runs", search_key="a title of its own")]
        expect("search_key finds a task_v1 by its title", [run_id], by_title)
        of_agent = self.skyvern.get(f"/v1/workflows/{self.agent_id}/runs", page_size=100, created_at_start=created[-1])
        self.report.expect_members(
            "GET /v1/workflows/{id}/runs, an entry", _all(of_agent[0], keys.LISTED_OF_AGENT), of_agent[0]
        )


def _all(entry: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names` and all that the entry has: of it we rely on some members only."""
    return (*names, *(name for name in entry if name not in names))
