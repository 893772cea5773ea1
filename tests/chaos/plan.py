"""What is done to the system, and when: made from a seed, so that a run that went wrong can be run again. Pure.

A step's `at` is in seconds since the load began. Kills are kill -9 at chosen moments; whoever plays the process manager
starts the part again after `seconds`.

In the long form each part is killed three times, and all at once; Redis hangs for 60 s and then is away for 60 s, with
the worker and then the receiver killed meanwhile; PostgreSQL hangs; Redis is flushed while the inbox is empty; one
consumer refuses connections and another hangs. Of two hosts one has a clock that is ahead, their networks fail in every
way, and each vanishes in the middle of a claim, so that PostgreSQL goes on waiting for it. The short form has a part of
that, and shows the loss of each safeguard.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Action = Literal["rate", "kill", "hang", "flush", "mode", "quiet", "network", "vanish"]
PARTS: Final = ("receiver", "worker", "child", "clock", "valkey", "postgres")
"""What is killed. `worker` is the supervisor with all its children, `child` one of the children."""
HOSTED: Final = ("receiver", "worker", "child", "clock")
"""Of these each host has its own."""
NETWORK: Final = ("reset", "half-close", "refuse", "drip", "hold")
"""What a network does to the connections of a host to a server."""
SKEW: Final = 30.0
"""Seconds by which the second host's clock is ahead."""


@dataclass(frozen=True)
class Step:
    """`what`: the part, the consumer, or the server to which the network fails. `host`: whose part or network.
    `value`: events a second, the consumer's mode, or what the network does.

    `seconds`: how long the part is away, or how long to wait at the most, without load, until all is delivered
    (`quiet`). `amid`: while others are away; else they are waited for first, or a slow machine would show nothing but
    the faults that came after.
    """

    at: float
    action: Action
    what: str = ""
    seconds: float = 0.0
    value: str = ""
    amid: bool = False
    host: str = "a"

    def __str__(self) -> str:
        names = {"kill": "kill -9", "hang": "SIGSTOP", "flush": "FLUSHALL", "quiet": "catch up"}
        if self.action == "network":
            return f"{self.what} {self.value}s for {self.host}"
        if self.action == "vanish":
            return f"host {self.host} vanishes"
        if self.action == "kill" and self.what in HOSTED:
            return f"kill -9 {self.what}.{self.host}"
        if self.action == "mode":
            return f"{self.what} {self.value}s" if self.value != "ok" else f"{self.what} is well"
        return f"{names.get(self.action, self.action)} {self.what}".strip()


@dataclass
class Plan:
    """`windows`: named spans of time in which nothing else is wrong, for comparing latencies.

    `end`: when the load stops. `rate`: events a second. `least`: acked events that make a run count.
    """

    rate: int
    least: int
    steps: list[Step] = field(default_factory=list)
    windows: dict[str, tuple[float, float]] = field(default_factory=dict)
    end: float = 0.0
    hosts: str = "a"

    @property
    def linked(self) -> frozenset[str]:
        """The servers to which the network may fail: a network costs a busy machine time, so others have none."""
        faulty = {step.what for step in self.steps if step.action == "network"}
        return frozenset(faulty | ({"redis", "postgres"} if any(s.action == "vanish" for s in self.steps) else set()))

    def windows_as_done(self, delays: Sequence[tuple[float, float]]) -> dict[str, tuple[float, float]]:
        """Return the windows, in seconds since the load began, as they really were.

        `delays`: in order, when a step was planned, and how much later it and what followed it came.
        """

        def really(at: float) -> float:
            return at + max((late for planned, late in delays if planned < at), default=0.0)

        return {name: (really(start), really(end)) for name, (start, end) in self.windows.items()}

    @property
    def ahead(self) -> tuple[float, ...]:
        """By how many seconds the clock of each host is wrong: all but the first one's are."""
        return tuple(SKEW * number for number in range(len(self.hosts)))


def make(seed: int, *, short: bool) -> Plan:
    """The plan of a run."""
    return _Maker(seed, SHORT if short else LONG).make()


@dataclass(frozen=True)
class Size:
    """How much of everything. Times in seconds."""

    rate: int
    least: int
    calm: float
    outage: float
    kills: int  # of each part
    gap: tuple[float, float]  # between two of them
    away: tuple[float, float]  # until it is started again
    redis: float  # how long Redis hangs, and then is gone
    loaded: float  # of that: with load, at its beginning and again at its end
    flushes: int
    together: int  # kills of everything at once
    frozen: float  # how long PostgreSQL hangs
    networks: tuple[int, int]  # faults of each kind of the network to Redis, and to PostgreSQL
    vanished: int  # times that a host is gone without a word
    hosts: str
    rest: float  # before Redis goes away for long: to catch up, so that each outage shows what it costs by itself


