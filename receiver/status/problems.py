"""Derive problems and their fixes from a status report, without any I/O.

A problem needs an operator, and makes `runhook status` exit with 1. A note does not. Each code has a row in
docs/how-to/operations.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from receiver.domain import parts
from receiver.domain.callback import CALLBACK
from receiver.domain.counting import counted
from receiver.domain.delivery import DeliveryState
from receiver.domain.parts import BEAT_EVERY, CLOCK, DISPATCH, RECEIVER, PartSeen
from receiver.domain.trouble import redis_todo
from receiver.ledger.stats import COUNT_LIMIT
from receiver.status.problem import Problem, ago, size
from receiver.status.report import StatusReport

# Seconds after which an inbox entry or a due delivery is overdue.
INBOX_LATE: Final = 60.0
DELIVERY_LATE: Final = 300.0
# Seconds after which a run should be searchable.
SEARCH_LATE: Final = 60.0
# Seconds for which a request in quarantine and a lost process count as news, and after which corrected times are only
# a note.
REFUSED_NEWS: Final = 86_400.0
SILENT_NEWS: Final = 3_600.0
CORRECTION_LATE: Final = 900.0
# Wrongly signed requests within REFUSED_NEWS that are a problem even though good webhooks come.
REFUSED_MANY: Final = 3
# Fraction of spool.max_bytes above which the spool counts as nearly full.
SPOOL_FULL: Final = 0.8
# Seconds by which the clocks of hosts may differ.
SKEW: Final = 3.0

# The fix for each code, in the order in which problems are shown. Names in braces are filled in.
_PROBLEMS: Final = {
    "config_wrong": "fix it (`runhook check` lists all errors); processes cannot start",
    "webhooks_refused": "free disk space there, or start Redis. Skyvern sends a webhook three times; then Runhook "
    "polls for results of runs submitted here, and of sources with `watch: true`",
    "config_old": "restart them{effect}",
    "configs_differ": "copy the right file to each host, and restart the processes there{effect}",
    "redis_full": "start the ledger so that the inbox drains, raise maxmemory, or remove other data. Until then "
    "{until}, and sinks with a rate wait",
    "redis_away": "{start}. Until then {until}, deliveries are slower, and sinks with a rate wait",
    "redis_weak": "change the named setting; until then {until}",
    "ledger_away": "{start}. Until then {until}nothing is delivered",
    "ledger_weak": "change the database's settings, or set ledger.accept_weaker_durability; processes cannot start",
    "ledger_slow": "check the load of the database, and analyze and vacuum its tables",
    "disk_unreadable": "set RUNHOOK_DATA, or its permissions",
    "disk_full": "free disk space; while Redis is down or embedded, webhooks get 503",
    "part_missing": "{effect}",
    "part_suspended": "`kill -CONT {pid}` there resumes it",
    "part_stuck": "see its log; kill -9 {pid} there loses nothing, and its supervisor starts it again",
    "worker_split": "find in the worker's log which process still ends, fix that sink or set `worker: own` for it, and "
    "restart the worker",
    "receiver_spooling": "see its log: it can't reach Redis, or the inbox is over its limits",
    "task_failing": "it restarts automatically; if that does not help, see its log, and restart the process",
    "misdirected": "correct PUBLIC_URL, or the callback URL in Skyvern, to end in /webhooks/SOURCE. Skyvern does not "
    "send them again: `runhook reconcile --import` fetches the results",
    "inbox_unreadable": "rename that key (RENAME) and find the program that wrote it; events are in the spools",
    "inbox_set_aside": "`runhook inbox list` shows the reasons; then `runhook inbox accept` or `runhook inbox drop`",
    "inbox_unknown_source": "add the source and its secrets to each worker's config, and restart it; the events wait",
    "inbox_late": "the dispatcher is stopped, too slow, or can't reach the ledger: see the worker's log",
    "spool_full": "start Redis, or raise spool.max_bytes; at the limit, webhooks get 503",
    "spool_left": "start a receiver on that data directory; or bring its disk here: `runhook spool send --data DIR`",
    "sink_paused": "`runhook sink resume {sink}` resumes delivery",
    "sink_down": "{remedy}",
    "sink_gone": "`runhook sink move {sink} NEW`, `runhook cancel --sink {sink}`, or restore it in the config",
    "delivery_late": "the worker or the clock is stopped or too slow, or it waits for another sink: "
    "`runhook deliveries --sink {sink}`",
    "clock_was_ahead": "run NTP on the database's host; the corrected rows resume",
    "clock_skew": "run NTP (chrony, systemd-timesyncd) there: that clock gives the time of a webhook",
    "quarantine": "`runhook quarantine list`; if a secret was wrong, fix it, then `runhook quarantine verify`",
    "watch_trouble": "check SKYVERN_BASE_URL and the source's api_key; until then results need a webhook",
}
# As _PROBLEMS, for codes that are only notes.
_NOTES: Final = {
    "config_doubtful": "`runhook check` shows where",
    "disk_low": "free disk space soon",
    "part_unknown": "see above",
    "part_silent": "it ended unexpectedly, or its host can't reach Redis and the ledger: look there",
    "spool_damaged": "inspect them: their events were acknowledged",
    "delivery_dead": "`runhook dead` shows the reasons, `runhook replay` sends them again",
    "versions_differ": "finish the upgrade",
    "callers_down": "no action needed; `runhook sink list` shows them",
    "operations": "`runhook operations`",
    "schedules_missed": "`runhook connect` lists them",
    "search_behind": "the clock is stopped or too slow: see its log; it catches up automatically",
}
REMEDIES: Final = {**_PROBLEMS, **_NOTES}
# What the reason of an open breaker means: a pattern, what the sink does, and the fix.
_CAUSES: Final = (
    (
        r"(?i)\b429\b|too many|slow ?down|throttl|rate.?limit",
        "limits its rate",
        "set `rate` of this sink in the config below its limit, such as `rate: 5/s`; it resumes automatically",
    ),
    (
        r"(?i)disk.* (is )?full|no space",
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
_EFFECTS: Final = {
    RECEIVER: "no webhook is taken; start `runhook serve`",
    CLOCK: "retries, lapsed claims, polls and replays stop; start `runhook clock`",
}
_RANKS: Final = {code: rank for rank, code in enumerate(REMEDIES)}


def find(report: StatusReport) -> list[Problem]:
    """Return all problems, the most severe first, then the notes."""
    checks = (_config, _refused, _servers, _parts, _disk, _inbox, _sinks, _deliveries, _runs)
    found = [problem for check in checks for problem in check(report)]
    return sorted(found, key=lambda problem: (problem.note, _RANKS[problem.code]))


def _problem(code: str, what: str, *, note: bool = False, **names: Any) -> Problem:
    return Problem(code, what, REMEDIES[code].format(**names), note or code in _NOTES)


def _config(report: StatusReport) -> Iterator[Problem]:
    for line in report.config_problems:
        yield _problem("config_wrong", line)
    for line in [*report.warnings, *report.advice]:
        yield _problem("config_doubtful", line)


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
    reasons = ((each, each.beat.details.get("refusing")) for each in report.parts if each.alive)
    return next((f"{_named(each)}: {why}" for each, why in reasons if why), "")


def _refused(report: StatusReport) -> Iterator[Problem]:
    if why := _refusing(report):
        yield _problem("webhooks_refused", f"webhooks are being refused with 503: {why}")


def _servers(report: StatusReport) -> Iterator[Problem]:
    redis, ledger = report.redis, report.ledger
    refusing = _refusing(report)
    until = "webhooks are refused" if refusing else "webhooks go to the spool of each receiver"
    if "maxmemory" in redis.trouble:  # Redis's own error message
        yield _problem("redis_full", f"Redis has no memory left ({redis.url}): {redis.trouble}", until=until)
    elif redis.trouble:
        start = redis_todo(embedded=redis.embedded)
        what = f"Redis is unavailable ({redis.url}): {redis.trouble}"
        yield _problem("redis_away", what, start=start, until=until)
    elif redis.weak:
        what = f"Redis at {redis.url} does not promise that a 202 means on disk: {redis.weak}"
        yield _problem("redis_weak", what, until=until)
    if ledger.trouble:
        start = ledger.todo or "start its database, or fix DATABASE_URL"
        until = "" if refusing else "webhooks are stored, and "
        what = f"the ledger is unavailable ({ledger.url}): {ledger.trouble}"
        yield _problem("ledger_away", what, start=start, until=until)
    elif ledger.weak:
        yield _problem("ledger_weak", f"the ledger at {ledger.url} may lose what it has confirmed: {ledger.weak}")
    if ledger.corrected:
        deliveries, breakers, polls, at = ledger.corrected
        rows = f"{counted(deliveries, 'delivery', 'deliveries')}, {counted(breakers, 'breaker', 'breakers')} and"
        yield _problem(
            "clock_was_ahead",
            "the clock of the ledger's database was ahead, and was set back: the clock process corrected the times of "
            f"{rows} {counted(polls, 'poll', 'polls')} {ago(report.now - at)} ago",
            note=report.now - at > CORRECTION_LATE,
        )
    for each in ledger.cancelled:
        yield _problem(
            "ledger_slow",
            f"the database cancelled {each.operation} for time, {counted(each.times, 'time', 'times')} in a row, "
            f"the last {ago(report.now - each.last_at)} ago: its work has stopped",
        )


def _parts(report: StatusReport) -> Iterator[Problem]:
    """Yield what is wrong with processes: missing, stuck, silent, or different from each other."""
    gone = parts.missing(report.parts, report.expected)
    if report.redis.trouble and report.ledger.trouble:  # only processes of this machine are known, by their files
        if any(last is None for last in gone.values()):
            yield _problem("part_unknown", "processes on other hosts are unknown: Redis and the ledger are unavailable")
        gone = {part: last for part, last in gone.items() if last is not None}
    running = [each for each in report.parts if each.state in ("running", "stuck")]
    old = _other_config(report, running)
    # A worker that runs another file sends to that file's sinks: it must be restarted, and a second one would not help.
    restart = any(_of_worker(each.beat.part) for each in old)
    unserved = [part for part, last in gone.items() if restart and last is None and parts.sink_of(part)]
    yield from _old_config(report, running, old, unserved)
    gone = {part: last for part, last in gone.items() if part not in unserved}
    dead = {part: last for part, last in gone.items() if last is None or last.state != "stuck"}
    for part, last in dead.items():
        if not _of_worker(part):
            yield _problem("part_missing", f"no {part} is running: {_last(last)}", effect=_EFFECTS[part])
    if workers := {part: last for part, last in dead.items() if _of_worker(part)}:
        yield _missing_workers(workers, report.expected)
    yield from _lost(report, gone)
    split = {each.beat.host: why for each in report.parts if each.alive and (why := each.beat.details.get("apart"))}
    for host, why in split.items():
        yield _problem("worker_split", f"dispatch and each sink have their own process on {host}: {why}")
    yield from _left_spools(report.parts)
    yield from _differences(report, running)


def _lost(report: StatusReport, gone: Mapping[str, PartSeen | None]) -> Iterator[Problem]:
    """Yield processes that make no progress, each once, and those that ended while others do their work.

    `gone`: roles that no process has.
    """
    lost = [*parts.lost(report.parts), *filter(None, gone.values())]
    yield from map(_stuck, {(it.beat.host, it.beat.pid): it for it in lost if it.state == "stuck"}.values())
    silent: dict[object, list[PartSeen]] = {}
    for seen in parts.lost(report.parts):
        if seen.state == "silent" and seen.beat.part not in gone and seen.age < SILENT_NEWS:
            process = () if _of_worker(seen.beat.part) else (seen.beat.name,)
            silent.setdefault((seen.beat.host, *process), []).append(seen)
    for first, *others in silent.values():
        together = f"{_named_parts(each.beat.part for each in (first, *others))} on {first.beat.host} have"
        quiet = ago(min(each.age for each in (first, *others)))
        who, work = (together, "their work") if others else (f"{_named(first)} has", "its work")
        yield _problem("part_silent", f"{who} been silent for {quiet}; others do {work}")


def _stuck(seen: PartSeen) -> Problem:
    if seen.process == "suspended":
        what = f"{_named(seen)} is suspended (SIGSTOP or a debugger): its last heartbeat was {ago(seen.age)} ago"
        return _problem("part_suspended", what, pid=seen.beat.pid)
    what = f"{_named(seen)} has made no progress for {ago(seen.beat.stalled)}"
    return _problem("part_stuck", what, pid=seen.beat.pid)


def _missing_workers(missing: dict[str, PartSeen | None], expected: list[str]) -> Problem:
    """Return one problem for all missing roles of a worker, however many sinks they serve."""
    last = min(filter(None, missing.values()), key=lambda each: each.age, default=None)
    everything = len(missing) > 1 and set(missing) == {part for part in expected if _of_worker(part)}
    sinks = ", ".join(filter(None, map(parts.sink_of, missing)))
    effects = ["events stay in the inbox"] if DISPATCH in missing else []
    effects += [f"nothing is sent to {sinks}"] if sinks else []
    what = f"no {'worker' if everything else _named_parts(missing)} is running: {_last(last)}"
    return _problem("part_missing", what, effect=f"{', and '.join(effects)}; start `runhook worker`")


def _of_worker(part: str) -> bool:
    return part == DISPATCH or bool(parts.sink_of(part))


def _named_parts(named: Iterable[str]) -> str:
    """Return the names of a worker's processes: "dispatch and deliver:ops, deliver:archive"."""
    found = list(dict.fromkeys(named))
    sinks = ", ".join(part for part in found if parts.sink_of(part))
    return " and ".join(filter(None, (DISPATCH if DISPATCH in found else "", sinks)))


