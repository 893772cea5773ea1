"""Polls Skyvern for the runs that requests wait for, so that an end whose webhook is lost is seen within seconds.

One look a run, however many wait for it in this process or in others: looks are claimed in Redis, and an end that one
process saw is noted in the ledger, where the others see it. All looks of a source share a budget. A few runs are asked
for one by one; of many, those that are still active are listed, a hundred a call, and only what is missing there is
asked for. Where the budget is too small even for that, the run that waits longest is looked at first.

    runhook:look:<source>:<run id>    claimed, for nearly LOOK_INTERVAL
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import redis
import redis.asyncio

from receiver.domain.run import FINAL, Run, RunKey, parse_outline
from receiver.ledger import LedgerUnavailable
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.runs import RunStatus, run_statuses
from receiver.runtime.background import awaited
from receiver.skyvern import Answer, Answered, SkyvernAPI, listed_runs
from receiver.submit.off_loop import off_loop

# Seconds between two looks at one run.
LOOK_INTERVAL = 3.0
# Seconds from the beginning of a wait to its first look: most webhooks come by then, and other waits join.
FIRST_LOOK = 0.5
# Seconds until a look is tried again for which the budget had no call left.
AGAIN: Final = 0.5
# Seconds between two looks at a run that Skyvern does not know (any more).
ABSENT_INTERVAL: Final = 60.0
# Seconds without looks after Skyvern said 429 without a Retry-After, and the longest one that is honoured.
PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 300.0
# Seconds without a waiting request, after which polls are forgotten.
FORGOTTEN_AFTER: Final = 5.0
# Runs due at once up to which each is polled separately.
DIRECT: Final = 4
# Maximum pages of 100 active runs that one poll lists; twice as many as its runs fill, if that is more.
PAGES: Final = 5
# Seconds that the next page waits for a call in the budget, and between two tries.
PAGE_WAIT: Final = 5.0
_PAGE_PAUSE: Final = 0.1
PAGE_SIZE: Final = 100
# Lists of active runs that may lack a run which has not ended, before its looks count against the budget: ends of
# others move runs to pages that were read already, and some runs are in no list.
SLIPS: Final = 3
# Calls of one look that are under way at once.
_CONCURRENCY: Final = 8
# KEYS: claim. ARGV: milliseconds. One that never lapses, or lapses later, is foreign: it does not count.
_CLAIM: Final = """
local lapses = redis.call('PTTL', KEYS[1])
if lapses > 0 and lapses <= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
return 1
"""
_ACTIVE: Final = ("created", "queued", "running", "paused")

log = logging.getLogger("runhook.submit")


@dataclass(frozen=True, slots=True)
class Look:
    """What Skyvern said of a run when it was looked at last. `answer`: of a run that has ended."""

    status: str
    attempt: int = 1
    run_type: str = ""
    final: bool = False
    answer: Answered | None = field(default=None, compare=False, repr=False)


class LookClaims:
    """The right of one process to look at a run, until the next look is due. Without Redis each process has it."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def take(self, source: str, run_ids: Sequence[str]) -> list[str]:
        """Return those of the runs that this process looks at now."""
        pipeline = self._client.pipeline(transaction=False)
        for run_id in run_ids:
            pipeline.eval(_CLAIM, 1, _key(source, run_id), int(LOOK_INTERVAL * 900))
        try:
            taken = await pipeline.execute()
        except redis.RedisError:
            return list(run_ids)
        return [run_id for run_id, mine in zip(run_ids, taken, strict=True) if mine]

    async def release(self, source: str, run_ids: Sequence[str]) -> None:
        """Give back the runs that were not looked at after all."""
        if run_ids:
            with suppress(redis.RedisError):
                await self._client.delete(*(_key(source, run_id) for run_id in run_ids))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _key(source: str, run_id: str) -> str:
    return f"runhook:look:{source}:{run_id}"


@dataclass(slots=True)
class _Watched:
    """`due_at`, `looked_at`: monotonic. `left_out`: lists of active runs that lacked it, one after the other."""

    due_at: float
    looked_at: float = 0.0
    left_out: int = 0


# Notes the end of a run, given what Skyvern's answer says of it.
NoteEnd = Callable[[Run], Awaitable[None]]


