"""Which processes are alive: heartbeats of receiver, dispatcher, senders and clock, and which are missing. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

RECEIVER: Final = "receiver"
CLOCK: Final = "clock"
DISPATCH: Final = "dispatch"
_DELIVER: Final = "deliver:"

# Seconds between two heartbeats of one process.
BEAT_EVERY: Final = 15.0
# Seconds without a heartbeat after which a process counts as gone: two were lost.
SILENT_AFTER: Final = 35.0
# Seconds without a step of its loop after which a process that still beats counts as stuck.
STUCK_AFTER: Final = 45.0
# Seconds for which a process that has ended is remembered.
FORGET_AFTER: Final = 86_400.0
# Longest name and host that are believed: the stores are written by others too.
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class ProcessBeat:
    """One heartbeat. `role`: receiver, clock, dispatch or deliver:<sink>. `config`: hash of the config file.

    `sent_at`: by the clock of its host; `started_at` too. `stalled`: seconds since its loop made its last step, 0.0
    where that is not watched. `stopped`: it ended in order. `details`: values of this role alone.
    """

    name: str
    role: str
    host: str
    pid: int
    version: str
    config: str
    started_at: float
    sent_at: float = 0.0
    stalled: float = 0.0
    stopped: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as JSON, as the stores keep it."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "details"}
        return json.dumps({**kept, "details": dict(self.details)})

    @classmethod
    def from_json(cls, text: str | bytes) -> ProcessBeat | None:
        """Return the heartbeat that `to_json` wrote; None for anything else."""
        try:
            members = json.loads(text)
            texts = [str(members[each])[:_LONGEST] for each in ("name", "role", "host", "version", "config")]
            started, sent, stalled = (float(members[each]) for each in ("started_at", "sent_at", "stalled"))
            details = members["details"] if isinstance(members["details"], dict) else {}
            name, role, host, version, config = texts
            pid, stopped = int(members["pid"]), members["stopped"] is True
            return cls(name, role, host, pid, version, config, started, sent, stalled, stopped, details)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return None


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A heartbeat as one reader found it. `age`: seconds since it came, by the clock of the store that has it.

    `skew`: by how many seconds its host's clock is ahead of the store's, with the time that the write took; None where
    the store has no clock of its own. `process`: "gone" or "suspended" for a process of this machine that is so, as the
    kernel says; "" for all others.
    """

    beat: ProcessBeat
    age: float
    skew: float | None = None
    process: str = ""

    @property
    def state(self) -> str:
        """running, stuck (it makes no progress), silent (it ended unexpectedly), or stopped (in order)."""
        if self.beat.stopped:
            return "stopped"
        if self.process == "suspended":
            return "stuck"
        if self.process == "gone" or not self.age < SILENT_AFTER:
            return "silent"
        return "stuck" if self.beat.stalled >= STUCK_AFTER else "running"

    @property
    def alive(self) -> bool:
        """Whether it does its work."""
        return self.state == "running"

    def age_of(self, at: float) -> float:
        """Return how many seconds ago `at` was. `at`: a time by the clock of its host."""
        return self.age + self.beat.sent_at - at


def deliver(sink: str) -> str:
    """Return the role that sends to `sink`."""
    return _DELIVER + sink


def sink_of(role: str) -> str:
    """Return the sink that this role sends to; "" for a role that sends to none."""
    return role.removeprefix(_DELIVER) if role.startswith(_DELIVER) else ""


def expected(sinks: Iterable[str]) -> list[str]:
    """Return the roles that need a live process on some host."""
    return [RECEIVER, DISPATCH, *map(deliver, sinks), CLOCK]


def merge(*stores: Iterable[SeenProcess]) -> list[SeenProcess]:
    """Return each process once, as the store that heard of it last tells; by role, the newest first."""
    newest: dict[str, SeenProcess] = {}
    for seen in (each for store in stores for each in store):
        other = newest.get(seen.beat.name)
        # Written one after the other: a stop that reached only one store is one for all.
        if other is None or (seen.beat.sent_at, -seen.age) > (other.beat.sent_at, -other.age):
            skew = seen.skew if seen.skew is not None or other is None else other.skew
            newest[seen.beat.name] = replace(seen, skew=skew)
        elif other.skew is None:
            newest[seen.beat.name] = replace(other, skew=seen.skew)
    order = {RECEIVER: 0, DISPATCH: 1, CLOCK: 3}
    return sorted(newest.values(), key=lambda each: (order.get(each.beat.role, 2), each.beat.role, each.age))


def missing(seen: Collection[SeenProcess], roles: Iterable[str]) -> dict[str, SeenProcess | None]:
    """Return the roles without a live process, each with its last process, if any."""
    alive = {each.beat.role for each in seen if each.alive}
    last_seen: dict[str, SeenProcess | None] = {}
    for role in roles:
        if role not in alive:
            last_seen[role] = min(
                (each for each in seen if each.beat.role == role), key=lambda each: each.age, default=None
            )
    return last_seen


def lost(seen: Collection[SeenProcess]) -> list[SeenProcess]:
    """Return the processes that ended without a word, and in whose place on their host no other is alive."""
    alive = {(each.beat.role, each.beat.host) for each in seen if each.alive}
    return [
        each for each in seen if each.state in ("silent", "stuck") and (each.beat.role, each.beat.host) not in alive
    ]
