"""Proves that Skyvern has no run of a submission: its process was killed before anything was sent.

The proof is a list that is complete, of which every run was fetched that was created when it could have been this one,
and which has another run of the same call that shows its token, and when it was submitted. The list grows while it is
read, and a busy account has thousands of runs since: only those that were created within the time are fetched, each of
them once, also over several searches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from receiver.ledger import Ledger
from receiver.ledger.submissions import polls
from receiver.ledger.submissions.records import Submission
from receiver.reconcile.listing import read_back
from receiver.reconcile.resolver import SKEW
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import ListedRun

# Maximum runs of the same call that are fetched, to check that the list shows its tokens.
REFERENCE_RUNS: Final = 3


def without_a_run(
    source: PolledSource,
    ledger: Ledger,
    wanted: Sequence[Submission],
    within: float,
    stopped: Callable[[], bool],
) -> set[str]:
    """Return the ids of the submissions that certainly have no run. Raises LedgerUnavailable.

    `within`: seconds after a submission in which Skyvern has created its run, if ever. Call it only when they are over.
    `stopped`: whether to break off. It waits for the budget: a list that is broken off proves nothing.
    """
    if not wanted:
        return set()
    listed: list[ListedRun] = []
    listing = read_back(
        source,
        min(each.created_at for each in wanted) - SKEW,
        lambda rows, _: listed.extend(rows),
        to_the_end=True,
        stopped=stopped,
    )
    if listing.trouble or not listing.reached:
        return set()
    latest = max(each.created_at for each in wanted) + within + SKEW
    run_ids = [run.run_id for run in listed]
    owners = ledger.read(lambda connection: polls.owners(connection, source.name, run_ids))
    left = source.proof_reads

    def allow() -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and source.wait_for_budget(stopped)

    def shows(call: str) -> bool:
        """Whether the list has a run of this call that shows its token, and was created when it was submitted: by a
        clock that is far behind, the run that is searched for would seem too old to be possible."""
        made = [run for run in listed if run.run_id in owners and owners[run.run_id].call == call]
        in_step = [
            run
            for run in made[:REFERENCE_RUNS]
            if run.created_at is None or run.created_at >= owners[run.run_id].created_at - SKEW / 2
        ]
        return any(source.resolver.token(run.run_id, allow) == owners[run.run_id].id for run in in_step)

    possible = dict.fromkeys(
        run.run_id
        for run in listed
        if run.run_id not in owners and (run.created_at is None or run.created_at <= latest)
    )
    tokens = {source.resolver.token(run_id, allow) for run_id in possible}
    if None in tokens:
        return set()
    return {each.id for each in wanted if each.id not in tokens and shows(each.call)}
