"""`runhook reconcile`: polls Skyvern now for results that no webhook brought."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.api.audit import record_action
from receiver.api.names import unknown
from receiver.api.service import Actor
from receiver.cli.completion import completer
from receiver.cli.ledger_access import open_ledger
from receiver.cli.options import ConfigFile, DataDirectory, Json, load_config, parse_time
from receiver.cli.output import Form, iso, out, parse_columns, print_json, print_rows, progress, show_time, warn
from receiver.cli.parameters import named_options
from receiver.cli.profiles import here_only
from receiver.domain.counting import counted
from receiver.domain.durations import ago
from receiver.errors import ConfigError, UsageError
from receiver.ledger import Connection, Ledger
from receiver.ledger.access import audit, redis_losses
from receiver.reconcile.importer import ImportReport, find_missing
from receiver.reconcile.poller import build
from receiver.reconcile.source import PolledSource

if TYPE_CHECKING:
    from receiver.config.models import Config
    from receiver.config.settings import Settings

Source = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="Only this source.", autocompletion=completer("source"))
]


@here_only
def reconcile(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="How far to go back: 2h, 7d …")] = "24h",
    take: Annotated[bool, typer.Option("--import", help="Import missing runs, and route them as events.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="With --import: also runs whose webhook may still come (webhook_grace).")
    ] = False,
    source: Source = None,
    seconds: Annotated[
        float, typer.Option("--for", metavar="SECONDS", min=0, max=3600, help="Time for polling overdue submissions.")
    ] = 60.0,
    config: ConfigFile = None,
    data: DataDirectory = None,
    as_json: Json = False,
) -> None:
    """Poll overdue submissions, then list final runs at Skyvern whose result is missing here."""
    if now and not take:
        raise UsageError("--now requires --import")
    settings, loaded = load_config(config, data)
    if now:
        loaded = loaded.model_copy(update={"reconcile": loaded.reconcile.model_copy(update={"webhook_grace": 0.0})})
    oldest = parse_time(since) or 0.0
    with open_ledger(settings, announce=True) as ledger, closing(build(settings, loaded)) as reconciler:
        polled = chosen_sources(reconciler.sources, source, loaded, settings)
        with progress("polls", reconciler.count_due()) as show:
            polls = reconciler.drain(seconds, show)
        grace = loaded.reconcile.paced(webhooks=settings.waits_for_webhooks).webhook_grace if take else None
        reports = [_missing(ledger, each, oldest, grace) for each in polled]
        if take:
            reconciler.drain_all()
            for each in reports:
                each.check(ledger)
            ledger.write(partial(_record_import, reports, source or "", oldest, later=loaded.reconcile.enabled))
    if as_json:
        print_json({"polls": polls, "sources": [_as_json(each) for each in reports]})
    else:
        _print(reports, polls, oldest, take=take, later=loaded.reconcile.enabled)
    for each in reports:
        if each.trouble:
            warn(f"{each.source}: {each.trouble}")
    if any(each.trouble for each in reports):
        raise typer.Exit(1)


def _record_import(
    reports: Sequence[ImportReport], source: str, oldest: float, connection: Connection, *, later: bool
) -> None:
    """Record an import in the audit. It failed if a missing result was not imported, and is not imported `later` by the
    clock, which polls the young runs."""
    imported = sum(len(it.imported) for it in reports)
    left = sum(len({row.run_id for row in it.missing} - it.imported - {*(it.young if later else ())}) for it in reports)
    complete = not left and not any(it.trouble for it in reports)
    ended = {} if complete else {"outcome": audit.FAILED, "detail": f"{counted(left, 'run', 'runs')} not imported"}
    record_action(connection, Actor.local(), redis_losses.IMPORT, {"since": oldest}, imported, source=source, **ended)


def chosen_sources(
    sources: Sequence[PolledSource], name: str | None, config: Config, settings: Settings
) -> list[PolledSource]:
    """Return the sources whose Skyvern can be called: the one called `name`, or all.

    Raises UsageError for an unknown name, and ConfigError if none can be called.
    """
    if name is not None and name not in config.sources:
        with named_options({}):
            raise unknown("source", name, "not found", list(config.sources))
    chosen = [each for each in sources if name in (None, each.name)]
    if not chosen:
        from receiver.config.skyvern_key import missing_api_key

        raise ConfigError(missing_api_key(settings, config, name or next(iter(config.sources))))
    return chosen


def _missing(ledger: Ledger, source: PolledSource, oldest: float, grace: float | None) -> ImportReport:
    now = time.time()
    with progress(f"{source.name}: hours back", max(1, math.ceil((now - oldest) / 3600))) as show:
        return find_missing(ledger, source, oldest, grace, lambda seen: show(int((now - seen) // 3600)))


def _as_json(report: ImportReport) -> dict[str, Any]:
    return {
        "source": report.source,
        "final": report.final,
        "missing": [
            {
                "run_id": run.run_id,
                "run_type": run.run_type,
                "status": run.status,
                "created_at": iso(run.created_at),
                "imported": run.run_id in report.imported,
                "young": run.run_id in report.young,
            }
            for run in report.missing
        ],
        "trouble": report.trouble,
        "again_at": iso(report.again_at),
    }


def _print(reports: Sequence[ImportReport], polls: int, oldest: float, *, take: bool, later: bool) -> None:
    rows = [{**row, "source": each.source} for each in reports for row in _as_json(each)["missing"]]
    failed = any(each.trouble for each in reports)
    empty = "unknown whether results are missing" if failed else "no results are missing"
    columns = parse_columns("source run=run_id type=run_type status created=created_at")
    print_rows(rows, {**columns, "result": _what}, empty, Form.TABLE)
    summary = f"{counted(polls, 'overdue run', 'overdue runs')} polled; "
    if any(not each.trouble or each.final for each in reports):
        final, missing = sum(each.final for each in reports), sum(len(each.missing) for each in reports)
        summary += f"{final} final runs since {show_time(oldest)}, {missing} of them missing"
        offer = "; --import imports them." if missing else "."
        summary += f", {sum(len(each.imported) for each in reports)} imported." if take else offer
    else:
        summary += "Skyvern's list of runs could not be read, see below."
    if young := sum(len(each.young) for each in reports):
        again = max(each.again_at or 0.0 for each in reports)
        summary += (
            f"\nLeft out: {counted(young, 'run', 'runs')} that ended within webhook_grace, whose webhook may still"
            " come."
            + (f" The clock imports them in {ago(again - time.time())};" if later else "")
            + " --import --now imports them now."
        )
    out().print(summary)


def _what(row: Mapping[str, Any]) -> str:
    return "imported" if row["imported"] else "webhook may still come" if row["young"] else "missing"
