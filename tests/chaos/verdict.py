"""What a run has shown: its evidence as values, the ways to fail, and figures. Pure.

Each check is a function of its own, so that a test can hand it a corrupted table and see it object.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from tests.chaos import bodies
from tests.chaos.bodies import HTTP_SINKS, IDEMPOTENT, SINKS
from tests.chaos.consumer import Arrival
from tests.chaos.plan import SKEW
from tests.chaos.sender import Sent

PROMISE = 30.0
"""Seconds after a part's return within which work goes on (promise 6)."""
HEALTHY = ("results", "hook", "archive", "late")
"""Consumers that nothing is done to."""
HELD_UP = 2.0
"""Seconds by which another sink's outage may move a healthy one's p99; a machine that others use is not quieter."""
SOON = 10.0
"""Seconds within which nearly all arrives while nothing is wrong, on a machine that others use as well."""
_SHOWN = 3  # examples of one kind of failure


@dataclass(frozen=True)
class Row:
    """One thing that an idempotent sink holds: a row, or a folder. `right`: it says what was sent."""

    run: str
    event: str
    right: bool


@dataclass(frozen=True)
class Fault:
    """Something that was done. `at`: when; `back`: when the part was there again (seconds since the epoch).

    `doubles`: the sinks whose sender was killed by it.
    """

    name: str
    at: float
    back: float
    doubles: frozenset[str] = frozenset()


class Journey(NamedTuple):
    """An acked event's way to one sink. Seconds since the epoch; `at`: of its first arrival, inf when it never came."""

    sent_at: float
    acked_at: float
    at: float


@dataclass
class Evidence:
    """All that is known after a run. `arrived`: by sink, (event, when) of each arrival, repeats included.

    `windows`: named spans of time without other faults. `states`: how many deliveries ended in each state.
    `attempts`: by delivery, how many had each outcome.
    """

    sent: Sequence[Sent] = ()
    arrivals: Sequence[Arrival] = ()
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    arrived: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    recorded: Mapping[str, str] = field(default_factory=dict)  # event → disposition
    states: Mapping[str, int] = field(default_factory=dict)
    attempts: Mapping[str, Counter[str]] = field(default_factory=dict)
    accepted: Mapping[str, float] = field(default_factory=dict)  # by delivery, when its last send ended, by the ledger
    faults: Sequence[Fault] = ()
    windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tracebacks: Sequence[str] = ()
    exit_codes: Mapping[str, int] = field(default_factory=dict)
    skipped: Sequence[str] = ()  # steps of the plan that could not be made
    least: int = 0
    redis_away: Sequence[tuple[float, float]] = ()  # from when until when a receiver kept events in its spool
    skewed: bool = False  # whether the hosts' clocks differ
    rate: float = 0.0  # events a second that were asked for
    loaded: float = 0.0  # seconds of it

    @property
    def acked(self) -> list[Sent]:
        """What was answered with 202: the promise is about these."""
        return [sent for sent in self.sent if sent.acked_at]

    @cached_property
    def journeys(self) -> Mapping[str, Sequence[Journey]]:
        """Of all acked events, by sink."""
        return {sink: self._journeys(sink) for sink in SINKS}

    def _journeys(self, sink: str) -> list[Journey]:
        first: dict[str, float] = {}
        for event, at in self.arrived.get(sink, ()):
            first[event] = min(at, first.get(event, math.inf))
        return [
            Journey(sent.sent_at, sent.acked_at, first.get(bodies.event(sent.number), math.inf))
            for sent in self.acked
            if sink in bodies.sinks(sent.number)
        ]


# --- The ways to fail: each yields one line a failure


def nothing_missing(found: Evidence) -> Iterator[str]:
    """Each acked event is in the table of each consumer that must have it."""
    for sink in SINKS:
        there = {event for event, _ in found.arrived.get(sink, ())}
        if sink in IDEMPOTENT:
            there &= {row.event for row in found.rows.get(sink, ())}
        for sent in found.acked:
            if sink in bodies.sinks(sent.number) and bodies.event(sent.number) not in there:
                yield f"{sink}: acked event {bodies.event(sent.number)} (run {bodies.run_id(sent.number)}) is missing"


def nothing_invented(found: Evidence) -> Iterator[str]:
    """Each thing that arrived was sent, and to this consumer."""
    for sink, arrived in found.arrived.items():
        meant = {bodies.event(sent.number) for sent in found.sent if sink in bodies.sinks(sent.number)}
        yield from (f"{sink}: {event} was not meant for it" for event in {event for event, _ in arrived} - meant)


def bodies_right(found: Evidence) -> Iterator[str]:
    """Each body is what was sent, and each signature fits."""
    digests = {bodies.event(sent.number): bodies.digest(sent.number) for sent in found.sent}
    for each in found.arrivals:
        if digests.get(each.event) != each.sha256:
            yield f"{each.sink}: wrong body hash for {each.event}"
        if not each.verified:
            yield f"{each.sink}: the signature does not fit {each.event}"
    for sink, rows in found.rows.items():
        yield from (f"{sink}: wrong body for {row.event}" for row in rows if not row.right)


