"""Who is alive: heartbeats as values."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain import liveness
from receiver.domain.liveness import CLOCK, SILENT_AFTER, STUCK_AFTER, ProcessBeat, SeenProcess


def beat(role: str = CLOCK, host: str = "a", **fields: Any) -> ProcessBeat:
    whole = {"name": f"{role}@{host}.1", "pid": 7, "version": "1", "config": "c", "started_at": 1.0, "sent_at": 2.0}
    return ProcessBeat(role=role, host=host, **{**whole, **fields})


@pytest.mark.parametrize(
    ("age", "fields", "state"),
    [
        (0.0, {}, "running"),
        (SILENT_AFTER - 0.1, {}, "running"),
        (SILENT_AFTER, {}, "silent"),
        (float("nan"), {}, "silent"),
        (-5.0, {}, "running"),  # its host's clock is ahead
        (1.0, {"stalled": STUCK_AFTER}, "stuck"),
        (SILENT_AFTER, {"stalled": STUCK_AFTER}, "silent"),
        (1.0, {"stopped": True}, "stopped"),
        (9e9, {"stopped": True}, "stopped"),
    ],
)
def test_the_state_of_a_process(age: float, fields: dict[str, Any], state: str) -> None:
    assert SeenProcess(beat(**fields), age).state == state


def test_a_heartbeat_survives_the_store() -> None:
    sent = beat("deliver:ops", stalled=3.5, stopped=True, details={"spool_events": 3})

    assert ProcessBeat.from_json(sent.to_json()) == sent


@given(st.binary() | st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_what_others_write_into_the_store_is_no_heartbeat(text: str | bytes) -> None:
    assert ProcessBeat.from_json(text) is None


@pytest.mark.parametrize(
    "changes",
    [{"pid": "x"}, {"pid": 1e999}, {"name": None}, {"details": [1]}, {"started_at": None}, {"host": "h" * 9999}],
)
def test_a_strange_heartbeat_is_none_or_bounded(changes: dict[str, Any]) -> None:
    found = ProcessBeat.from_json(json.dumps({**json.loads(beat().to_json()), **changes}))

    assert found is None or (len(found.host) <= 200 and isinstance(found.details, dict))


def test_expected_process_that_is_not_alive_is_missing() -> None:
    wanted = liveness.expected(["ops", "archive"])
    old, newer = SeenProcess(beat(name="c1"), 900.0), SeenProcess(beat(name="c2"), 400.0)
    seen = [
        SeenProcess(beat("receiver"), 1.0),
        SeenProcess(beat("dispatch"), 1.0),
        SeenProcess(beat("deliver:ops"), 1.0),
        old,
        newer,
    ]

    assert wanted == ["receiver", "dispatch", "deliver:ops", "deliver:archive", "clock"]
    assert liveness.missing(seen, wanted) == {"deliver:archive": None, "clock": newer}
    assert liveness.missing([*seen, SeenProcess(beat(name="c3", host="b"), 1.0)], ["clock"]) == {}


def test_process_without_a_successor_on_its_host_is_lost() -> None:
    silent_here, silent_there = SeenProcess(beat(name="1"), 100.0), SeenProcess(beat(name="2", host="b"), 100.0)
    stopped = SeenProcess(beat(name="3", host="c", stopped=True), 100.0)
    replacement = SeenProcess(beat(name="4"), 1.0)

    assert liveness.lost([silent_here, silent_there, stopped, replacement]) == [silent_there]


def test_stores_that_know_different_things_are_merged() -> None:
    stopped = replace(beat(name="1"), stopped=True, sent_at=50.0)
    earlier = SeenProcess(replace(beat(name="1"), sent_at=45.0), 5.0, skew=0.5)
    only_there = SeenProcess(beat("receiver", name="2"), 3.0, skew=4.0)

    found = liveness.merge([SeenProcess(stopped, 0.1)], [earlier, only_there])

    # The stop reached only one store, and is one; what a store with a clock knows of the host's is kept.
    assert [(each.beat.name, each.state, each.skew) for each in found] == [("2", "running", 4.0), ("1", "stopped", 0.5)]
    assert liveness.merge([earlier], [SeenProcess(stopped, 0.1)])[0].skew == 0.5
