"""What `runhook status` knows: the state of each part and store, as values. Reads nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from receiver.domain.breaker import Lane
from receiver.domain.parts import PartSeen
from receiver.inbox.state import InboxState
from receiver.ledger.ahead import Corrected
from receiver.ledger.timeouts import Cancelled
from receiver.ledger.words import Coverage


@dataclass(frozen=True, slots=True)
class RedisReport:
    """`trouble`: why Redis can't be used now, or "". `durability`: what it promises, in words; `weak`: why that is less
    than on disk before the 202, and not accepted by the config, or "". `embedded`: `runhook dev` runs it."""

    url: str
    trouble: str = ""
    durability: str = ""
    weak: str = ""
    inbox: InboxState = field(default_factory=InboxState)
    embedded: bool = False


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """`trouble`: why the ledger can't be read now, or ""; `todo`: what helps, "" where that is not known. `weak`: why
    it may lose what it has confirmed, where the config does not accept that, or "". `counts`: deliveries by (sink,
    state), of those that have not ended, and dead ones. `oldest_due`: by sink, since when the oldest waits beyond its
    time. `orphans`: by sink that is not in the config, how many deliveries have which state. `operations`: replays and
    backfills that are running. `cancelled`: operations of ours that the database cancels for time. `search`: which runs
    it finds. `corrected`: the last rows, lately, that a database clock had dated ahead."""

    url: str
    trouble: str = ""
    todo: str = ""
    weak: str = ""
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    oldest_due: dict[str, float] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    orphans: dict[str, dict[str, int]] = field(default_factory=dict)
    newest_event: float | None = None
    operations: int = 0
    watch_trouble: dict[str, str] = field(default_factory=dict)
    missed_schedules: dict[str, int] = field(default_factory=dict)
    cancelled: list[Cancelled] = field(default_factory=list)
    search: Coverage = field(default_factory=Coverage)
    corrected: Corrected | None = None


@dataclass(frozen=True, slots=True)
class DiskReport:
    """The data directory of this machine. `spool_left`: bytes in the spool that no receiver of this machine owns.
    `newest_refused`: when the newest request in quarantine came. `trouble`: why it can't be read, or "". `reserve`,
    `spool_limit`: bytes; None where the config can't be read, which says them."""

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


@dataclass(frozen=True, slots=True)
class StatusReport:
    """All of it. `expected`: the parts of which one at least must be alive. `config_problems`: why the config can't be
    used, and `warnings` what is probably a mistake in it. `advice`: what of settings and config will not work together,
    each with what to do."""

    now: float
    version: str
    config_file: str
    config_hash: str
    config_problems: list[str]
    warnings: list[str]
    advice: list[str]
    expected: list[str]
    sinks: list[str]
    redis: RedisReport
    ledger: LedgerReport
    disk: DiskReport
    parts: list[PartSeen]