def _named(seen: PartSeen) -> str:
    return f"{seen.beat.part} on {seen.beat.host} (process {seen.beat.pid})"


def _last(seen: PartSeen | None) -> str:
    if seen is None:
        return "not seen in the last day"
    how = "was stopped" if seen.beat.stopped else "fell silent" if not seen.process else "ended unexpectedly"
    return f"the last one, on {seen.beat.host} (process {seen.beat.pid}), {how} {ago(seen.age)} ago"


def _left_spools(seen: list[PartSeen]) -> Iterator[Problem]:
    """Yield receivers that ended with events in their spools, which wait until a receiver starts there."""

    def directory(each: PartSeen) -> object:  # it may have been mounted on another host since
        return each.beat.details.get("data_id") or (each.beat.host, each.beat.details.get("data"))

    alive = {directory(each) for each in seen if each.alive}
    left: dict[object, PartSeen] = {}
    for each in sorted(seen, key=lambda each: each.age):  # the last receiver of a directory reports its content
        if each.beat.part == RECEIVER and not each.alive:
            left.setdefault(directory(each), each)
    for place, each in left.items():
        held = each.beat.details.get("spool_events")
        if held and place not in alive:
            how = "was stopped" if each.beat.stopped else "is gone"
            held_there = f"its spool held {counted(held, 'event', 'events')}, in {each.beat.details.get('data')}/spool"
            yield _problem("spool_left", f"{_named(each)} {how}, and {held_there} on {each.beat.host}")


