"""What is wrong with the parts: a pure function of a report, as `problems`, of which it is a piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from receiver.domain import parts
from receiver.domain.counting import counted
from receiver.domain.parts import BEAT_EVERY, CLOCK, DISPATCH, RECEIVER, PartSeen
from receiver.status.problem import Problem, ago
from receiver.status.report import StatusReport

# Seconds by which the clocks of hosts may differ.
SKEW: Final = 3.0

_WORK = {
    RECEIVER: "no webhook is taken; start `runhook serve`",
    CLOCK: "retries, lapsed claims, polls and replays stand still; start `runhook clock`",
}


def find(report: StatusReport) -> Iterator[Problem]:
    """Yield what is wrong with receivers, workers and clocks: missing, stuck, silent, or at odds with each other."""
    gone = parts.missing(report.parts, report.expected)
    if report.redis.trouble and report.ledger.trouble:  # and only those of this machine leave a file that is read
        if any(last is None for last in gone.values()):
            what = "nobody knows which parts are alive elsewhere: Redis and the ledger are away"
            yield Problem("part_unknown", what, "see above", note=True)
        gone = {part: last for part, last in gone.items() if last is not None}
    for part, last in list(gone.items()):
        if last is not None and last.state == "stuck":
            yield Problem("part_stuck", f"{_named(last)} has made no step for {ago(last.beat.stalled)}", _unstick(last))
        elif not _of_worker(part):
            yield Problem("part_missing", f"no {part} is running: {_last(last)}", _WORK[part])
    yield from _missing_workers({part: last for part, last in gone.items() if _of_worker(part)}, report.expected)
    silent: dict[object, list[PartSeen]] = {}
    for seen in parts.lost(report.parts):
        if seen.beat.part in gone:
            continue
        if seen.state == "stuck":
            yield Problem("part_stuck", f"{_named(seen)} has made no step for {ago(seen.beat.stalled)}", _unstick(seen))
            continue
        process = () if _of_worker(seen.beat.part) else (seen.beat.name,)
        silent.setdefault((seen.beat.host, *process), []).append(seen)
    for together in silent.values():
        who = f"{_named_parts(each.beat.part for each in together)} on {together[0].beat.host}"
        yield Problem(
            "part_silent",
            f"{_named(together[0])} has been silent for {ago(together[0].age)}; others do its work"
            if len(together) == 1
            else f"{who} have been silent for {ago(min(each.age for each in together))}; others do their work",
            "it ended without a word, or its host can't reach Redis and the ledger: look there",
            note=True,
        )
    yield from _left_spools(report.parts)
    split = {each.beat.host: why for each in report.parts if each.alive and (why := each.beat.details.get("apart"))}
    for host, why in split.items():
        yield Problem(
            "worker_split",
            f"dispatch and each sink have their own process on {host}: {why}",
            "find in the worker's log which process still ends, fix that sink or set `worker: own` for it, and restart "
            "the worker",
        )
    yield from _differences(report)


def _missing_workers(gone: dict[str, PartSeen | None], expected: list[str]) -> Iterator[Problem]:
    """What of the workers nobody does: one line, however many sinks wait for the same worker."""
    missing = {part: last for part, last in gone.items() if last is None or last.state != "stuck"}
    if not missing:
        return
    heard = [last for last in missing.values() if last is not None]
    last = _last(min(heard, key=lambda each: each.age, default=None))
    whole = len(missing) > 1 and set(missing) == {part for part in expected if _of_worker(part)}
    sinks = [sink for part in missing if (sink := parts.sink_of(part))]
    stands = [
        *(["events stay in the inbox"] if DISPATCH in missing else []),
        *([f"nothing is sent to {', '.join(sinks)}"] if sinks else []),
    ]
    what = "worker" if whole else _named_parts(missing)
    yield Problem("part_missing", f"no {what} is running: {last}", f"{', and '.join(stands)}; start `runhook worker`")


def _of_worker(part: str) -> bool:
    return part == DISPATCH or bool(parts.sink_of(part))


def _named_parts(named: Iterable[str]) -> str:
    """Return parts of workers in one breath: "dispatch and deliver:ops, deliver:archive"."""
    found = list(named)
    sinks = ", ".join(part for part in found if parts.sink_of(part))
    return " and ".join(filter(None, (DISPATCH if DISPATCH in found else "", sinks)))


def _left_spools(seen: list[PartSeen]) -> Iterator[Problem]:
    """Receivers that are gone while their spools held events: these wait until a receiver starts there."""
    alive = {_directory(each) for each in seen if each.alive}
    left: dict[object, PartSeen] = {}
    for each in sorted(seen, key=lambda each: each.age):  # the last one of a directory knows what is in it
        if each.beat.part == RECEIVER and not each.alive:
            left.setdefault(_directory(each), each)
    for place, each in left.items():
        held = each.beat.details.get("spool_events")
        if held and place not in alive:
            how = "was stopped" if each.beat.stopped else "is gone"
            folder = f"{each.beat.details.get('data')}/spool on {each.beat.host}"
            yield Problem(
                "spool_left",
                f"{_named(each)} {how}, and its spool held {counted(held, 'event', 'events')}, in {folder}",
                "start a receiver on that data directory; or bring its disk here: `runhook spool send --data DIR`",
            )


def _directory(seen: PartSeen) -> object:
    """Return which data directory a process has: it may be mounted on another host by now."""
    details = seen.beat.details
    return details.get("data_id") or (seen.beat.host, details.get("data"))


def _differences(report: StatusReport) -> Iterator[Problem]:
    running = [each for each in report.parts if each.state in ("running", "stuck")]
    for each in running:
        # A process that has missed a beat may have sent its last one to a server that hung.
        if each.skew is not None and abs(each.skew) > SKEW and each.age < 2 * BEAT_EVERY:
            words = "ahead of" if each.skew > 0 else "behind"
            yield Problem(
                "clock_skew",
                f"the clock of {each.beat.host} is {ago(abs(each.skew))} {words} that of Redis or the database",
                "run NTP (chrony, systemd-timesyncd) there: when a webhook came is told by that clock",
            )
            break
    other = [each for each in running if report.config_hash and each.beat.config not in ("", report.config_hash)]
    if other:
        yield Problem(
            "config_old",
            f"{', '.join(sorted({_named(each) for each in other}))} run with another content of the config file than "
            f"{report.config_file} has now",
            "start them again if it was changed since",
            note=True,
        )
    versions = sorted({each.beat.version for each in running})
    if len(versions) > 1:
        yield Problem(
            "versions_differ", f"parts of several releases run: {', '.join(versions)}", "finish the upgrade", note=True
        )
    for each in running:
        trouble = each.beat.details.get("trouble")
        if failing := each.beat.details.get("failing"):
            yield Problem(
                "task_failing",
                f"{_named(each)}: {failing}",
                "it is begun again by itself; if that does not help, see its log, and start the process again",
            )
        # What everybody sees of Redis is told once, with what fixes it.
        told = report.redis.trouble or report.redis.weak or report.redis.inbox.trouble
        if each.beat.part == RECEIVER and each.beat.details.get("store") == "spool" and not told:
            why = f": {trouble}" if trouble else ""
            yield Problem(
                "receiver_spooling",
                f"{_named(each)} writes to its spool, though Redis answers here{why}",
                "see its log: it can't reach Redis, or the inbox is over its limits",
            )


def _named(seen: PartSeen) -> str:
    return f"{seen.beat.part} on {seen.beat.host} (process {seen.beat.pid})"


def _last(seen: PartSeen | None) -> str:
    if seen is None:
        return "none was heard of in the last day"
    how = "was stopped" if seen.beat.stopped else "fell silent"
    return f"the last one, on {seen.beat.host} (process {seen.beat.pid}), {how} {ago(seen.age)} ago"


def _unstick(seen: PartSeen) -> str:
    return f"see its log; kill -9 {seen.beat.pid} there loses nothing, and what runs it starts it again"