def nothing_doubled(found: Evidence) -> Iterator[str]:
    """A sink that can be idempotent holds each run once."""
    for sink, rows in found.rows.items():
        for run, count in Counter(row.run for row in rows).items():
            if count > 1:
                yield f"{sink}: run {run} is there {count} times"


def one_key(found: Evidence) -> Iterator[str]:
    """A consumer sees an event under one key, the one that it must have."""
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in found.arrivals:
        keys[each.sink, each.event].add(each.key)
    events: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in found.arrivals:
        events[each.sink, each.key].add(each.event)
    yield from (f"{sink}: {event} under {len(seen)} keys" for (sink, event), seen in keys.items() if len(seen) > 1)
    yield from (f"{sink}: key {key} for {len(seen)} events" for (sink, key), seen in events.items() if len(seen) > 1)


def answers_right(found: Evidence) -> Iterator[str]:
    """Each answer is 202 with the event's id, the same for the same body again, or 503."""
    for sent in found.sent:
        for status in sent.statuses:
            if status not in (202, 503):
                yield f"an authentic event was answered {status}"
        for given in sent.ids:
            if given != bodies.event(sent.number):
                yield f"run {bodies.run_id(sent.number)} was acked as {given}, not as {bodies.event(sent.number)}"


def ledger_complete(found: Evidence) -> Iterator[str]:
    """Each acked event is in the ledger as new, and each delivery has been delivered."""
    for sent in found.acked:
        disposition = found.recorded.get(bodies.event(sent.number), "not there")
        if disposition != "new":
            yield f"the ledger has {bodies.event(sent.number)} as {disposition}"
    for state, count in found.states.items():
        if state != "delivered" and count:
            yield f"{count} deliveries are {state}"


def doubles_explained(found: Evidence) -> Iterator[str]:
    """No consumer got more twice than can have been in flight when its sender was killed."""
    doubled, cut_off, most = doubles(found), lapsed(found), most_doubles(found)
    for sink in HTTP_SINKS:
        if doubled[sink] > most[sink]:
            yield f"{sink}: {doubled[sink]} arrived again after they were answered; at most {most[sink]} were in flight"
        if cut_off[sink] > most[sink]:
            yield f"{sink}: {cut_off[sink]} attempts lapsed; at most {most[sink]} were in flight"


def times_agree(found: Evidence) -> Iterator[str]:
    """The ledger has the time of each send by one clock, whatever the clock of the host that made it says."""
    arrived: dict[str, list[float]] = defaultdict(list)
    for each in found.arrivals:
        arrived[each.key].append(each.at)
    for delivery, ended in found.accepted.items():
        if (times := arrived.get(delivery)) and min(abs(ended - at) for at in times) > SKEW / 2:
            yield f"{delivery} was sent {ended - max(times):.0f} s after it had arrived, says the ledger"


def arrivals_told(found: Evidence) -> Iterator[str]:
    """Each request that came is an attempt in the ledger: what may have been sent is not taken for unsent."""
    for (sink, key), count in Counter((each.sink, each.key) for each in found.arrivals).items():
        recorded = found.attempts.get(key, Counter()).total()
        if count > recorded:
            yield f"{sink}: {key} came {count} times, and the ledger has {recorded} attempts"


def work_goes_on(found: Evidence) -> Iterator[str]:
    """Within 30 s of a part's return each consumer that something waits for gets something.

    A part that is killed meanwhile has 30 s of its own.
    """
    for fault in found.faults:
        for sink in HEALTHY:
            on = fault.back + first_progress(found, fault, sink)
            back = max(other.back for other in found.faults if other.back <= on)
            if on - back > PROMISE:
                yield f"{fault.name}: nothing went to {sink} for {on - back:.1f} s after the last part's return"


def sinks_apart(found: Evidence) -> Iterator[str]:
    """A sick sink delays no other. A window that shows something else is left out; the report says so."""
    for sink in ("results", "hook"):
        calm = p99(found, sink, "calm")
        for window in found.windows:
            if window == "calm" or disturbed(found, window):
                continue
            if p99(found, sink, window) > calm + HELD_UP:
                yield f"{sink}: p99 {p99(found, sink, window):.2f} s while {window}, {calm:.2f} s in calm"


def clocks_apart(found: Evidence) -> Iterator[str]:
    """That the hosts' clocks differ makes nothing late. Times are those of sender and consumers, which are right."""
    for sink in ("results", "hook") if found.skewed else ():
        late = quantile(latencies(found, sink, "calm"), 0.95)
        if late > SOON:
            yield f"{sink}: p95 {late:.1f} s in calm, with nothing wrong but the clocks"


def load_made(found: Evidence) -> Iterator[str]:
    """A run with too little load shows nothing."""
    if len(found.acked) < found.least:
        yield f"only {len(found.acked)} events were acked; this run counts from {found.least} on"
    if found.loaded and len(found.sent) < 0.95 * found.rate * found.loaded:
        yield f"only {len(found.sent) / found.loaded:.0f} events/s were sent, not {found.rate:g}"


