"""`runhook run`, `event` and `artifacts`: one run told whole, one event with its body, the files of runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text
from rich.tree import Tree

from receiver.api.artifacts import LIST_ARTIFACTS, ArtifactsParameters
from receiver.api.events import GET_EVENT, GET_EVENT_BODY
from receiver.api.outline import Node, outline
from receiver.api.runs import GET_RUN, RunDetails
from receiver.api.timeline import TimelineEntry, Tone
from receiver.cli.client import Client, rows_of, with_client
from receiver.cli.commands import COMMANDS
from receiver.cli.listing import list_command
from receiver.cli.options import Json, SourceName
from receiver.cli.output import clean, coloured, out, print_json, print_table, relative_path, show_counts, show_when
from receiver.errors import NotFound, UsageError
from receiver.status.problem import after, size

# Files that are shown of one run, and nodes of its output.
FILES: Final = 50
NODES: Final = 300
_MARKS: Final[dict[Tone, str]] = {"good": "✓", "bad": "✗", "wait": "…", "info": ""}
_VALUES: Final = {"text": "green", "number": "cyan", "true": "cyan", "false": "cyan", "null": "dim"}

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
EventArgument = Annotated[str, typer.Argument(metavar="EVENT", help="The event's id; its beginning will do.")]


def _run(client: Client, run_id: RunArgument, source: SourceName = "", as_json: Json = False) -> None:
    _require_id(run_id)
    told = client.call(GET_RUN, GET_RUN.validated({"run_id": run_id, "source": source}))
    of_run = {"run": run_id, "source": told.run.source}
    files = [
        each.model_dump(mode="json")
        for each in rows_of(client, LIST_ARTIFACTS, LIST_ARTIFACTS.validated(of_run), FILES)
    ]
    output, note = _output(client, told)
    if as_json:
        print_json({**told.model_dump(mode="json"), "output": output, "files": files})
        return
    _print_head(told)
    print_table(
        ["when", "what", "", "what happened"],
        [
            [when, each.sink or each.kind, _MARKS[each.tone], clean(each.text, 300)]
            for when, each in zip(moments_of(told.timeline), told.timeline, strict=True)
        ],
        "nothing has happened yet",
    )
    if output is not None or note:
        out().print("")
        out().print(Text(f"output: {clean(note)}") if output is None else _tree("output", outline(output, NODES)))
    if files:
        out().print("")
        print_table(
            ["file", "kind", "size", "where it is"],
            [[each["name"], each["kind"], _size(each["size"]), _stored(each)] for each in files],
            "",
        )


def moments_of(timeline: Sequence[TimelineEntry]) -> list[str]:
    """Return when each entry came: on a terminal after the one before it, since a run is over in seconds."""
    moments = [show_when(each.at) for each in timeline]
    if sys.stdout.isatty():
        for number, (before, entry) in enumerate(pairwise(timeline), start=1):
            if entry.kind != "next":
                moments[number] = f"+{after(entry.at - before.at)}"
    return moments


def _output(client: Client, told: RunDetails) -> tuple[Any, str]:
    """Return the output of the newest event that is about the run's result, and why it is not here."""
    if not told.run.event_id:
        return None, ""
    try:
        found = client.call(GET_EVENT, GET_EVENT.validated({"event_id": told.run.event_id, "source": told.run.source}))
    except NotFound:
        return None, "its event has been removed"
    run = found.run if isinstance(found.run, dict) else {}
    return run.get("output"), found.note


def _print_head(told: RunDetails) -> None:
    run = told.run
    line = Text(clean(run.run_id), style="bold").append("  ", style="").append_text(coloured(run.outcome or run.status))
    out().print(line.append(f"  {clean(run.title)}" if run.title else "", style=""))
    facts = {
        "why": run.failure_reason,
        "type": run.run_type,
        "source": run.source,
        "workflow": run.workflow_id,
        "attempt": str(run.attempt) if run.attempt > 1 else "",
        "labels": " ".join(f"{name}={value}" for name, value in sorted(run.labels.items())),
        "deliveries": show_counts(run.deliveries),
        "started again from": run.retried_from,
        "started again as": run.retried_by,
    }
    for name, value in facts.items():
        if value:
            out().print(Text(f"{name}: ", style="dim").append(clean(value, 500), style=""), soft_wrap=True)
    out().print("")


