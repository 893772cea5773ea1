"""Runs of the account whose end the ledger does not know: found in GET /v1/runs, and taken in by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from receiver.domain.event import Via
from receiver.domain.run import FINAL
from receiver.ledger import Ledger, runs
from receiver.reconcile.poller import PolledSource
from receiver.reconcile.resolver import token_of
from receiver.skyvern import Answered, ListedRun, listed_runs

Take = Callable[[str, bytes, Via, str], bool]
"""(source, body of the run, via, submission id or "") → whether it was final, and so dispatched."""

_PAGE_SIZE = 100
_MOST_PAGES = 1000


@dataclass(slots=True)
class ImportReport:
    """What a walk over GET /v1/runs found. `missing`: final runs whose end the ledger does not know."""

    source: str
    final: int = 0
    missing: list[ListedRun] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    trouble: str = ""


def import_runs(ledger: Ledger, source: PolledSource, since: float, take: Take | None = None) -> ImportReport:
    """Go through GET /v1/runs, newest first, back to `since` (epoch seconds), for final runs that the ledger lacks.

    With `take` each of them is fetched and handed to it. Raises LedgerUnavailable.
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
        ids = [row.run_id for row in young]
        known = ledger.read(lambda connection, ids=ids: runs.final_runs(connection, source.name, ids))  # type: ignore[misc]
        report.final += len(young)
        missing = [row for row in young if row.run_id not in known]
        report.missing += missing
        if take is not None:
            report.imported += [row.run_id for row in missing if _import(take, source, row)]
        if len(young) < len(rows) or len(rows) < _PAGE_SIZE:
            break
    return report


def _import(take: Take, source: PolledSource, row: ListedRun) -> bool:
    while not source.budget(1):
        time.sleep(0.2)
    answer = source.reader.get_run(row.run_id)
    if not isinstance(answer, Answered) or not answer.ok:
        return False
    return take(source.name, answer.body, "import", token_of(answer.json()))
