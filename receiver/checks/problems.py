"""Derive problems and their fixes from a status report, without any I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from handlers.support.wording import size
from receiver.checks import processes
from receiver.checks.finding import Finding, problem
from receiver.checks.report import NEWS, StatusReport
from receiver.domain import liveness
from receiver.domain.callback import CALLBACK
from receiver.domain.counting import counted
from receiver.domain.delivery import DeliveryState
from receiver.domain.durations import ago, lasting
from receiver.domain.trouble import redis_todo
from receiver.ledger.stats import COUNT_LIMIT

# Seconds after which an inbox entry or a due delivery is overdue.
INBOX_LATE: Final = 60.0
DELIVERY_LATE: Final = 300.0
# Seconds after which a run should be searchable.
SEARCH_LATE: Final = 60.0
# Seconds after which corrected times are only a note.
CORRECTION_LATE: Final = 900.0
# Wrongly signed requests within NEWS that are a problem even though good webhooks come.
REFUSED_MANY: Final = 3
# Deliveries refused for good in a row that are a problem of the sink, and not of these deliveries.
REFUSED_IN_A_ROW: Final = 5
# Hours before a loss of Redis in which runs may have begun whose results it held.
_RUNS_FOR: Final = 24
# Fraction of spool.max_bytes above which the spool counts as nearly full.
SPOOL_FULL: Final = 0.8
# Seconds for which a pause is only a note.
PAUSE_NEWS: Final = 3600.0
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


def of_config(report: StatusReport) -> Iterator[Finding]:
    """Yield errors and probable mistakes of the config."""
    for line in report.config_problems:
        yield problem("config_wrong", line)
    for line in report.warnings:
        yield problem("config_doubtful", line)


def of_settings(report: StatusReport) -> Iterator[Finding]:
    """Yield probable mistakes in PUBLIC_URL."""
    for line in report.advice:
        yield problem("config_doubtful", line)


def _full(report: StatusReport) -> str:
    """Return why the data directory takes no events, or ""."""
    disk, reserve = report.disk, report.disk.reserve or 0
    if disk.free is not None and disk.free < reserve:
        return f"{disk.directory} has {size(disk.free)} free, less than spool.reserve_bytes ({size(reserve)})"
    if disk.spool_limit and disk.spool_bytes >= disk.spool_limit:
        return f"the spool has reached spool.max_bytes ({size(disk.spool_limit)})"
    return ""


def _refusing(report: StatusReport) -> str:
    """Return why webhooks get 503 now, as a receiver reports it or as this machine's disk shows; else ""."""
    redis = report.redis
    unusable = redis.trouble or redis.weak or redis.inbox.trouble
    if (unusable or redis.embedded) and (full := _full(report)):
        return f"Redis cannot be used, and {full}" if unusable else full
    reasons = ((each, each.beat.details.get("refusing")) for each in report.processes if each.alive)
    return next((f"{processes.name_of(each)}: {why}" for each, why in reasons if why), "")


def of_refused(report: StatusReport) -> Iterator[Finding]:
    """Yield why webhooks are being refused."""
    if why := _refusing(report):
        yield problem("webhooks_refused", f"webhooks are being refused with 503: {why}")


