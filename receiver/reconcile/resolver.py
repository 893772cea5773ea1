"""Finds the run of a submission whose response was lost, by its token: that is in the run's callback URL.

Skyvern gives the callback URL of a run in `run_request`. Since 1.0.56 a list can be searched for the callback URL of a
workflow run, so that one call finds it. Where that finds nothing (other runs, older versions), the list of runs is read
back to the submission, the candidates are fetched, and a run with the submission's token is its own. What was fetched
once is remembered.

The same search proves that Skyvern has no such run: its process was killed before anything was sent. The proof is a
list that is complete, of which each run was fetched that was created when it could have been this one, and which has
another run of the same call that shows its token, and when it was submitted. A busy account has thousands of runs
since: only those that were created within the time are fetched, each of them once, also over several searches.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from receiver.domain.callback_url import token_of
from receiver.domain.run import Run, parse
from receiver.domain.submission import Submission, SubmissionMove
from receiver.ledger import Connection, Ledger
from receiver.ledger.submissions import lifecycle, records
from receiver.ledger.submissions.lifecycle import WhenLate
from receiver.ledger.submissions.records import Owner
from receiver.reconcile.listing import RunList
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answered, ListedRun, listed_runs

# Seconds by which Skyvern's clock may differ from ours.
SKEW: Final = 120.0
# Maximum submissions of workflow runs that are searched for by their tokens: each takes a call.
TOKEN_SEARCHES: Final = 5
# The calls that make workflow runs, whose callback URLs Skyvern's search covers.
_SEARCHABLE: Final = frozenset({"agents", "workflows", "login", "download_files", "legacy_workflow"})
# Maximum runs of the same call that are fetched, to check that the list shows its tokens.
REFERENCE_RUNS: Final = 3
_REMEMBERED: Final = 5000


class Resolver:
    """Searches for the runs of submissions of one source. Threads may share it."""

    def __init__(self, source: PolledSource, ledger: Ledger, when_late: WhenLate) -> None:
        self._source = source
        self._ledger = ledger
        self._when_late = when_late
        self._seen: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def resolve(
        self,
        unresolved: Sequence[Submission],
        within: float | None = None,
        stopped: Callable[[], bool] = lambda: True,
    ) -> tuple[set[str], set[str]]:
        """Search for runs, record whose they are, and have them polled. Returns the ids of the submissions with a run,
        and of those that certainly have none. Raises LedgerUnavailable.

        `within`: seconds after a submission in which Skyvern has created its run, if ever; they must be over. None:
        nothing counts as absent. `stopped`: whether to break off, rather than wait, when the budget is used up.
        """
        found, absent = self._find(unresolved, within, stopped) if unresolved else ({}, set())
        now = self._ledger.now()

        def work(connection: Connection) -> set[str]:
            # Sorted by run, as all take their locks.
            resolved = {
                submission_id: lifecycle.resolve(
                    connection,
                    submission_id,
                    SubmissionMove.ACCEPT,
                    now,
                    run_id=run.run_id,
                    run_type=run.run_type,
                    due_at=now,
                    when_late=self._when_late,
                )
                for submission_id, run in sorted(found.items(), key=lambda item: item[1].run_id)
            }
            return {submission_id for submission_id, sinks in resolved.items() if sinks is not None}

        return self._ledger.write(work) if found else set(), absent

    def _find(
        self, unresolved: Sequence[Submission], within: float | None, stopped: Callable[[], bool]
    ) -> tuple[dict[str, Run], set[str]]:
        """Return the runs with tokens of submissions, by token, and the submissions without one."""
        found = self._by_token(unresolved, stopped)
        missing = {each.id: each for each in unresolved if each.id not in found}
        if not missing:
            return found, set()
        created = [each.created_at for each in missing.values()]
        since, latest = min(created) - SKEW, max(created) + SKEW + (math.inf if within is None else within)
        listing = RunList(self._source, since, to_the_end=within is not None, stopped=stopped)
        listed = {row.run_id: row for rows in listing for row in rows}
        owners = self._ledger.read(lambda connection: records.owners(connection, self._source.name, list(listed)))
        possible = [run for run in listed.values() if run.run_id not in owners and (run.created_at or since) <= latest]
        all_read = self._fetch(possible, missing, found, stopped)
        if within is None or listing.trouble or not listing.reached or not all_read:
            return found, set()
        owned = [(run, owners[run.run_id]) for run in listed.values() if run.run_id in owners]
        calls = {each.call for each in missing.values()}
        shown = {call for call in calls if self._shows_tokens([it for it in owned if it[1].call == call], stopped)}
        return found, {each.id for each in missing.values() if each.call in shown}

    def _fetch(
        self,
        possible: Sequence[ListedRun],
        missing: dict[str, Submission],
        found: dict[str, Run],
        stopped: Callable[[], bool],
    ) -> bool:
        """Fetch runs until all submissions are found, and move these from `missing` to `found`. Returns whether the
        token of each run that was looked at is known."""
        # The likeliest first: with a wanted title, then the oldest.
        titles = {each.title for each in missing.values() if each.title}
        left, all_read = self._source.reads, True
        for run in sorted(possible, key=lambda run: (run.title not in titles, run.created_at or 0.0)):
            if not missing:
                break
            token = self._token_seen(run.run_id)
            if token is None or token in missing:
                left -= 1
                read = self._read(run.run_id, stopped) if left >= 0 else None
                token = read[0] if read else None
                if read and token in missing:
                    found[token] = read[1]
                    del missing[token]
            all_read = all_read and token is not None
        return all_read

    def _shows_tokens(self, owned: Sequence[tuple[ListedRun, Owner]], stopped: Callable[[], bool]) -> bool:
        """Whether one of these runs shows its token, and was created when it was submitted: by a clock that is far
        behind, the run that is searched for would seem too old to be possible."""
        return any(
            self._token(run.run_id, stopped) == owner.id
            for run, owner in owned[:REFERENCE_RUNS]
            if run.created_at is None or run.created_at >= owner.created_at - SKEW / 2
        )

    def _by_token(self, unresolved: Sequence[Submission], stopped: Callable[[], bool]) -> dict[str, Run]:
        """Search Skyvern's list for the tokens of workflow runs, and fetch what it finds: the token must be the run's
        own. A search that fails (time-out: 400 or 503) or finds nothing proves nothing."""
        found: dict[str, Run] = {}
        for each in [each for each in unresolved if each.call in _SEARCHABLE][:TOKEN_SEARCHES]:
            if not self._source.wait_for_budget(stopped):
                break
            answer = self._source.reader.list_runs(1, 10, search_key=each.id)
            rows = listed_runs(answer) if isinstance(answer, Answered) else None
            if rows is None:
                break
            for row in rows:
                read = self._read(row.run_id, stopped)
                if read is not None and read[0] == each.id:
                    found[each.id] = read[1]
                    break
        return found

    def _token_seen(self, run_id: str) -> str | None:
        with self._lock:
            return self._seen.get(run_id)

    def _token(self, run_id: str, stopped: Callable[[], bool]) -> str | None:
        """Return the token of a run, "" when it has none; None when that can't be known now. It is fetched once."""
        if (token := self._token_seen(run_id)) is not None:
            return token
        read = self._read(run_id, stopped)
        return None if read is None else read[0]

    def _read(self, run_id: str, stopped: Callable[[], bool]) -> tuple[str | None, Run] | None:
        """Fetch a run; remember and return its token. None without an answer, no token when the run has no request."""
        answer = self._source.reader.get_run(run_id) if self._source.wait_for_budget(stopped) else None
        if not isinstance(answer, Answered) or not answer.ok:
            return None
        run = parse(answer.body)
        token = token_of(run.data)
        if not token and not isinstance(run.data.get("run_request"), dict):
            return None, run
        with self._lock:
            self._seen[run_id] = token
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return token, run
