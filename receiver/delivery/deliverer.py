"""From the ledger to one sink: claim what is due, send it, write down what became of it.

A retry frees its place: nothing sleeps here. While sends are under way their claims are renewed; a send that takes
longer than its sink allows is given up, and its thread is left behind rather than waited for. A sink that answers fast
finds the next deliveries in hand, so that its places are not empty while the ledger commits.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import redis

from handlers import Sink, SinkOptions, registry
from receiver import wakeups
from receiver.config.models import Config, RetryPolicy
from receiver.config.settings import Settings
from receiver.delivery.callback_sink import CallbackOptions, CallbackSink
from receiver.delivery.sender import Receipts, SenderPool, SendTask
from receiver.delivery.settlement import Results, Settling
from receiver.delivery.sink_services import SourceServices
from receiver.domain.callback import CALLBACK
from receiver.ledger import Connection, Ledger, LedgerUnavailable
from receiver.ledger.deliveries import attempts, claims, lanes
from receiver.ledger.deliveries.claims import Claimed
from receiver.runtime import liveness
from receiver.runtime.outage import Pause
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import SharedRate
from receiver.telemetry.workers import AttemptCounter

LINGER = 1.0
"""Seconds that a job waits for more before it ends."""
CLAIM = 15.0
"""Seconds after which a claim that nobody renews lapses: how long a killed worker's deliveries wait at the most."""
RENEW = 4.0
GRACE = 2.0
"""Seconds that a send may overrun its sink's own time-out before it is given up."""
BATCHES = 2
"""Batches in flight for a sink that takes many at once: one is sent while the next is claimed."""
LANES_LOOK = 0.25
"""Seconds after which a sink with many lanes looks for new work although all that is under way is slow."""
AHEAD = 4
"""Deliveries in hand for each place of a sink that answers fast."""
FAST = 0.25
"""Seconds of a send up to which it does. So what is in hand waits about a second at the most."""
CALM = 1.0
"""Seconds without trouble before anything is taken in hand again."""
HOPELESS = "its attempts are spent, and the last one ended with its worker: sending it may be what kills workers"
log = logging.getLogger("runhook.deliver")


def unsettled(places: int) -> int:
    """The most sends out of the hand that the ledger may not know to have begun, with so many places: what was in hand
    when it was written to last, and what was taken in hand since."""
    return 2 * AHEAD * places


class ClaimedBatch(NamedTuple):
    """What one try has claimed."""

    token: str
    claimed: list[Claimed]
    receipts: dict[str, Receipts]
    hopeless: list[Claimed]
    """Of what was due; it is dead now."""


