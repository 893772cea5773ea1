"""Checks of sinks, deliveries and runs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, Final

from handlers import SinkError, registry
from handlers.contract import Sink
from handlers.support.daemon_pool import in_thread
from receiver.checks.finding import Finding, fault
from receiver.checks.report import StatusReport
from receiver.domain import liveness
from receiver.domain.breaker import Lane
from receiver.domain.callback import CALLBACK
from receiver.domain.counting import counted
from receiver.domain.delivery import DeliveryState
from receiver.domain.durations import ago, lasting
from receiver.ledger.stats import COUNT_LIMIT

# Seconds after which a due delivery is overdue.
DELIVERY_LATE: Final = 300.0
# Seconds after which a run should be searchable.
SEARCH_LATE: Final = 60.0
# Deliveries refused for good in a row that are a problem of the sink, and not of these deliveries.
REFUSED_IN_A_ROW: Final = 5
# Seconds for which a pause is only a note.
PAUSE_NEWS: Final = 3600.0
# Seconds that the checks of all sinks have together; one that hangs is left behind.
PATIENCE: Final = 10.0
# What the reason of an open breaker means: a pattern, what the sink does, and the fix.
_CAUSES: Final = (
    (
        r"(?i)\b429\b|too many|slow ?down|throttl|rate.?limit",
        "limits its rate",
        "{rate} below the limit that `runhook attempts --sink {sink}` shows, or ask for a higher one",
    ),
    (
        r"(?i)disk.* (is )?full|no space|less than the reserve",
        "has no disk space left",
        "free disk space there; then `runhook sink resume {sink}` probes",
    ),
    (
        r"answered \d{3}",
        "responds with errors",
        "`runhook attempts --sink {sink}` shows its responses; once it is fixed, `runhook sink resume {sink}` probes",
    ),
    (
        "",
        "cannot be used",
        "`runhook sink test {sink}` tests it; once it works, `runhook sink resume {sink}` probes",
    ),
)


def of_sinks(report: StatusReport) -> Iterator[Finding]:
    """Yield sinks that are paused, down, refusing or removed, and servers of callers that are down."""
    shut, newest = report.ledger.lanes, report.ledger.newest
    for lane in shut:
        # A removed sink cannot be resumed; its deliveries are reported below.
        if not report.sinks or lane.sink in (*report.sinks, CALLBACK):
            yield from _of_lane(report, lane)
    callers = [lane.lane for lane in shut if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    if callers:
        servers = counted(len(callers), "server of callers does", "servers of callers do")
        example = callers[0].removeprefix(CALLBACK).strip()
        yield fault("callers_down", f"{servers} not accept webhooks, such as {example}")
    for sink, (count, why) in sorted(newest.refused.items()):
        if count >= REFUSED_IN_A_ROW and sink in report.sinks:
            what = f"{sink} has refused its last {count} deliveries: {why}{_response(report, sink)}"
            yield fault("sink_refuses", what, sink=sink)
    for sink, count in sorted(newest.files_left_out.items()):
        deliveries = counted(count, "recent delivery", "recent deliveries")
        yield fault("files_left_out", f"{sink} left out files of {deliveries} for a limit", sink=sink)
    for sink, states in sorted(report.ledger.orphans.items()):
        counts = ", ".join(f"{_amount(count)} {state}" for state, count in sorted(states.items()))
        yield fault("sink_gone", f"removed sink {sink} still has pending deliveries: {counts}", sink=sink)


def _of_lane(report: StatusReport, lane: Lane) -> Iterator[Finding]:
    """Yield whether a sink is paused, and why its breaker is not closed."""
    now, sink = report.now, lane.sink
    waiting = sum(n for (name, state), n in report.ledger.gauges.counts.items() if name == sink and state != "dead")
    runs = report.ledger.waiting_runs.get(sink)
    of = f" of {counted(_amount(runs), 'run', 'runs')}" if runs else ""
    wait = counted(_amount(waiting), f"delivery{of} waits", f"deliveries{of} wait")
    if lane.paused:
        since = f" {ago(now - lane.paused_at)} ago" if lane.paused_at else ""
        by = f" by {who}" if (who := report.ledger.paused_by.get(sink)) else ""
        is_recent = now - lane.paused_at < PAUSE_NEWS
        yield fault("sink_paused", f"{sink} was paused{since}{by}; {wait}", note=not waiting or is_recent, sink=sink)
    if lane.breaker != "closed" and lane.lane == sink != CALLBACK:
        # A pause stops the probes, and sets `opened_at` to its own time.
        since = lasting(lane.opened_at or None, now) if not lane.paused else ""
        probe = f", and the next probe is {f'in {ago(lane.until - now)}' if lane.until > now else 'due'}"
        why = lane.reason or "unavailable"
        does, fix = next((does, fix) for pattern, does, fix in _CAUSES if re.search(pattern, why))
        what = f"{sink} {does}{since}: {why}{_response(report, sink)}; {wait}{'' if lane.paused else probe}"
        limit = report.config.sinks[sink].rate if report.config and sink in report.config.sinks else None
        rate = f"lower `rate` of this sink, now `{limit}`," if limit else "set `rate` of this sink, such as `20/m`,"
        # Without a delivery nothing probes it.
        yield fault("sink_down", what, note=not waiting, fix=fix.format(sink=sink, rate=rate), sink=sink)


def _response(report: StatusReport, sink: str) -> str:
    """Return the newest response of a failing sink's server."""
    response = report.ledger.responses.get(sink)
    return f": {response}" if response else ""


