"""Many destinations behind one sink: a backlog for a dead one costs the others nothing, and old gates are removed."""

from __future__ import annotations

from collections import Counter

import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, retention
from receiver.ledger.deliveries import claims, lanes
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.ledger.schema import deliveries
from tests.support.ledger import NOW, claim, every_lane, new_event, record


def to(lane: str, run_id: str) -> object:
    return new_event(run_id, NewDelivery("callback", "caller", lane=f"callback {lane}"))


def backlog(ledger: Ledger, lane: str, count: int, now: float = NOW) -> None:
    record(ledger, *(to(lane, f"{lane}_{number}") for number in range(count)), now=now)  # type: ignore[arg-type]


def shut(ledger: Ledger, lane: str, until: float = NOW + 1000) -> None:
    gate = Lane(f"callback {lane}", "callback", breaker="open", failures=5, until=until)
    ledger.write(lambda connection: lanes.put(connection, gate, NOW))


def taken(
    ledger: Ledger,
    limit: int = 8,
    lane_limit: int = 3,
    rotation: Rotation | None = None,
    pages: tuple[int, int] = (3, 4),
    walk: int = 2048,
) -> Counter[str]:
    """The lanes of what one claim takes. All claims are of one worker process, which holds what it has claimed. Pages
    are small, so that a few lanes are many."""
    query = sa.select(deliveries.c.lane).where(deliveries.c.state == "sending")
    held = Counter(ledger.read(lambda connection: connection.execute(query).scalars().all()))
    probing = sum(each.breaker == "probing" and held[each.lane] > 0 for each in ledger.read(every_lane))
    many = ManyLanes(50, lane_limit, held, probing, rotation or Rotation(), pages, walk)
    claimed = claim(ledger, "callback", limit=min(limit, 50 - held.total()), now=NOW + 9, many=many)
    return Counter(each.lane.removeprefix("callback ") for each in claimed)


def test_claim_finds_what_is_due_behind_a_shut_lane(ledger: Ledger) -> None:
    backlog(ledger, "dead", 40)
    shut(ledger, "dead")
    backlog(ledger, "a", 5, NOW + 1)
    backlog(ledger, "z", 1, NOW + 2)

    assert taken(ledger) == {"a": 3, "z": 1}
    assert taken(ledger) == {}  # the slots of a are taken, and z has nothing more


def test_full_lane_does_not_hold_up_lanes_behind_it(ledger: Ledger) -> None:
    backlog(ledger, "slow", 40)
    backlog(ledger, "b", 40, NOW + 1)
    backlog(ledger, "c", 1, NOW + 2)

    assert taken(ledger) == {"slow": 3, "b": 3, "c": 1}


def test_each_of_many_lanes_gets_its_turn(ledger: Ledger) -> None:
    backlog(ledger, "slow", 40)
    for number in range(30):
        backlog(ledger, f"lane{number:02}", 2, NOW + 1)

    first = taken(ledger, pages=(64, 4))
    rest = Counter[str]()
    while more := taken(ledger, lane_limit=50, pages=(64, 4)):
        rest += more

    assert (first["slow"], first.total()) == (1, 8)  # though it has waited longest
    assert set(first.values()) == {1}
    assert (first + rest).total() == 50  # as many as may be claimed at once


def test_each_walk_begins_where_the_last_one_ended(ledger: Ledger) -> None:
    # Given a dozen lanes that wait equally long, and claims of a few at a time
    for number in range(12):
        backlog(ledger, f"lane{number:02}", 4)
    rotation = Rotation()
    # When there are as many claims as it takes to go around once
    claimed = Counter[str]()
    for _ in range(4):
        claimed += taken(ledger, limit=3, rotation=rotation)
    # Then each lane had its turn, and no lane a second one
    assert claimed == {f"lane{number:02}": 1 for number in range(12)}
    assert taken(ledger, limit=3, rotation=rotation) == {"lane00": 1, "lane01": 1, "lane02": 1}


