"""Finds the run of a submission whose answer was lost, by its token: that is in the run's callback URL.

Skyvern gives the callback URL of a run in `run_request`. Since 1.0.56 a list can be searched for the callback URL of a
workflow run, so that one call finds it. Where that finds nothing (other runs, older versions), the newest runs are
listed, the few candidates are fetched, and a run with the submission's token is its own. What was fetched once is
remembered.

That there is no such run is proved in absence.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Final, NamedTuple

from receiver.domain.callback_url import token_of
from receiver.domain.run import Run, parse
from receiver.domain.submission import OPEN, SubmissionMove
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.submissions import lifecycle, polls, records
from receiver.ledger.submissions.lifecycle import WhenLate
from receiver.ledger.submissions.records import Submission
from receiver.skyvern.client import SkyvernReader
from receiver.skyvern.responses import Answered, ListedRun, Patience, listed_runs

# Seconds by which Skyvern's clock may differ from ours.
SKEW: Final = 120.0
# Maximum submissions of workflow runs that are searched for by their tokens: each takes a call.
TOKEN_SEARCHES: Final = 5
# The calls that make workflow runs, whose callback URLs Skyvern's search covers.
_SEARCHABLE: Final = frozenset({"agents", "workflows", "login", "download_files", "legacy_workflow"})
# Maximum pages of 100 runs that one search lists: only as far back as the oldest submission that it is for.
PAGES: Final = 20
# Maximum runs that one search fetches.
READS: Final = 40
# Pauses before the searches that are made while the caller of a submit still waits, in seconds.
INLINE: Final = (0.5, 2.0, 4.0)
# Seconds that those searches may take in all: a Skyvern that has just lost an answer may well hang.
INLINE_FOR: Final = 25.0
# Of one call in those searches.
INLINE_PATIENCE: Final = Patience(tries=1, limit=8.0)
_REMEMBERED: Final = 5000


class FetchedRun(NamedTuple):
    """A run as GET /v1/runs/{id} answered, and what its body says."""

    answer: Answered
    run: Run


def candidates(listed: Sequence[ListedRun], wanted: Sequence[Submission]) -> list[str]:
    """Return the ids of the runs that could be meant, the likeliest first: with a wanted title, then the oldest."""
    since = min((each.created_at for each in wanted), default=0.0) - SKEW
    titles = {each.title for each in wanted if each.title}
    young = [run for run in listed if run.created_at is None or run.created_at >= since]
    return [run.run_id for run in sorted(young, key=lambda run: (run.title not in titles, run.created_at or 0.0))]


class Resolver:
    """Finds runs by their tokens, for one source. Threads may share it.

    `allow`: takes one API call from a budget. `reads`: maximum runs that one search fetches.
    """

    def __init__(
        self,
        source: str,
        reader: SkyvernReader,
        ledger: Ledger,
        when_late: WhenLate,
        allow: Callable[[], bool] = lambda: True,
        reads: int = READS,
    ) -> None:
        self._source = source
        self._reader = reader
        self._ledger = ledger
        self._when_late = when_late
        self._allow = allow
        self.reads = reads
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, wanted: Sequence[Submission]) -> dict[str, tuple[str, FetchedRun]]:
        """Return the run (its id, and what was fetched) of each submission whose token a run has, by submission id.

        Raises LedgerUnavailable.
        """
        missing = {each.id for each in wanted}
        found = self._search(wanted)
        missing -= found.keys()
        if not missing:
            return found
        wanted = [each for each in wanted if each.id in missing]
        listed = self._listed(wanted)
        run_ids = candidates(listed, wanted)
        owners = self._ledger.read(lambda connection: polls.owners(connection, self._source, run_ids))
        with self._lock:
            unread = [
                run_id
                for run_id in run_ids
                if run_id not in owners and (run_id not in self._seen or self._seen[run_id] in missing)
            ]
        for run_id in unread[: self.reads]:
            if not missing:
                break
            read = self._read(run_id)
            if read is None:
                continue
            token, fetched = read
            if token in missing:
                missing.remove(token)
                found[token] = run_id, fetched
        return found

    def _search(self, wanted: Sequence[Submission]) -> dict[str, tuple[str, FetchedRun]]:
        """Search Skyvern's list for the tokens of workflow runs, and fetch what it finds: the token must be the run's
        own. A search that fails (time-out: 400 or 503) or finds nothing proves nothing."""
        found: dict[str, tuple[str, FetchedRun]] = {}
        for each in [each for each in wanted if each.call in _SEARCHABLE][:TOKEN_SEARCHES]:
            if not self._allow():
                break
            answer = self._reader.list_runs(1, 10, search_key=each.id)
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None:
                break
            for row in rows:
                read = self._read(row.run_id)
                if read is not None and read[0] == each.id:
                    found[each.id] = row.run_id, read[1]
                    break
        return found

    def token(self, run_id: str, allow: Callable[[], bool]) -> str | None:
        """Return the token of a run, "" when it has none; None when that can't be known now. It is fetched once.

        `allow`: takes the call from the budget.
        """
        with self._lock:
            if run_id in self._seen:
                return self._seen[run_id]
        read = self._read(run_id, allow)
        return None if read is None else read[0]

    def _read(self, run_id: str, allow: Callable[[], bool] | None = None) -> tuple[str | None, FetchedRun] | None:
        """Fetch a run; remember and return its token. None without an answer, no token when the run has no request."""
        answer = self._reader.get_run(run_id) if (allow or self._allow)() else None
        if not isinstance(answer, Answered) or not answer.ok:
            return None
        fetched = FetchedRun(answer, parse(answer.body))
        token = token_of(fetched.run.data)
        if not token and not isinstance(fetched.run.data.get("run_request"), dict):
            return None, fetched
        with self._lock:
            self._seen[run_id] = token
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return token, fetched

    def bind(self, wanted: Sequence[Submission], due_at: Callable[[float], float]) -> dict[str, FetchedRun]:
        """Find runs and record whose they are. Returns what was fetched, by submission id. Raises LedgerUnavailable."""
        found = self.find(wanted)
        now = self._ledger.now()
        due = due_at(now)

        def work(connection: Connection) -> dict[str, Collection[str]]:
            # Sorted by run, as all take their locks.
            resolved = {
                submission_id: lifecycle.resolve(
                    connection,
                    submission_id,
                    SubmissionMove.ACCEPT,
                    now,
                    run_id=run_id,
                    run_type=fetched.run.run_type,
                    due_at=due,
                    when_late=self._when_late,
                )
                for submission_id, (run_id, fetched) in sorted(found.items(), key=lambda item: item[1][0])
            }
            return {submission_id: sinks for submission_id, sinks in resolved.items() if sinks is not None}

        bound = self._ledger.write(work) if found else {}
        return {submission_id: found[submission_id][1] for submission_id in bound}

    def _listed(self, wanted: Sequence[Submission]) -> list[ListedRun]:
        """Return Skyvern's newest runs, back to the oldest of the submissions where that takes no more than PAGES."""
        since = min((each.created_at for each in wanted), default=0.0) - SKEW
        listed: list[ListedRun] = []
        for page in range(1, PAGES + 1):
            answer = self._reader.list_runs(page, 100) if wanted and self._allow() else None
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None:
                break
            listed += rows
            if len(rows) < 100 or any(row.created_at and row.created_at < since for row in rows):
                break
        return listed

    def still_open(self, submission_id: str) -> bool:
        """Whether it is not known yet if the submission has a run. Raises LedgerUnavailable."""
        found = self._ledger.read(lambda connection: records.one(connection, submission_id))
        return found is not None and found.state in OPEN


async def search_for_run(
    resolver: Resolver,
    submission: Submission,
    due_at: Callable[[float], float],
    pool: Executor | None,
    pauses: Iterable[float] = INLINE,
    within: float = INLINE_FOR,
) -> Answered | None:
    """Search for the run of a lost response a few times, while the caller of the submit waits. None if it is not found.

    `pool`: whose threads search; where all are busy, the time may be up before one is free. `pauses`: before each
    search. `within`: the seconds of all.
    """
    loop = asyncio.get_running_loop()
    with suppress(LedgerUnavailable, TimeoutError):
        async with asyncio.timeout(within):
            for pause in pauses:
                await asyncio.sleep(pause)
                found = await loop.run_in_executor(pool, resolver.bind, [submission], due_at)
                if submission.id in found:
                    return found[submission.id].answer
                if not await loop.run_in_executor(pool, resolver.still_open, submission.id):
                    return None
    return None
