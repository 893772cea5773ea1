"""What is wrong, in plain words, and what to do about it: a pure function of a report.

A problem needs a person, and makes `runhook status` end with 1. A note is worth a look, and does not. Each code has a
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
# Seconds after which corrected times need nobody any more.
CORRECTION_LATE: Final = 900.0
# Part of spool.max_bytes from which on it counts as nearly full.
SPOOL_FULL: Final = 0.8
# What a code begins with, in the order in which problems are shown.
_ORDER: Final = (
    *("config", "redis", "ledger", "disk", "part", "receiver", "task"),
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
        yield Problem("config_wrong", line, "fix it; `runhook check` shows all of it. No part starts with it")
    for line in [*report.warnings, *report.advice]:
        yield Problem("config_doubtful", line, "`runhook check` shows where", note=True)


def _servers(report: StatusReport) -> Iterator[Problem]:
    redis, ledger = report.redis, report.ledger
    start = redis_todo(embedded=redis.embedded)
    if "maxmemory" in redis.trouble:  # as Redis itself says it
        yield Problem(
            "redis_full",
            f"Redis has no memory left ({redis.url}): {redis.trouble}",
            "the dispatcher drains the inbox if it can reach the ledger; else raise maxmemory, or remove what else is "
            "there. Until then webhooks go to the spool of each receiver",
        )
    elif redis.trouble:
        yield Problem(
            "redis_away",
            f"Redis can't be used ({redis.url}): {redis.trouble}",
            f"{start}. Until then webhooks go to the spool of each receiver, and deliveries are slower",
        )
    elif redis.weak:
        yield Problem(
            "redis_weak",
            f"Redis at {redis.url} does not promise that a 202 means on disk: {redis.weak}",
            "change its settings as it says; receivers do not use it as it is, and write to their spools",
        )
    if ledger.trouble:
        yield Problem(
            "ledger_away",
            f"the ledger can't be used ({ledger.url}): {ledger.trouble}",
            f"{ledger.todo or 'start its database, or fix DATABASE_URL'}. Until then webhooks "
            "are kept, and nothing is delivered",
        )
    elif ledger.weak:
        yield Problem(
            "ledger_weak",
            f"the ledger at {ledger.url} may lose what it has confirmed: {ledger.weak}",
            "change the database's settings, or accept it with ledger.accept_weaker_durability; no part starts with it",
        )
    if ledger.corrected:
        deliveries, breakers, polls, at = ledger.corrected
        yield Problem(
            "clock_was_ahead",
            f"the clock of the ledger's database was ahead, and was set back: the clock process corrected the times of"
            f" {counted(deliveries, 'delivery', 'deliveries')}, {counted(breakers, 'breaker', 'breakers')} and"
            f" {counted(polls, 'poll', 'polls')} {ago(report.now - at)} ago",
            "run NTP on the database's host; what the corrected rows wait for goes on",
            note=report.now - at > CORRECTION_LATE,
        )
    for each in ledger.cancelled:
        yield Problem(
            "ledger_slow",
            f"the database cancelled {each.operation} for time, {counted(each.times, 'time', 'times')} in a row, "
            f"the last {ago(report.now - each.last_at)} ago: what it does stands still",
            "see that the database is not overloaded, and that its tables are analyzed and vacuumed; else report it",
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
            "free some: the answer to webhooks is 503 when Redis is away too, or embedded",
        )
    elif disk.free is not None and disk.free < 2 * reserve:
        yield Problem("disk_low", f"{disk.directory} has {size(disk.free)} free", "free some soon", note=True)
    if disk.spool_limit and disk.spool_bytes > SPOOL_FULL * disk.spool_limit:
        yield Problem(
            "spool_full",
            f"the spool holds {size(disk.spool_bytes)} of {size(disk.spool_limit)} (spool.max_bytes)",
            "bring Redis back, or raise spool.max_bytes: at its limit the answer to webhooks is 503",
        )
    if disk.spool_left:
        yield Problem(
            "spool_left",
            f"{disk.directory}/spool holds up to {size(disk.spool_left)} of events of receivers that are gone",
            "start `runhook serve` here, which takes them in, or run `runhook spool send`",
        )
    if disk.set_aside:
        yield Problem(
            "spool_damaged",
            counted(disk.set_aside, "damaged file of the spool was", "damaged files of the spool were")
            + f" set aside in {disk.directory}/spool",
            "look at them; what they held was acked",
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
            "rename that key (RENAME), find out who wrote it, and let Runhook make a new one; events are in the spools",
        )
    if inbox.set_aside:
        yield Problem(
            "inbox_set_aside",
            counted(inbox.set_aside, "entry of the inbox was", "entries of the inbox were")
            + " set aside: written by no receiver, or the end of a dispatcher each time",
            "`runhook inbox list` shows them, and why; then `runhook inbox accept` or `runhook inbox drop`",
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
            continue  # nobody sends to it, so there is nothing to resume or to fix; what waits for it is told below
        under_way = _under_way(report, lane.sink)
        if lane.paused:
            yield Problem(
                "sink_paused",
                f"{lane.sink} was paused by an operator{_since(lane.paused_at, report.now)}; {_wait(under_way)}",
                f"`runhook sink resume {lane.sink}` lets them go on",
                note=not under_way,
            )
        if lane.breaker != "closed" and lane.lane == lane.sink != CALLBACK:
            yield Problem(
                "sink_down",
                f"{lane.sink} does not answer{_for(lane.opened_at, report.now)}: {lane.reason or 'unavailable'}; "
                f"{_wait(under_way)}, "
                f"and the next probe is {probe_time(lane, report.now)}",
                f"`runhook sink test {lane.sink}` tries it; once it is well, `runhook sink resume {lane.sink}` probes",
                note=not under_way,  # and then nothing is there to probe it with
            )
    shut = [lane for lane in report.ledger.lanes if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    if shut:
        yield Problem(
            "callers_down",
            f"{len(shut)} servers of callers do not answer, such as {shut[0].lane.removeprefix(CALLBACK).strip()}",
            "that is their owners' business; `runhook sink list` shows them",
            note=True,
        )
    for sink, states in sorted(report.ledger.orphans.items()):
        counts = ", ".join(f"{amount(count)} {state}" for state, count in sorted(states.items()))
        yield Problem(
            "sink_gone",
            f"the sink {sink} is not in the config and has deliveries that nobody sends: {counts}",
            f"`runhook sink move {sink} NEW`, or `runhook cancel --sink {sink}`, or put it back",
        )


def _under_way(report: StatusReport, sink: str) -> int:
    return sum(count for (name, state), count in report.ledger.counts.items() if name == sink and state != "dead")


def _since(at: float, now: float) -> str:
    return f" {ago(now - at)} ago" if at else ""


def _for(since: float, now: float) -> str:
    return f", for {ago(now - since)} now" if since else ""


def _deliveries(report: StatusReport) -> Iterator[Problem]:
    shut = {lane.sink for lane in report.ledger.lanes if lane.paused or lane.breaker != "closed"}
    # That nobody sends to them is told by now.
    shut |= {parts.sink_of(part) for part in parts.missing(report.parts, report.expected)}
    for sink, since in sorted(report.ledger.oldest_due.items()):
        if sink in report.sinks and sink not in shut and report.now - since > DELIVERY_LATE:
            yield Problem(
                "delivery_late",
                f"a delivery to {sink} should have been sent {ago(report.now - since)} ago",
                "the worker or the clock is stopped or too slow, or what it waits for is: "
                f"`runhook deliveries --sink {sink}`",
            )
    dead = {sink: n for (sink, state), n in sorted(report.ledger.counts.items()) if state == DeliveryState.DEAD}
    if dead:
        counts = ", ".join(f"{amount(count)} of {sink}" for sink, count in dead.items())
        yield Problem(
            "delivery_dead",
            f"dead letters: {counts}",
            "`runhook dead` shows why, `runhook replay` sends again",
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
            "see SKYVERN_BASE_URL and the source's api_key; results that no webhook brings are not found meanwhile",
        )
    for source, count in sorted(report.ledger.missed_schedules.items()):
        if count:
            yield Problem(
                "schedules_missed",
                counted(count, "schedule", "schedules") + f" of {source} started no run when it was time",
                "`runhook connect` names them",
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
