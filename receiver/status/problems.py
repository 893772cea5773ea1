"""What is wrong, in plain words, and what to do about it: a pure function of a report.

A problem needs a person, and makes `runhook status` exit with 1. A note does not. Each code has a
section in docs/how-to/operations.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from receiver.domain import parts
from receiver.domain.callback import CALLBACK
from receiver.domain.counting import counted
from receiver.domain.delivery import DeliveryState
from receiver.domain.trouble import redis_todo
from receiver.status import part_problems
from receiver.status.problem import Problem, ago, amount, probe_time, size
from receiver.status.report import StatusReport

# Seconds after which an entry of the inbox, or a delivery that is due, has waited too long.
INBOX_LATE: Final = 60.0
DELIVERY_LATE: Final = 300.0
# Seconds after which what a run says should be found.
SEARCH_LATE: Final = 60.0
# Seconds for which a request in quarantine counts as news.
REFUSED_NEWS: Final = 86_400.0
# Seconds after which corrected times are only a note.
CORRECTION_LATE: Final = 900.0
# Part of spool.max_bytes from which on it counts as nearly full.
SPOOL_FULL: Final = 0.8
# What a code begins with, in the order in which problems are shown.
_ORDER: Final = (
    *("config", "redis", "ledger", "disk", "part", "worker", "receiver", "task"),
    *("inbox", "spool", "sink", "delivery", "clock"),
)


def find(report: StatusReport) -> list[Problem]:
    """Return all problems, what stops most first, then the notes."""
    found = [
        *_config(report),
        *_servers(report),
        *part_problems.find(report),
        *_disk(report),
        *_inbox(report),
        *_sinks(report),
        *_deliveries(report),
        *_runs(report),
        *_search(report),
    ]
    return sorted(found, key=lambda problem: (problem.note, _rank(problem.code)))


def _rank(code: str) -> int:
    return next((place for place, word in enumerate(_ORDER) if code.startswith(word)), len(_ORDER))


def _config(report: StatusReport) -> Iterator[Problem]:
    for line in report.config_problems:
        yield Problem("config_wrong", line, "fix it (`runhook check` lists all errors); processes cannot start")
    for line in [*report.warnings, *report.advice]:
        yield Problem("config_doubtful", line, "`runhook check` shows where", note=True)


def _servers(report: StatusReport) -> Iterator[Problem]:
    redis, ledger = report.redis, report.ledger
    start = redis_todo(embedded=redis.embedded)
    if "maxmemory" in redis.trouble:  # as Redis itself says it
        yield Problem(
            "redis_full",
            f"Redis has no memory left ({redis.url}): {redis.trouble}",
            "start the ledger so that the inbox drains, raise maxmemory, or remove other data. Until then webhooks go "
            "to the spool of each receiver",
        )
    elif redis.trouble:
        yield Problem(
            "redis_away",
            f"Redis is unavailable ({redis.url}): {redis.trouble}",
            f"{start}. Until then webhooks go to the spool of each receiver, and deliveries are slower",
        )
    elif redis.weak:
        yield Problem(
            "redis_weak",
            f"Redis at {redis.url} does not promise that a 202 means on disk: {redis.weak}",
            "change the named setting; until then receivers write to their spools",
        )
    if ledger.trouble:
        yield Problem(
            "ledger_away",
            f"the ledger is unavailable ({ledger.url}): {ledger.trouble}",
            f"{ledger.todo or 'start its database, or fix DATABASE_URL'}. Until then webhooks "
            "are stored, and nothing is delivered",
        )
    elif ledger.weak:
        yield Problem(
            "ledger_weak",
            f"the ledger at {ledger.url} may lose what it has confirmed: {ledger.weak}",
            "change the database's settings, or set ledger.accept_weaker_durability; processes cannot start",
        )
    if ledger.corrected:
        deliveries, breakers, polls, at = ledger.corrected
        yield Problem(
            "clock_was_ahead",
            f"the clock of the ledger's database was ahead, and was set back: the clock process corrected the times of"
            f" {counted(deliveries, 'delivery', 'deliveries')}, {counted(breakers, 'breaker', 'breakers')} and"
            f" {counted(polls, 'poll', 'polls')} {ago(report.now - at)} ago",
            "run NTP on the database's host; the corrected rows resume",
            note=report.now - at > CORRECTION_LATE,
        )
    for each in ledger.cancelled:
        yield Problem(
            "ledger_slow",
            f"the database cancelled {each.operation} for time, {counted(each.times, 'time', 'times')} in a row, "
            f"the last {ago(report.now - each.last_at)} ago: its work has stopped",
            "check the load of the database, and analyze and vacuum its tables",
        )


def _disk(report: StatusReport) -> Iterator[Problem]:
    disk = report.disk
    if disk.trouble:
        yield Problem("disk_unreadable", f"{disk.directory}: {disk.trouble}", "set RUNHOOK_DATA, or its permissions")
    reserve = disk.reserve or 0
    if disk.free is not None and disk.free < reserve:
        yield Problem(
            "disk_full",
            f"{disk.directory} has {size(disk.free)} free, less than spool.reserve_bytes ({size(reserve)})",
            "free disk space; while Redis is down or embedded, webhooks get 503",
        )
    elif disk.free is not None and disk.free < 2 * reserve:
        yield Problem("disk_low", f"{disk.directory} has {size(disk.free)} free", "free disk space soon", note=True)
    if disk.spool_limit and disk.spool_bytes > SPOOL_FULL * disk.spool_limit:
        yield Problem(
            "spool_full",
            f"the spool holds {size(disk.spool_bytes)} of {size(disk.spool_limit)} (spool.max_bytes)",
            "start Redis, or raise spool.max_bytes; at the limit, webhooks get 503",
        )
    if disk.spool_left:
        yield Problem(
            "spool_left",
            f"{disk.directory}/spool holds up to {size(disk.spool_left)} of events of stopped receivers",
            "start `runhook serve` here, or run `runhook spool send`",
        )
    if disk.set_aside:
        yield Problem(
            "spool_damaged",
            counted(disk.set_aside, "damaged file of the spool was", "damaged files of the spool were")
            + f" set aside in {disk.directory}/spool",
            "inspect them: their events were acknowledged",
            note=True,
        )
    if disk.quarantine:
        fresh = disk.newest_refused is not None and report.now - disk.newest_refused < REFUSED_NEWS
        yield Problem(
            "quarantine",
            counted(disk.quarantine, "request with a wrong signature is", "requests with a wrong signature are")
            + " in quarantine"
            + (f", the newest {ago(report.now - (disk.newest_refused or 0.0))} old" if disk.newest_refused else ""),
            "`runhook quarantine list`; if a secret was wrong, fix it, then `runhook quarantine verify`",
            note=not fresh,
        )


def _inbox(report: StatusReport) -> Iterator[Problem]:
    inbox = report.redis.inbox
    if inbox.trouble:
        yield Problem(
            "inbox_unreadable",
            f"the inbox can't be read: {inbox.trouble}",
            "rename that key (RENAME) and find the program that wrote it; events are in the spools",
        )
    if inbox.set_aside:
        yield Problem(
            "inbox_set_aside",
            counted(inbox.set_aside, "entry of the inbox was", "entries of the inbox were")
            + " set aside: their signature is invalid, or they ended a dispatcher",
            "`runhook inbox list` shows the reasons; then `runhook inbox accept` or `runhook inbox drop`",
        )
    if inbox.unknown_sources:
        yield Problem(
            "inbox_unknown_source",
            f"a worker does not know the source of events in the inbox: {', '.join(inbox.unknown_sources)}",
            "add the source and its secrets to the config of each worker, and restart it; the events wait",
        )
    if inbox.oldest is not None and inbox.oldest > INBOX_LATE:
        yield Problem(
            "inbox_late",
            f"{counted(inbox.entries, 'event waits', 'events wait')} in the inbox, the oldest for {ago(inbox.oldest)}",
            "the dispatcher is stopped, too slow, or can't reach the ledger: see the worker's log",
        )


def _wait(count: int) -> str:
    return counted(amount(count), "delivery waits", "deliveries wait")


def _sinks(report: StatusReport) -> Iterator[Problem]:
    for lane in report.ledger.lanes:
        if report.sinks and lane.sink not in (*report.sinks, CALLBACK):
            continue  # a removed sink cannot be resumed; its deliveries are reported below
        under_way = _under_way(report, lane.sink)
        if lane.paused:
            yield Problem(
                "sink_paused",
                f"{lane.sink} was paused by an operator{_since(lane.paused_at, report.now)}; {_wait(under_way)}",
                f"`runhook sink resume {lane.sink}` resumes delivery",
                note=not under_way,
            )
        if lane.breaker != "closed" and lane.lane == lane.sink != CALLBACK:
            yield Problem(
                "sink_down",
                f"{lane.sink} does not answer{_for(lane.opened_at, report.now)}: {lane.reason or 'unavailable'}; "
                f"{_wait(under_way)}, "
                f"and the next probe is {probe_time(lane, report.now)}",
                f"`runhook sink test {lane.sink}` tests it; once it works, `runhook sink resume {lane.sink}` probes",
                note=not under_way,  # and then nothing is there to probe it with
            )
    shut = [lane for lane in report.ledger.lanes if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    if shut:
        yield Problem(
            "callers_down",
            f"{len(shut)} servers of callers do not answer, such as {shut[0].lane.removeprefix(CALLBACK).strip()}",
            "no action needed; `runhook sink list` shows them",
            note=True,
        )
    for sink, states in sorted(report.ledger.orphans.items()):
        counts = ", ".join(f"{amount(count)} {state}" for state, count in sorted(states.items()))
        yield Problem(
            "sink_gone",
            f"removed sink {sink} still has pending deliveries: {counts}",
            f"`runhook sink move {sink} NEW`, `runhook cancel --sink {sink}`, or restore it in the config",
        )


def _under_way(report: StatusReport, sink: str) -> int:
    return sum(count for (name, state), count in report.ledger.counts.items() if name == sink and state != "dead")


def _since(at: float, now: float) -> str:
    return f" {ago(now - at)} ago" if at else ""


def _for(since: float, now: float) -> str:
    return f", for {ago(now - since)} now" if since else ""


def _deliveries(report: StatusReport) -> Iterator[Problem]:
    shut = {lane.sink for lane in report.ledger.lanes if lane.paused or lane.breaker != "closed"}
    # Missing senders are already reported.
    shut |= {parts.sink_of(part) for part in parts.missing(report.parts, report.expected)}
    for sink, since in sorted(report.ledger.oldest_due.items()):
        if sink in report.sinks and sink not in shut and report.now - since > DELIVERY_LATE:
            yield Problem(
                "delivery_late",
                f"a delivery to {sink} should have been sent {ago(report.now - since)} ago",
                "the worker or the clock is stopped or too slow, or it waits for another sink: "
                f"`runhook deliveries --sink {sink}`",
            )
    dead = {sink: n for (sink, state), n in sorted(report.ledger.counts.items()) if state == DeliveryState.DEAD}
    if dead:
        counts = ", ".join(f"{amount(count)} of {sink}" for sink, count in dead.items())
        yield Problem(
            "delivery_dead",
            f"dead letters: {counts}",
            "`runhook dead` shows the reasons, `runhook replay` sends them again",
            note=True,
        )
    if report.ledger.operations:
        running = report.ledger.operations
        what = counted(running, "operation is running", "operations are running")
        yield Problem("operations", what, "`runhook operations`", note=True)


def _runs(report: StatusReport) -> Iterator[Problem]:
    for source, trouble in sorted(report.ledger.watch_trouble.items()):
        yield Problem(
            "watch_trouble",
            f"Skyvern's list of runs of {source} can't be read: {trouble}",
            "check SKYVERN_BASE_URL and the source's api_key; results without a webhook are not found until then",
        )
    for source, count in sorted(report.ledger.missed_schedules.items()):
        if count:
            yield Problem(
                "schedules_missed",
                counted(count, "schedule", "schedules") + f" of {source} did not start a run on time",
                "`runhook connect` lists them",
                note=True,
            )


def _search(report: StatusReport) -> Iterator[Problem]:
    search = report.ledger.search
    late = search.behind(report.now)
    if late > SEARCH_LATE:
        changes = counted(search.unindexed, "change", "changes")
        yield Problem(
            "search_behind",
            f"searches do not find {changes} of runs yet, the oldest {ago(late)} old",
            "the clock is stopped or too slow: see its log; it catches up automatically",
            note=True,
        )
