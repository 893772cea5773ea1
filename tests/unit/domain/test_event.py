"""Ids of events and deliveries: the same for the same body, and in the order in which runs were made."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.event import Event, delivery_id, event_id, short_id
from receiver.domain.frame import is_sound
from receiver.ledger.lists.filters import id_trouble
from tests.support.run_ids import number_of, run_id

# Those that a real server made: the ids of the simulation that made the others held no second.
CAPTURES = [
    path for path in sorted(Path("tests/support/data/captures").glob("*.json")) if b"_60063" in path.read_bytes()
]
# From which on the seconds in Skyvern's ids count.
EPOCH = datetime(2022, 6, 20, tzinfo=UTC).timestamp()

BODY = b'{"run_id":"tsk_600635710436290806","status":"completed"}'
PLAIN = b'{"run_id":"tsk_1","status":"completed"}'

run_ids = st.integers(10**15, 2**64 - 1)


def of_run(name: str) -> bytes:
    return json.dumps({"run_id": name}).encode()


def test_ids_are_a_second_and_a_hash() -> None:
    # Then they are what `printf 'skyvern\0%s' BODY | sha256sum` and the id of the run say: 600635710436290806 >> 32
    # is 0x0855e2ff
    assert event_id("skyvern", BODY) == "evt_g855e2ffb3d6009c9db787146dc806c4"
    # And of a body without such an id, the hash alone
    assert event_id("skyvern", PLAIN) == "evt_063f0e9eec5efffb9cea3ca3ca78c84a"
    # And a delivery has the second of its event
    assert delivery_id(event_id("skyvern", BODY), "ops")[:12] == "dlv_g855e2ff"
    assert delivery_id("evt_063f0e9eec5efffb9cea3ca3ca78c84a", "ops") == "dlv_3930c88dbbb4015aa367a871fb637d24"


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_the_second_is_that_in_which_skyvern_made_the_run(path: Path) -> None:
    # Given a body that Skyvern has sent
    body = path.read_bytes()
    # When it becomes an event
    second = event_id("skyvern", body)[4:12]
    # Then its id says when the run was made
    made = EPOCH + int("0" + second[1:], 16)
    assert (second[0], abs(made - datetime.fromisoformat(json.loads(body)["created_at"] + "Z").timestamp()) <= 1) == (
        "g",
        True,
    )


@given(run_ids, run_ids)
def test_ids_are_in_the_order_of_the_seconds_of_runs(one: int, other: int) -> None:
    seconds, events = zip(
        *sorted((each >> 32, event_id("s", of_run(f"wr_{each}"))) for each in (one, other)), strict=True
    )
    assert seconds[0] == seconds[1] or events[0] < events[1]
    deliveries = [delivery_id(each, "ops") for each in events]
    assert seconds[0] == seconds[1] or deliveries[0] < deliveries[1]


@given(st.one_of(st.binary(max_size=60), run_ids.map(lambda number: of_run(f"tsk_v2_{number}"))))
def test_an_id_is_one_for_all_who_read_it(body: bytes) -> None:
    # Given an event of any body, and a delivery of it
    event = event_id("skyvern", body)
    delivery = delivery_id(event, "ops")
    # Then their ids are of one length, entries of the inbox may have them, and commands take them whole and cut
    assert (len(event), len(delivery)) == (36, 36)
    assert is_sound(Event(event, "skyvern", body, 1.7e9))
    assert [id_trouble(each) for name in (event, delivery) for each in (name, short_id(name))] == [""] * 4
    # And they are of that body and source, and of that sink alone
    assert event_id("other", body) != event != event_id("skyvern", body + b" ")
    assert delivery_id(event, "other") != delivery


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"tsk_600635710436290806",  # no text of JSON
        of_run("tsk_60063571043629"),  # too short to hold a second
        of_run("tsk_" + "9" * 21),
        of_run("tsk_v3_600635710436290806"),
        of_run("wpid_600635710436290806"),  # of an agent, not of a run
        b'{"x":"' + b"x" * 5000 + b'","run_id":"tsk_600635710436290806"}',
    ],
)
def test_body_without_a_run_id_has_only_a_hash(body: bytes) -> None:
    assert event_id("skyvern", body)[4] in "0123456789abcdef"


def test_run_id_is_searched_in_the_first_4096_bytes() -> None:
    # Given two bodies, in which the id of the run ends with the last byte that is looked at, and one byte after it
    name = b'"tsk_600635710436290806"'
    within, beyond = (b"x" * (size - len(name)) + name for size in (4096, 4097))
    # Then their ids are what releases before this one gave them: else a body that comes again is another event
    assert event_id("skyvern", within) == "evt_g855e2ff897fbb5d96c5323637cc08bc"
    assert event_id("skyvern", beyond) == "evt_63b9a305b05971fd0a53d26184856c3d"


@given(st.integers(0, 10**9))
def test_run_ids_for_tests_say_their_number(number: int) -> None:
    assert number_of(run_id(number)) == number
