"""The simulated Skyvern itself: its runs, how they proceed by themselves, and its counters. Knows no HTTP server: the
API (api.py) calls it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from receiver.skyvern.samples import bodies as samples
from receiver.skyvern.simulator import artifacts, bodies
from receiver.skyvern.simulator.artifacts import StoredArtifact
from receiver.skyvern.simulator.faults import ENDINGS, OF_CALLS, Fault, drawn
from receiver.skyvern.simulator.options import Options
from receiver.skyvern.simulator.runs import TASK_V2, WORKFLOW, SimRun, now
from receiver.skyvern.simulator.webhooks import Sender

RETRY_PAUSE = 1.0
CLEAN_UP = 0.5
DISORDER = 6.0
BIG = 17 << 20

log = logging.getLogger("runhook.simulate")


class SimWebhook(NamedTuple):
    """A webhook's body, and the state of the run that it reports."""

    body: bytes
    state: tuple[str, int, bool, bool]


class World:
    """The state of one simulation, for one event loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.stats: Counter[str] = Counter()
        self.runs: dict[str, SimRun] = {}
        self.artifacts: dict[str, StoredArtifact] = {}
        self._secret = secrets.token_bytes(32)
        self._first = time.time_ns() // 1000  # ids of a later simulation never meet those of an earlier one
        self._sender = Sender(options, self.stats)
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._marked: set[tuple[Fault, str]] = set()

    # What the API calls.

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
    ) -> SimRun:
        """Create a run and start it. `key`: what its webhook is signed with; None sends none."""
        number = len(self.runs) + 1
        prefix = {WORKFLOW: "wr", TASK_V2: "tsk_v2"}.get(run_type, "tsk")
        text = marked(request)
        moment = now()
        run = SimRun(
            number=number,
            id=f"{prefix}_{self._first + number}",
            type=run_type,
            request=request,
            key=self.options.api_keys[-1] if run_type == TASK_V2 else key,
            callback=(callback or "").strip() or None,
            base=self.options.public_url or base,
            faults=drawn(self.options.ratios, self.options.seed, number, text) - OF_CALLS,
            created_at=moment,
            modified_at=moment,
            title=request.get("title") or (f"Workflow {workflow_id}" if workflow_id else None),
            workflow_id=workflow_id,
            max_steps=max_steps,
        )
        self.runs[run.id] = run
        self.stats["submits"] += 1
        self.stats.update(f"fault_{fault}" for fault in run.faults)
        self._start(self._live(run))
        return run

    def call_faults(self, text: str = "") -> frozenset[Fault]:
        """Draw the faults of one call of the API. A marker in `text` (of a submit) counts once."""
        self._calls += 1
        found = drawn(self.options.ratios, self.options.seed, -self._calls) & OF_CALLS
        for fault in OF_CALLS:
            if f"[{fault}]" in text and (fault, text) not in self._marked:
                self._marked.add((fault, text))
                found |= {fault}
        return found

    async def cancel(self, run: SimRun, key: str | None) -> None:
        """Cancel `run`; returns after its webhook was sent. For a cancelled run its webhook is sent once more."""
        if run.status == "canceled":
            await self._announce(run, key)
        elif not run.final:
            run.end("canceled")
            self._start(self._clean_up(run, key))
            await self._announce(run, key)

    async def retry_webhook(self, run: SimRun, url: str, key: str) -> dict[str, Any]:
        """Send the webhook of a final run once, with fewer keys. Returns the answer of the API."""
        body = samples.dumps(bodies.webhook_again(run, self._link))
        began = time.monotonic()
        status, failure = await self._sender.send(url, body, key, attempts=1)
        if not failure and url == run.callback:
            run.delivered("")
        return {
            "run_id": run.id,
            "run_type": run.type,
            "default_webhook_url": run.callback,
            "target_webhook_url": url,
            "payload": body.decode(),
            "headers": {},
            "status_code": status,
            "latency_ms": int((time.monotonic() - began) * 1000),
            "response_body": None,
            "error": failure or None,
        }

    def search(self, statuses: Iterable[str] = (), run_types: Iterable[str] = (), text: str = "") -> list[SimRun]:
        """Return runs with one of these statuses and types and with `text` in title, URL or id, newest first."""
        wanted, types, sought = set(statuses), set(run_types), text.lower()
        return [
            run
            for run in reversed(self.runs.values())
            if (not wanted or run.status in wanted)
            and (not types or run.type in types)
            and sought in f"{run.title or ''} {run.request.get('url') or ''} {run.id}".lower()
        ]

    def link(self, stored: StoredArtifact, *, lapsed: bool = False) -> str | None:
        """Return a fresh signed URL of an artifact; with local storage a file URL, or None."""
        if self.options.local_storage:
            return f"file:///data/artifacts/{stored.id}" if stored.type == "recording" else None
        sensitive = stored.type in artifacts.SENSITIVE
        seconds = self.options.screenshot_url_seconds if sensitive else self.options.url_seconds
        expiry = int(time.time() + (-60 if lapsed else seconds))
        return f"{self.runs[stored.run_id].base}{stored.path}?{artifacts.sign(stored.path, expiry, self._secret)}"

    def verify(self, stored_path: str, expiry: str, kid: str, sig: str) -> bool:
        """Return whether a signed URL is valid now."""
        return artifacts.verify(stored_path, expiry, kid, sig, time.time(), self._secret)

    def unreported(self) -> list[SimRun]:
        """Return final runs with a callback whose last state no webhook has reported: only polling can find it."""
        return [run for run in self.runs.values() if run.final and run.callback and not run.reported]

    async def aclose(self) -> None:
        """Stop all runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.aclose()

    # How a run proceeds by itself.

    def _start(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a run broke off", exc_info=task.exception())

    async def _live(self, run: SimRun) -> None:
        seconds = self.options.spread("pace", run.number, self.options.run_seconds)
        await asyncio.sleep(seconds * 0.05)
        if not run.final:
            run.move("queued")
            await asyncio.sleep(seconds * 0.15)
        if not run.final:
            run.move("running")
            if Fault.CANCEL in run.faults:
                await asyncio.sleep(seconds * 0.4)
                await self._cancel_by_itself(run)
                return
            await asyncio.sleep(seconds * 0.8)
        held = None
        if Fault.RETRY in run.faults and run.type == WORKFLOW and not run.final:
            held = await self._fail_first(run)
            await asyncio.sleep(seconds * 0.8)
        if not run.final:
            ending = next((status for fault, status in ENDINGS.items() if fault in run.faults), "completed")
            run.end(ending, self._output(run) if ending == "completed" else None, self._artifacts(run, ending))
            await self._announce(run, run.key)
        if held and run.callback and run.key and Fault.LOSE not in run.faults:
            await asyncio.sleep(self.options.pause(1.0))
            await self._send(run, held, run.key)

    async def _cancel_by_itself(self, run: SimRun) -> None:
        await self.cancel(run, run.key)
        if Fault.TWICE in run.faults:
            await asyncio.sleep(self.options.pause(0.2))
            await self.cancel(run, run.key)

    async def _fail_first(self, run: SimRun) -> SimWebhook | None:
        """Let a workflow's first attempt fail. Returns its webhook where that is to come after the last attempt's."""
        run.fail_attempt(now() + timedelta(seconds=self.options.pause(RETRY_PAUSE)))
        held = self._webhook(run) if Fault.DISORDER in run.faults else None
        if not held:
            await self._announce(run, run.key)
        await asyncio.sleep(self.options.pause(RETRY_PAUSE))
        if not run.final:
            run.next_attempt()
        return held

    async def _clean_up(self, run: SimRun, key: str | None) -> None:
        await asyncio.sleep(self.options.pause(CLEAN_UP))
        run.clean_up(self._output(run), self._artifacts(run, "canceled"))
        await self._announce(run, key)

    async def _announce(self, run: SimRun, key: str | None) -> None:
        """Send the webhook with the current state of `run`, as the run's faults have it."""
        faults = run.faults
        if not run.callback or not key:
            self.stats["webhooks_none"] += 1
            return
        if Fault.LOSE in faults:
            self.stats["webhooks_lost"] += 1
            log.info("%s %s: its webhook is lost on purpose", run.id, run.status)
            return
        if Fault.TANGLED in faults and run.type == TASK_V2 and run.status == "completed":
            run.tangle()
        webhook = self._webhook(run)
        if Fault.LATE in faults:
            await asyncio.sleep(self.options.pause(self.options.late_seconds))
        elif Fault.DISORDER in faults and Fault.RETRY not in faults:
            await asyncio.sleep(self.options.spread("disorder", run.number, DISORDER))
        await self._send(run, webhook, key)
        if Fault.ECHO in faults:
            await self._send(run, webhook, key)
        if Fault.DOUBLE in faults:
            await asyncio.sleep(self.options.pause(0.2))
            await self._send(run, self._webhook(run), key)

    async def _send(self, run: SimRun, webhook: SimWebhook, key: str) -> None:
        assert run.callback is not None
        _, failure = await self._sender.send(run.callback, webhook.body, key)
        log.info("%s %s: webhook %s", run.id, webhook.state[0], failure or "delivered")
        if webhook.state == run.state:
            run.delivered(failure)

    def _webhook(self, run: SimRun) -> SimWebhook:
        return SimWebhook(samples.dumps(bodies.webhook(run, self._link_of(run))), run.state)

    def _link_of(self, run: SimRun) -> bodies.Link:
        lapsed = Fault.LAPSED in run.faults
        return lambda stored: self.link(stored, lapsed=lapsed)

    def _link(self, stored: StoredArtifact) -> str | None:
        return self.link(stored)

    def _output(self, run: SimRun) -> Any:
        found = samples.invoice(run.number)
        # A float that the API sends as 1500.0 and the webhook as 1500; text and a number that trip up careless code.
        found |= {"total": float(round(found["total"])), "reference": 12345678901234567890 + run.number}
        found["note"] = "line one\u2028line two </script>"
        if Fault.BIG in run.faults:
            found["filling"] = "x" * BIG
        if run.type == WORKFLOW:
            return {"extract_invoice_output": {"extracted_information": found}, "extracted_information": [found]}
        return found

    def _artifacts(self, run: SimRun, ending: str) -> list[StoredArtifact]:
        """Create the artifacts of an ended run, the newest screenshot first."""
        wanted = [("screenshot_final", ""), ("recording", "")]
        if ending in ("completed", "canceled"):
            wanted += [("screenshot_action", ""), ("download", "invoice.pdf")]
        made = []
        for type_, name in wanted:
            stored = artifacts.make(f"a_{self._first + len(self.artifacts) + 1}", type_, name, run.id, now())
            self.artifacts[stored.id] = stored
            made.append(stored)
        return made


def marked(request: Mapping[str, Any]) -> str:
    """Return the text of a submit that may hold the names of faults in square brackets."""
    parts = (request.get(name) for name in ("prompt", "navigation_goal", "title", "workflow_id", "agent_id"))
    return " ".join(part for part in parts if isinstance(part, str))
