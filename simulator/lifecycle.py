"""How a simulated run proceeds: its statuses, its files, its webhooks. Knows no API.

What Skyvern 1.0.56 does at the end of a run, in this order: the final status is set; the recording is written out,
its record first; uploads end; downloads are saved; the webhook goes out. A poll in between sees a final run with some
or none of its files.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, NamedTuple

from simulator import bodies
from simulator.artifacts import LISTED_ONLY, StoredArtifact
from simulator.faults import ENDINGS, Fault, chance
from simulator.options import Options
from simulator.runs import TASK_V2, WORKFLOW, SimRun, now
from simulator.storage import Storage
from simulator.webhooks import Sender

RETRY_PAUSE = 1.0
CLEAN_UP = 0.5
DISORDER = 6.0
BIG = 17 << 20
# Share of the runs whose recording is stored while they run, a part at a time.
SEEDED = 0.5

log = logging.getLogger("runhook.simulate")


class SimWebhook(NamedTuple):
    """A webhook's body, and the state of the run that it reports."""

    body: bytes
    state: tuple[str, int, bool, bool]


class Lifecycle:
    """Advance runs. `spawn`: starts a background task; `restart`: starts a run again as another;
    `release`: deletes the files that were attached to a run."""

    def __init__(
        self,
        options: Options,
        stats: Counter[str],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        restart: Callable[[SimRun], None],
        release: Callable[[SimRun], None],
    ) -> None:
        self._options, self._stats = options, stats
        self._spawn, self._restart, self._release = spawn, restart, release
        self.sender, self.storage = Sender(options, stats), Storage(options)
        self._recordings: dict[str, StoredArtifact] = {}  # whole ones, of runs that show a part of them

    async def live(self, run: SimRun) -> None:
        """Let `run` go from created to its end."""
        seconds = self._options.spread("pace", run.number, self._options.run_seconds)
        await asyncio.sleep(seconds * 0.05)
        if not run.final:
            run.move("queued")
            if Fault.QUEUE in run.faults:
                await asyncio.sleep(self._options.pause(self._options.queued_seconds))
            await asyncio.sleep(seconds * 0.15)
        if not run.final:
            run.move("running")
            self._seed(run)
            if Fault.PAUSE in run.faults:
                await asyncio.sleep(seconds * 0.2)
                await self._pause(run)
            if Fault.CANCEL in run.faults:
                await asyncio.sleep(seconds * 0.4)
                await self._cancel_by_itself(run)
                return
            await asyncio.sleep(seconds * 0.8)
        held = []
        if run.type == WORKFLOW:
            for _ in range(2 if Fault.RETRIES in run.faults else 1 if Fault.RETRY in run.faults else 0):
                if not run.final:
                    held += await self._fail_attempt(run)
                    await asyncio.sleep(seconds * 0.8)
        if not run.final:
            await self._finish(run)
        if run.callback and run.key and Fault.LOSE not in run.faults:
            for webhook in held:
                await asyncio.sleep(self._options.pause(1.0))
                await self._send(run, webhook, run.key)

    async def cancel(self, run: SimRun, key: str | None) -> None:
        """Cancel `run`; returns after its webhook was sent. For a cancelled run its webhook is sent once more."""
        if run.status == "canceled":
            await self._announce(run, key)
        elif not run.final:
            run.end("canceled")
            run.saving = True
            self._release(run)
            # The two webhooks may overtake each other: each is sent by a process of its own, and tried again by it.
            held = self._webhook(run) if Fault.DISORDER in run.faults else None
            self._spawn(self._clean_up(run, key, held))
            if not held:
                await self._announce(run, key)

    async def _pause(self, run: SimRun) -> None:
        if not run.final:
            run.move("paused")
            await asyncio.sleep(self._options.pause(self._options.paused_seconds))
        if not run.final:
            run.move("running")

    async def _cancel_by_itself(self, run: SimRun) -> None:
        await self.cancel(run, run.key)
        if Fault.TWICE in run.faults:
            await asyncio.sleep(self._options.pause(0.2))
            await self.cancel(run, run.key)

    async def _fail_attempt(self, run: SimRun) -> list[SimWebhook]:
        """Let a workflow's attempt fail. Returns its webhook where that is to come after the last attempt's."""
        run.fail_attempt(now() + timedelta(seconds=self._options.pause(RETRY_PAUSE)))
        held = [self._webhook(run)] if Fault.DISORDER in run.faults else []
        if not held:
            await self._announce(run, run.key)
        await asyncio.sleep(self._options.pause(RETRY_PAUSE))
        if not run.final:
            run.next_attempt()
        return held

    async def _finish(self, run: SimRun) -> None:
        """End `run`, save its files, send its webhook, and start it again where that is its fault."""
        again = Fault.RESTART in run.faults and run.type == WORKFLOW
        ending = next((status for fault, status in ENDINGS.items() if fault in run.faults), "completed")
        ending = "failed" if again and ending == "completed" else ending
        run.end(ending, self._output(run) if ending == "completed" else None)
        await self._save(run)
        self._release(run)
        await self._announce(run, run.key)
        if again:
            self._restart(run)

    async def _clean_up(self, run: SimRun, key: str | None, held: SimWebhook | None) -> None:
        await asyncio.sleep(self._options.pause(CLEAN_UP))
        await self._save(run)
        run.clean_up(self._output(run))
        await self._announce(run, key)
        if held and run.callback and key and Fault.LOSE not in run.faults:
            await asyncio.sleep(self._options.pause(0.2))
            await self._send(run, held, key)

    # Files.

    def _seed(self, run: SimRun) -> None:
        if chance(self._options.seed, "seeded", run.number) < SEEDED:
            self._recordings[run.id] = self.storage.create(run, "recording")
            self.storage.show(run, self._recordings[run.id].seed())

    async def _save(self, run: SimRun) -> None:
        """Save the files of a run that has ended, one kind after the other."""
        run.saving = True
        gap = self._options.spread("gap", run.number, self._options.gap_seconds)
        if Fault.GAP in run.faults:
            gap = self._options.pause(self._options.long_gap_seconds)
        recording = self._recordings.pop(run.id, None)
        await asyncio.sleep(gap * 0.3)
        if recording:
            recording = recording.changed(now())
            self.storage.show(run, recording.announced())
        await asyncio.sleep(gap * 0.3)
        recording = recording or self.storage.create(run, "recording")
        if Fault.HALF in run.faults:
            self.storage.show(run, recording.announced())
            self._spawn(self._complete(run, recording))
        else:
            self.storage.show(run, recording)
        whole = run.status in ("completed", "canceled")
        for type_ in (*LISTED_ONLY, *(("screenshot_action",) if whole else ()), "screenshot_final"):
            self.storage.show(run, self.storage.create(run, type_))
        await asyncio.sleep(gap * 0.4)
        if whole:
            self.storage.show(run, self.storage.create(run, "download", "invoice.pdf"))
        run.saving = False

    async def _complete(self, run: SimRun, recording: StoredArtifact) -> None:
        await asyncio.sleep(self._options.pause(self._options.half_seconds))
        self.storage.show(run, recording)

    def _output(self, run: SimRun) -> Any:
        output = bodies.invoice(run.number)
        # A float that the API sends as 1500.0 and the webhook as 1500; text and a number that trip up careless code.
        output |= {"total": float(round(output["total"])), "reference": 12345678901234567890 + run.number}
        output["note"] = "line one\u2028line two </script>"
        if Fault.BIG in run.faults:
            output["filling"] = "x" * BIG
        if run.type == WORKFLOW:
            return {"extract_invoice_output": {"extracted_information": output}, "extracted_information": [output]}
        return output

    # Webhooks.

    async def _announce(self, run: SimRun, key: str | None) -> None:
        """Send the webhook with the current state of `run`, as the run's faults have it."""
        faults = run.faults
        if not run.callback or not key:
            self._stats["webhooks_none"] += 1
            return
        if Fault.LOSE in faults:
            self._stats["webhooks_lost"] += 1
            log.info("%s %s: its webhook is lost on purpose", run.id, run.status)
            return
        if Fault.TANGLED in faults and run.type == TASK_V2 and run.status == "completed":
            run.tangle()
        webhook = self._webhook(run)
        if Fault.LATE in faults:
            await asyncio.sleep(self._options.pause(self._options.late_seconds))
        elif Fault.DISORDER in faults and not faults & {Fault.RETRY, Fault.RETRIES}:
            await asyncio.sleep(self._options.spread("disorder", run.number, DISORDER))
        await self._send(run, webhook, key)
        if Fault.ECHO in faults:
            await self._send(run, webhook, key)
        if Fault.DOUBLE in faults:
            await asyncio.sleep(self._options.pause(0.2))
            await self._send(run, self._webhook(run), key)

    async def _send(self, run: SimRun, webhook: SimWebhook, key: str) -> None:
        assert run.callback is not None
        _, failure = await self.sender.send(run.callback, webhook.body, key)
        log.info("%s %s: webhook %s", run.id, webhook.state[0], failure or "delivered")
        if webhook.state == run.state:
            run.delivered(failure)

    def _webhook(self, run: SimRun) -> SimWebhook:
        lapsed = Fault.LAPSED in run.faults
        body = bodies.webhook(run, lambda stored: self.storage.link(stored, lapsed=lapsed))
        return SimWebhook(bodies.dumps(body), run.state)
