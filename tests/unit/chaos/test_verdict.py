"""The verdict on a chaos run objects to each kind of broken promise, and to nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos import bodies, verdict
from tests.chaos.bodies import HTTP_SINKS, SINKS
from tests.chaos.consumer import Arrival
from tests.chaos.report import report
from tests.chaos.sender import Sent
from tests.chaos.verdict import Evidence, Fault, Row

START = 1_000.0
EVENTS = 48


def sent(number: int) -> Sent:
    at = START + number / 10
    return Sent(number, at, at, at + 0.01, [202], ids=[bodies.event(number)])


def arrival(sink: str, number: int) -> Arrival:
    at = START + number / 10 + 0.1
    return Arrival(sink, bodies.key(number, sink), bodies.event(number), bodies.digest(number), True, True, at)


def good() -> Evidence:
    """What a run shows in which all went well, with one kill in its middle."""
    numbers = range(1, EVENTS + 1)
    wanted = {sink: [number for number in numbers if sink in bodies.sinks(number)] for sink in SINKS}
    return Evidence(
        sent=[sent(number) for number in numbers],
        arrivals=[arrival(sink, number) for sink in HTTP_SINKS for number in wanted[sink]],
        rows={
            sink: [Row(bodies.run_id(number), bodies.event(number), True) for number in wanted[sink]]
            for sink in ("results", "archive")
        },
        arrived={sink: [(bodies.event(number), arrival(sink, number).at) for number in wanted[sink]] for sink in SINKS},
        recorded={bodies.event(number): "new" for number in numbers},
        states={"delivered": sum(map(len, wanted.values()))},
        attempts={bodies.key(number, sink): Counter(accepted=1) for sink in SINKS for number in wanted[sink]},
        faults=[Fault("kill -9 worker", START + 4, START + 4.5, frozenset(HTTP_SINKS))],
        windows={"calm": (START, START + 1), "tar hangs": (START + 1, START + 2)},
        exit_codes={"worker": 0},
        least=EVENTS,
        rate=10,
        loaded=EVENTS / 10,
    )


def test_a_run_in_which_all_went_well_is_green() -> None:
    assert verdict.failures(good()) == []
    assert "acked 48, refused 0" in report(good())


def missing_row(found: Evidence) -> None:
    found.rows = {**found.rows, "results": found.rows["results"][1:]}


def missing_arrival(found: Evidence) -> None:
    found.arrived = {**found.arrived, "late": []}


def doubled_row(found: Evidence) -> None:
    found.rows = {**found.rows, "archive": [*found.rows["archive"], found.rows["archive"][0]]}


def wrong_row(found: Evidence) -> None:
    found.rows = {**found.rows, "results": [replace(found.rows["results"][0], right=False), *found.rows["results"][1:]]}


def wrong_hash(found: Evidence) -> None:
    found.arrivals = [found.arrivals[0]._replace(sha256="0" * 64), *found.arrivals[1:]]


def wrong_signature(found: Evidence) -> None:
    found.arrivals = [found.arrivals[0]._replace(verified=False), *found.arrivals[1:]]


def two_keys(found: Evidence) -> None:
    found.arrivals = [*found.arrivals, found.arrivals[0]._replace(key="dlv_other")]


def one_key_for_two(found: Evidence) -> None:
    found.arrivals = [found.arrivals[0]._replace(event=found.arrivals[1].event), *found.arrivals[1:]]


def invented(found: Evidence) -> None:
    found.arrived = {**found.arrived, "hook": [*found.arrived["hook"], ("evt_of_nobody", START)]}


def too_many_doubles(found: Evidence) -> None:
    found.arrivals = [*found.arrivals, *[found.arrivals[0]] * (bodies.UNKNOWN + 1)]


def too_many_lapses(found: Evidence) -> None:
    key = found.arrivals[0].key
    found.attempts = {**found.attempts, key: Counter(accepted=1, lapsed=bodies.UNKNOWN + 1)}


def sent_by_a_wrong_clock(found: Evidence) -> None:
    found.accepted = {found.arrivals[0].key: found.arrivals[0].at + 30}


def untold_arrival(found: Evidence) -> None:
    found.arrivals = [*found.arrivals, found.arrivals[0]]


def server_error(found: Evidence) -> None:
    found.sent[5].statuses.insert(0, 500)


def client_error(found: Evidence) -> None:
    found.sent[5].statuses.insert(0, 404)


def other_id(found: Evidence) -> None:
    found.sent[5].ids.append("evt_other")


def not_in_ledger(found: Evidence) -> None:
    found.recorded = {event: what for event, what in found.recorded.items() if event != bodies.event(7)}


def taken_for_a_repeat(found: Evidence) -> None:
    found.recorded = {**found.recorded, bodies.event(7): "repeat"}


def stuck(found: Evidence) -> None:
    found.states = {**found.states, "sending": 1}


def standstill(found: Evidence) -> None:
    late = [(event, at if at < START + 4 else at + 40) for event, at in found.arrived["results"]]
    found.arrived = {**found.arrived, "results": late}


def held_up(found: Evidence) -> None:
    late = [(event, at + 5 if START + 1 < at < START + 2 else at) for event, at in found.arrived["results"]]
    found.arrived = {**found.arrived, "results": late}


def late_by_a_clock(found: Evidence) -> None:
    found.skewed, found.faults = True, []
    found.arrived = {**found.arrived, "hook": [(event, at + 20) for event, at in found.arrived["hook"]]}


def idle(found: Evidence) -> None:
    found.loaded = 100


def too_few(found: Evidence) -> None:
    found.least = EVENTS + 1


def traceback(found: Evidence) -> None:
    found.tracebacks = ["worker"]


def killed_at_the_end(found: Evidence) -> None:
    found.exit_codes = {"worker": -9}


def skipped(found: Evidence) -> None:
    found.skipped = ["FLUSHALL valkey"]


SPOILED: list[tuple[Callable[[Evidence], None], str]] = [
    (missing_row, "nothing_missing"),
    (missing_arrival, "nothing_missing"),
    (doubled_row, "nothing_doubled"),
    (wrong_row, "bodies_right"),
    (wrong_hash, "bodies_right"),
    (wrong_signature, "bodies_right"),
    (two_keys, "one_key"),
    (one_key_for_two, "one_key"),
    (invented, "nothing_invented"),
    (too_many_doubles, "doubles_explained"),
    (too_many_lapses, "doubles_explained"),
    (sent_by_a_wrong_clock, "times_agree"),
    (untold_arrival, "arrivals_told"),
    (server_error, "answers_right"),
    (client_error, "answers_right"),
    (other_id, "answers_right"),
    (not_in_ledger, "ledger_complete"),
    (taken_for_a_repeat, "ledger_complete"),
    (stuck, "ledger_complete"),
    (standstill, "work_goes_on"),
    (held_up, "sinks_apart"),
    (late_by_a_clock, "clocks_apart"),
    (idle, "load_made"),
    (too_few, "load_made"),
    (traceback, "no_tracebacks"),
    (killed_at_the_end, "clean_stop"),
    (skipped, "plan_done"),
]


@pytest.mark.parametrize(("spoil", "check"), SPOILED)
def test_each_broken_promise_is_seen(spoil: Callable[[Evidence], None], check: str) -> None:
    found = good()
    spoil(found)
    assert {line.partition(":")[0] for line in verdict.failures(found)} >= {check}
