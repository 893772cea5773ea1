"""Imports runs of the account whose end the ledger does not know, as GET /v1/runs lists them. Called by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from receiver.domain.event import Via
from receiver.domain.run import FINAL, Run, parse
from receiver.ledger import Ledger, runs
from receiver.reconcile.poller import PolledSource
from receiver.skyvern import Answered, ListedRun, listed_runs, token_of

# (source, body of the run, the run parsed from it, via, submission id or "") → whether it was final, and so dispatched
Dispatch = Callable[[str, bytes, Run, Via, str], bool]

_PAGE_SIZE = 100
_MOST_PAGES = 1000


@dataclass(slots=True)
class ImportReport:
    """What GET /v1/runs lists. `missing`: final runs whose end the ledger does not know."""

    source: str
    final: int = 0
    missing: list[ListedRun] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    trouble: str = ""


def import_runs(ledger: Ledger, source: PolledSource, since: float, dispatch: Dispatch | None = None) -> ImportReport:
    """List final runs, the newest first, back to `since` (epoch seconds), and report those that the ledger lacks.

    With `dispatch` each of them is fetched and handed to it. Raises LedgerUnavailable.
    """
    report = ImportReport(source.name)
    for page in range(1, _MOST_PAGES + 1):
        answer = source.reader.list_runs(page, _PAGE_SIZE, sorted(FINAL))
        rows = listed_runs(answer) if isinstance(answer, Answered) else None
        if rows is None:
            said = f"Skyvern answered {answer.status}" if isinstance(answer, Answered) else answer.reason
            report.trouble = f"page {page}: {said}"
            break
        young = [row for row in rows if row.created_at is None or row.created_at >= since]
        keys = [(source.name, row.run_id) for row in young]
        known = ledger.read(lambda connection, keys=keys: runs.final_runs(connection, keys))  # type: ignore[misc]
        report.final += len(young)
        missing = [row for row in young if (source.name, row.run_id) not in known]
        report.missing += missing
        if dispatch is not None:
            report.imported += [row.run_id for row in missing if _import(dispatch, source, row)]
        if len(young) < len(rows) or len(rows) < _PAGE_SIZE:
            break
    return report


def _import(dispatch: Dispatch, source: PolledSource, row: ListedRun) -> bool:
    while not source.budget(1):
        time.sleep(0.2)
    answer = source.reader.get_run(row.run_id)
    if not isinstance(answer, Answered) or not answer.ok:
        return False
    run = parse(answer.body)
    return dispatch(source.name, answer.body, run, "import", token_of(run.data))
