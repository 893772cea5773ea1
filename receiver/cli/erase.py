"""`runhook erase`: the content of runs, for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from receiver.api.erasure import ERASE_RUN, ErasedRun
from receiver.cli.client import Client
from receiver.cli.completion import completer
from receiver.cli.options import Json, SourceName, Yes, can_ask
from receiver.cli.output import clean, out, print_json, print_table, show_value
from receiver.cli.parameters import with_client
from receiver.domain.counting import counted
from receiver.errors import RunhookError


@with_client
def erase(
    client: Client,
    run: Annotated[
        list[str],
        typer.Option(
            "--run", metavar="ID", help="Id of a run or submission; repeatable.", autocompletion=completer("run")
        ),
    ],
    source: SourceName = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase the content of runs for good, in the ledger and in sinks of type files and s3; report what others hold.

    Ids, times and states stay. Exits with 1 if a sink could not delete its files: the same command tries again.
    """
    client.announce = not dry_run
    calls = [ERASE_RUN.validated({"run_id": each, "source": source}) for each in dict.fromkeys(run)]
    found = [client.call(ERASE_RUN, each.model_copy(update={"dry_run": True})) for each in calls]
    if not dry_run:
        if can_ask(yes=yes):
            _print(found)
            typer.confirm(f"Erase {counted(len(calls), 'run', 'runs')}? This cannot be undone.", abort=True)
        found = [client.call(ERASE_RUN, each) for each in calls]
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
    else:
        _print(found)
    if any(each.failed for each in found):
        raise RunhookError("not all files are erased. Fix the cause, and run the same command again")
    if not (dry_run or as_json):
        out().print(f"{counted(len(found), 'run', 'runs')} erased")


def _print(found: Sequence[ErasedRun]) -> None:
    """Print what is erased of each run, and what others hold."""
    rows = []
    for each in found:
        bodies, refused = counted(each.bodies, "event", "events"), counted(each.quarantined, "request", "requests")
        lines = [("content", f"{bodies}, {refused} in quarantine"), *(("file", key) for key in each.files)]
        lines += [(f"NOT ERASED by {copy.sink}", copy.reason) for copy in each.failed]
        for copy in each.held:
            lines.append((f"held by {copy.sink}", show_value("", copy.receipt) or "no receipt, but an attempt"))
        rows += [[each.run_id, what, clean(said)] for what, said in [*lines, ("held by Skyvern", "its own copy")]]
    print_table(["run", "what", "details"], rows, "")
