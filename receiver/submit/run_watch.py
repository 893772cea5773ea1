"""Polls Skyvern for the runs that requests wait for, so that an end whose webhook is lost is seen within seconds.

One poller for each source, and one look at a run, however many requests wait for it. An end that one process sees is
noted in the ledger, where the others see it. All calls of a source share a budget over all processes. A few runs are
asked for one by one; of many, the active ones are listed first, a hundred a call, and only the missing ones asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from receiver.domain.attention import ACTIVE
from receiver.domain.run import FINAL, Run, RunKey, parse_outline
from receiver.ledger import LedgerUnavailable
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.runs import RunStatus, run_statuses
from receiver.runtime.background import awaited
from receiver.skyvern.client import SkyvernAPI
from receiver.skyvern.responses import Answer, Answered, listed_runs
from receiver.web.work import off_loop

# Seconds between two looks at one run.
LOOK_INTERVAL: Final = 3.0
# Seconds from the beginning of a wait to its first look: most webhooks come by then, and other waits join.
FIRST_LOOK: Final = 0.5
# Seconds until the budget is tried again, and until due runs are looked for again.
AGAIN: Final = 0.3
# Seconds between two looks at a run that Skyvern does not know.
ABSENT_INTERVAL: Final = 60.0
# Seconds without looks after Skyvern said 429 without a Retry-After, and the longest one that is honoured.
PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 300.0
# Seconds without a waiting request after which the poller ends.
FORGOTTEN_AFTER: Final = 5.0
# Runs due at once up to which each is asked for separately.
DIRECT: Final = 4
# Pages of active runs that one look lists, and runs of a page.
PAGES: Final = 10
PAGE_SIZE: Final = 100
# Calls for single runs that are under way at once.
_CONCURRENCY: Final = 8

log = logging.getLogger("runhook.submit")


@dataclass(frozen=True, slots=True)
class Look:
    """What Skyvern said of a run when it was looked at last. `answer`: of a run that has ended."""

    status: str
    attempt: int = 1
    run_type: str = ""
    final: bool = False
    answer: Answered | None = field(default=None, compare=False, repr=False)


class RunWatch:
    """The runs of one source that requests wait for. `api`: not retried, with a short time limit. `take`: takes a call
    out of the budget, if one is left. `note_end`: notes the end of a run. `first_look`, `interval`: seconds."""

    def __init__(
        self,
        source: str,
        api: SkyvernAPI,
        take: Callable[[], Awaitable[bool]],
        note_end: Callable[[Run], Awaitable[None]],
        first_look: float = FIRST_LOOK,
        interval: float = LOOK_INTERVAL,
    ) -> None:
        self._first_look = first_look
        self._interval = interval
        self._source = source
        self._api = api
        self._take = take
        self._note_end = note_end
        self._due: dict[str, float] = {}
        self._looks: dict[str, Look] = {}
        self._paused_until = 0.0
        self._wanted_at = float("-inf")
        self._task: asyncio.Future[None] | None = None

    @property
    def looks(self) -> Mapping[str, Look]:
        """The newest look at each run that is watched and was looked at."""
        return self._looks

    def want(self, run_ids: Iterable[str]) -> None:
        """Watch these runs, and no others. Waits for nothing."""
        now = time.monotonic()
        if now - self._wanted_at > FORGOTTEN_AFTER:
            self._due, self._looks = {}, {}
        self._wanted_at = now
        self._due = {run_id: self._due.get(run_id, now + self._first_look) for run_id in run_ids}
        self._looks = {run_id: look for run_id, look in self._looks.items() if run_id in self._due}
        if self._due and (self._task is None or self._task.done()):
            self._task = awaited(self._poll(), "submit.look")  # it catches all errors itself

    async def _poll(self) -> None:
        """Look at what is due, the longest overdue first, until no request waits."""
        while self._is_wanted():
            now = time.monotonic()
            due = [run_id for run_id, at in self._due.items() if at <= now and not self._has_ended(run_id)]
            due.sort(key=self._due.__getitem__)
            try:
                if len(due) > DIRECT:
                    due = await self._not_listed(due)
                slots = asyncio.Semaphore(_CONCURRENCY)
                await asyncio.gather(*(self._ask(run_id, slots) for run_id in due))
            except Exception:
                log.exception("submit.look source=%s", self._source)
                self._due |= dict.fromkeys(self._due.keys() & due, time.monotonic() + self._interval)
            await asyncio.sleep(AGAIN)

    def _is_wanted(self) -> bool:
        return time.monotonic() - self._wanted_at <= FORGOTTEN_AFTER

    def _has_ended(self, run_id: str) -> bool:
        look = self._looks.get(run_id)
        return look is not None and look.final

    async def _may_call(self) -> bool:
        """Wait for a call in the budget. Returns False once no request waits."""
        while self._is_wanted():
            pause = self._paused_until - time.monotonic()
            if pause <= 0 and await self._take():
                return True
            await asyncio.sleep(AGAIN)
        return False

    async def _not_listed(self, due: Collection[str]) -> list[str]:
        """List the active runs. Returns those of `due` that are not among them."""
        missing = dict.fromkeys(due)
        for page in range(1, PAGES + 1):
            if not missing or not await self._may_call():
                break
            answer = await self._api.list_runs(page, PAGE_SIZE, ACTIVE)
            self._pause_if_told(answer)
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            for row in rows or ():
                if row.run_id in missing and row.status not in FINAL:
                    del missing[row.run_id]
                    before = self._looks.get(row.run_id)
                    self._saw(row.run_id, Look(row.status, before.attempt if before else 1, row.run_type))
            if rows is None or len(rows) < PAGE_SIZE:
                break
        return list(missing)

    async def _ask(self, run_id: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            if run_id not in self._due or not await self._may_call():
                return
            answer = await self._api.get_run(run_id)
        self._pause_if_told(answer)
        if not isinstance(answer, Answered) or not answer.ok:
            absent = isinstance(answer, Answered) and answer.status == HTTPStatus.NOT_FOUND
            self._saw(run_id, None, ABSENT_INTERVAL if absent else None)
            return
        run = await off_loop(len(answer.body), parse_outline, answer.body)
        final = run.final and not run.problem
        self._saw(run_id, Look(run.status, run.attempt, run.run_type, final, answer if final else None))
        if final:
            await self._note_end(run)

    def _saw(self, run_id: str, look: Look | None, seconds: float | None = None) -> None:
        """Keep a look, and plan the next one."""
        if run_id in self._due:
            self._due[run_id] = time.monotonic() + (self._interval if seconds is None else seconds)
            if look is not None:
                self._looks[run_id] = look

    def _pause_if_told(self, answer: Answer) -> None:
        """Make no more looks for a while after Skyvern said that it is asked too often."""
        if isinstance(answer, Answered) and (
            answer.status == HTTPStatus.TOO_MANY_REQUESTS or (not answer.ok and answer.retry_after is not None)
        ):
            seconds = min(PAUSE if answer.retry_after is None else answer.retry_after, LONGEST_PAUSE)
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def close(self) -> None:
        """End the look that is under way, and close the connections to Skyvern."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._api.aclose()