class Deliverer(wakeups.JobBody):
    """The body of the deliver jobs of one process, for one sink."""

    def __init__(
        self,
        ledger: Ledger,
        sink: Sink[SinkOptions],
        retry: RetryPolicy,
        concurrency: int,
        connection: redis.Redis,
        owner: str,
        *,
        rate: SharedRate | None = None,
        linger: float = LINGER,
        lane_limit: int | None = None,
        ahead: int = AHEAD,
        note: Callable[[str], None] = lambda _delivery: None,
    ) -> None:
        self._ledger = ledger
        self._sink = sink
        self._redis = connection
        self._owner = owner
        self._concurrency = concurrency
        self._rate = rate
        self._spent_rate = False
        self._alone = False  # without Redis
        self._linger = linger
        self._lane_limit = lane_limit
        """How many of one lane may be claimed at once, for a sink that has many."""
        self._queue = wakeups.deliver_queue(sink.name)
        self._many = sink.batch_size > 1
        self._places = min(concurrency, BATCHES) if self._many else concurrency
        # What is counted when it is claimed, by the rate or by the lane, must be sent then.
        self._ahead = 0 if self._many or rate is not None or lane_limit else ahead * self._places
        self._flights = SenderPool(sink, self._places, self._limit, note)
        self._unsettled: list[SendTask] = []
        self._unbegun: list[SendTask] = []  # were in hand, and are to be handed back
        self._strays = False
        """Whether the ledger may have claims of ours that we don't know: of a commit that was not heard of."""
        self._trouble_at = float("-inf")
        self._tokens = itertools.count(1)
        self._renewed = 0.0
        self._pause = Pause(log, "deliver")
        self._tally = AttemptCounter(connection, sink.name)
        self._budget = retry.attempts
        self._settling = Settling(sink.name, retry, owner, self._tally)

    def run(self, stop: Callable[[], bool]) -> None:
        """Deliver until nothing is due or `stop()` says so: the worker stops, or this job's turn is over."""
        try:
            while True:
                closing = stop()
                self._settle(closing=closing)
                claimed = 0 if closing else self._claim()
                if self._flights:
                    self._collect()
                elif closing or not (
                    claimed or self._strays or wakeups.wait_nudge(self._redis, self._queue, self._linger)
                ):
                    break
            self._tally.flush()
            wakeups.settle(self._redis, self._queue, self._look_once_more)
        except LedgerUnavailable as error:
            self._pause.wait(f"sink={self._sink.name} ledger={error} unsettled={len(self._unsettled)}", stop)
            if self._unsettled or self._unbegun or self._flights:
                # The clock rings for what is due. Of these only we know, and they would be sent twice.
                wakeups.enqueue_raised(self._redis, self._queue)
            else:
                wakeups.lower_flag(self._redis, self._queue)

    def run_without_redis(self, stop: Callable[[], bool]) -> None:
        """Redis is away: no bell rings, so look into the ledger, and deliver what is due. Returns when nothing is.

        A sink with a `rate` waits, for nobody knows what is left of it.
        """
        self._alone = True
        try:
            while True:
                closing = stop() or self._rate is not None
                self._settle(closing=closing)
                claimed = 0 if closing else self._claim()
                if self._flights:
                    self._collect()
                elif not claimed and not self._strays:
                    break
        except LedgerUnavailable as error:
            self._pause.wait(f"sink={self._sink.name} ledger={error} unsettled={len(self._unsettled)}", stop)
        finally:
            self._alone = False

    def _look_once_more(self) -> bool:
        """What was queued while the flag was still up has rung no bell. A spent rate is left to the clock."""
        if self._spent_rate:
            return False
        return self._ledger.read(lambda connection: claims.has_due(connection, self._sink.name, time.time()))

    @property
    def job_timeout(self) -> float:
        """Seconds after which one of its jobs is overdue: its turn, and the longest send that may begin in it."""
        return wakeups.TURN + self._limit + 10

    @property
    def _limit(self) -> float:
        """Seconds after which a send is given up."""
        return self._sink.options.timeout + (2 * GRACE if self._many else GRACE)

    @property
    def worn_out(self) -> bool:
        """So many sends have hung that the process should be replaced by a fresh one."""
        return self._flights.worn_out

    def close(self) -> None:
        """Let go of the sink and the ledger."""
        self._flights.close()
        self._tally.flush()
        self._sink.close()
        self._ledger.close()
        self._redis.close()

    def _claim(self) -> int:
        """Claim for the free places, and some to have in hand. Returns how many deliveries were claimed."""
        free, ahead = self._flights.free, self._missing_in_hand()
        # One lane that is slow must not keep others from the places that are free.
        if free < (1 if self._lane_limit else max(1, self._places // 2)):
            free = 0
        if not free and not ahead:
            return 0
        limit = self._allowed(self._sink.batch_size if self._many else free)
        if not limit and not ahead:
            return 0
        now = time.time()
        tries = 0

        def work(connection: Connection) -> ClaimedBatch:
            nonlocal tries
            tries += 1
            return self._take(connection, limit, ahead, now)

        try:
            taken = self._ledger.write(work)
        except LedgerUnavailable:
            self._strays = True
            raise
        self._strays = self._strays or tries > 1
        self._pause.end()
        for each in taken.hopeless:
            log.error("delivery.dead id=%s sink=%s event=%s reason=%s", each.id, each.sink, each.event_id, HOPELESS)
        if self._many and taken.claimed:
            self._flights.begin(SendTask(taken.token, taken.claimed, taken.receipts))
            return len(taken.claimed) + len(taken.hopeless)
        for each in taken.claimed:
            unit = SendTask(taken.token, [each], taken.receipts)
            if each.in_hand:
                self._flights.hold(unit)
            else:
                self._flights.begin(unit)
        return len(taken.claimed) + len(taken.hopeless)

    def _missing_in_hand(self) -> int:
        """How many to take in hand: none unless the sink answers fast, and not before half of them have begun."""
        calm = time.monotonic() - self._trouble_at > CALM
        if not self._ahead or not calm or self._flights.pace > FAST:
            return 0
        missing = self._ahead - self._flights.in_hand
        return missing if missing >= self._ahead // 2 else 0

    def _allowed(self, wanted: int) -> int:
        """How many of `wanted` the sink's rate allows now."""
        self._spent_rate = False
        if self._rate is None:
            return wanted
        if not self._look_once_more():
            return 0  # what is not sent must not count
        try:
            allowed = self._rate.take(wanted)
        except redis.RedisError:
            if not self._flights:
                raise
            return 0  # what is under way comes home first
        self._spent_rate = allowed == 0
        return allowed

    def _take(self, connection: Connection, limit: int, ahead: int, now: float) -> ClaimedBatch:
        # A token for each try: what a try has claimed whose commit we know nothing of is handed back, never renewed.
        token = f"{self._owner}/{next(self._tokens)}"
        claimed, _ = claims.claim(
            connection,
            self._sink.name,
            limit,
            token,
            now,
            CLAIM,
            None if self._many else self._concurrency,
            self._lane_limit,
            ahead,
        )
        hopeless = claims.hopeless(connection, claimed, self._budget)
        if hopeless:
            attempts.give_up(connection, token, [each.id for each in hopeless], HOPELESS, now)
            lanes.end_probes(connection, sorted({each.lane for each in hopeless if each.probe}), now)
            claimed = [each for each in claimed if each not in hopeless]
        receipts: dict[str, Receipts] = {
            each.id: claims.receipts(connection, each.event_id, each.after) for each in claimed if each.after
        }
        return ClaimedBatch(token, claimed, receipts, hopeless)

    def _collect(self) -> None:
        """Wait for at least one send to end, but not past the next renewal."""
        self._unsettled += self._flights.landed(LANES_LOOK if self._lane_limit or self._ahead else RENEW / 2)
        now = time.monotonic()
        if self._flights and now - self._renewed > RENEW:
            self._renewed = now
            tokens = self._flights.tokens()
            self._ledger.write(lambda connection: claims.renew(connection, tokens, time.time() + CLAIM))

    def _settle(self, *, closing: bool) -> None:
        """Write down what became of the sends that have ended. They stay with us until that is done."""
        if not all(unit.accepted for unit in self._unsettled):
            self._trouble_at = time.monotonic()
        calm = time.monotonic() - self._trouble_at > CALM
        if closing or not calm or self._flights.stranded or self._flights.longest() > 2 * FAST:
            self._unbegun += self._flights.withdraw()
        units, unbegun = list(self._unsettled), list(self._unbegun)
        if not units and not unbegun and not self._strays:
            return
        now = time.time()
        strays, known = self._strays, self._flights.tokens() | {unit.token for unit in (*units, *unbegun)}

        def work(connection: Connection) -> tuple[set[str], Results]:
            if strays:
                claims.hand_back_strays(connection, self._owner, known, now)
            claims.hand_back(connection, {unit.claimed[0].id: unit.token for unit in unbegun}, now)
            return self._settling.write_down(connection, units, now)

        released, results = self._ledger.write(work)
        self._strays = False
        self._unsettled = [unit for unit in self._unsettled if unit not in units]
        self._unbegun = [unit for unit in self._unbegun if unit not in unbegun]
        if results:
            self._settling.tell(results)
        if self._alone:
            return
        with suppress(redis.RedisError):  # the clock rings for them; what else is under way must be written down
            wakeups.wake_sinks(self._redis, released)


def build(settings: Settings, config: Config, name: str, owner: str) -> Deliverer:
    """The deliverer for sink `name` in a worker process called `owner`. Opens its connections on first use."""
    connection = connect(settings.redis_url, timeout=LINGER + 5, connect_timeout=2.0, retries=1)
    services = SourceServices(config, settings.skyvern_base_url)
    if name == CALLBACK:
        served = config.callbacks
        options = CallbackOptions(timeout=served.timeout, connections=served.concurrency)
        sink: Sink[Any] = CallbackSink(
            options, services, Ledger(settings.database_url), settings.master_secret, config.allowed_addresses
        )
        return Deliverer(
            Ledger(settings.database_url),
            sink,
            served.retry,
            served.concurrency,
            connection,
            owner,
            lane_limit=served.per_origin,
        )
    chosen = config.sinks[name]
    return Deliverer(
        Ledger(settings.database_url),
        registry.build(name, chosen.type, chosen.options, services),
        chosen.retry,
        chosen.concurrency,
        connection,
        owner,
        rate=SharedRate(connection, name, chosen.rate_limit) if chosen.rate_limit else None,
        note=liveness.StartedJournal(settings.data, owner, unsettled(chosen.concurrency)).add,
    )
