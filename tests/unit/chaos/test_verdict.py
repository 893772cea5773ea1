"""The verdict on a chaos run objects to each kind of broken promise, and to nothing else."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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


def put(it: Evidence, **changes: Any) -> None:
    for name, value in changes.items():
        setattr(it, name, value)


def in_rows(it: Evidence, sink: str, change: Callable[[list[Row]], list[Row]]) -> None:
    it.rows = {**it.rows, sink: change(it.rows[sink])}


def first_arrival(it: Evidence, **changes: Any) -> None:
    it.arrivals = [it.arrivals[0]._replace(**changes), *it.arrivals[1:]]


def later(it: Evidence, sink: str, seconds: float, since: float = 0.0, until: float = math.inf) -> None:
    moved = [(event, at + seconds if since < at < until else at) for event, at in it.arrived[sink]]
    it.arrived = {**it.arrived, sink: moved}


SPOILED: dict[str, list[Callable[[Evidence], object]]] = {
    "nothing_missing": [
        lambda it: in_rows(it, "results", lambda rows: rows[1:]),
        lambda it: put(it, arrived={**it.arrived, "late": []}),
    ],
    "nothing_doubled": [lambda it: in_rows(it, "archive", lambda rows: [*rows, rows[0]])],
    "bodies_right": [
        lambda it: in_rows(it, "results", lambda rows: [replace(rows[0], right=False), *rows[1:]]),
        lambda it: first_arrival(it, sha256="0" * 64),
        lambda it: first_arrival(it, verified=False),
    ],
    "one_key": [
        lambda it: it.arrivals.append(it.arrivals[0]._replace(key="dlv_other")),
        lambda it: first_arrival(it, event=it.arrivals[1].event),
    ],
    "nothing_invented": [lambda it: it.arrived["hook"].append(("evt_unknown", START))],
    "doubles_explained": [
        lambda it: it.arrivals.extend([it.arrivals[0]] * (bodies.UNKNOWN + 1)),
        lambda it: it.attempts[it.arrivals[0].key].update(lapsed=bodies.UNKNOWN + 1),
    ],
    "times_agree": [lambda it: put(it, accepted={it.arrivals[0].key: it.arrivals[0].at + 30})],
    "arrivals_told": [lambda it: it.arrivals.append(it.arrivals[0])],
    "answers_right": [
        lambda it: it.sent[5].statuses.insert(0, 500),
        lambda it: it.sent[5].statuses.insert(0, 404),
        lambda it: it.sent[5].ids.append("evt_other"),
    ],
    "ledger_complete": [
        lambda it: it.recorded.pop(bodies.event(7)),
        lambda it: it.recorded.update({bodies.event(7): "repeat"}),
        lambda it: it.states.update(sending=1),
    ],
    "work_goes_on": [lambda it: later(it, "results", 40, since=START + 4)],
    "sinks_apart": [lambda it: later(it, "results", 5, START + 1, START + 2)],
    "clocks_apart": [lambda it: (put(it, skewed=True, faults=[]), later(it, "hook", 20))],
    "load_made": [lambda it: put(it, loaded=100), lambda it: put(it, least=EVENTS + 1)],
    "no_tracebacks": [lambda it: put(it, tracebacks=["worker"])],
    "clean_stop": [lambda it: put(it, exit_codes={"worker": -9})],
    "plan_done": [lambda it: put(it, skipped=["FLUSHALL valkey"])],
}


@pytest.mark.parametrize("check", [each.__name__ for each in verdict.CHECKS])
def test_each_broken_promise_is_seen(check: str) -> None:
    for spoil in SPOILED[check]:
        found = good()
        spoil(found)
        assert {line.partition(":")[0] for line in verdict.failures(found)} >= {check}