class RunWatch:
    """The runs of one source that requests wait for. `api`: not retried, with a short time limit.

    `take`: takes up to that many calls out of the budget, and returns the number taken.
    """

    def __init__(
        self,
        source: str,
        api: SkyvernAPI,
        claims: LookClaims,
        take: Callable[[int], Awaitable[int]],
        note_end: NoteEnd,
    ) -> None:
        self._source = source
        self._api = api
        self._claims = claims
        self._take = take
        self._note_end = note_end
        self._watched: dict[str, _Watched] = {}
        self._looks: dict[str, Look] = {}
        self._paused_until = 0.0
        self._wanted_at = 0.0
        self._task: asyncio.Future[None] | None = None

    @property
    def looks(self) -> Mapping[str, Look]:
        """The newest look at each run that is watched and was looked at."""
        return self._looks

    def want(self, run_ids: Iterable[str]) -> None:
        """Watch these runs, and no others. Starts the looks that are due, and waits for nothing."""
        now = time.monotonic()
        if now - self._wanted_at > FORGOTTEN_AFTER:
            self._watched, self._looks = {}, {}
        self._wanted_at = now
        self._watched = {run_id: self._watched.get(run_id) or _Watched(now + FIRST_LOOK) for run_id in run_ids}
        for run_id in self._looks.keys() - self._watched.keys():
            del self._looks[run_id]
        if now < self._paused_until or (self._task is not None and not self._task.done()):
            return
        due = [run_id for run_id, each in self._watched.items() if each.due_at <= now and not self._has_ended(run_id)]
        if due:
            due.sort(key=lambda run_id: self._watched[run_id].looked_at)
            self._task = awaited(self._look(due), "submit.look")  # it catches all errors itself

    def _has_ended(self, run_id: str) -> bool:
        look = self._looks.get(run_id)
        return look is not None and look.final

    def _is_listed(self, run_id: str) -> bool:
        each = self._watched.get(run_id)
        return each is not None and each.left_out < SLIPS

    async def _look(self, due: Sequence[str]) -> None:
        try:
            mine = await self._claims.take(self._source, due)
            self._postpone(set(due) - set(mine), LOOK_INTERVAL)  # another process looks at those
            asked, ended = mine, list[str]()
            if len(mine) > DIRECT and any(self._is_listed(run_id) for run_id in mine):
                asked, ended = await self._list_active(mine)
            if time.monotonic() < self._paused_until:
                self._postpone([*asked, *ended], AGAIN)
                return
            # That a run ends is seen once: its answer is the one that its waiters would ask for themselves.
            granted = await self._take(len(asked)) if asked else 0
            self._postpone(asked[granted:], AGAIN)
            await self._claims.release(self._source, asked[granted:])
            await self._ask([*ended, *asked[:granted]])
        except Exception:
            log.exception("submit.look source=%s", self._source)
            self._postpone(due, LOOK_INTERVAL)

    async def _list_active(self, mine: Sequence[str]) -> tuple[list[str], list[str]]:
        """List the active runs. Returns those of `mine` that must be asked for, and those that have just ended."""
        missing = dict.fromkeys(mine)
        complete = False
        for page in range(1, max(PAGES, len(mine) * 2 // PAGE_SIZE) + 1):
            if complete or not missing or not await self._take_a_page():
                break
            answer = await self._api.list_runs(page, PAGE_SIZE, _ACTIVE)
            self._pause_if_told(answer)
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None:
                break
            for row in rows:
                if row.run_id in missing and row.status not in FINAL:
                    del missing[row.run_id]
                    if (watched := self._watched.get(row.run_id)) is not None:
                        watched.left_out = 0  # ends of others may have moved it to a page that was read before
                    self._saw(row.run_id, Look(row.status, self._attempt(row.run_id), row.run_type))
            complete = len(rows) < PAGE_SIZE
        if not complete:
            return list(missing), []
        new = [run_id for run_id in missing if (each := self._watched.get(run_id)) and each.left_out < SLIPS]
        for run_id in new:
            self._watched[run_id].left_out += 1
        return [run_id for run_id in missing if run_id not in set(new)], new

    async def _take_a_page(self) -> bool:
        """Take a call for the next page out of the budget, or wait for one: a list that is broken off and restarted
        each time would never reach its later pages. False after PAGE_WAIT, or when no request waits."""
        until = time.monotonic() + PAGE_WAIT
        while not await self._take(1):
            now = time.monotonic()
            if now > until or now - self._wanted_at > FORGOTTEN_AFTER:
                return False
            await asyncio.sleep(_PAGE_PAUSE)
        return True

    def _attempt(self, run_id: str) -> int:
        look = self._looks.get(run_id)
        return look.attempt if look else 1

    async def _ask(self, run_ids: Sequence[str]) -> None:
        slots = asyncio.Semaphore(_CONCURRENCY)

        async def ask(run_id: str) -> None:
            async with slots:
                await self._handle(run_id, await self._api.get_run(run_id))

        await asyncio.gather(*(ask(run_id) for run_id in run_ids))

    async def _handle(self, run_id: str, answer: Answer) -> None:
        self._pause_if_told(answer)
        if not isinstance(answer, Answered) or not answer.ok:
            absent = isinstance(answer, Answered) and answer.status == HTTPStatus.NOT_FOUND
            self._postpone([run_id], ABSENT_INTERVAL if absent else LOOK_INTERVAL)
            return
        run = await off_loop(len(answer.body), parse_outline, answer.body)
        final = run.final and not run.problem
        self._saw(run_id, Look(run.status, run.attempt, run.run_type, final, answer if final else None))
        if run.status not in _ACTIVE and run_id in self._watched:
            self._watched[run_id].left_out = SLIPS  # it waits for its next attempt: no list shows it
        if final:
            await self._note_end(run)

    def _saw(self, run_id: str, look: Look) -> None:
        if run_id not in self._watched:
            return  # no request waits for it
        now = time.monotonic()
        self._watched[run_id].looked_at = now
        self._watched[run_id].due_at = now + LOOK_INTERVAL
        self._looks[run_id] = look

    def _postpone(self, run_ids: Collection[str], seconds: float) -> None:
        until = time.monotonic() + seconds
        for run_id in run_ids:
            if run_id in self._watched:
                self._watched[run_id].due_at = until

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
