"""Sinks: how each is, one with its history, and what is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Final

from receiver.api.audit import LIST_AUDIT
from receiver.api.deliveries import LIST_ATTEMPTS
from receiver.api.models import Page
from receiver.api.operations import TakenResult
from receiver.api.rows import AttemptRow
from receiver.api.sink_samples import TEST_SINK, SinkTestResult
from receiver.api.sinks import GET_SINK, LIST_SINKS, MOVE_SINK, PAUSE_SINK, RESUME_SINK, ResumeResult, SinkRow
from receiver.api.totals import GET_TOTALS, TotalRow
from receiver.console.action import ConsoleAction
from receiver.console.charts import Buckets, Chart, Values, window_links, window_of
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues, next_page_of
from receiver.console.wording import place_of
from receiver.domain.callback import CALLBACK
from receiver.domain.counting import counted
from receiver.domain.delivery import ENDED, DeliveryState
from receiver.errors import Invalid

# What became of deliveries, from the bottom of the chart up.
_SERIES: Final = (("delivered", "good"), ("waiting", "wait"), ("dead", "bad"))


def sinks(request: PageRequest) -> PageValues:
    """Return how each sink is."""
    sink_rows = request.call(LIST_SINKS).items
    rows = [(row, state_of(row), place_of(request.service.config, row.name)) for row in sink_rows]
    return {"title": "Sinks", "here": "Sinks", "rows": rows}


def sink(request: PageRequest) -> PageValues:
    """Return how one sink is, what became of its deliveries, and its newest attempts."""
    name, window, service = request.names["sink"], window_of(request.query), request.service
    row = request.call(GET_SINK, sink=name)
    buckets = window.buckets(service.ledger.now())
    span = {"since": buckets.since, "by": "state", "bucket": buckets.seconds, "sink": name}
    counted: Sequence[TotalRow] = ()
    tried: Page[AttemptRow] = Page(items=[])
    # A sink that is not in the config is an unknown name to a list without a row of it.
    with suppress(Invalid) if row.orphaned else nullcontext():
        counted = request.call(GET_TOTALS, **span).items[1:]
    with suppress(Invalid) if row.orphaned else nullcontext():
        tried = request.call(LIST_ATTEMPTS, sink=name, after=dict(request.query).get("after", ""))
    return {
        "title": name,
        "here": "Sinks",
        "sink": row,
        "state": state_of(row),
        "chart": _chart(buckets, counted),
        "windows": window_links(f"/sinks/{name}", request.query, window),
        "attempts": _in_groups(tried.items),
        "next_page": next_page_of(f"/sinks/{name}", request.query, tried),
        "paused_by": _paused_by(request, name) if row.paused else "",
        "older": tried.next is not None,
        "place": place_of(service.config, name),
        "others": list(service.config.sinks) if row.orphaned else [],
        "fillable": name != CALLBACK and not row.orphaned,
    }


def _in_groups(tried: Sequence[AttemptRow]) -> list[tuple[AttemptRow, int, float]]:
    """Return the newest of attempts that failed alike in a row, how many there are, and when the first began."""
    found: list[tuple[AttemptRow, int, float]] = []
    for each in sorted(tried, key=lambda row: -row.started_at):
        if found and each.outcome != "accepted":
            newest, count, _ = found[-1]
            if all(getattr(newest, name) == getattr(each, name) for name in ("outcome", "reason", "response")):
                found[-1] = newest, count + 1, each.started_at
                continue
        found.append((each, 1, each.started_at))
    return found


def _paused_by(request: PageRequest, sink: str) -> str:
    """Return who paused a sink, by the newest entries of the audit, or ""."""
    rows = request.call(LIST_AUDIT, action=["sink.pause"]).items
    return next((each.actor for each in rows if each.selection.get("sink") == sink), "")


def state_of(row: SinkRow) -> str:
    """Return how a sink is, in one word."""
    if row.orphaned:
        return "orphaned"
    if row.paused:
        return "paused"
    if row.breaker == "closed":
        return "no worker" if row.worker is False else "ready"
    return "down" if row.breaker == "open" else row.breaker


def _chart(buckets: Buckets, rows: Sequence[TotalRow]) -> Chart:
    """Return what became of deliveries. `rows`: by state, in these stretches of time."""
    counts: dict[str, dict[float, float]] = {}
    for row in rows:
        state = row.key["state"]
        if row.at is not None and state != DeliveryState.CANCELLED:
            by_start = counts.setdefault(state if state in ENDED else DeliveryState.WAITING, {})
            by_start[row.at] = by_start.get(row.at, 0) + row.count
    series = [Values(state, tone, buckets.values(counts.get(state, {}))) for state, tone in _SERIES]
    return Chart("Deliveries", buckets, series)


def _resumed(result: ResumeResult) -> str:
    breakers = counted(result.probed, "shut breaker is", "shut breakers are")
    return f"{result.sink.name} resumed." + (f" {breakers} tried at once." if result.probed else "")


def _moved(result: TakenResult) -> str:
    """Return the progress of a move."""
    done = result.operation.done if result.operation else 0
    return f"Moved {done:,} of {result.count:,} deliveries so far."


def _tested(result: SinkTestResult) -> str:
    """Return what became of a sample."""
    outcome = result.reason or " ".join([result.id, *result.keys, result.note])
    return (
        f"The sample was {result.outcome}: {outcome}"
        if result.outcome == "accepted"
        else f"{result.outcome}: {outcome}"
    )


ACTIONS: Final = (
    ConsoleAction(
        PAUSE_SINK,
        "Pause",
        lambda row: f"{row.name} is paused: its deliveries wait.",
        "Pause this sink?\nNothing is lost, and there is no time limit: results wait until the sink is resumed.\n"
        "What is being sent now ends. Resume sends all that waits, within the sink's rate.",
    ),
    ConsoleAction(
        MOVE_SINK,
        "Move",
        _moved,
        "Move the deliveries of this sink to the other one? Waiting ones are sent there at once, under the same keys.",
        next_page=lambda _result: "/sinks",
    ),
    ConsoleAction(RESUME_SINK, "Resume", _resumed),
    ConsoleAction(
        TEST_SINK,
        "Send a sample",
        _tested,
        "Send a marked sample of a completed run to this sink, now and from this host?",
        failed=lambda result: result.outcome != "accepted",
    ),
)
PAGES: Final = (
    ConsolePage("/sinks", "sinks.html", sinks, PageLink("Sinks", "s", "Delivery")),
    ConsolePage("/sinks/{sink}", "sink.html", sink),
)
