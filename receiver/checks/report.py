"""Represent what `runhook status` reports: the state of each process and store. Reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.breaker import Lane
from receiver.domain.liveness import SeenProcess, expected
from receiver.inbox.state import InboxState
from receiver.ledger.database.clock_correction import Corrected
from receiver.ledger.stats import DeliveryPace, Gauges, Newest

# Seconds for which a mistake of a sender counts as news.
NEWS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server. `version`: () if unknown. `skew`: seconds, at least, by which this host's clock is ahead, or None."""

    name: str
    version: tuple[int, ...] = ()
    skew: float | None = None


@dataclass(frozen=True, slots=True)
class RedisReport:
    """The state of Redis. `trouble`: why it cannot be used now, or "". `embedded`: `runhook dev` runs it.

    `durability`: its guarantee, in words. `weak`: why that does not mean on disk before the 202, if the config does not
    accept it, else "". `max_events`, `max_bytes`: of the inbox, from the config; None if that cannot be read.
    `down_since`: as far as a receiver knows. `uptime`: seconds since its start; None if that cannot be read.
    `used_memory`: the same; `maxmemory`: 0 for no limit. `alerts_failing`: why a sink does not accept alerts.
    """

    url: str
    trouble: str = ""
    durability: str = ""
    weak: str = ""
    inbox: InboxState = field(default_factory=InboxState)
    embedded: bool = False
    max_events: int | None = None
    max_bytes: int | None = None
    down_since: float | None = None
    uptime: int | None = None
    used_memory: int | None = None
    maxmemory: int = 0
    alerts_failing: Mapping[str, str] = field(default_factory=dict)
    server: Server = Server("Redis")


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The state of the ledger. `trouble`: why it cannot be read now, or ""; `todo`: the fix, or "" if unknown.

    `weak`: why it may lose committed data, if the config does not accept that, else "". `lanes`: those that are paused
    or not closed. `orphans`: number of deliveries by removed sink and state. `operations`: number of running
    operations, such as replays. `newest`: what the newest events and deliveries show.
    `paused_by`: who paused a sink last, by sink. `paces`: by sink, how fast it accepts. `corrected`: the last
    recent correction of rows dated ahead by a database clock. `redis_lost`: when Redis lost its data within a
    day, if its results were not imported since. `spool_sent`: when an operator last sent a left spool
    within a day, by the id of its data directory; "" for a directory without one.
    `responses`: how the newest response of sinks begins that fail; `waiting_runs`: of how many runs deliveries wait.
    `down_since`: as far as a process of this machine knows.
    """

    url: str
    trouble: str = ""
    todo: str = ""
    weak: str = ""
    gauges: Gauges = field(default_factory=lambda: Gauges({}, {}, {}, None))
    lanes: list[Lane] = field(default_factory=list)
    orphans: dict[str, dict[str, int]] = field(default_factory=dict)
    newest: Newest = field(default_factory=Newest)
    operations: int = 0
    paces: dict[str, DeliveryPace] = field(default_factory=dict)
    corrected: Corrected | None = None
    paused_by: dict[str, str] = field(default_factory=dict)
    redis_lost: float | None = None
    spool_sent: dict[str, float] = field(default_factory=dict)
    responses: dict[str, str] = field(default_factory=dict)
    waiting_runs: dict[str, int] = field(default_factory=dict)
    down_since: float | None = None
    server: Server = Server("PostgreSQL")


@dataclass(frozen=True, slots=True)
class DiskReport:
    """The data directory of this machine. `trouble`: why it cannot be read, or "".

    `spool_events`: in its spool. `spool_left`: bytes there that no receiver of this machine owns. `newest_refused`:
    when the newest request in quarantine came; `refused_lately`: how many came within a day. `reserve`, `spool_limit`:
    bytes from the config; None if that cannot be read.
    """

    directory: str
    trouble: str = ""
    free: int | None = None
    reserve: int | None = None
    spool_bytes: int = 0
    spool_left: int = 0
    spool_limit: int | None = None
    set_aside: int = 0
    quarantine: int = 0
    newest_refused: float | None = None
    refused_lately: int = 0
    spool_events: int = 0


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The whole report. `config`: None if it cannot be used, for `config_problems`; it may have `warnings`.

    `config_hash`, `config_sections`: hashes of the file, and of its sections, sinks and sources.
    """

    settings: Settings
    config: Config | None
    now: float
    config_hash: str
    redis: RedisReport
    ledger: LedgerReport
    disk: DiskReport
    processes: list[SeenProcess]
    config_problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config_sections: dict[str, str] = field(default_factory=dict)

    @property
    def config_file(self) -> str:
        """The path of the config file."""
        return str(self.settings.config)

    @property
    def sinks(self) -> list[str]:
        """All sinks that deliveries have; none if the config cannot be used."""
        return [] if self.config is None else self.config.destinations

    @property
    def expected(self) -> list[str]:
        """The roles that need at least one running process."""
        return expected(self.sinks)
