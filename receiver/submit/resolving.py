"""The run of a submission whose answer was lost, by proof: the token that we put into its callback URL.

Skyvern tells the callback URL of a run in `run_request`. So the newest runs are listed, the few that could be meant are
read, and a run that names our token is the submission's own. What was read once is remembered.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from receiver.ledger import Connection, Ledger, LedgerUnavailable, overdue, submissions
from receiver.ledger.submissions import Submission
from receiver.skyvern import Answered, ListedRun, SkyvernReader, listed_runs
from receiver.submit.states import OPEN, Move

SKEW: Final = 120.0
"""Seconds by which Skyvern's clock may differ from ours."""
PAGES: Final = 5
READS: Final = 40
"""Runs that one look reads at the most."""
INLINE: Final = (0.5, 2.0, 4.0)
"""Pauses before the looks that are taken while the caller of a submit still waits, in seconds."""
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
        run_ids = self._could_be(wanted)
        with self._lock:
            unread = [run_id for run_id in run_ids if run_id not in self._seen or self._seen[run_id] in missing]
        for run_id in unread[:READS]:
            if not missing or not self._allow():
                break
            answer = self._reader.get_run(run_id)
            if not isinstance(answer, Answered) or not answer.ok:
                continue
            token = token_of(answer.json())
            self._remember(run_id, token)
            if token in missing:
                missing.remove(token)
                found[token] = run_id, answer
        return found

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
                if submissions.resolve(
                    connection,
                    submission_id,
                    Move.ACCEPT,
                    now,
                    run_id=run_id,
                    run_type=_text(answer.json(), "run_type"),
                    due_at=due,
                )
            ]

        return {submission_id: found[submission_id][1] for submission_id in (self._ledger.write(work) if found else [])}

    def _could_be(self, wanted: Sequence[Submission]) -> list[str]:
        since = min((each.created_at for each in wanted), default=0.0) - SKEW
        listed: list[ListedRun] = []
        for page in range(1, PAGES + 1):
            if not wanted or not self._allow():
                break
            answer = self._reader.list_runs(page, 100)
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            listed += rows or []
            if not rows or len(rows) < 100 or any(row.created_at and row.created_at < since for row in rows):
                break
        run_ids = candidates(listed, wanted)
        taken = self._ledger.read(lambda connection: overdue.taken_runs(connection, self._source, run_ids))
        return [run_id for run_id in run_ids if run_id not in taken]

    def _remember(self, run_id: str, token: str) -> None:
        with self._lock:
            self._seen[run_id] = token
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)

    def still_open(self, submission_id: str) -> bool:
        """Whether nobody knows yet if the submission has a run. Raises LedgerUnavailable."""
        found = self._ledger.read(lambda connection: submissions.one(connection, submission_id))
        return found is not None and found.state in OPEN


async def prove(resolver: Resolver, submission: Submission, due_at: Callable[[float], float]) -> Answered | None:
    """Look for the run of a lost answer a few times, while the caller of the submit waits. None without proof."""
    for pause in INLINE:
        await asyncio.sleep(pause)
        try:
            found = await asyncio.to_thread(resolver.settle, [submission], due_at)
            if submission.id in found:
                return found[submission.id]
            if not await asyncio.to_thread(resolver.still_open, submission.id):
                return None
        except LedgerUnavailable:
            return None
    return None


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
