"""`runhook erase`: the content of runs, for good."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, NamedTuple

import typer

from receiver.api.erasure import ERASE_RUN, ErasedRun
from receiver.api.runs import LIST_RUNS
from receiver.cli.client import Client, rows_of
from receiver.cli.completion import completer
from receiver.cli.options import Json, Yes, can_ask
from receiver.cli.output import clean, out, print_json, print_table, show_value
from receiver.cli.parameters import with_client
from receiver.domain.counting import counted
from receiver.errors import Conflict, RunhookError, UsageError

# More than any ledger has.
_ALL: Final = 1 << 60


@with_client
def erase(
    client: Client,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", metavar="ID", help="Id of a run or submission; repeatable.", autocompletion=completer("run")
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="All runs with this label; repeatable: with all."),
    ] = None,
    source: Annotated[
        str, typer.Option("--source", metavar="NAME", help="Of this source; alone, all of its runs.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase the content of runs for good, in the ledger and in sinks of type database, files and s3; report others.

    Ids, times and states stay. Exits with 1 if a run has not ended, or a sink could not delete its copies.
    """
    client.announce = not dry_run
    if bool(run) == bool(label) and not (source and not run):
        raise UsageError("give either --run, or --label or --source")
    if run:
        asked = [(each, source) for each in dict.fromkeys(run)]
    else:
        chosen = LIST_RUNS.validated({"label": label or [], "source": source})
        asked = [(row.run_id, row.source) for row in rows_of(client, LIST_RUNS, chosen, _ALL)]
    would, kept = _look(client, asked, strict=bool(run))
    found = list(would.values())
    if found and not dry_run:
        if can_ask(yes=yes):
            _print(found, kept)
            typer.confirm(f"Erase {counted(len(found), 'run', 'runs')}? This cannot be undone.", abort=True)
        found = [_call(client, *each) for each in would]
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        _print(found, kept)
    if failed := [each.run_id for each in found if each.failed]:
        again = " ".join(f"--run {each}" for each in failed)
        raise RunhookError(f"not all copies are erased. Fix the cause, then `runhook erase {again}`")
    if kept:
        raise RunhookError(f"{counted(len(kept), 'run is', 'runs are')} not erased: {kept[0].run_id}: {kept[0].reason}")
    if not (dry_run or as_json):
        out().print(f"{counted(len(found), 'run', 'runs')} erased")


# A run's or submission's id, and its source, "" for any.
RunName = tuple[str, str]


class KeptRun(NamedTuple):
    """A run that can't be erased now."""

    run_id: str
    reason: str


def _call(client: Client, run_id: str, source: str, *, dry_run: bool = False) -> ErasedRun:
    return client.call(ERASE_RUN, ERASE_RUN.validated({"run_id": run_id, "source": source, "dry_run": dry_run}))


def _look(client: Client, asked: Iterable[RunName], *, strict: bool) -> tuple[dict[RunName, ErasedRun], list[KeptRun]]:
    """Return what would be erased of each run, and the runs that can't be erased now, unless `strict`."""
    found, kept = dict[RunName, ErasedRun](), list[KeptRun]()
    for run_id, source in asked:
        try:
            found[run_id, source] = _call(client, run_id, source, dry_run=True)
        except Conflict as error:
            if strict:
                raise
            kept.append(KeptRun(run_id, str(error)))
    return found, kept


def _print(found: Sequence[ErasedRun], kept: Sequence[KeptRun]) -> None:
    """Print what is erased of each run, what others hold, and which runs are not erased."""
    rows = [[each.run_id, "NOT ERASED", clean(each.reason)] for each in kept]
    for each in found:
        bodies, refused = counted(each.bodies, "event", "events"), counted(each.quarantined, "request", "requests")
        lines = [("content", f"{bodies}, {refused} in quarantine"), *(("copy", key) for key in each.copies)]
        lines += [(f"NOT ERASED by {copy.sink}", copy.reason) for copy in each.failed]
        for copy in each.held:
            lines.append((f"held by {copy.sink}", show_value("", copy.receipt) or "no receipt, but an attempt"))
        rows += [[each.run_id, what, clean(said)] for what, said in [*lines, ("held by Skyvern", "its own copy")]]
    print_table(["run", "what", "details"], rows, "")