def of_servers(report: StatusReport) -> Iterator[Finding]:
    """Yield why Redis and the ledger are unavailable, weak or slow."""
    redis, ledger = report.redis, report.ledger
    if (at := ledger.redis_lost) is not None:
        when = f"{datetime.fromtimestamp(at, UTC):%H:%M} UTC ({ago(report.now - at)} ago)"
        what = f"Redis lost its data at {when}: results acknowledged but not yet recorded then may be missing"
        hours = math.ceil((report.now - at) / 3600 + _RUNS_FOR)
        yield problem("redis_lost", what, hours=hours)
    refusing = _refusing(report)
    until = "webhooks are refused" if refusing else "webhooks go to the spool of each receiver"
    down = lasting(redis.down_since, report.now)
    if "maxmemory" in redis.trouble:  # Redis's own error message
        yield problem("redis_full", f"Redis has no memory left ({redis.url}){down}: {redis.trouble}", until=until)
    elif redis.trouble:
        start = redis_todo(embedded=redis.embedded)
        what = f"Redis is unavailable ({redis.url}){down}: {redis.trouble}"
        yield problem("redis_away", what, start=start, until=until)
    elif redis.weak:
        what = f"Redis at {redis.url} does not promise that a 202 means on disk: {redis.weak}"
        yield problem("redis_weak", what, until=until)
    if ledger.trouble:
        start = ledger.todo or "see whether its database runs and answers, or fix DATABASE_URL"
        until = "" if refusing else "webhooks are stored, and "
        waiting = counted(redis.inbox.entries, "event waits", "events wait") if redis.inbox.entries else ""
        down = lasting(ledger.down_since, report.now)
        what = f"the ledger is unavailable ({ledger.url}){down}: {ledger.trouble}" + (
            f"; {waiting} in the inbox" if waiting else ""
        )
        yield problem("ledger_away", what, start=start, until=until)
    elif ledger.weak:
        yield problem("ledger_weak", f"the ledger at {ledger.url} may lose what it has confirmed: {ledger.weak}")
    if ledger.corrected:
        deliveries, breakers, polls, at = ledger.corrected
        rows = f"{counted(deliveries, 'delivery', 'deliveries')}, {counted(breakers, 'breaker', 'breakers')} and"
        yield problem(
            "clock_was_ahead",
            "the clock of the ledger's database was ahead, and was set back: the clock process corrected the times of "
            f"{rows} {counted(polls, 'poll', 'polls')} {ago(report.now - at)} ago",
            note=report.now - at > CORRECTION_LATE,
        )
    for each in ledger.gauges.cancelled:
        yield problem(
            "ledger_slow",
            f"the database cancelled {each.operation} for time, {counted(each.times, 'time', 'times')} in a row, "
            f"the last {ago(report.now - each.last_at)} ago: its work has stopped",
        )


def of_disk(report: StatusReport) -> Iterator[Finding]:
    """Yield what is wrong with the data directory and the spool."""
    disk, reserve = report.disk, report.disk.reserve or 0
    if disk.trouble:
        yield problem("disk_unreadable", f"{disk.directory}: {disk.trouble}")
    full = _full(report)
    if full and full not in _refusing(report):
        yield problem("disk_full" if "reserve_bytes" in full else "spool_full", full)
    elif not full and disk.free is not None and disk.free < 2 * reserve:
        yield problem("disk_low", f"{disk.directory} has {size(disk.free)} free")
    if not full and disk.spool_limit and disk.spool_bytes > SPOOL_FULL * disk.spool_limit:
        full = f"{size(disk.spool_bytes)} of {size(disk.spool_limit)} (spool.max_bytes)"
        yield problem("spool_full", f"the spool holds {full}")
    if disk.spool_left:
        left = f"holds up to {size(disk.spool_left)} of events of stopped receivers"
        yield problem("spool_left", f"{disk.directory}/spool {left}")
    if disk.set_aside:
        files = counted(disk.set_aside, "damaged file of the spool was", "damaged files of the spool were")
        yield problem("spool_damaged", f"{files} set aside in {disk.directory}/spool")


def of_quarantine(report: StatusReport) -> Iterator[Finding]:
    """Yield how many requests with a wrong signature are in quarantine."""
    disk = report.disk
    if disk.quarantine:
        requests = counted(disk.quarantine, "request with a wrong signature is", "requests with a wrong signature are")
        age = report.now - disk.newest_refused if disk.newest_refused is not None else None
        newest = f", the newest {ago(age)} old" if age is not None else ""
        # One bad request among good ones is not Skyvern's. Several, or one after the last good one: a wrong secret.
        followed = disk.newest_refused is not None and (report.ledger.newest.webhook_at or 0.0) > disk.newest_refused
        note = age is None or age >= NEWS or (followed and disk.refused_lately < REFUSED_MANY)
        yield problem("quarantine", f"{requests} in quarantine{newest}", note=note)


