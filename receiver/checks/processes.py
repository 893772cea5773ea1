"""Checks of processes: missing, stuck, silent, with an old config, or different from each other."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from receiver import __version__
from receiver.checks.finding import Finding, fault
from receiver.checks.report import NEWS, StatusReport
from receiver.config.loader import portable
from receiver.domain import liveness
from receiver.domain.counting import counted
from receiver.domain.durations import ago
from receiver.domain.liveness import BEAT_EVERY, CLOCK, DISPATCH, RECEIVER, SeenProcess

# Seconds for which a lost process counts as news.
SILENT_NEWS: Final = 3_600.0
# Seconds after its start within which a worker builds its sinks.
STARTING: Final = 15.0
# Seconds that a receiver may take to use a restarted Redis again, and to report it.
RETURNS: Final = 10.0
# Seconds by which the clocks of hosts may differ.
SKEW: Final = 3.0

# What happens without a process of this role, and the command that starts one.
_EFFECTS: Final = {
    RECEIVER: ("no webhook is taken", "serve"),
    CLOCK: ("retries, lapsed claims, polls and replays stop", "clock"),
}


def of_processes(report: StatusReport) -> Iterator[Finding]:
    """Yield what is wrong with processes: missing, stuck, silent, or different from each other."""
    gone = liveness.missing(report.processes, report.expected)
    if report.ledger.trouble:  # only processes of this machine are known, by their files
        if any(last is None for last in gone.values()):
            yield fault("part_unknown", "processes on other hosts are unknown: the ledger is unavailable")
        gone = {role: last for role, last in gone.items() if last is not None}
    running = [each for each in report.processes if each.state in ("running", "stuck")]
    old = _other_config(report, running)
    if any(_starts(each) for each in running if each not in [process for process, _ in old]):
        gone = {role: last for role, last in gone.items() if not liveness.sink_of(role)}
    # A worker that runs another file sends to that file's sinks: it must be restarted, and a second one would not help.
    restart = any(_of_worker(each.beat.role) for each, _ in old)
    unserved = [role for role, last in gone.items() if restart and last is None and liveness.sink_of(role)]
    yield from _old_config(report, old, unserved)
    gone = {role: last for role, last in gone.items() if role not in unserved}
    dead = {role: last for role, last in gone.items() if last is None or last.state != "stuck"}
    for role, last in dead.items():
        if not _of_worker(role):
            effect, command = _EFFECTS[role]
            what = f"no {role} is running: {last_seen(last)}"
            yield fault("part_missing", what, effect=effect, command=command, limits="")
    if workers := {role: last for role, last in dead.items() if _of_worker(role)}:
        yield _missing_workers(workers, report.expected, running)
    yield from _lost(report, gone)
    split = {each.beat.host: why for each in report.processes if each.alive and (why := each.beat.details.get("apart"))}
    for host, why in split.items():
        yield fault("worker_split", f"dispatch and each sink have their own process on {host}: {why}")
    yield from _differences(report, running)


def _lost(report: StatusReport, gone: Mapping[str, SeenProcess | None]) -> Iterator[Finding]:
    """Yield processes that make no progress, each once, and those that ended while others do their work.

    `gone`: roles that no process has.
    """
    lost = [*liveness.lost(report.processes), *filter(None, gone.values())]
    yield from map(_stuck, {(it.beat.host, it.beat.pid): it for it in lost if it.state == "stuck"}.values())
    silent: dict[object, list[SeenProcess]] = {}
    for seen in liveness.lost(report.processes):
        if seen.beat.role == RECEIVER:
            continue  # its spool has a check of its own
        if seen.state == "silent" and seen.beat.role not in gone and seen.age < SILENT_NEWS:
            process = () if _of_worker(seen.beat.role) else (seen.beat.name,)
            silent.setdefault((seen.beat.host, *process), []).append(seen)
    for first, *others in silent.values():
        together = f"{_role_names(each.beat.role for each in (first, *others))} on {first.beat.host} have"
        quiet = ago(min(each.age for each in (first, *others)))
        who, work = (together, "their work") if others else (f"{name_of(first)} has", "its work")
        yield fault("part_silent", f"{who} been silent for {quiet}; others do {work}", note=True)


def _stuck(seen: SeenProcess) -> Finding:
    if seen.process == "suspended":
        what = f"{name_of(seen)} is suspended (SIGSTOP or a debugger): its last heartbeat was {ago(seen.age)} ago"
        what += "; meanwhile it does no retries, polls or replays" if seen.beat.role == CLOCK else ""
        return fault("part_suspended", what, pid=seen.beat.pid)
    what = f"{name_of(seen)} has made no progress for {ago(seen.beat.stalled)}"
    return fault("part_stuck", what, pid=seen.beat.pid)


def _starts(seen: SeenProcess) -> bool:
    """Return whether this is a worker of all sinks that may not have built them yet."""
    age = seen.beat.sent_at - seen.beat.started_at + seen.age
    return seen.beat.role == DISPATCH and age < STARTING and not seen.beat.details.get("only")


def _missing_workers(
    missing: dict[str, SeenProcess | None], expected: list[str], running: Iterable[SeenProcess]
) -> Finding:
    """Return one problem for all missing roles of a worker, however many sinks they serve."""
    last = min(filter(None, missing.values()), key=lambda each: each.age, default=None)
    everything = len(missing) > 1 and set(missing) == {role for role in expected if _of_worker(role)}
    sinks = ", ".join(filter(None, map(liveness.sink_of, missing)))
    effects = ["events stay in the inbox"] if DISPATCH in missing else []
    effects += [f"nothing is sent to {sinks}"] if sinks else []
    what = f"no {'worker' if everything else _role_names(missing)} is running: {last_seen(last)}"
    only = [(each.beat.host, each.beat.details.get("only")) for each in running]
    limited = ", ".join(dict.fromkeys(f"{host} (`{options}`)" for host, options in only if options))
    limits = f"; the worker on {limited} is limited: start another, or restart it without `--only`" if limited else ""
    return fault("part_missing", what, effect=", and ".join(effects), command="worker", limits=limits)


def _of_worker(role: str) -> bool:
    return role == DISPATCH or bool(liveness.sink_of(role))


def _role_names(roles: Iterable[str]) -> str:
    """Return the names of a worker's processes: "dispatch and deliver:ops, deliver:archive"."""
    found = list(dict.fromkeys(roles))
    sinks = ", ".join(role for role in found if liveness.sink_of(role))
    return " and ".join(filter(None, (DISPATCH if DISPATCH in found else "", sinks)))