SHORT: Final = Size(70, 1_700, 4.0, 4.0, 1, (0.5, 0.9), (0.1, 0.5), 2.5, 1.5, 1, 0, 0.0, (2, 0), 2, "ab", 0.0)
LONG: Final = Size(300, 10_000, 12.0, 15.0, 3, (2.0, 4.0), (0.1, 2.0), 60.0, 6.0, 2, 1, 10.0, (5, 1), 3, "ab", 60.0)


class _Maker:
    def __init__(self, seed: int, size: Size) -> None:
        self._chance = random.Random(seed)
        self._size = size
        self._plan = Plan(size.rate, size.least, hosts=size.hosts)
        self._now = 0.0

    def make(self) -> Plan:
        size = self._size
        self._load(on=True)
        self._window("calm", size.calm, skip=min(2.0, size.calm / 4))
        self._outage("door", "refuse")
        self._outage("tar", "hang")
        for step in self._storm():
            self._step(step.action, step.what, step.seconds, step.value, step.host)
            self._now += self._chance.uniform(*size.gap)
        self._away("hang")
        self._away("kill")
        self._now += 1.0
        self._plan.end = self._now
        self._plan.steps.sort(key=lambda step: step.at)
        return self._plan

    def _storm(self) -> Iterator[Step]:
        size = self._size
        steps = [
            Step(0, "kill", part, self._chance.uniform(*size.away), host=self._host(number) if part in HOSTED else "")
            for part in PARTS
            for number in range(size.kills)
        ]
        steps += [
            Step(0, "network", server, self._lasting(kind), kind, host=self._host(number))
            for server, times in zip(("redis", "postgres"), size.networks, strict=True)
            for kind in NETWORK
            for number in range(times)
        ]
        steps += [Step(0, "vanish", "host", 1.0, host=self._host(number)) for number in range(size.vanished)]
        steps += [Step(0, "flush", "valkey") for _ in range(size.flushes)]
        steps += [Step(0, "kill", "everything", 1.0) for _ in range(size.together)]
        steps += [Step(0, "hang", "postgres", size.frozen)] if size.frozen else []
        self._chance.shuffle(steps)
        yield from steps

    def _host(self, number: int) -> str:
        return self._size.hosts[number % len(self._size.hosts)]

    def _lasting(self, kind: str) -> float:
        """Seconds of a fault of the network. A silence is longer than what is given to a commit, or it is no fault."""
        return {"reset": 0.0, "half-close": 0.0, "hold": self._chance.uniform(0.6, 2.0)}.get(
            kind, self._chance.uniform(0.1, 0.5)
        )

    def _outage(self, consumer: str, mode: str) -> None:
        """One consumer is ill. Towards the end the worker is killed whole, its sends under way."""
        size = self._size
        self._step("mode", consumer, size.outage, mode)
        # What is sent just before the end is not within the window: it may arrive after it.
        self._window(f"{consumer} {mode}s", size.outage, skip=min(1.0, size.outage / 4), rest=1.5)
        if mode == "hang":
            self._step("kill", "worker", 0.3)
            self._now += 1.0
        self._step("mode", consumer, 0, "ok")
        self._now += 1.0

    def _away(self, action: Action) -> None:
        """Redis hangs or is gone for long. The load pauses meanwhile, or the rest of the run would be catching up."""
        size = self._size
        if size.rest:
            self._step("quiet", seconds=size.rest)
            self._now += 2.0
        start = self._now
        self._step(action, "valkey", size.redis)
        victim = "receiver" if action == "kill" else "worker"
        self._plan.steps.append(Step(round(start + size.loaded / 2, 2), "kill", victim, 0.2, amid=True))
        if size.redis > 2 * size.loaded:
            self._now = start + size.loaded
            self._load(on=False)
            self._now = start + size.redis - size.loaded / 2
            self._load(on=True)
        self._now = start + size.redis + size.loaded / 2

    def _load(self, *, on: bool) -> None:
        self._step("rate", value=str(self._size.rate if on else 0))

    def _step(self, action: Action, what: str = "", seconds: float = 0.0, value: str = "", host: str = "") -> None:
        host = host or self._size.hosts[0]
        self._plan.steps.append(Step(round(self._now, 2), action, what, round(seconds, 2), value, host=host))

    def _window(self, name: str, seconds: float, skip: float, rest: float = 0.0) -> None:
        self._plan.windows[name] = (self._now + skip, self._now + seconds - rest)
        self._now += seconds