def of_inbox(report: StatusReport) -> Iterator[Finding]:
    """Yield why the inbox is unreadable or late, and entries that were set aside."""
    inbox = report.redis.inbox
    if inbox.trouble:
        yield problem("inbox_unreadable", f"the inbox can't be read: {inbox.trouble}")
    if inbox.set_aside:
        entries = counted(inbox.set_aside, "entry of the inbox was", "entries of the inbox were")
        why = "a worker does not know their source, their signature is invalid, or they ended a dispatcher"
        yield problem("inbox_set_aside", f"{entries} set aside: {why}")
    if inbox.oldest is not None and inbox.oldest > INBOX_LATE and not report.ledger.trouble:
        events = counted(inbox.entries, "event waits", "events wait")
        late = f"{events} in the inbox, the oldest for {ago(inbox.oldest)}"
        if drains := show_drain(inbox.entries, inbox.rate):
            yield problem("inbox_late", f"{late}; {drains}", note=True, todo="no action needed")
        else:
            todo = "the dispatcher is stopped, too slow, or can't reach the ledger: see the worker's log"
            yield problem("inbox_late", late, todo=todo)


def show_drain(entries: int, rate: float) -> str:
    """Return how fast the inbox shrinks, and when it will be empty; "" if it does not shrink."""
    return f"{rate:,.1f} fewer each second, drained in {ago(entries / rate)} at this rate" if rate >= 0.1 else ""