def name_of(seen: SeenProcess) -> str:
    """Return what a process is and where it runs."""
    return f"{seen.beat.role} on {seen.beat.host} (process {seen.beat.pid})"


def last_seen(seen: SeenProcess | None) -> str:
    """Return when and how the last process of a role ended, or that it makes no progress."""
    if seen is None:
        return "not seen in the last day"
    if seen.state == "stuck":
        return _stuck(seen).what
    how = "was stopped" if seen.beat.stopped else "fell silent"
    if seen.process and not seen.beat.stopped:  # its time is unknown
        how = "ended unexpectedly; its last heartbeat was"
    return f"the last one, on {seen.beat.host} (process {seen.beat.pid}), {how} {ago(seen.age)} ago"


def _other_config(report: StatusReport, running: Iterable[SeenProcess]) -> list[tuple[SeenProcess, list[str]]]:
    """Return the processes with another config file than the one here, each with the sections that differ, if known.

    A file that differs only in its layout is the same. On hosts without a process of the file here, so is one that
    differs only in paths and addresses of the host.
    """
    sections = {(it.beat.host, it.beat.pid): found for it in running if (found := it.beat.details.get("sections"))}
    current, other = _here(report), []
    for each in running:
        if not report.config_hash or each.beat.config in ("", report.config_hash):
            continue
        here, theirs = report.config_sections, sections.get((each.beat.host, each.beat.pid))
        if not isinstance(theirs, Mapping):
            other.append((each, list[str]()))
            continue
        if current and each.beat.host not in current:
            here, theirs = portable(here), portable(theirs)
        if names := [name for name in sorted({*theirs, *here}) if theirs.get(name) != here.get(name)]:
            other.append((each, names if here else []))
    return other


def _here(report: StatusReport) -> set[str]:
    """Return the hosts with a process of the config file here."""
    return {it.beat.host for it in report.processes if it.alive and it.beat.config == report.config_hash}


