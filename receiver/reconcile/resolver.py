"""The run of a submission whose answer was lost, by proof: the token that we put into its callback URL.

Skyvern tells the callback URL of a run in `run_request`. So the newest runs are listed, the few that could be meant are
read, and a run that names our token is the submission's own. What was read once is remembered.

That there is no such run is proved the same way, with more care: by a list that is whole, in which every run that could
be meant was read, and which shows the token of another run that was submitted by the same call, and when that was.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, Final

from receiver.domain.submission import OPEN, SubmissionMove
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.submissions import lifecycle, polls
from receiver.ledger.submissions.lifecycle import Submission
from receiver.skyvern import Answered, ListedRun, Patience, SkyvernReader, listed_runs

SKEW: Final = 120.0
"""Seconds by which Skyvern's clock may differ from ours."""
PAGES: Final = 20
"""Pages of 100 runs that one look lists at the most: only as far back as the oldest submission that it is for."""
READS: Final = 40
"""Runs that one look reads at the most."""
CONTROLS: Final = 3
"""Runs that may show that the list tells the tokens of a call."""
INLINE: Final = (0.5, 2.0, 4.0)
"""Pauses before the looks that are taken while the caller of a submit still waits, in seconds."""
INLINE_FOR: Final = 25.0
"""Seconds that those looks may take in all: a Skyvern that has just lost an answer may well hang."""
INLINE_PATIENCE: Final = Patience(tries=1, limit=8.0)
"""Of one call in those looks."""
_REMEMBERED: Final = 5000
_TOKEN: Final = re.compile(r"/webhooks/[^/]+/(sub_[0-9a-f]{32})\Z")


def token_of(run: Any) -> str:
    """The token in the callback URL of a run, as GET /v1/runs/{id} tells it; "" when there is none."""
    request = run.get("run_request") if isinstance(run, dict) else None
    for place in (request, run):
        for name in ("webhook_url", "webhook_callback_url"):
            url = place.get(name) if isinstance(place, dict) else None
            found = _TOKEN.search(url) if isinstance(url, str) else None
            if found:
                return found[1]
    return ""


def candidates(listed: Sequence[ListedRun], wanted: Sequence[Submission]) -> list[str]:
    """The runs that could be meant, the likeliest first: those with a wanted title, then the oldest."""
    since = min((each.created_at for each in wanted), default=0.0) - SKEW
    titles = {each.title for each in wanted if each.title}
    young = [run for run in listed if run.created_at is None or run.created_at >= since]
    return [run.run_id for run in sorted(young, key=lambda run: (run.title not in titles, run.created_at or 0.0))]


