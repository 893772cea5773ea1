"""`runhook tail`: events as they are recorded, of a remote service or of this machine's ledger.

Events missed while the service is unavailable follow after reconnecting, in order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from receiver.api.models import MAX_LIMIT
from receiver.api.tail import TAIL, TailEvent, TailGap, TailParameters
from receiver.cli.client import Client
from receiver.cli.options import ListJson, Output, chosen_form
from receiver.cli.output import Form, clean, coloured, out, print_rows, show_time, warn
from receiver.cli.parameters import named_options, with_filter
from receiver.errors import Busy, NotStarted, TooMany, UsageError
from receiver.ledger import LedgerUnavailable

# Seconds between two looks, and between two tries while the ledger or the service is unavailable.
INTERVAL: Final = 1.0
PAUSE: Final = 2.0
# Parameters of the API that are not options.
NO_OPTIONS: Final = ("limit", "after", "until")


def follow(
    client: Client, parameters: TailParameters, sleep: Callable[[float], None] = time.sleep
) -> Iterator[TailEvent | TailGap]:
    """Yield events as they are recorded, without end, and each gap. `sleep`: waits for seconds.

    Raises what the first call raises; later only what a retry cannot fix, such as a revoked key.
    """
    begun, warned = False, False
    while True:
        try:
            page = client.call(TAIL, parameters)
        except (LedgerUnavailable, NotStarted, Busy, TooMany) as problem:
            if not begun:
                raise
            if not warned:
                warn(f"{problem}; missed events follow after reconnecting")
                warned = True
            sleep(PAUSE)
            continue
        warned = False
        if page.gap is not None:
            yield page.gap
        yield from page.items
        has_moved = begun and page.next != parameters.after
        begun = True
        parameters = parameters.model_copy(update={"after": page.next, "since": None})
        if not has_moved:
            sleep(INTERVAL)


def warn_of_gap(gap: TailGap) -> None:
    """Print to standard error which events may be missing."""
    warn(f"events between {show_time(gap.since)} and {show_time(gap.until)} may be missing: retention removed them")


def _line(event: TailEvent) -> Text:
    """Return an event as one line for people."""
    what = "" if event.disposition == "new" else event.disposition
    sinks = f"→ {', '.join(dict.fromkeys(event.sinks))}" if event.sinks else ("unrouted" if event.unrouted else "")
    reason = event.problem or event.failure_reason or ""
    cells = [event.run_id, event.run_type, what, event.title or "", sinks, reason]
    line = Text(show_time(event.recorded_at) + "  ").append_text(coloured(f"{clean(event.outcome or '?'):<10}"))
    return line.append("  " + "  ".join(clean(each, 120) for each in cells if each))


def _limited(found: Iterator[TailEvent | TailGap], limit: int | None) -> Iterator[TailEvent]:
    """Yield at most `limit` events, each flushed before the next is awaited; report gaps on standard error."""
    count = 0
    for each in found:
        if isinstance(each, TailGap):
            warn_of_gap(each)
            continue
        yield each
        sys.stdout.flush()
        count += 1
        if count == limit:
            return


@with_filter(TailParameters, without=NO_OPTIONS)
def tail(
    client: Client,
    asked: dict[str, Any],
    number: Annotated[
        int | None, typer.Option("-n", "--limit", min=1, metavar="N", help="Stop after N events.")
    ] = None,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """Print events as they are recorded; with --since, first the events since then. Ctrl-C stops it."""
    form = chosen_form(output, as_json)
    if form is Form.JSON and number is None:
        raise UsageError("--output json requires -n; use jsonl to stream")
    client.announce = form is Form.TABLE
    with named_options(asked):
        found = _limited(follow(client, TAIL.validated({**asked, "limit": MAX_LIMIT})), number)
        if form is not Form.TABLE:
            rows = (each.model_dump(mode="json") for each in found)
            print_rows(rows, {}, "", form, names=list(TailEvent.model_fields))
            return
        console = out()
        for each in found:
            console.print(_line(each), soft_wrap=True)
