"""`runhook reconcile`: poll Skyvern now for results that no webhook has brought."""

from __future__ import annotations

import math
import sys
import time
from contextlib import closing
from typing import Annotated

import typer

from receiver.cli.ledger_access import open_ledger
from receiver.cli.names import chosen_sources
from receiver.cli.options import ConfigFile, DataDirectory, Json, load_config, parse_time
from receiver.cli.output import clean, iso, out, print_json, print_table, show_time
from receiver.cli.profiles import here_only
from receiver.cli.progress import ProgressLine
from receiver.ledger import Ledger
from receiver.reconcile.importer import ImportReport, Take, import_runs
from receiver.reconcile.poller import build
from receiver.reconcile.source import PolledSource


@here_only
def reconcile(
    since: Annotated[str, typer.Option("--since", help="How far to go back: 2h, 7d …")] = "24h",
    take: Annotated[
        bool, typer.Option("--import", help="Fetch the runs that are missing, and route them as events.")
    ] = False,
    source: Annotated[str | None, typer.Option("--source", help="Only this source.")] = None,
    seconds: Annotated[
        float, typer.Option("--for", min=0, max=3600, help="Seconds for polling overdue submissions.")
    ] = 60.0,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Poll overdue submissions, then list the final runs of Skyvern's API whose result never came here."""
    settings, loaded = load_config(config, data)
    oldest = parse_time(since) or 0.0
    with open_ledger(settings, tell=True) as ledger, closing(build(settings, loaded)) as reconciler:
        polled = chosen_sources(reconciler.sources, source, loaded, settings)
        with ProgressLine("polls", reconciler.count_due()) as progress:
            polls = reconciler.drain(seconds, progress.show)
        reports = [_imported(ledger, each, oldest, reconciler.take if take else None) for each in polled]
    if as_json:
        print_json(
            {
                "polls": polls,
                "sources": [
                    {
                        "source": each.source,
                        "final": each.final,
                        "missing": [
                            {
                                "run_id": run.run_id,
                                "run_type": run.run_type,
                                "status": run.status,
                                "created_at": iso(run.created_at),
                                "imported": run.run_id in each.imported,
                                "young": run.run_id in each.young,
                            }
                            for run in each.missing
                        ],
                        "trouble": each.trouble,
                    }
                    for each in reports
                ],
            }
        )
    else:
        rows = [
            [
                each.source,
                clean(run.run_id, 60),
                run.run_type,
                run.status,
                show_time(run.created_at),
                _what(run.run_id, each),
            ]
            for each in reports
            for run in each.missing
        ]
        asked = [each for each in reports if not each.trouble or each.final]
        nothing = (
            "Whether a result is missing is not known."
            if any(each.trouble for each in reports)
            else "No result is missing."
        )
        print_table(["source", "run", "type", "status", "created", ""], rows, nothing)
        final, missing = sum(each.final for each in reports), sum(len(each.missing) for each in reports)
        taken = sum(len(each.imported) for each in reports)
        young = sum(len(each.young) for each in reports)
        counted = (
            f"{final} final runs since {show_time(oldest)}, {missing} of them were missing"
            + (f", {taken} imported." if take else "; --import takes them in.")
            if asked
            else "Skyvern's list of runs could not be read: see below."
        )
        out().print(
            f"{polls} overdue submissions polled; {counted}"
            + (f" The webhook of {young} may still come: take them in later." if young else "")
        )
    trouble = [f"{each.source}: {each.trouble}" for each in reports if each.trouble]
    if trouble:
        for line in trouble:
            sys.stderr.write(f"runhook: {line}\n")
        raise typer.Exit(1)


def _imported(ledger: Ledger, source: PolledSource, oldest: float, take: Take | None) -> ImportReport:
    now = time.time()
    with ProgressLine(f"{source.name}: hours back", max(1, math.ceil((now - oldest) / 3600))) as progress:
        return import_runs(ledger, source, oldest, take, lambda seen: progress.show(int((now - seen) // 3600)))


def _what(run_id: str, report: ImportReport) -> str:
    if run_id in report.imported:
        return "imported"
    return "its webhook may still come" if run_id in report.young else "missing"