class Resolver:
    """Proof for one source. Threads may share it. `allow`: asks for one call of the API, of a budget."""

    def __init__(
        self, source: str, reader: SkyvernReader, ledger: Ledger, allow: Callable[[], bool] = lambda: True
    ) -> None:
        self._source = source
        self._reader = reader
        self._ledger = ledger
        self._allow = allow
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, wanted: Sequence[Submission]) -> dict[str, tuple[str, Answered]]:
        """The runs of those submissions for which there is proof now, by submission id, with the GET of each.

        Raises LedgerUnavailable.
        """
        missing = {each.id for each in wanted}
        found: dict[str, tuple[str, Answered]] = {}
        listed, _ = self._listed(wanted)
        run_ids = candidates(listed, wanted)
        owners = self._ledger.read(lambda connection: polls.owners(connection, self._source, run_ids))
        with self._lock:
            unread = [
                run_id
                for run_id in run_ids
                if run_id not in owners and (run_id not in self._seen or self._seen[run_id] in missing)
            ]
        for run_id in unread[:READS]:
            if not missing:
                break
            read = self._read(run_id)
            if read is None:
                continue
            token, answer = read
            if token in missing:
                missing.remove(token)
                found[token] = run_id, answer
        return found

    def absent(self, wanted: Sequence[Submission]) -> set[str]:
        """Those of the submissions, by id, that certainly have no run: see above. Raises LedgerUnavailable.

        Ask only when a request of theirs can't be on its way any more.
        """
        listed, whole = self._listed(wanted, to_the_end=True)
        run_ids = [run.run_id for run in listed]
        owners = self._ledger.read(lambda connection: polls.owners(connection, self._source, run_ids))
        meant = [run_id for run_id in candidates(listed, wanted) if run_id not in owners]
        tokens = [self._token(run_id) for run_id in meant] if whole and len(meant) <= READS else [None]
        if None in tokens:
            return set()
        return {each.id for each in wanted if each.id not in tokens and self._shows(each.call, listed, owners)}

    def _shows(self, call: str, listed: Sequence[ListedRun], owners: Mapping[str, polls.Owner]) -> bool:
        """Whether the list has a run that this call made, tells its token, and has it begin when it was submitted: by a
        clock that is far behind, the run that is looked for would seem too old to be meant."""
        made = [run for run in listed if run.run_id in owners and owners[run.run_id].call == call]
        in_step = [
            run
            for run in made[:CONTROLS]
            if run.created_at is None or run.created_at >= owners[run.run_id].created_at - SKEW / 2
        ]
        return any(self._token(run.run_id) == owners[run.run_id].id for run in in_step)

    def _token(self, run_id: str) -> str | None:
        """The token of a run, "" when it has none; None when nobody can say now."""
        with self._lock:
            if run_id in self._seen:
                return self._seen[run_id]
        read = self._read(run_id)
        return None if read is None else read[0]

    def _read(self, run_id: str) -> tuple[str | None, Answered] | None:
        """A run's token, which is remembered, and the GET of it. None without an answer; no token if none is told."""
        answer = self._reader.get_run(run_id) if self._allow() else None
        if not isinstance(answer, Answered) or not answer.ok:
            return None
        run = answer.json()
        token = token_of(run)
        if not token and not (isinstance(run, dict) and isinstance(run.get("run_request"), dict)):
            return None, answer
        with self._lock:
            self._seen[run_id] = token
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return token, answer

    def settle(self, wanted: Sequence[Submission], due_at: Callable[[float], float]) -> dict[str, Answered]:
        """Find runs and write down whose they are. Returns the GETs by submission id. Raises LedgerUnavailable."""
        found = self.find(wanted)
        now = time.time()
        due = due_at(now)

        def work(connection: Connection) -> list[str]:
            """Sorted by run, as all take their locks."""
            return [
                submission_id
                for submission_id, (run_id, answer) in sorted(found.items(), key=lambda item: item[1][0])
                if lifecycle.resolve(
                    connection,
                    submission_id,
                    SubmissionMove.ACCEPT,
                    now,
                    run_id=run_id,
                    run_type=_text(answer.json(), "run_type"),
                    due_at=due,
                )
            ]

        return {submission_id: found[submission_id][1] for submission_id in (self._ledger.write(work) if found else [])}

    def _listed(self, wanted: Sequence[Submission], *, to_the_end: bool = False) -> tuple[list[ListedRun], bool]:
        """Skyvern's newest runs, and whether those are all since the oldest of the submissions.

        `to_the_end`: a page that is not full is no proof that there is no further one.
        """
        since = min((each.created_at for each in wanted), default=0.0) - SKEW
        listed: list[ListedRun] = []
        for page in range(1, PAGES + 1):
            answer = self._reader.list_runs(page, 100) if wanted and self._allow() else None
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None:
                return listed, False
            listed += rows
            last = not rows if to_the_end else len(rows) < 100
            if last or any(row.created_at and row.created_at < since for row in rows):
                return listed, True
        return listed, False

    def still_open(self, submission_id: str) -> bool:
        """Whether nobody knows yet if the submission has a run. Raises LedgerUnavailable."""
        found = self._ledger.read(lambda connection: lifecycle.one(connection, submission_id))
        return found is not None and found.state in OPEN


async def prove(
    resolver: Resolver, submission: Submission, due_at: Callable[[float], float], pool: Executor | None = None
) -> Answered | None:
    """Look for the run of a lost answer a few times, while the caller of the submit waits. None without proof in time.

    `pool`: whose threads look; where all are busy, the time may be up before one is free.
    """
    loop = asyncio.get_running_loop()
    with suppress(LedgerUnavailable, TimeoutError):
        async with asyncio.timeout(INLINE_FOR):
            for pause in INLINE:
                await asyncio.sleep(pause)
                found = await loop.run_in_executor(pool, resolver.settle, [submission], due_at)
                if submission.id in found:
                    return found[submission.id]
                if not await loop.run_in_executor(pool, resolver.still_open, submission.id):
                    return None
    return None


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