def _tree(name: str, node: Node) -> Tree:
    top = Tree(_label(name, node), guide_style="dim")
    for child in node.children:
        top.add(_tree(child.name, child))
    if node.nulls:
        top.add(Text("null: ", style="bold dim").append(clean(", ".join(node.nulls)), style="dim"))
    if node.left_out:
        top.add(Text(f"{node.left_out} more: `runhook event EVENT --body`", style="dim"))
    return top


def _label(name: str, node: Node) -> Text:
    label = Text(f"{clean(name)}: ", style="bold")
    return label.append(clean(node.text), style=_VALUES.get(node.kind, "dim"))


def _size(count: int | None) -> str:
    return "" if count is None else size(count)


def _stored(file: Mapping[str, Any]) -> str:
    places = [f"{each['sink']}: {relative_path(each['key'] or each['url'])}" for each in file["stored"]]
    return "; ".join(places) or f"at Skyvern only: {file['url']}"


def _event(
    client: Client,
    event_id: EventArgument,
    source: SourceName = "",
    body: Annotated[bool, typer.Option("--body", help="Print the run as sinks get it, as JSON.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the bytes of the body, as they came.")] = False,
    as_json: Json = False,
) -> None:
    _require_id(event_id)
    if sum((body, raw, as_json)) > 1:
        raise UsageError("--body, --raw and --json: one of them")
    wanted = {"event_id": event_id, "source": source}
    if raw:
        kept = client.call(GET_EVENT_BODY, GET_EVENT_BODY.validated(wanted))
        written = kept.content()
        shown = clean(kept.body).encode() + b"\n" if sys.stdout.isatty() and kept.encoding == "utf-8" else written
        sys.stdout.buffer.write(shown)
        return
    found = client.call(GET_EVENT, GET_EVENT.validated(wanted))
    if as_json or body:
        print_json(found.run if body else found.model_dump(mode="json"))
        if body and found.note:
            sys.stderr.write(f"runhook: {found.note}\n")
        return
    event = found.event.model_dump(mode="json")
    for name, value in event.items():
        if value not in (None, "", False):
            out().print(Text(f"{name}: ", style="dim").append(clean(value), style=""), soft_wrap=True)
    out().print("")
    out().print(Text(f"run: {clean(found.note)}") if found.run is None else _tree("run", outline(found.run, NODES)))


def _of_run(identifier: str) -> dict[str, str]:
    """Return the parameters for one run. Raises UsageError for an empty id, which would mean all runs."""
    _require_id(identifier)
    return {"run": identifier}


def _require_id(identifier: str) -> None:
    if not identifier:
        raise UsageError("an id is empty")


def _download(client: Client, wanted: ArtifactsParameters, download: str | None, force: bool | None) -> None:
    if download is None:
        raise UsageError("--force: replaces what --download DIR finds there")
    from receiver.cli import download as downloading  # with what reads files, which lists do not need

    downloading.download(client, wanted, Path(download), force=bool(force))


_run.__doc__ = COMMANDS["run"].help
_event.__doc__ = COMMANDS["event"].help
run = with_client(_run)
event = with_client(_event)
artifacts = list_command(
    LIST_ARTIFACTS,
    {"run": "run_id", "file": "name", "kind": "kind", "size": lambda row: _size(row["size"]), "where it is": _stored},
    "no such files",
    doc=COMMANDS["artifacts"].help,
    nothing="no run has files yet",
    argument=(
        Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id. Those of all runs without one.")],
        _of_run,
    ),
    instead={
        "download": Annotated[
            str | None, typer.Option("--download", metavar="DIR", help="Fetch the run's files into this folder.")
        ],
        "force": Annotated[bool | None, typer.Option("--force", help="Replace files that are in the folder.")],
    },
    do_instead=_download,
)