def _amount(count: int) -> str:
    return f"{COUNT_LIMIT:,}+" if count >= COUNT_LIMIT else str(count)


def of_alerts(report: StatusReport) -> Iterator[Finding]:
    """Yield sinks that do not accept alerts."""
    for sink, why in sorted(report.redis.alerts_failing.items()):
        yield fault("alert_failed", f"{sink} does not accept alerts: {why}", sink=sink)


def of_deliveries(report: StatusReport) -> Iterator[Finding]:
    """Yield late deliveries, dead letters and running operations."""
    counts, newest = report.ledger.gauges.counts, report.ledger.newest
    reported = {lane.sink for lane in report.ledger.lanes if lane.paused or lane.breaker != "closed"}
    reported |= {liveness.sink_of(role) for role in liveness.missing(report.processes, report.expected)}
    for sink, since in sorted(report.ledger.gauges.oldest_due.items()):
        late = report.now - since
        if sink in report.sinks and sink not in reported and late > DELIVERY_LATE:
            what = f"a delivery to {sink} should have been sent {ago(late)} ago"
            yield fault("delivery_late", what, sink=sink)
    refusing = {sink for sink, (count, _) in newest.refused.items() if count >= REFUSED_IN_A_ROW}  # reported above
    dead = {s: n for (s, state), n in sorted(counts.items()) if state == DeliveryState.DEAD and s not in refusing}
    if dead:
        each_sink = ", ".join(f"{_amount(count)} of {sink}" for sink, count in dead.items())
        sink = next(iter(dead)) if len(dead) == 1 else "NAME"
        yield fault("delivery_dead", f"dead letters: {each_sink}", note=newest.died.isdisjoint(dead), which=sink)
    if running := report.ledger.operations:
        yield fault("operations", counted(running, "operation is running", "operations are running"))


def of_runs(report: StatusReport) -> Iterator[Finding]:
    """Yield events that were not routed or not readable, and late polls and searches."""
    newest, gauges = report.ledger.newest, report.ledger.gauges
    if newest.unrouted:
        event_id, why = newest.unrouted_example
        events = counted(newest.unrouted, "recent event was", "recent events were")
        what = f"{events} not sent where a rule can't be evaluated, the last {event_id}: {why}"
        fix = "Correct the rule, restart the worker, then `runhook reroute --since 1d` sends what is missing"
        yield fault("event_trouble", what, event=event_id, fix=fix)
    if newest.troubled:
        event_id, why = newest.example
        events = counted(newest.troubled, "recent event has", "recent events have")
        fix = "`runhook events --disposition unreadable` lists bodies that cannot be read; "
        fix += "`runhook reconcile --since 1d --import --now` fetches their results"
        what = f"{events} a problem, the last {event_id}: {why}"
        yield fault("event_trouble", what, note=True, event=event_id, fix=fix)
    for watch in sorted(gauges.watches, key=lambda each: each.source):
        if watch.trouble:
            yield fault("watch_trouble", f"Skyvern's list of runs of {watch.source} can't be read: {watch.trouble}")
    if (late := gauges.search.behind(report.now)) > SEARCH_LATE:
        changes = counted(gauges.search.unindexed, "change", "changes")
        yield fault("search_behind", f"searches do not find {changes} of runs yet, the oldest {ago(late)} old")


def of_connections(report: StatusReport, patience: float = PATIENCE) -> Iterator[Finding]:
    """Yield the result of each sink's own check, which sends nothing. `patience`: see PATIENCE."""
    from receiver.delivery.sink_services import SourceServices  # with an HTTP client, which no other check needs

    if report.config is None:
        return
    services = SourceServices(report.config, report.settings.skyvern_base_url)
    pending: list[tuple[str, Sink[Any], Future[str]]] = []
    for name, chosen in report.config.sinks.items():
        sink = registry.build(name, chosen.type, chosen.options, services)
        pending.append((name, sink, in_thread(f"check-{name}", sink.check)))
    until = time.monotonic() + patience
    for name, sink, response in pending:
        todo = f"fix its options or its server; `runhook sink test {name}` sends a sample"
        try:
            result = response.result(max(0.0, until - time.monotonic()))
            what, todo = result or f"has no check that sends nothing; `runhook sink test {name}` sends a sample", ""
        except SinkError as error:
            what = str(error)
        except TimeoutError:
            what = f"no response within {patience:g} s"
        except Exception as error:  # noqa: BLE001 - a sink of a third party
            what, todo = f"{type(error).__name__} in the sink's code", "report it to the sink's author"
        yield Finding(f"sink {name}", what, todo)
        if response.done():
            sink.close()