def _old_config(
    report: StatusReport, old: list[tuple[SeenProcess, list[str]]], unserved: list[str]
) -> Iterator[Finding]:
    """Yield one problem for all processes that run another config file; a note if each sink has a worker."""
    if not old:
        return
    hosts: dict[str, list[tuple[SeenProcess, list[str]]]] = {}
    for each, names in old:
        hosts.setdefault(each.beat.host, []).append((each, names))
    where = "; ".join(_show_host(host, theirs) for host, theirs in hosts.items())
    effect = f"; until then nothing is sent to {', '.join(map(liveness.sink_of, unserved))}" if unserved else ""
    current = _here(report)
    if current and not current & hosts.keys():
        here = f"{report.config_file} is in effect on {', '.join(sorted(current))}"
        yield fault("configs_differ", f"hosts run different configs: {here}, and not for {where}", effect=effect)
    else:
        what = f"processes run an older config than {report.config_file}: {where}"
        yield fault("config_old", what, note=not unserved, effect=effect)


def _show_host(host: str, old: list[tuple[SeenProcess, list[str]]]) -> str:
    """Return which processes of a host run another config, and in which sections that differs."""
    roles = dict.fromkeys("worker" if _of_worker(each.beat.role) else each.beat.role for each, _ in old)
    names = next((names for _, names in old if names), [])
    changed = f" (changed: {', '.join(names[:5])}{' …' if len(names) > 5 else ''})" if names else ""
    return f"{', '.join(roles)} on {host}{changed}"


def _differences(report: StatusReport, running: list[SeenProcess]) -> Iterator[Finding]:
    for each in running:
        # A process that missed a heartbeat may have sent its last one to a server that hung.
        if each.skew is not None and abs(each.skew) > SKEW and each.age < 2 * BEAT_EVERY:
            skew = f"{ago(abs(each.skew))} {'ahead of' if each.skew > 0 else 'behind'}"
            yield fault("clock_skew", f"the clock of {each.beat.host} is {skew} that of the database")
            break
    versions = sorted({each.beat.version for each in running})
    if len(versions) > 1:
        yield fault("versions_differ", f"processes of several releases run: {', '.join(versions)}")
    reported = report.redis.trouble or report.redis.weak or report.redis.inbox.trouble  # with its fix, above
    redis_restarted = report.redis.uptime is not None and report.redis.uptime < RETURNS
    for each in running:
        details = each.beat.details
        if failing := details.get("failing"):
            yield fault("task_failing", f"{name_of(each)}: {failing}")
        match details.get("misdirected"):
            case [int(count), str(path), float(at)] if count and report.now - at < NEWS:
                requests = counted(count, "signed request", "signed requests")
                last = f"the last {ago(report.now - at)} ago: {path} is not the path of a webhook"
                anyone = "anyone can send these: signatures are checked only for webhooks"
                yield fault("misdirected", f"{name_of(each)}: {requests} got 404, {last} ({anyone})")
        match details.get("refused"):
            case [int(count), float(at)] if count and report.now - at < NEWS and not details.get("refusing"):
                requests = f"{counted(count, 'request', 'requests')} to webhooks"
                what = f"{name_of(each)}: {requests} got 503, the last {ago(report.now - at)} ago"
                yield fault("webhooks_missed", what)
        if each.beat.role == RECEIVER and details.get("store") == "spool" and not (reported or redis_restarted):
            why = details.get("trouble") or "the inbox, with what was set aside, has reached its limits"
            what = f"{name_of(each)} writes to its spool, though Redis answers here: {why}"
            yield fault("receiver_spooling", what)


def of_hosts(report: StatusReport) -> Iterator[Finding]:
    """Yield the release here, and the processes of each host with recent heartbeats."""
    yield Finding("versions", f"Runhook {__version__} on Python {platform.python_version()}")
    running = [each.beat for each in report.processes if each.state in ("running", "stuck")]
    for host in sorted({beat.host for beat in running}):
        theirs = [beat for beat in running if beat.host == host]
        roles, versions = sorted({beat.role for beat in theirs}), sorted({beat.version for beat in theirs})
        yield Finding("host", f"{host} runs {', '.join(roles)} of {', '.join(versions)}")
