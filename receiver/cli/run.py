"""`runhook run` and `event`: a run with its timeline, output and files; an event and its body."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text
from rich.tree import Tree

from receiver.api.artifacts import LIST_ARTIFACTS
from receiver.api.events import GET_EVENT, GET_EVENT_BODY
from receiver.api.outline import Node, outline
from receiver.api.rows import RunRow
from receiver.api.runs import GET_RUN, RunDetails
from receiver.api.timeline import ONLY_WEBHOOK, TimelineEntry, Tone
from receiver.cli.client import Client, rows_of
from receiver.cli.completion import completer
from receiver.cli.lists import of_run, size_of, stored_at
from receiver.cli.options import Json, SourceName
from receiver.cli.output import clean, coloured, out, print_json, print_table, show_value, show_when, warn
from receiver.cli.parameters import with_client
from receiver.domain.durations import after
from receiver.errors import NotFound, UsageError

# Files that are shown of a run, and nodes of its output.
FILES: Final = 50
NODES: Final = 300
_MARKS: Final[dict[Tone, str]] = {"good": "✓", "bad": "✗", "wait": "…", "info": ""}
_VALUES: Final = {"text": "green", "number": "cyan", "true": "cyan", "false": "cyan", "null": "dim"}


@with_client
def run(
    client: Client,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.", autocompletion=completer("run"))],
    source: SourceName = "",
    download: Annotated[
        str | None, typer.Option("--download", metavar="DIR", help="Download the run's files into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run: timeline, output, files."""
    of_run(run_id)
    if download == "" or (force and not download):
        raise UsageError("--force requires --download DIR" if force else "--download is empty: name a folder")
    if download:
        from receiver.cli.download import download_files  # with what reads files, which is not needed to show a run

        download_files(client, run_id, source, Path(download), force=force)
        return
    found = client.call(GET_RUN, GET_RUN.validated({"run_id": run_id, "source": source}))
    parameters = LIST_ARTIFACTS.validated({"run": run_id, "source": found.run.source})
    files = [each.model_dump(mode="json") for each in rows_of(client, LIST_ARTIFACTS, parameters, FILES)]
    output, note = _output(client, found)
    if as_json:
        print_json({**found.model_dump(mode="json"), "output": output, "files": files})
        return
    _print_head(found)
    times = times_of(found.timeline)
    rows = [
        [when, each.sink or each.kind, _MARKS[each.tone], clean(each.text, 300)]
        for when, each in zip(times, found.timeline, strict=True)
    ]
    print_table(["when", "what", "", "details"], rows, "nothing has happened yet")
    if output is not None or note:
        out().print("")
        out().print(Text(f"output: {clean(note)}") if output is None else tree("output", outline(output, NODES)))
    if files:
        out().print("")
        shown = [[each["name"], each["kind"], size_of(each), stored_at(each)] for each in files]
        print_table(["file", "kind", "size", "where"], shown, "")


def times_of(timeline: Sequence[TimelineEntry]) -> list[str]:
    """Return the time of each entry; on a terminal relative to the previous one, since a run takes seconds."""
    times = [show_when(each.at) for each in timeline]
    if sys.stdout.isatty():
        for number, (before, entry) in enumerate(pairwise(timeline), start=1):
            if entry.kind != "next":
                times[number] = f"+{after(entry.at - before.at)}"
    return times


def _output(client: Client, found: RunDetails) -> tuple[Any, str]:
    """Return the output of the newest event with the run's result, and why it is missing."""
    if not found.run.event_id:
        return None, ""
    parameters = {"event_id": found.run.event_id, "source": found.run.source}
    try:
        event_ = client.call(GET_EVENT, GET_EVENT.validated(parameters))
    except NotFound as problem:  # retention removed it meanwhile
        return None, problem.message
    return event_.run.get("output") if isinstance(event_.run, dict) else None, event_.note


def _print_head(found: RunDetails) -> None:
    row = found.run
    line = Text(clean(row.run_id), style="bold").append("  ", style="").append_text(coloured(row.outcome or row.status))
    out().print(line.append(f"  {clean(row.title)}" if row.title else "", style=""))
    _print_facts(
        {
            "at Skyvern": _status_there(row),
            "why": row.failure_reason,
            "type": row.run_type,
            "source": row.source,
            "workflow": row.workflow_id,
            "attempt": row.attempt if row.attempt > 1 else "",
            "labels": row.labels,
            "erased": f"{show_when(row.erased_at)} by {row.erased_by}" if row.erased_at else "",
            "deliveries": row.deliveries,
            "retry of": row.retried_from,
            "retried as": row.retried_by,
        }
    )
    out().print("")


def _status_there(row: RunRow) -> str:
    """Return the status at Skyvern, if Runhook counts it as another one."""
    why = f": {ONLY_WEBHOOK}" if row.outcome == "completed" else ""
    return "" if row.outcome in ("", row.status) else row.status + why


def _print_facts(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        if shown := show_value("id", value):
            out().print(Text(f"{name}: ", style="dim").append(shown, style=""), soft_wrap=True)


def tree(name: str, node: Node) -> Tree:
    """Return a value as a tree of labels."""
    label = Text(f"{clean(name)}: ", style="bold").append(clean(node.shown), style=_VALUES.get(node.kind, "dim"))
    top = Tree(label, guide_style="dim")
    for child in node.children:
        top.add(tree(child.name, child))
    if node.nulls:
        top.add(Text(clean(", ".join(node.nulls)), style="bold dim").append(": null", style="dim"))
    if node.left_out:
        top.add(Text(f"{node.left_out} more: `runhook event EVENT --body`", style="dim"))
    return top


@with_client
def event(
    client: Client,
    event_id: Annotated[str, typer.Argument(metavar="EVENT", help="Id of the event, or its beginning.")],
    source: SourceName = "",
    body: Annotated[bool, typer.Option("--body", help="Print the run as sinks get it, as JSON.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the bytes of the body.")] = False,
    as_json: Json = False,
) -> None:
    """Show an event and its run, or print its body."""
    of_run(event_id)
    if sum((body, raw, as_json)) > 1:
        raise UsageError("--body, --raw and --json are mutually exclusive")
    parameters = {"event_id": event_id, "source": source}
    if raw:
        stored = client.call(GET_EVENT_BODY, GET_EVENT_BODY.validated(parameters))
        is_text = sys.stdout.isatty() and stored.encoding == "utf-8"
        sys.stdout.buffer.write(clean(stored.body).encode() + b"\n" if is_text else stored.content())
        return
    found = client.call(GET_EVENT, GET_EVENT.validated(parameters))
    if as_json or body:
        print_json(found.run if body else found.model_dump(mode="json"))
        if body and found.note:
            warn(found.note)
        return
    _print_facts(found.event.model_dump(mode="json"))
    out().print("")
    out().print(Text(f"run: {clean(found.note)}") if found.run is None else tree("run", outline(found.run, NODES)))
