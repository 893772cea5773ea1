"""Runs of each type, submitted through Runhook to a real Skyvern, by each road that a result can take."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from receiver.domain import members
from receiver.ledger.schema import events
from simulator import keys
from tests.servers.deployment import Deployment
from tests.support.waiting import eventually
from tests.upstream.report import Report, value_at
from tests.upstream.skyvern_server import SkyvernServer, http_block
from tests.upstream.target import Target

MASTER = "the-master-secret-of-upstream"
ENGINES = {
    "task_v1": "skyvern-1.0",
    "task_v2": "skyvern-2.0",
    "task_v3": "skyvern-3.0",
    "openai_cua": "openai-cua",
    "anthropic_cua": "anthropic-cua",
    "yutori_navigator": "yutori-navigator",
}
OUR_CALLBACK = "/webhooks/skyvern/sub_"  # its end is the token of a submission
WAIT = 45.0
"""Seconds for what Skyvern, or we, should have done in a few."""
# What no two runs have in common, or is known only of a run whose webhook came.
_OF_ONE_RUN = ("run_id", "event_id", "id", "via", "received_at", "recorded_at", "app_url", "labels")


@dataclass
class Followed:
    """What was seen of one run. `webhook`: the first body that came to us."""

    name: str
    run_id: str
    submitted: dict[str, Any]
    polled: dict[str, Any] = field(default_factory=dict)
    webhook: dict[str, Any] = field(default_factory=dict)


class ThroughUs:
    """A deployment in front of Skyvern: `start` it, do the `checks`, `end` it."""

    def __init__(self, skyvern: SkyvernServer, target: Target, report: Report, directory: Path, redis_url: str) -> None:
        self.skyvern = skyvern
        self.target = target
        self.report = report
        self.rows_file = directory / "rows.db"
        self.chosen: list[str] = []  # runs that the rule chooses
        failing = http_block("get", f"{target.url}/bad")
        self.ok = skyvern.agent("Ok agent", http_block("get", f"{target.url}/ok"))["agent_id"]
        self.bad = skyvern.agent("Bad agent", failing)["agent_id"]
        slow = (http_block("one", f"{target.url}/ok"), http_block("two", f"{target.url}/slow/3"))
        self.slow = skyvern.agent("Slow agent", *slow)["agent_id"]
        told = {"type": "http", "url": f"{target.url}/hook/told", "retry": {"first": "500ms"}}
        self.system = Deployment(
            directory,
            redis_url,
            f"sqlite:///{directory / 'data' / 'ledger.db'}",
            {
                "sources": {"skyvern": {"secrets": [skyvern.key], "api_base": skyvern.url, "api_key": skyvern.key}},
                "sinks": {
                    "rows": {"type": "database", "url": f"sqlite:///{self.rows_file}", "table": "runs"},
                    "told": told,
                    "chosen": {**told, "url": f"{target.url}/hook/chosen"},
                },
                "routes": [
                    {"name": "everything", "to": ["rows", "told"]},
                    {"name": "chosen", "when": {"workflow_id": self.ok, "parameters.name": "Zoë"}, "to": ["chosen"]},
                ],
                "reconcile": {"after": "4s", "webhook_grace": "2s", "budget": "50/s"},
                "callbacks": {"retry": {"first": "500ms"}},
                "allowed_addresses": ["127.0.0.1"],
                "spool": {"reserve_bytes": 0},
            },
        )
        self.system.more = {"PUBLIC_URL": self.system.url, "RUNHOOK_SECRET": MASTER}
        self.client = httpx2.Client(base_url=self.system.url, trust_env=False, timeout=90)

    def start(self) -> None:
        """Start receiver, worker and clock, and make a key."""
        self.system.start()
        self.client.headers["x-api-key"] = self.system.json("keys", "create", "upstream")["key"]
        self.system.run("worker")
        self.system.run("clock")

    def end(self) -> None:
        """Stop all that was started."""
        self.client.close()
        self.system.end()

    def checks(self) -> list[Callable[[], None]]:
        """Return all of them, in an order in which one may build on those before it."""
        return [self.tasks, self.agents, self.canceled, self.sent_again, self.lost, self.imported, self.each_once]

    # One run.

    def submit(self, name: str, path: str, body: Mapping[str, Any]) -> Followed | None:
        """Submit through us. Returns None, with a difference, when that was refused."""
        answer = self.client.post(path, json=dict(body), headers={"x-runhook-labels": f"check={name}"})
        if not self.report.expect(f"{name}, submit", 200, answer.status_code):
            return None
        made = answer.json()
        return Followed(name, made.get("run_id") or made.get("task_id") or made["workflow_run_id"], made)

    def follow(self, run: Followed) -> None:
        """Ask for a run before, between and after its webhook, at Skyvern and through us, and compare."""
        early = self.client.get(f"/v1/runs/{run.run_id}")
        self.report.expect(f"{run.name}, GET before the end", 200, early.status_code)
        self.skyvern.wait_final(run.run_id)
        between = self.client.get(f"/v1/runs/{run.run_id}")
        self.report.expect(f"{run.name}, GET between end and webhook", 200, between.status_code)
        wait(lambda: self.events(run.run_id, "webhook"), f"webhook of {run.name}")
        run.webhook = json.loads(self.events(run.run_id, "webhook")[0])
        run.polled = self.skyvern.get(f"/v1/runs/{run.run_id}")
        after = self.client.get(f"/v1/runs/{run.run_id}").json()
        self.bodies(run)
        self.answers(run, after)

    def bodies(self, run: Followed) -> None:
        """Compare the members of what Skyvern sent and answered."""
        family, expect = members.family(run.webhook["run_type"]), self.report
        expect.expect_members(f"{run.name}, webhook", members.WEBHOOK[family], run.webhook)
        expect.expect_members(f"{run.name}, poll", members.POLL[family], run.polled)
        expect.expect_lacking(f"{run.name}, poll", members.lacking(family), run.polled)
        expect.expect_members(
            f"{run.name}, run_request of a poll", members.RUN_REQUEST[family], run.polled["run_request"]
        )
        left_out = {name: run.polled["run_request"].get(name) for name in members.LEFT_OUT[family]}
        expect.expect_lacking(
            f"{run.name}, run_request of a poll", [name for name in left_out if left_out[name]], left_out
        )
        expect.expect_same_values(
            f"{run.name}, webhook and poll", run.webhook, run.polled, ("modified_at", "ai_fallback", "run_request")
        )
        for name, path in keys.DERIVED[family].items():
            expect.expect(f"{run.name}, {name} is {path}", run.webhook[name], value_at(path, run.polled))
        workflow_id = value_at("run_request.workflow_id", run.polled)
        details = self.skyvern.get(keys.DETAILS_PATH[family].format(run_id=run.run_id, workflow_id=workflow_id))
        expect.expect_members(f"{run.name}, details", keys.DETAILS[family], details)
        moved = ("modified_at", "webhook_failure_reason", "max_screenshot_scrolls")
        expect.expect_same_values(f"{run.name}, webhook and details", run.webhook, details, moved)
        if family == members.TASK_V2:
            own = self.skyvern.get(f"/v1/runs/{run.run_id}/artifacts")
            expect.expect(f"{run.name}, artifacts under its own id", [], own)
            last = str(run.webhook["app_url"]).rpartition("/")[2]
            expect.expect(f"{run.name}, end of app_url", run.webhook["workflow_run_id"], last)

    def answers(self, run: Followed, ours: Mapping[str, Any]) -> None:
        """Compare our answer to a GET with Skyvern's."""
        self.report.expect_members(f"{run.name}, our GET", run.polled.keys(), ours)
        same = ("modified_at", "run_request", "ai_fallback", "recording_url", "screenshot_urls", "downloaded_files")
        self.report.expect_same_values(f"{run.name}, our GET and Skyvern's", run.polled, ours, same)
        request, theirs = ours.get("run_request"), run.polled["run_request"]
        if isinstance(request, Mapping):
            compared = [name for name in theirs if theirs[name] or name == "proxy_location"]
            asked = {name: theirs[name] for name in compared if name != "webhook_url"}
            self.report.expect_same_values(f"{run.name}, our run_request and Skyvern's", asked, request)
        self.report.expect(f"{run.name}, our callback URL in our GET", False, OUR_CALLBACK in json.dumps(ours))

    # The checks.

    def tasks(self) -> None:
        """A task of each engine, which ends as failed, for there is no browser; and the older call."""
        for run_type, engine in ENGINES.items():
            body = {
                "prompt": "Get the invoice",
                "url": f"{self.target.url}/ok",
                "engine": engine,
                "max_steps": 7,
                "error_code_mapping": {"E1": "none"},
                "data_extraction_schema": {"type": "object"},
            }
            # Without a proxy the member gets a default; with null, as the SDK sends it, it stays null.
            for name, more in ((run_type, {}), (f"{run_type} with null", {"proxy_location": None})):
                if run := self.submit(name, "/v1/run/tasks", {**body, **more}):
                    poll = members.POLL[members.family(run_type)]
                    self.report.expect_members(f"{name}, submit", poll, run.submitted)
                    self.report.expect(f"{name}, run_type", run_type, run.submitted["run_type"])
                    self.follow(run)
        older = {"url": f"{self.target.url}/ok", "navigation_goal": "Get the invoice", "title": "by the older call"}
        if run := self.submit("older call", "/api/v1/tasks", older):
            self.report.expect("older call, submit", ["task_id"], list(run.submitted))
            self.follow(run)

    def agents(self) -> None:
        """Runs of agents that complete and fail, with and without a caller's webhook."""
        for name, path, agent_id, more in (
            ("completed", "/v1/run/agents", self.ok, {"parameters": {"name": "Zoë"}}),
            ("failed", "/v1/run/agents", self.bad, {"title": "another title"}),
        ):
            hook = f"{self.target.url}/hook/caller-{name}"
            body = {"agent_id": agent_id, "webhook_url": hook, "run_metadata": {"team": "billing"}, **more}
            run = self.submit(f"agent {name}", path, body)
            if run is None:
                continue
            self.report.expect_members(f"agent {name}, submit", members.POLL[members.WORKFLOW], run.submitted)
            self.follow(run)
            self.report.expect(f"agent {name}, status", name, run.webhook["status"])
            if agent_id == self.ok:
                self.chosen.append(run.run_id)
            wait(lambda name=name: self.target.hooks(f"caller-{name}"), "the caller's webhook")
            called = self.target.bodies(f"caller-{name}")
            self.report.expect(f"agent {name}, the caller's webhook", [run.run_id], [each["run_id"] for each in called])

    def canceled(self) -> None:
        """A cancel: null, a webhook at once, and one more when the worker has noticed."""
        run = self.submit("canceled", "/v1/run/workflows", {"workflow_id": self.slow})
        if run is None:
            return
        wait(lambda: "/slow/3" in [each.path for each in self.target.requests], "the run is in its second block")
        answer = self.client.post(f"/v1/runs/{run.run_id}/cancel")
        self.report.expect("cancel, answer", [200, None], [answer.status_code, answer.json()])
        wait(lambda: len(self.events(run.run_id, "webhook")) >= 2, "both webhooks of a cancel")
        first, second = (json.loads(body) for body in self.events(run.run_id, "webhook")[:2])
        self.report.expect("cancel, status in both webhooks", ["canceled"] * 2, [first["status"], second["status"]])
        self.report.expect_members("cancel, webhook", members.WEBHOOK[members.WORKFLOW], first)

    def sent_again(self) -> None:
        """retry_webhook, at Skyvern and through us."""
        for name, path, body in (
            ("task", "/v1/run/tasks", {"prompt": "p", "url": f"{self.target.url}/ok"}),
            ("task_v2", "/v1/run/tasks", {"prompt": "p", "url": f"{self.target.url}/ok", "engine": "skyvern-2.0"}),
            ("workflow_run", "/v1/run/agents", {"agent_id": self.ok}),
        ):
            hook = f"{self.target.url}/hook/mine-{name}"
            run = self.submit(f"sent again {name}", path, {**body, "webhook_url": hook})
            if run is None:
                continue
            self.skyvern.wait_final(run.run_id)
            answer = self.skyvern.client.post(
                f"/v1/runs/{run.run_id}/retry_webhook", json={"webhook_url": f"{self.target.url}/hook/direct-{name}"}
            )
            self.report.expect(f"retry_webhook, {name}", 200, answer.status_code)
            self.report.expect_members(f"retry_webhook, {name}, answer", keys.RETRY_ANSWER, answer.json())
            (sent,) = self.target.bodies(f"direct-{name}")
            self.report.expect_members(f"retry_webhook, {name}, body", keys.SENT_AGAIN[name], sent)
            wait(lambda name=name: self.target.hooks(f"mine-{name}"), "the caller's webhook")
            ours = self.client.post(f"/v1/runs/{run.run_id}/retry_webhook")
            found = [ours.status_code, ours.json().get("status_code")]
            self.report.expect(f"retry_webhook through us, {name}", [200, 200], found)
            self.report.expect_members(f"retry_webhook through us, {name}", answer.json().keys(), ours.json())

    def lost(self) -> None:
        """A run whose webhook finds nobody: it is polled, and its row has the columns that a webhook fills."""
        body = {"agent_id": self.slow}
        usual = self.submit("in time", "/v1/run/agents", body)
        if usual is None:
            return
        wait(lambda: self.events(usual.run_id, "webhook"), "the usual webhook")
        run = self.submit("lost", "/v1/run/agents", body)
        if run is None:
            return
        self.system.kill()
        try:
            path = keys.DETAILS_PATH[members.WORKFLOW].format(workflow_id=self.slow, run_id=run.run_id)
            wait(lambda: self.skyvern.get(path)["webhook_failure_reason"], "Skyvern gave its webhook up")
        finally:
            self.system.start()
        wait(lambda: self.events(run.run_id, "poll"), "the lost result was polled")
        self.same_row("lost webhook, found by poll", usual.run_id, run.run_id)

    def imported(self) -> None:
        """A run that nobody submitted here: it is found in Skyvern's list."""
        usual = self.submit("submitted", "/v1/run/agents", {"agent_id": self.ok, "parameters": {"name": "Zoë"}})
        if usual is None:
            return
        body = {"agent_id": self.ok, "parameters": {"name": "Zoë"}}
        run_id = self.skyvern.client.post("/v1/run/agents", json=body).json()["run_id"]
        self.skyvern.wait_final(run_id)
        wait(lambda: self.events(usual.run_id, "webhook"), "the usual webhook")

        def imported() -> bool:  # not at once: its webhook might come yet
            self.system.runhook("reconcile", "--since", "1h", "--import", "--for", "1")
            return bool(self.events(run_id, "import"))

        eventually(imported, WAIT, every=0.5, what=lambda: "the run was imported")
        self.same_row("run of nobody, imported", usual.run_id, run_id)
        self.chosen += [usual.run_id, run_id]
        wait(
            lambda: run_id in [each["run_id"] for each in self.target.bodies("chosen")], "the import was routed by rule"
        )

    def each_once(self) -> None:
        """Nothing is left, and no run was told twice, but for cancelled ones, which say more the second time."""
        wait(lambda: set(self.system.states()) == {"delivered"}, "all is delivered")
        told = [each["run_id"] for each in self.target.bodies("told") if each["status"] != "canceled"]
        twice = sorted({run_id for run_id in told if told.count(run_id) > 1})
        self.report.expect("runs that a sink was told twice", [], twice)
        shown = [each["run_id"] for each in self.target.bodies("told") if OUR_CALLBACK in json.dumps(each)]
        self.report.expect("runs whose body shows a sink our callback URL", [], sorted(set(shown)))
        rows = [each["run_id"] for each in self.rows() if OUR_CALLBACK in json.dumps(each, default=str)]
        self.report.expect("runs whose row shows our callback URL", [], rows)
        by_rule = [each["run_id"] for each in self.target.bodies("chosen")]
        self.report.expect("runs that a rule chose by agent and parameter", sorted(self.chosen), sorted(by_rule))
        known = {each["run_id"] for each in self.rows()}
        self.report.expect("runs that a sink was told and that have no row", [], sorted(set(told) - known))

    # Looking.

    def events(self, run_id: str, via: str) -> list[bytes]:
        """The bodies that the ledger has of a run, the first first."""
        wanted = sa.select(events.c.body).where(events.c.run_id == run_id, events.c.via == via).order_by(events.c.seq)
        return [row[0] for row in self.system.ledger.read(lambda connection: connection.execute(wanted).all())]

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the database sink."""
        if not self.rows_file.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.rows_file}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM runs")]

    def same_row(self, where: str, usual: str, other: str) -> None:
        """Compare which columns two runs of one agent have, whose results came by different roads."""

        def filled() -> dict[str, set[str]] | None:
            rows = {row["run_id"]: row for row in self.rows()}
            if usual not in rows or other not in rows:
                return None
            return {run_id: _filled(rows[run_id]) for run_id in (usual, other)}

        found = eventually(filled, WAIT, what=lambda: f"the rows of {usual} and {other}")
        one, by_this_road = found[usual], found[other]
        self.report.expect(f"{where}, columns that a webhook alone fills", [], sorted(one - by_this_road))
        self.report.expect(f"{where}, columns that this road alone fills", [], sorted(by_this_road - one))


def _filled(row: Mapping[str, Any]) -> set[str]:
    """Return the columns of a row that have a value."""
    return {name for name, value in row.items() if value is not None and name not in _OF_ONE_RUN}


def wait(check: Callable[[], object], what: str) -> None:
    """Wait for a state. Raises AssertionError, with `what` it was, when it does not come."""
    eventually(check, WAIT, what=lambda: what)
