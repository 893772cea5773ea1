"""`runhook reconcile`: look for results that no webhook has told, now."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli.list import moment
from receiver.cli.output import clean, iso, out, print_json, print_table, when
from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.errors import NotStarted, UsageError
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.migrate import ensure_schema
from receiver.reconcile.importer import ImportReport, import_runs
from receiver.reconcile.poller import build


def reconcile(
    since: Annotated[str, typer.Option("--since", help="How far to go back: 2h, 7d …")] = "24h",
    take: Annotated[
        bool, typer.Option("--import", help="Fetch the runs that are missing, and route them as events.")
    ] = False,
    source: Annotated[str | None, typer.Option("--source", help="Only this source.")] = None,
    seconds: Annotated[
        float, typer.Option("--for", min=0, max=3600, help="Seconds for looking at overdue submissions.")
    ] = 60.0,
    config: Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON for programs.")] = False,
) -> None:
    """Poll overdue submissions, then list the final runs of Skyvern's API whose result never came here."""
    settings = Settings.from_env(config=config, data=data)
    loaded = load(settings.config, settings.environ)
    oldest = moment(since) or 0.0
    ledger = Ledger(settings.database_url)
    ensure_schema(ledger)
    reconciler = build(settings, loaded)
    watched = [each for each in reconciler.sources if source in (None, each.name)]
    if not watched:
        raise UsageError("no source can be asked: set api_key" + (f" of {source}" if source else " of one"))
    try:
        looks = reconciler.drain(seconds)
        walks = [import_runs(ledger, each, oldest, reconciler.take if take else None) for each in watched]
    except LedgerUnavailable as error:
        raise NotStarted(f"the ledger can't be used now: {error}") from None
    finally:
        reconciler.close()
        ledger.close()
    if json:
        print_json(
            {
                "looks": looks,
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
                            }
                            for run in each.missing
                        ],
                        "trouble": each.trouble,
                    }
                    for each in walks
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
                when(run.created_at),
                _what(run.run_id, each),
            ]
            for each in walks
            for run in each.missing
        ]
        print_table("", ["source", "run", "type", "status", "created", ""], rows, "No result is missing.")
        final, missing = sum(each.final for each in walks), sum(len(each.missing) for each in walks)
        taken = sum(len(each.imported) for each in walks)
        out().print(
            f"{looks} overdue submissions looked at; {final} final runs since {when(oldest)}, "
            f"{missing} of them were missing" + (f", {taken} imported." if take else "; --import takes them in.")
        )
    trouble = [f"{each.source}: {each.trouble}" for each in walks if each.trouble]
    if trouble:
        for line in trouble:
            sys.stderr.write(f"runhook: {line}\n")
        raise typer.Exit(1)


def _what(run_id: str, report: ImportReport) -> str:
    return "imported" if run_id in report.imported else "missing"