def _other_config(report: StatusReport, running: Iterable[PartSeen]) -> list[PartSeen]:
    """Return the processes whose config file differs from the one here in more than its layout."""
    here = report.config_sections

    def differs(each: PartSeen) -> bool:
        theirs = each.beat.details.get("sections")
        return each.beat.config not in ("", report.config_hash) and not (theirs and theirs == here)

    return [each for each in running if report.config_hash and differs(each)]


def _old_config(
    report: StatusReport, running: Iterable[PartSeen], old: list[PartSeen], unserved: list[str]
) -> Iterator[Problem]:
    """Yield one problem for all processes that run another config file; a note if each sink has a worker."""
    if not old:
        return
    hosts: dict[str, list[PartSeen]] = {}
    for each in old:
        hosts.setdefault(each.beat.host, []).append(each)
    where = "; ".join(f"{_roles(theirs)} on {host}{_changed(report, theirs)}" for host, theirs in hosts.items())
    effect = f"; until then nothing is sent to {', '.join(map(parts.sink_of, unserved))}" if unserved else ""
    current = {each.beat.host for each in running if each.beat.config == report.config_hash}
    if current and not current & hosts.keys():
        what = f"hosts run different configs: {', '.join(sorted(current))} run {report.config_file} as it is here, and "
        yield _problem("configs_differ", f"{what}not {where}", note=not unserved, effect=effect)
    else:
        what = f"processes run an older config than {report.config_file}: {where}"
        yield _problem("config_old", what, note=not unserved, effect=effect)