def test_walks_in_turn_reach_a_lane_behind_many_shut_ones(ledger: Ledger) -> None:
    # Given more shut lanes than one walk sees, and one behind them that is not
    for number in range(33):
        backlog(ledger, f"dead{number:02}", 1)
        shut(ledger, f"dead{number:02}")
    backlog(ledger, "zebra", 1, NOW + 1)
    rotation = Rotation()
    # Then it is found within one circle, wherever that begins
    found = [taken(ledger, rotation=rotation, walk=10) for _ in range(4)]
    assert sum(found, Counter()) == {"zebra": 1}


def test_probes_take_a_quarter_of_a_claim_at_the_most(ledger: Ledger) -> None:
    for number in range(9):
        backlog(ledger, f"dead{number}", 1)
        shut(ledger, f"dead{number}", until=NOW + 5)
    assert taken(ledger, limit=8).total() == 2
    assert taken(ledger, limit=1).total() == 1
    backlog(ledger, "well", 3)
    assert taken(ledger, limit=3) == {"well": 3}


def test_hanging_probes_take_at_most_a_quarter_of_the_places(ledger: Ledger) -> None:
    for number in range(30):
        backlog(ledger, f"dead{number:02}", 1)
        shut(ledger, f"dead{number:02}", until=NOW + 5)

    under_way = sum((taken(ledger, limit=50) for _ in range(9)), Counter[str]())

    assert under_way.total() == 50 // claims.PROBES


def keys_of(claimed: Counter[str]) -> Counter[str]:
    """How many of what was claimed each key has."""
    found: Counter[str] = Counter()
    for lane, count in claimed.items():
        found[lane.partition(" ")[0]] += count
    return found


def test_a_caller_with_many_origins_leaves_places_to_the_others(ledger: Ledger) -> None:
    # Given one caller's backlog for a hundred origins, older than all else
    for number in range(100):
        backlog(ledger, f"many https://{number:03}.example", 2)

    def claims_until_full() -> Counter[str]:
        return sum((taken(ledger, limit=50, rotation=rotation) for _ in range(5)), Counter[str]())

    rotation = Rotation()
    # Then it gets half of the fifty places, each for another origin
    claimed = claims_until_full()
    assert keys_of(claimed) == {"many": 25}
    assert set(claimed.values()) == {1}
    # And others, before and behind it in the order of lanes, get theirs at once
    backlog(ledger, "alone https://app.example", 9, NOW + 1)
    backlog(ledger, "zoe https://app.example", 9, NOW + 1)
    assert taken(ledger, limit=25, rotation=rotation) == {"alone https://app.example": 3, "zoe https://app.example": 3}


def test_callers_take_turns_where_places_are_few(ledger: Ledger) -> None:
    for key in ("a", "b", "c"):
        for number in range(9):
            backlog(ledger, f"{key} https://{number}.example", 1)

    assert keys_of(taken(ledger, limit=6, pages=(64, 4))) == {"a": 2, "b": 2, "c": 2}


def test_no_lane_of_a_caller_that_has_its_share_is_read(ledger: Ledger) -> None:
    for number in range(60):
        backlog(ledger, f"many https://{number:02}.example", 1)
    rotation = Rotation()
    for _ in range(20):
        taken(ledger, limit=50, rotation=rotation, walk=8)
    backlog(ledger, "zoe https://app.example", 1, NOW + 1)

    assert taken(ledger, walk=8) == {"zoe https://app.example": 1}


def test_old_gates_of_empty_lanes_are_removed(ledger: Ledger) -> None:
    backlog(ledger, "busy", 1)
    for lane in ("busy", "done", "closed"):
        shut(ledger, lane)
    ledger.write(lambda connection: lanes.set_paused(connection, "callback", False, NOW))

    assert ledger.write(lambda connection: retention.remove_lanes(connection, NOW)) == 0
    assert ledger.write(lambda connection: retention.remove_lanes(connection, NOW + 1)) == 2

    left = ledger.read(every_lane)
    assert [each.lane for each in left] == ["callback", "callback busy"]
