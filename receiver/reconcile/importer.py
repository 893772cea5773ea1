"""Imports runs of the account whose end the ledger does not know, as GET /v1/runs lists them. Called by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from receiver.domain.callback_url import token_of
from receiver.domain.run import FINAL, parse
from receiver.ledger import Ledger, runs
from receiver.reconcile.intake import ResultIntake, RunAge
from receiver.reconcile.listing import read_back
from receiver.reconcile.source import PolledSource
from receiver.skyvern.responses import Answered, ListedRun


@dataclass(slots=True)
class ImportReport:
    """What GET /v1/runs lists. `missing`: final runs whose end the ledger does not know. `young`: those of them that
    ended so recently that their webhook may still come; `again_at`: from when on all of these can be imported."""

    source: str
    final: int = 0
    missing: list[ListedRun] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    young: list[str] = field(default_factory=list)
    again_at: float | None = None
    trouble: str = ""


def import_runs(
    ledger: Ledger,
    source: PolledSource,
    since: float,
    intake: ResultIntake | None = None,
    show: Callable[[float], None] = lambda _: None,
) -> ImportReport:
    """List final runs, the newest first, back to `since` (epoch seconds), and report those that the ledger lacks.

    With `intake` each of them is fetched and taken in. `show` gets the time reached so far, in epoch seconds.
    Raises LedgerUnavailable.
    """
    report = ImportReport(source.name)
    seen: set[str] = set()

    def page(rows: Sequence[ListedRun], newest: float | None) -> None:
        fresh = [row for row in rows if row.run_id not in seen and row.final]
        seen.update(row.run_id for row in fresh)
        times = [row.created_at for row in rows if row.created_at]
        keys = [(source.name, row.run_id) for row in fresh]
        known = ledger.read(lambda connection: runs.final_runs(connection, keys))
        report.final += len(fresh)
        missing = [row for row in fresh if (source.name, row.run_id) not in known]
        report.missing += missing
        if intake is not None:
            for row in missing:
                _import(report, intake, source, row, newest)
        if times:
            show(min(times))

    listing = read_back(source, since, page, statuses=sorted(FINAL))
    report.trouble = listing.trouble
    if not listing.reached and not listing.trouble:
        report.trouble = "Skyvern's list ends before that time: runs may be missing; --since a later one shows all"
    return report


def _import(
    report: ImportReport, intake: ResultIntake, source: PolledSource, row: ListedRun, newest: float | None
) -> None:
    source.wait_for_budget()
    answer = source.reader.get_run(row.run_id)
    if not isinstance(answer, Answered) or not answer.ok:
        return
    run = parse(answer.body)
    taken = intake.take(source, answer.body, run, "import", RunAge(listed_at=newest), token_of(run.data))
    if taken.taken:
        report.imported.append(row.run_id)
    elif taken.again_at is not None:
        report.young.append(row.run_id)
        report.again_at = max(report.again_at or 0.0, taken.again_at)