def _roles(seen: Iterable[PartSeen]) -> str:
    return ", ".join(dict.fromkeys("worker" if _of_worker(each.beat.part) else each.beat.part for each in seen))


def _changed(report: StatusReport, seen: Iterable[PartSeen]) -> str:
    """Return in which sections the config of these processes differs from the one here."""
    theirs: Any = next((found for each in seen if (found := each.beat.details.get("sections"))), None)
    here = report.config_sections
    if not isinstance(theirs, Mapping) or not here:
        return ""
    names = [name for name in sorted({*theirs, *here}) if theirs.get(name) != here.get(name)]
    return f" (changed: {', '.join(names[:5])}{' …' if len(names) > 5 else ''})"


def _differences(report: StatusReport, running: list[PartSeen]) -> Iterator[Problem]:
    for each in running:
        # A process that missed a heartbeat may have sent its last one to a server that hung.
        if each.skew is not None and abs(each.skew) > SKEW and each.age < 2 * BEAT_EVERY:
            skew = f"{ago(abs(each.skew))} {'ahead of' if each.skew > 0 else 'behind'}"
            yield _problem("clock_skew", f"the clock of {each.beat.host} is {skew} that of Redis or the database")
            break
    versions = sorted({each.beat.version for each in running})
    if len(versions) > 1:
        yield _problem("versions_differ", f"processes of several releases run: {', '.join(versions)}")
    reported = report.redis.trouble or report.redis.weak or report.redis.inbox.trouble  # with its fix, above
    for each in running:
        details = each.beat.details
        if failing := details.get("failing"):
            yield _problem("task_failing", f"{_named(each)}: {failing}")
        if each.beat.part == RECEIVER and (what := _misdirected(details.get("misdirected"), report.now)):
            yield _problem("misdirected", f"{_named(each)}: {what}")
        if each.beat.part == RECEIVER and details.get("store") == "spool" and not reported:
            why = f": {details['trouble']}" if details.get("trouble") else ""
            what = f"{_named(each)} writes to its spool, though Redis answers here{why}"
            yield _problem("receiver_spooling", what)