def of_sinks(report: StatusReport) -> Iterator[Finding]:
    """Yield sinks that are paused, down, refusing or removed."""
    now = report.now
    for lane in report.ledger.lanes:
        sink = lane.sink
        if report.sinks and sink not in (*report.sinks, CALLBACK):
            continue  # a removed sink cannot be resumed; its deliveries are reported below
        waiting = sum(n for (name, state), n in report.ledger.gauges.counts.items() if name == sink and state != "dead")
        runs = report.ledger.waiting_runs.get(sink)
        of = f" of {counted(_amount(runs), 'run', 'runs')}" if runs else ""
        wait = counted(_amount(waiting), f"delivery{of} waits", f"deliveries{of} wait")
        if lane.paused:
            since = f" {ago(now - lane.paused_at)} ago" if lane.paused_at else ""
            by = f" by {who}" if (who := report.ledger.paused_by.get(sink)) else ""
            yield problem(
                "sink_paused",
                f"{sink} was paused{since}{by}; {wait}",
                note=not waiting or now - lane.paused_at < PAUSE_NEWS,
                sink=sink,
            )
        if lane.breaker != "closed" and lane.lane == sink != CALLBACK:
            # A pause stops the probes, and sets `opened_at` to its own time.
            since = lasting(lane.opened_at or None, now) if not lane.paused else ""
            probe = f", and the next probe is {f'in {ago(lane.until - now)}' if lane.until > now else 'due'}"
            why = lane.reason or "unavailable"
            does, remedy = next((does, todo) for pattern, does, todo in _CAUSES if re.search(pattern, why))
            what = f"{sink} {does}{since}: {why}{_response(report, sink)}; {wait}{'' if lane.paused else probe}"
            # Without a delivery nothing probes it.
            limit = report.rates.get(sink)
            rate = f"lower `rate` of this sink, now `{limit}`," if limit else "set `rate` of this sink, such as `20/m`,"
            yield problem("sink_down", what, note=not waiting, remedy=remedy.format(sink=sink, rate=rate))
    shut = [lane for lane in report.ledger.lanes if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    if shut:
        example = shut[0].lane.removeprefix(CALLBACK).strip()
        servers = counted(len(shut), "server of callers does", "servers of callers do")
        yield problem("callers_down", f"{servers} not accept webhooks, such as {example}")
    for sink, (count, why) in sorted(report.ledger.newest.refused.items()):
        if count >= REFUSED_IN_A_ROW and sink in report.sinks:
            what = f"{sink} has refused its last {count} deliveries: {why}{_response(report, sink)}"
            yield problem("sink_refuses", what, sink=sink)
    for sink, count in sorted(report.ledger.newest.files_left_out.items()):
        deliveries = counted(count, "recent delivery", "recent deliveries")
        yield problem("files_left_out", f"{sink} left out files of {deliveries} for a limit", sink=sink)
    for sink, states in sorted(report.ledger.orphans.items()):
        counts = ", ".join(f"{_amount(count)} {state}" for state, count in sorted(states.items()))
        yield problem("sink_gone", f"removed sink {sink} still has pending deliveries: {counts}", sink=sink)


def _response(report: StatusReport, sink: str) -> str:
    """Return the newest response of a failing sink's server."""
    response = report.ledger.responses.get(sink)
    return f": {response}" if response else ""


def _amount(count: int) -> str:
    return f"{COUNT_LIMIT:,}+" if count >= COUNT_LIMIT else str(count)


def of_deliveries(report: StatusReport) -> Iterator[Finding]:
    """Yield late deliveries, dead letters and running operations."""
    reported = {lane.sink for lane in report.ledger.lanes if lane.paused or lane.breaker != "closed"}
    reported |= {liveness.sink_of(role) for role in liveness.missing(report.processes, report.expected)}
    for sink, since in sorted(report.ledger.gauges.oldest_due.items()):
        late = report.now - since
        if sink in report.sinks and sink not in reported and late > DELIVERY_LATE:
            yield problem("delivery_late", f"a delivery to {sink} should have been sent {ago(late)} ago", sink=sink)
    counts = report.ledger.gauges.counts
    newest = report.ledger.newest
    refusing = {sink for sink, (count, _) in newest.refused.items() if count >= REFUSED_IN_A_ROW}  # reported above
    dead = {s: n for (s, state), n in sorted(counts.items()) if state == DeliveryState.DEAD and s not in refusing}
    if dead:
        each_sink = ", ".join(f"{_amount(count)} of {sink}" for sink, count in dead.items())
        sinks = "".join(f" --sink {sink}" for sink in dead) if len(dead) == 1 else " --sink NAME"
        old = newest.died.isdisjoint(dead)
        yield problem("delivery_dead", f"dead letters: {each_sink}", note=old, sinks=sinks)
    if running := report.ledger.operations:
        yield problem("operations", counted(running, "operation is running", "operations are running"))


def of_runs(report: StatusReport) -> Iterator[Finding]:
    """Yield events that were not routed or not readable, and late polls and searches."""
    newest = report.ledger.newest
    if newest.unrouted:
        event_id, why = newest.unrouted_example
        events = counted(newest.unrouted, "recent event was", "recent events were")
        what = f"{events} not sent where a rule can't be evaluated, the last {event_id}: {why}"
        fix = "Correct the rule, restart the worker, then `runhook reroute --since 1d` sends what is missing"
        yield problem("event_trouble", what, event=event_id, fix=fix)
    if newest.troubled:
        event_id, why = newest.example
        events = counted(newest.troubled, "recent event has", "recent events have")
        fix = "`runhook events --disposition unreadable` lists bodies that cannot be read; "
        fix += "`runhook reconcile --since 1d --import --now` fetches their results"
        what = f"{events} a problem, the last {event_id}: {why}"
        yield problem("event_trouble", what, note=True, event=event_id, fix=fix)
    gauges = report.ledger.gauges
    for watch in sorted(gauges.watches, key=lambda each: each.source):
        if watch.trouble:
            yield problem("watch_trouble", f"Skyvern's list of runs of {watch.source} can't be read: {watch.trouble}")
    search = gauges.search
    if (late := search.behind(report.now)) > SEARCH_LATE:
        changes = counted(search.unindexed, "change", "changes")
        yield problem("search_behind", f"searches do not find {changes} of runs yet, the oldest {ago(late)} old")
