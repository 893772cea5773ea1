"""Finds runs of the account whose end the ledger does not know, as GET /v1/runs lists them. Called by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from receiver.domain.run import FINAL
from receiver.ledger import Ledger, polls, runs
from receiver.reconcile.listing import RunList
from receiver.reconcile.source import PolledSource
from receiver.reconcile.watcher import due_at
from receiver.skyvern.responses import ListedRun


@dataclass(slots=True)
class ImportReport:
    """What GET /v1/runs lists. `missing`: final runs whose end the ledger did not know; `imported`: ids of those whose
    end it knows at the last `check`. `young`: those of them that
    ended so recently that their webhook may still come; `again_at`: from when on all of these can be imported."""

    source: str
    final: int = 0
    missing: list[ListedRun] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    young: list[str] = field(default_factory=list)
    again_at: float | None = None
    trouble: str = ""

    def check(self, ledger: Ledger) -> None:
        """Find out whose end the ledger knows by now. Raises LedgerUnavailable."""
        keys = [(self.source, row.run_id) for row in self.missing]
        self.imported = {run_id for _, run_id in ledger.read(lambda it: runs.final_runs(it, keys))}


def find_missing(
    ledger: Ledger,
    source: PolledSource,
    since: float,
    grace: float | None = None,
    show: Callable[[float], None] = lambda _: None,
) -> ImportReport:
    """List final runs, the newest first, back to `since` (epoch seconds), and report those that the ledger lacks.

    With `grace`, the seconds that their webhooks have, polls are scheduled that import them. `show` gets the time
    reached so far, in epoch seconds. Raises LedgerUnavailable.
    """
    report = ImportReport(source.name)
    seen: set[str] = set()
    listed = RunList(source, since, statuses=sorted(FINAL))
    for rows in listed:
        fresh = [row for row in rows if row.run_id not in seen and row.final]
        seen.update(row.run_id for row in fresh)
        known = ledger.read(partial(runs.final_runs, keys=[(source.name, row.run_id) for row in fresh]))
        report.final += len(fresh)
        missing = [row for row in fresh if (source.name, row.run_id) not in known]
        report.missing += missing
        if grace is not None:
            now = ledger.now()
            due_times = {row.run_id: due_at(row, now, listed.newest, grace) for row in missing}
            ask = partial(polls.ask, found_by=polls.IMPORT, grace=grace, soon=0.0)
            ledger.write(partial(ask, source=source.name, due_times=due_times, now=now))
            late = {run_id: at for run_id, at in due_times.items() if at > now}
            report.young += late
            report.again_at = max(filter(None, [report.again_at, *late.values()]), default=None)
        if times := [row.created_at for row in rows if row.created_at]:
            show(min(times))
    report.trouble = listed.trouble
    if not listed.reached and not listed.trouble:
        report.trouble = "Skyvern's list ends before that time: runs may be missing; --since a later one shows all"
    return report
