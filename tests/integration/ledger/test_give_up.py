"""Everything has an end in time too: days of a dead sink, with the clock passed in."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from handlers import Receipt, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import SendTask
from receiver.delivery.settlement import Settlement
from receiver.domain.breaker import Lane
from receiver.domain.delivery import ENDED, DeliveryState
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, operations
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.ledger.schema import attempts
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import Operation
from tests.support import queries
from tests.support.ledger import NOW, every_lane, new_event, record, states, step_operations

pytestmark = pytest.mark.long

HOUR, DAY = 3600.0, 86_400.0
# A shorter time than the default one, which says the same with fewer probes.
POLICY = RetryPolicy(give_up_after=6 * HOUR)
ON_SQLITE = pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
UNCOUNTED: Any = None
DEAD_CALLER = "callback https://dead.example"


class World:
    """Deliverer and clock of one sink, at times that a test chooses. `answer`: what each send is answered."""

    def __init__(self, ledger: Ledger, sink: str, *, many: bool = False) -> None:
        self.ledger = ledger
        self.sink = sink
        self.now = NOW
        self.answer: Receipt | Exception = Unavailable("connection refused")
        self.sends: list[float] = []
        self._many = ManyLanes(8, 4, Counter(), 0, Rotation()) if many else None
        self._settlement = Settlement(sink, POLICY, "w", UNCOUNTED)

    def tick(self) -> None:
        now = self.now
        self.ledger.write(lambda it: recovery.make_due(it, now))
        if self.ledger.read(lambda it: recovery.any_expired(it, self.sink, POLICY.give_up_after, now)):
            self.ledger.write(lambda it: recovery.expire(it, self.sink, POLICY.give_up_after, now))
        claimed = self.ledger.write(lambda it: claims.claim(it, self.sink, 8, "w", now, many=self._many))
        started = time.monotonic()
        tasks = [SendTask([each], started, answers=[self.answer]) for each in claimed]
        self.sends += [now] * len(tasks)
        self.ledger.write(lambda it: self._settlement.record(it, tasks, now))

    def live(self, until: float) -> None:
        """Let time pass, in steps from one thing that is due to the next, until then or until nothing is left."""
        while self.now < until and self._due():
            self.tick()
            later = [each for each in self._due() if each > self.now]
            self.now = self.now + 1 if isinstance(self.answer, Receipt) else min([*later, self.now + HOUR])

    def _due(self) -> list[float]:
        """When something that has not ended is due, or its lane may be probed."""
        rows = [row for row in self.rows() if DeliveryState(row["state"]) not in ENDED]
        until = [lane.until for lane in self.ledger.read(every_lane)]
        return [row["due_at"] for row in rows] + (until if rows else [])

    def rows(self) -> list[dict[str, Any]]:
        return self.ledger.read(lambda it: queries.list_deliveries(it, queries.Filter(sink=self.sink)))


@pytest.fixture
def callbacks(ledger: Ledger) -> World:
    return World(ledger, "callback", many=True)


@ON_SQLITE
def test_the_webhooks_of_a_dead_caller_end_with_few_attempts(callbacks: World, ledger: Ledger) -> None:
    # Given twenty results of a caller whose server is gone for good
    record(ledger, *(new_event(f"tsk_{n}", NewDelivery("callback", "caller", DEAD_CALLER)) for n in range(20)))

    # When days pass
    callbacks.live(NOW + 2 * DAY)

    # Then all of them are dead, those that were never tried too, after the time that the policy gives
    assert set(states(ledger).values()) == {"dead"}
    ended = [row["updated_at"] - NOW for row in callbacks.rows()]
    assert min(ended) >= POLICY.give_up_after
    assert max(ended) <= 2 * POLICY.give_up_after
    assert {row["reason"] for row in callbacks.rows()} == {"given up after 6 h: connection refused"}
    # And the probes were few, and further and further apart, but not too far
    assert len(callbacks.sends) < 100
    pauses = [b - a for a, b in zip(callbacks.sends, callbacks.sends[1:], strict=False)]
    assert max(pauses) <= HOUR
    rows = ledger.read(lambda it: it.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one())
    assert rows == len(callbacks.sends)


@ON_SQLITE
def test_a_sink_that_comes_back_in_time_gets_all_of_it(callbacks: World, ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", NewDelivery("callback", "caller", DEAD_CALLER)) for n in range(20)))
    callbacks.live(NOW + 4 * HOUR)
    assert "dead" not in states(ledger).values()

    callbacks.answer = Receipt("r")
    callbacks.live(NOW + 6 * HOUR)

    assert set(states(ledger).values()) == {"delivered"}


@ON_SQLITE
def test_a_replay_of_what_was_given_up_starts_anew(callbacks: World, ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", NewDelivery("callback", "caller", DEAD_CALLER)))
    callbacks.live(NOW + 2 * DAY)
    assert set(states(ledger).values()) == {"dead"}

    began = callbacks.now
    ledger.write(lambda it: operations.create(it, "op_1", Operation("replay", Selection()), began))
    step_operations(ledger, began)
    callbacks.live(began + 4 * HOUR)
    assert states(ledger) == {"tsk_1:callback": "waiting"}

    callbacks.live(began + 2 * DAY)
    assert states(ledger) == {"tsk_1:callback": "dead"}


@ON_SQLITE
@pytest.mark.parametrize("tried_for", [1.0, HOUR], ids=["breaker closed", "breaker open"])
@pytest.mark.parametrize("paused", [True, False], ids=["paused", "stopped"])
def test_time_in_which_we_sent_nothing_counts_for_nothing(ledger: Ledger, paused: bool, tried_for: float) -> None:
    # Given results that were tried for a while, of which some never were
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(20)))
    world = World(ledger, "ops")
    world.live(NOW + tried_for)
    if paused:
        ledger.write(lambda it: lanes.set_paused(it, "ops", True, world.now))

    # When four days pass in which nothing could be sent
    world.now += 4 * DAY
    if paused:
        ledger.write(lambda it: lanes.set_paused(it, "ops", False, world.now))
    went_on, sent = world.now, len(world.sends)

    # Then all have the rest of their time
    world.live(went_on + 4 * HOUR)
    assert len(world.sends) > sent + 5
    assert "dead" not in states(ledger).values()
    # And end after it
    world.live(went_on + DAY)
    assert set(states(ledger).values()) == {"dead"}


def open_for(ledger: Ledger, sink: str, seconds: float, *, failed: float, paused: bool = False) -> None:
    """Let the breaker of `sink` be open since `seconds` before NOW, its last probe `failed` seconds before NOW."""
    lane = Lane(sink, sink, False, "open", 50, NOW + 60, "away", opened_at=NOW - seconds)
    ledger.write(lambda it: lanes.put(it, lane, NOW - failed))
    if paused:
        ledger.write(lambda it: lanes.set_paused(it, sink, True, NOW - failed))


@pytest.mark.parametrize(
    ("shut", "failed", "queued", "paused", "ends"),
    [
        (4 * DAY, 60, 4 * DAY, False, True),
        (4 * DAY, 60, 2 * DAY, False, False),  # it waits for less
        (2 * DAY, 60, 4 * DAY, False, False),  # the breaker was closed meanwhile
        (4 * DAY, 60, 4 * DAY, True, False),  # an operator holds it
        (4 * DAY, 3.5 * DAY, 4 * DAY, False, False),  # we were stopped: nobody has asked since
    ],
)
def test_untried_delivery_ends_if_the_breaker_stayed_open(
    ledger: Ledger, shut: float, failed: float, queued: float, paused: bool, ends: bool
) -> None:
    after = NewDelivery("mail", "r", after=("ops",))
    record(ledger, new_event("tsk_1", "ops", after), new_event("tsk_2", "other"), now=NOW - queued)
    open_for(ledger, "ops", shut, failed=failed, paused=paused)

    assert ledger.read(lambda it: recovery.any_expired(it, "ops", 3 * DAY, NOW)) == ends
    ended = ledger.write(lambda it: recovery.expire(it, "ops", 3 * DAY, NOW))

    assert ended == (["ops"] if ends else [])
    assert states(ledger) == {
        "tsk_1:ops": "dead" if ends else "queued",
        "tsk_1:mail": "queued" if ends else "held",
        "tsk_2:other": "queued",
    }


def test_resumed_sink_has_its_whole_time_again(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"), now=NOW - 9 * DAY)
    open_for(ledger, "ops", 8 * DAY, failed=60, paused=True)
    ledger.write(lambda it: lanes.set_paused(it, "ops", False, NOW))

    assert ledger.write(lambda it: recovery.expire(it, "ops", 3 * DAY, NOW + 1)) == []
