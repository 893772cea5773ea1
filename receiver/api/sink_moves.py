"""Move the deliveries of a sink that left the config to another one."""

from __future__ import annotations

import time
from typing import Any, Final

from pydantic import Field

from receiver.api.audit import audited
from receiver.api.endpoint import call
from receiver.api.models import Result
from receiver.api.service import Actor, Service
from receiver.api.sinks import SinkParameters
from receiver.config.models import Config
from receiver.domain.api_key import OPERATE
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryState
from receiver.errors import Invalid
from receiver.ledger import Connection, stats
from receiver.ledger.database_clock import database_now
from receiver.ledger.deliveries import orphans

# Seconds after which a move returns where the next call continues.
TIME: Final = 5.0
# What `after` of a move begins with: deliveries are moved first, then what waits for them.
_DELIVERIES, _LINKS = "d", "l"


class MoveParameters(SinkParameters):
    """Which sink's deliveries go to which other sink. `sink`: one that left the config."""

    into: str = Field(max_length=200, description="The sink that gets its deliveries.")
    delivered: bool = Field(
        False, description="Also what `sink` has delivered: `into` is the same sink, and does not get it again."
    )
    undo: bool = Field(False, description="Give back what `into` got from `sink` and has not delivered.")
    dry_run: bool = Field(False, description="Change nothing: return the number of deliveries as `count`.")
    after: str = Field("", max_length=300, description="Cursor: `next` from the previous call.")


class MoveResult(Result):
    """What a call has moved."""

    count: int
    left: int = Field(description="Deliveries of events that the other sink already has a delivery of.")
    next: str | None = Field(description="Cursor: give it as `after` to continue; null at the end.")


def move_sink(service: Service, actor: Actor, wanted: MoveParameters, seconds: float = TIME) -> MoveResult:
    """Give the deliveries of a sink that left the config to another one, under the same idempotency keys.

    Pending ones are due at once; dead and cancelled ones stay so. Call it again with `next` until that is null.
    """
    _check_move(service.config, wanted)
    giver, taker = (wanted.into, wanted.sink) if wanted.undo else (wanted.sink, wanted.into)
    if not wanted.after:
        kept = {DeliveryState.SENDING, *(() if wanted.delivered else (DeliveryState.DELIVERED,))}
        states = [state for state in DeliveryState if state not in kept]
        total = service.ledger.read(lambda connection: stats.count_of(connection, giver, states))
        if not total:
            raise Invalid(f"{giver} has no such deliveries, so there is nothing to move")
        if wanted.dry_run:
            return MoveResult(count=total, left=0, next=None)
    chosen = {"sink": giver, "into": taker, "delivered": wanted.delivered, "undo": wanted.undo}
    with audited(service.ledger, actor, "sink.move", chosen) as done:
        moved = _moved(service, wanted, giver, taker, time.monotonic() + seconds)
        done.count = moved.count
    return moved


def _moved(service: Service, wanted: MoveParameters, giver: str, taker: str, until: float) -> MoveResult:
    kind, cursor = wanted.after[:1] or _DELIVERIES, wanted.after[1:]
    how: dict[str, Any] = {"delivered": wanted.delivered, "undo": wanted.undo}
    count = left = 0

    def rename(connection: Connection) -> str:
        return orphans.rename_links(connection, giver, taker, cursor)

    def move(connection: Connection) -> orphans.Moved:
        return orphans.move(connection, giver, taker, database_now(connection), cursor=cursor, **how)

    while True:
        if kind == _DELIVERIES:
            page = service.ledger.write(move)
            count, left, cursor = count + page.count, left + page.left, page.cursor
            kind = kind if cursor else _LINKS
        elif not (cursor := service.ledger.write(rename)):
            return MoveResult(count=count, left=left, next=None)
        if time.monotonic() > until:
            return MoveResult(count=count, left=left, next=kind + cursor)


def _check_move(config: Config, wanted: MoveParameters) -> None:
    """Raise Invalid for a move that makes no sense."""
    old, new, sinks = wanted.sink, wanted.into, config.destinations
    if CALLBACK in (old, new):
        raise Invalid(f"{CALLBACK}: callers' webhooks go to the address of each caller, and to no other sink")
    if old == new:
        raise Invalid(f"{old} and {new} are one sink")
    if not wanted.undo and old in sinks:
        raise Invalid(f"{old} is still in the config, and would keep getting deliveries: remove it first")
    if not wanted.undo and new not in sinks:
        raise Invalid(f"no sink is called {new}; the config has {', '.join(sinks) or 'none'}")
    if wanted.after[:1] not in ("", _DELIVERIES, _LINKS):
        raise Invalid("after: not a cursor of this call; give `next` of the previous call unchanged")


MOVE_SINK: Final = call("POST", "/sinks/{sink}/move", OPERATE, move_sink, all_sources=True)