def plan_done(found: Evidence) -> Iterator[str]:
    """Each step of the plan was made."""
    yield from found.skipped


def no_tracebacks(found: Evidence) -> Iterator[str]:
    """Trouble that was foreseen is logged in a line."""
    yield from (f"a traceback in the log of {text}" for text in found.tracebacks)


def clean_stop(found: Evidence) -> Iterator[str]:
    """At the end each part stops when asked."""
    yield from (f"{name} ended with code {code} at SIGTERM" for name, code in found.exit_codes.items() if code)


CHECKS = (
    nothing_missing,
    nothing_invented,
    bodies_right,
    nothing_doubled,
    one_key,
    answers_right,
    ledger_complete,
    doubles_explained,
    times_agree,
    arrivals_told,
    work_goes_on,
    sinks_apart,
    clocks_apart,
    load_made,
    plan_done,
    no_tracebacks,
    clean_stop,
)


def failures(found: Evidence) -> list[str]:
    """Why the run fails, a few examples of each kind; [] when it does not."""
    lines: list[str] = []
    for check in CHECKS:
        mine = list(check(found))
        lines += [f"{check.__name__}: {line}" for line in mine[:_SHOWN]]
        if len(mine) > _SHOWN:
            lines.append(f"{check.__name__}: and {len(mine) - _SHOWN} more")
    return lines


# --- Figures


def doubles(found: Evidence) -> Counter[str]:
    """By consumer, how many requests came again although an earlier one had been answered 200.

    An answer that was too late, or that broke off with its connection, is the consumer's doing: its attempt says so.
    """
    answered: set[tuple[str, str]] = set()
    count: Counter[tuple[str, str]] = Counter()
    for each in found.arrivals:
        if (each.sink, each.key) in answered:
            count[each.sink, each.key] += 1
        if each.answered:
            answered.add((each.sink, each.key))
    by_sink: Counter[str] = Counter()
    for (sink, key), again in count.items():
        by_sink[sink] += max(0, again - found.attempts.get(key, Counter())["unavailable"])
    return by_sink


def lapsed(found: Evidence) -> Counter[str]:
    """By consumer, how many attempts nobody knows the end of."""
    sinks = {bodies.key(sent.number, sink): sink for sent in found.sent for sink in bodies.sinks(sent.number)}
    by_sink: Counter[str] = Counter()
    for key, outcomes in found.attempts.items():
        by_sink[sinks.get(key, "")] += outcomes["lapsed"]
    return by_sink


def most_doubles(found: Evidence) -> Counter[str]:
    """By consumer, how many sends that ended can have been unknown to the ledger, over all kills of its sender.

    While Redis or the ledger is away the sender lives and keeps what it knows: nothing is cut off.
    """
    return Counter({sink: bodies.UNKNOWN * sum(sink in each.doubles for each in found.faults) for sink in SINKS})


def first_progress(found: Evidence, fault: Fault, sink: str) -> float:
    """Seconds from the part's return to the sink's next arrival; 0.0 when nothing waited."""
    if not _waiting(found, fault, sink):
        return 0.0
    return min((at for _, at in found.arrived.get(sink, ()) if at > fault.back), default=math.inf) - fault.back


def recovery(found: Evidence, fault: Fault) -> float:
    """Seconds from the part's return until all that was acked before it had arrived at the healthy consumers."""
    return max((at - fault.back for sink in HEALTHY for at in _waiting(found, fault, sink)), default=0.0)


def _waiting(found: Evidence, fault: Fault, sink: str) -> list[float]:
    """When those events arrived that the sink should have had at the part's return."""
    return [each.at for each in found.journeys[sink] if each.acked_at < fault.back < each.at]


def disturbed(found: Evidence, window: str) -> bool:
    """Whether Redis gave no answer in time while what was sent in the window was on its way. In no window the plan
    takes it away: then others took all of the machine, and events waited in the spool, whatever the sinks did."""
    start, end = found.windows[window]
    return any(since < end + HELD_UP and until > start for since, until in found.redis_away)


def latencies(found: Evidence, sink: str, window: str) -> list[float]:
    """Seconds from sending to arrival of what was sent in the window, sorted.

    Windows come before the first kill. What had not arrived at that moment counts as if it had just then: the rest of
    its way says nothing of the window.
    """
    start, end = found.windows[window]
    kill = min((fault.at for fault in found.faults), default=math.inf)
    ways = (min(each.at, kill) - each.sent_at for each in found.journeys[sink] if start <= each.sent_at < end)
    return sorted(way for way in ways if way < math.inf)


def p99(found: Evidence, sink: str, window: str) -> float:
    """Seconds; 0.0 for an empty window."""
    return quantile(latencies(found, sink, window), 0.99)


def quantile(ordered: Sequence[float], part: float) -> float:
    """Of sorted values; 0.0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
