"""The simulated Skyvern itself: its runs, agents, schedules, uploads and counters.

Knows no HTTP server: the API (api.py, account_api.py, control.py) calls it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from receiver.runtime.background import awaited
from simulator import bodies, runs, test_button
from simulator.agents import SimAgent
from simulator.faults import OF_CALLS, Fault, drawn
from simulator.lifecycle import Lifecycle
from simulator.options import Options
from simulator.runs import TASK_V2, WORKFLOW, SimRun, now
from simulator.schedules import SimSchedule

# Seconds between two looks at the schedules.
_TICK = 0.1

log = logging.getLogger("runhook.simulate")


class World:
    """The state of one simulation, for one event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.stats: Counter[str] = Counter()
        self.runs: dict[str, SimRun] = {}
        self.agents: dict[str, SimAgent] = {}
        self.schedules: dict[str, SimSchedule] = {}
        # The run that an uploaded file is attached to, by file id; "" when it is free.
        self.files: dict[str, str] = {}
        self._first = time.time_ns() // 1000  # ids of a later simulation never meet those of an earlier one
        self._maker = time.time_ns() // 1000 % 1_000_000 << 11  # in the ids of runs
        self._lifecycle = Lifecycle(options, self.stats, self._spawn, self._restart, self._release)
        self.storage = self._lifecycle.storage
        self._workflow_runs: dict[str, SimRun] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._calls = 0
        self._numbers = 0
        self._marked: set[tuple[Fault, str]] = set()
        self.add_agent("Download invoices", "wpid_1")

    # Runs.

    def create(
        self,
        run_type: str,
        request: Mapping[str, Any],
        key: str | None,
        base: str,
        *,
        callback: str | None = None,
        workflow_id: str | None = None,
        max_steps: int | None = None,
        trigger: str = "api",
        again: SimRun | None = None,
    ) -> SimRun:
        """Create a run and start it. `key`: that of the call, which signs its webhook: without one a task sends none,
        and a workflow's is signed with the newest key. `again`: the run that Skyvern starts again as this one."""
        number = len(self.runs) + 1
        prefix = {WORKFLOW: "wr", TASK_V2: "tsk_v2"}.get(run_type, "tsk")
        moment = now()
        agent = self.agent(workflow_id) if workflow_id else None
        faults = drawn(self.options.ratios, self.options.seed, number, marked(request)) - OF_CALLS
        run_number = runs.run_number(time.time(), self._maker + number)
        run = SimRun(
            number=number,
            id=f"{prefix}_{run_number}",
            type=run_type,
            request=request,
            key=self._signing_key(run_type, key),
            callback=(callback or "").strip() or (agent.callback if agent else None),
            base=self.options.public_url or base,
            faults=faults - {Fault.RESTART, Fault.DROP} if again else faults,
            created_at=moment,
            modified_at=moment,
            title=agent.title if agent else request.get("title"),
            workflow_id=workflow_id,
            version_id=agent.version_id if agent else None,
            workflow_run_id=f"wr_{run_number}" if run_type == TASK_V2 else None,
            max_steps=max_steps,
            trigger=trigger,
            retried_from=again.id if again else None,
            file_ids=tuple(request.get("file_ids") or ()),
        )
        self.files.update(dict.fromkeys(run.file_ids, run.id))
        self.runs[run.id] = run
        if run.workflow_run_id:
            self._workflow_runs[run.workflow_run_id] = run
        self.stats["submits"] += 1
        self.stats.update(f"fault_{fault}" for fault in run.faults)
        self._spawn(self._lifecycle.live(run))
        return run

    def find(self, run_id: str) -> SimRun | None:
        """Return the run with this id, or the task_v2 that ran as this workflow run."""
        return self.runs.get(run_id) or self._workflow_runs.get(run_id)

    def artifact_owner(self, run_id: str) -> SimRun | None:
        """Return the run whose artifacts are listed under this id: those of a task_v2 are under its workflow run's."""
        run = self.runs.get(run_id)
        return self._workflow_runs.get(run_id) if run is None else None if run.type == TASK_V2 else run

    def call_faults(self, text: str) -> frozenset[Fault]:
        """Draw the faults of one call of the API. A marker in `text` (of a submit) counts once."""
        self._calls += 1
        faults = drawn(self.options.ratios, self.options.seed, -self._calls) & OF_CALLS
        for fault in OF_CALLS:
            if f"[{fault}]" in text and (fault, text) not in self._marked:
                self._marked.add((fault, text))
                faults |= {fault}
        return faults

    async def cancel(self, run: SimRun, key: str | None) -> None:
        """Cancel `run`; returns after its webhook was sent. For a cancelled run its webhook is sent once more."""
        await self._lifecycle.cancel(run, key if run.type != TASK_V2 else run.key)

    async def retry_webhook(self, run: SimRun, url: str, key: str) -> dict[str, Any]:
        """Send the webhook of a final run once, with fewer keys. Returns the answer of the API."""
        body = bodies.dumps(bodies.webhook_again(run, self.storage.link))
        sent = await self._send_once(url, body, key)
        if not sent["error"] and url == run.callback:
            run.delivered("")
        return {
            **sent,
            "run_id": run.id,
            "run_type": run.type,
            "default_webhook_url": run.callback,
            "target_webhook_url": url,
            "payload": body.decode(),
            "headers": {},
            "response_body": None,
        }

    async def press_test_button(self, run_type: str, url: str, run_id: str | None) -> dict[str, Any]:
        """Send the webhook of Skyvern's Test button to `url`. Returns the answer of the API."""
        body = bodies.dumps(test_button.body(run_type, time.time(), run_id))
        sent = await self._send_once(url, body, self.options.api_keys[-1])
        error = sent["error"] if sent["status_code"] is None else None
        return {**sent, "response_body": "", "headers_sent": {}, "error": error}

    async def _send_once(self, url: str, body: bytes, key: str) -> dict[str, Any]:
        began = time.monotonic()
        status, failure = await self._lifecycle.sender.send(url, body, key, attempts=1)
        latency = int((time.monotonic() - began) * 1000)
        return {"status_code": status, "latency_ms": latency, "error": failure or None}

    def search(
        self,
        statuses: Iterable[str] = (),
        run_types: Iterable[str] = (),
        text: str = "",
        workflow_ids: Iterable[str] = (),
    ) -> list[SimRun]:
        """Return runs with one of these statuses, types and agents, and with `text` in what a search looks at, newest
        first: title, URL and ids of all runs, and inputs and callback URL of workflow runs."""
        wanted_statuses, types, agents, sought = set(statuses), set(run_types), set(workflow_ids), text.lower()
        return [
            run
            for run in reversed(self.runs.values())
            if (not wanted_statuses or run.status in wanted_statuses)
            and (not types or run.type in types)
            and (not agents or run.workflow_id in agents)
            and (not sought or sought in _searched(run))
        ]

    def unreported(self) -> list[SimRun]:
        """Return final runs with a callback whose last state no webhook has reported: only polling can find it."""
        return [run for run in self.runs.values() if run.final and run.callback and not run.reported]

    # Agents, schedules, uploads.

    def agent(self, workflow_id: str) -> SimAgent:
        """Return the agent with this permanent id, created if it is missing."""
        if workflow_id not in self.agents:
            self.add_agent(f"Workflow {workflow_id}", workflow_id)
        return self.agents[workflow_id]

    def add_agent(self, title: str, workflow_id: str | None = None, callback: str | None = None) -> SimAgent:
        """Add an agent. `callback`: the URL that its runs use when their call names none."""
        moment, number = now(), len(self.agents) + 1
        permanent = workflow_id or f"wpid_{self._first + self._number()}"
        agent = SimAgent(number, permanent, title, moment, moment, callback=callback)
        self.agents[agent.id] = agent
        return agent

    def add_schedule(self, workflow_id: str, cadence: Mapping[str, Any]) -> SimSchedule:
        """Add a schedule. `cadence`: fields of SimSchedule."""
        moment = datetime.now(UTC)
        fields = {"created_at": moment, "modified_at": moment, **cadence}
        if fields.get("run_at") is not None:
            fields["dispatch_status"] = "pending"
        schedule = SimSchedule(f"wfs_{self._first + self._number()}", workflow_id, **fields)
        if not self.schedules:
            self._spawn(self._keep_schedules())
        self.schedules[schedule.id] = schedule
        return schedule

    def fire(self, schedule: SimSchedule, base: str) -> SimRun:
        """Start the run of a schedule, which names no webhook: its agent's callback URL counts, if it has one."""
        schedule.fired = datetime.now(UTC)
        request = {"workflow_id": schedule.workflow_id, "parameters": dict(schedule.parameters)}
        run = self.create(WORKFLOW, request, None, base, workflow_id=schedule.workflow_id, trigger="scheduled")
        if schedule.run_at is not None:
            schedule.dispatch_status, schedule.workflow_run_id = "fired", run.id
        return run

    def upload(self) -> str:
        """Take in a file. Returns its id; it can be attached to one run, and is deleted at that run's end."""
        file_id = f"file_{self._first + self._number()}"
        self.files[file_id] = ""
        return file_id

    async def aclose(self) -> None:
        """Stop all runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lifecycle.sender.aclose()

    # Background tasks.

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = awaited(what, "simulate.run")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a run broke off", exc_info=task.exception())

    def _release(self, run: SimRun) -> None:
        for file_id in run.file_ids:
            self.files.pop(file_id, None)

    def _restart(self, run: SimRun) -> None:
        same: dict[str, Any] = {
            name: getattr(run, name) for name in ("callback", "workflow_id", "max_steps", "trigger")
        }
        run.retried_by = self.create(run.type, run.request, None, run.base, **same, again=run).id

    async def _keep_schedules(self) -> None:
        while True:
            moment = datetime.now(UTC)
            for schedule in list(self.schedules.values()):
                if not self.options.schedules_stopped and schedule.due(moment):
                    self.fire(schedule, self.options.public_url)
            await asyncio.sleep(_TICK)

    def _signing_key(self, run_type: str, key: str | None) -> str | None:
        newest = self.options.api_keys[-1]
        return newest if run_type == TASK_V2 or (run_type == WORKFLOW and key is None) else key

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


def marked(request: Mapping[str, Any]) -> str:
    """Return the text of a submit that may hold the names of faults in square brackets."""
    parts = (request.get(name) for name in ("prompt", "navigation_goal", "title", "workflow_id", "agent_id"))
    return " ".join(part for part in parts if isinstance(part, str))


def _searched(run: SimRun) -> str:
    parts = [run.title or "", str(run.request.get("url") or ""), run.id, run.workflow_id or ""]
    if run.type == WORKFLOW:
        parts += [json.dumps(run.request.get("parameters") or {}, ensure_ascii=False), run.callback or ""]
    return "\n".join(parts).lower()