def _misdirected(found: Any, now: float) -> str:
    """Return what a receiver reports of signed requests to wrong paths, if the last one is news."""
    match found:
        case [int(count), str(path), float(at)] if count and now - at < REFUSED_NEWS:
            requests = counted(count, "signed request", "signed requests")
            return f"{requests} got 404, the last {ago(now - at)} ago: {path} is not the path of a webhook"
    return ""


def _disk(report: StatusReport) -> Iterator[Problem]:
    disk, reserve = report.disk, report.disk.reserve or 0
    if disk.trouble:
        yield _problem("disk_unreadable", f"{disk.directory}: {disk.trouble}")
    full = _full(report)
    if full and full not in _refusing(report):
        yield _problem("disk_full" if "reserve_bytes" in full else "spool_full", full)
    elif not full and disk.free is not None and disk.free < 2 * reserve:
        yield _problem("disk_low", f"{disk.directory} has {size(disk.free)} free")
    if not full and disk.spool_limit and disk.spool_bytes > SPOOL_FULL * disk.spool_limit:
        full = f"{size(disk.spool_bytes)} of {size(disk.spool_limit)} (spool.max_bytes)"
        yield _problem("spool_full", f"the spool holds {full}")
    if disk.spool_left:
        left = f"holds up to {size(disk.spool_left)} of events of stopped receivers"
        yield _problem("spool_left", f"{disk.directory}/spool {left}")
    if disk.set_aside:
        files = counted(disk.set_aside, "damaged file of the spool was", "damaged files of the spool were")
        yield _problem("spool_damaged", f"{files} set aside in {disk.directory}/spool")
    if disk.quarantine:
        requests = counted(disk.quarantine, "request with a wrong signature is", "requests with a wrong signature are")
        age = report.now - disk.newest_refused if disk.newest_refused is not None else None
        newest = f", the newest {ago(age)} old" if age is not None else ""
        # One bad request among good ones is a stranger's. Several, or one after the last good one: a wrong secret.
        followed = disk.newest_refused is not None and (report.ledger.newest_webhook or 0.0) > disk.newest_refused
        note = age is None or age >= REFUSED_NEWS or (followed and disk.refused_lately < REFUSED_MANY)
        yield _problem("quarantine", f"{requests} in quarantine{newest}", note=note)