@dataclass(frozen=True, slots=True)
class WaitedRun:
    """The state of a run that requests wait for: by the ledger, and by a poll of Skyvern."""

    status: RunStatus | None
    look: Look | None

    @property
    def answer(self) -> Answered | None:
        """Skyvern's answer, if it shows the end."""
        return self.look.answer if self.look else None

    def is_known(self) -> bool:
        """Whether the ledger has the end."""
        return self.status is not None and self.status.final

    def is_proven(self) -> bool:
        """Whether the end is known: from the ledger, or from Skyvern's response."""
        return self.is_known() or self.answer is not None

    def has_ended(self) -> bool:
        """Whether there is an end: proven, or noted by another process that saw it."""
        return self.is_proven() or (self.status is not None and self.status.noted)

    def with_answer(self, answer: Answered) -> WaitedRun:
        """Return this state with an answer that shows the end."""
        return WaitedRun(self.status, Look("", final=True, answer=answer))


class WaitedRuns:
    """The states of runs of all sources, for those who wait. `watches`: by source."""

    def __init__(self, ledger: AsyncLedger, watches: Mapping[str, RunWatch]) -> None:
        self._ledger = ledger
        self._watches = watches
        self._known: dict[RunKey, RunStatus] = {}

    async def query(self, keys: Collection[RunKey]) -> dict[RunKey, WaitedRun]:
        """Return the states of those of the runs of which anything is known, and let the others be looked at.

        While the ledger is unavailable, its newest response counts, and polling continues.
        """
        with suppress(LedgerUnavailable):
            self._known = await self._ledger.read(lambda connection: run_statuses(connection, keys))
        unended: dict[str, list[str]] = {source: [] for source in self._watches}
        for key in keys:
            status = self._known.get(key)
            if key[0] in unended and not (status and status.final):
                unended[key[0]].append(key[1])
        states = {}
        for source, run_ids in unended.items():
            self._watches[source].want(run_ids)
        for key in keys:
            look = self._watches[key[0]].looks.get(key[1]) if key[0] in self._watches else None
            if (status := self._known.get(key)) or look:
                states[key] = WaitedRun(status, look)
        return states
