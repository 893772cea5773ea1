"""The state of each process, server and store, what is wrong, and the checks of `runhook doctor`."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any, Final

from pydantic import Field

from handlers.support.daemon_pool import in_thread
from receiver import __version__
from receiver.api.endpoint import call
from receiver.api.models import Moment, Parameters, Result
from receiver.api.service import Actor, Service
from receiver.checks.finding import Finding
from receiver.checks.registry import examine, find
from receiver.checks.report import StatusReport
from receiver.checks.survey import survey
from receiver.domain.api_key import OPERATE, VIEW
from receiver.domain.breaker import Lane
from receiver.domain.liveness import SeenProcess
from receiver.errors import Busy
from receiver.ledger.lists import words
from receiver.ledger.stats import NEWEST

# Seconds after which the findings so far are returned: less than the time limit of a call.
TIME: Final = 15.0
# It opens connections to each server and sink.
_examining = threading.Lock()


class ProblemRow(Result):
    """A problem. `note`: it does not need action at once."""

    code: str = Field(description="A fixed word.")
    what: str
    todo: str
    note: bool


class PartRow(Result):
    """One process, by its newest heartbeat."""

    name: str
    part: str = Field(description="receiver, clock, dispatch or deliver:<sink>.")
    host: str
    pid: int
    version: str
    config: str = Field(description="Hash of its config file.")
    started_at: Moment
    sent_at: Moment
    stalled: float = Field(description="Seconds since its loop made its last step.")
    details: dict[str, Any]
    state: str
    beat_age: float = Field(description="Seconds since the heartbeat.")
    clock_skew: float | None = Field(description="Seconds by which its host's clock is ahead.")


class LaneRow(Result):
    """A sink, or one destination of it, that is paused or whose breaker is not closed."""

    lane: str
    sink: str
    paused: bool
    paused_at: Moment | None
    breaker: str
    failures: int
    until: Moment | None = Field(description="No probe before.")
    reason: str
    opened_at: Moment | None


class LedgerState(Result):
    """The ledger. `deliveries`: those that have not ended, and dead ones, by sink and state."""

    url: str
    trouble: str = Field(description="Why it cannot be read; else empty.")
    down_since: Moment | None = Field(description="Since when a process of this host cannot use it; else null.")
    newest_event_at: Moment | None
    deliveries: dict[str, dict[str, int]]
    oldest_due_at: dict[str, Moment] = Field(description="By sink, since when the oldest delivery is overdue.")
    lanes: list[LaneRow]
    orphans: dict[str, dict[str, int]] = Field(description="Deliveries of sinks that are not in the config.")
    rates: dict[str, float] = Field(description="By sink, deliveries per second that it accepts now.")
    drained_in: dict[str, float] = Field(
        description="By sink with a backlog, seconds until it is sent at this rate; a minimum if not all was counted."
    )
    last_sent_at: dict[str, Moment] = Field(
        description=f"By sink, when it last accepted one of the {NEWEST // 10} deliveries that changed last in a day."
    )
    operations: int
    unindexed: int = Field(description=f"Changes of runs that searches do not find yet, up to {words.COUNT_LIMIT}.")
    unindexed_since: Moment | None = Field(description="When the oldest of these was recorded; else null.")


class ConfigState(Result):
    """The config file."""

    file: str
    hash: str
    problems: list[str]


class Status(Result):
    """The state of a deployment. `ok`: no problem needs action."""

    ok: bool
    problems: list[ProblemRow]
    version: str
    config: ConfigState
    parts: list[PartRow]
    expected: list[str] = Field(description="The processes of which at least one must be alive.")
    redis: dict[str, Any]
    ledger: LedgerState
    disk: dict[str, Any]


def get_status(service: Service, _actor: Actor, _wanted: Parameters) -> Status:
    """Return the problems with their fixes, and the state of each process, server and store."""
    return status_of(survey(service.settings))


def status_of(report: StatusReport) -> Status:
    """Return the status of a report."""
    findings = find(report)
    gauges, counts = report.ledger.gauges, dict[str, dict[str, int]]()
    for (sink, state), count in gauges.counts.items():
        counts.setdefault(sink, {})[state] = count
    shut = [lane for lane in report.ledger.lanes if lane.paused or lane.breaker != "closed"]
    return Status(
        ok=all(finding.note for finding in findings),
        problems=[ProblemRow.model_validate(finding, from_attributes=True) for finding in findings],
        version=__version__,
        config=ConfigState(file=report.config_file, hash=report.config_hash, problems=report.config_problems),
        parts=[_process_row(seen) for seen in report.processes],
        expected=report.expected,
        redis=asdict(report.redis),
        ledger=LedgerState(
            url=report.ledger.url,
            trouble=report.ledger.trouble,
            down_since=report.ledger.down_since,
            newest_event_at=gauges.newest_event,
            deliveries=counts,
            oldest_due_at=gauges.oldest_due,
            lanes=[_lane(lane) for lane in shut],
            orphans=report.ledger.orphans,
            rates={sink: pace.rate for sink, pace in report.ledger.paces.items()},
            drained_in={sink: pace.drained_in for sink, pace in report.ledger.paces.items() if pace.drained_in},
            last_sent_at=dict(report.ledger.newest.sent_at),
            operations=report.ledger.operations,
            unindexed=gauges.search.unindexed,
            unindexed_since=gauges.search.since,
        ),
        disk=asdict(report.disk),
    )


def _process_row(seen: SeenProcess) -> PartRow:
    members = {name: value for name, value in asdict(seen.beat).items() if name not in ("role", "stopped")}
    skew = None if seen.skew is None else round(seen.skew, 3)
    return PartRow(**members, part=seen.beat.role, state=seen.state, beat_age=round(seen.age, 1), clock_skew=skew)


def _lane(lane: Lane) -> LaneRow:
    known = asdict(lane)
    moments = {name: known[name] or None for name in ("paused_at", "until", "opened_at")}
    return LaneRow.model_validate({**known, **moments})


class FindingRow(Result):
    """What a check found."""

    check: str = Field(description="A fixed word, such as redis.durability.")
    ok: bool
    note: bool = Field(description="It does not need action at once.")
    what: str
    todo: str = Field(description="How to fix it; empty for a check that passed.")


def finding_row(finding: Finding) -> FindingRow:
    """Return the row of a finding."""
    return FindingRow(check=finding.code, ok=finding.ok, note=finding.note, what=finding.what, todo=finding.todo)


class Examination(Result):
    """The results, in the order in which problems should be fixed."""

    items: list[FindingRow]
    complete: bool = Field(description="Whether all checks ended in time.")


def get_doctor(service: Service, _actor: Actor, _wanted: Parameters) -> Examination:
    """Check all dependencies from the receiver, and suggest fixes."""
    if not _examining.acquire(blocking=False):
        raise Busy("another examination is running", retry_after=5)
    found: list[FindingRow] = []

    def work() -> None:
        try:
            found.extend(map(finding_row, examine(service.settings)))
        finally:
            _examining.release()

    examining = in_thread("examination", work)
    try:
        examining.result(TIME)
    except TimeoutError:  # a check hangs: return the earlier results
        return Examination(items=[*found], complete=False)
    return Examination(items=found, complete=True)


GET_STATUS: Final = call("GET", "/status", VIEW, get_status, all_sources=True)
GET_DOCTOR: Final = call("GET", "/doctor", OPERATE, get_doctor, all_sources=True)