def _inbox(report: StatusReport) -> Iterator[Problem]:
    inbox = report.redis.inbox
    if inbox.trouble:
        yield _problem("inbox_unreadable", f"the inbox can't be read: {inbox.trouble}")
    if inbox.set_aside:
        entries = counted(inbox.set_aside, "entry of the inbox was", "entries of the inbox were")
        why = "their signature is invalid, or they ended a dispatcher"
        yield _problem("inbox_set_aside", f"{entries} set aside: {why}")
    if inbox.unknown_sources:
        sources = ", ".join(inbox.unknown_sources)
        yield _problem("inbox_unknown_source", f"a worker does not know the source of events in the inbox: {sources}")
    if inbox.oldest is not None and inbox.oldest > INBOX_LATE:
        events = counted(inbox.entries, "event waits", "events wait")
        yield _problem("inbox_late", f"{events} in the inbox, the oldest for {ago(inbox.oldest)}")


def _sinks(report: StatusReport) -> Iterator[Problem]:
    now = report.now
    for lane in report.ledger.lanes:
        sink = lane.sink
        if report.sinks and sink not in (*report.sinks, CALLBACK):
            continue  # a removed sink cannot be resumed; its deliveries are reported below
        waiting = sum(n for (name, state), n in report.ledger.counts.items() if name == sink and state != "dead")
        wait = counted(_amount(waiting), "delivery waits", "deliveries wait")
        if lane.paused:
            since = f" {ago(now - lane.paused_at)} ago" if lane.paused_at else ""
            yield _problem(
                "sink_paused", f"{sink} was paused by an operator{since}; {wait}", note=not waiting, sink=sink
            )
        if lane.breaker != "closed" and lane.lane == sink != CALLBACK:
            since = f", for {ago(now - lane.opened_at)} now" if lane.opened_at else ""
            probe = f"in {ago(lane.until - now)}" if lane.until > now else "due"
            why = lane.reason or "unavailable"
            does, remedy = next((does, todo) for pattern, does, todo in _CAUSES if re.search(pattern, why))
            what = f"{sink} {does}{since}: {why}; {wait}, and the next probe is {probe}"
            # Without a delivery nothing probes it.
            yield _problem("sink_down", what, note=not waiting, remedy=remedy.format(sink=sink))
    shut = [lane for lane in report.ledger.lanes if lane.sink == CALLBACK != lane.lane and lane.breaker != "closed"]
    if shut:
        example = shut[0].lane.removeprefix(CALLBACK).strip()
        servers = counted(len(shut), "server of callers does", "servers of callers do")
        yield _problem("callers_down", f"{servers} not accept webhooks, such as {example}")
    for sink, states in sorted(report.ledger.orphans.items()):
        counts = ", ".join(f"{_amount(count)} {state}" for state, count in sorted(states.items()))
        yield _problem("sink_gone", f"removed sink {sink} still has pending deliveries: {counts}", sink=sink)


def _amount(count: int) -> str:
    return f"{COUNT_LIMIT:,}+" if count >= COUNT_LIMIT else str(count)


def _deliveries(report: StatusReport) -> Iterator[Problem]:
    reported = {lane.sink for lane in report.ledger.lanes if lane.paused or lane.breaker != "closed"}
    reported |= {parts.sink_of(part) for part in parts.missing(report.parts, report.expected)}
    for sink, since in sorted(report.ledger.oldest_due.items()):
        late = report.now - since
        if sink in report.sinks and sink not in reported and late > DELIVERY_LATE:
            yield _problem("delivery_late", f"a delivery to {sink} should have been sent {ago(late)} ago", sink=sink)
    dead = {sink: n for (sink, state), n in sorted(report.ledger.counts.items()) if state == DeliveryState.DEAD}
    if dead:
        counts = ", ".join(f"{_amount(count)} of {sink}" for sink, count in dead.items())
        yield _problem("delivery_dead", f"dead letters: {counts}")
    if running := report.ledger.operations:
        yield _problem("operations", counted(running, "operation is running", "operations are running"))


def _runs(report: StatusReport) -> Iterator[Problem]:
    for source, trouble in sorted(report.ledger.watch_trouble.items()):
        yield _problem("watch_trouble", f"Skyvern's list of runs of {source} can't be read: {trouble}")
    for source, count in sorted(report.ledger.missed_schedules.items()):
        if count:
            schedules = counted(count, "schedule", "schedules")
            yield _problem("schedules_missed", f"{schedules} of {source} did not start a run on time")
    search = report.ledger.search
    if (late := search.behind(report.now)) > SEARCH_LATE:
        changes = counted(search.unindexed, "change", "changes")
        yield _problem("search_behind", f"searches do not find {changes} of runs yet, the oldest {ago(late)} old")
