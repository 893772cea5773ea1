"""Move the deliveries of a removed or renamed sink to another."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from receiver.api.chosen import TakenResult, begin, begun, preview
from receiver.api.endpoint import call
from receiver.api.service import Actor, Service
from receiver.api.sinks import SinkParameters
from receiver.config.models import Config
from receiver.domain.api_key import OPERATE
from receiver.domain.callback import CALLBACK
from receiver.errors import Invalid
from receiver.ledger.actions import MOVE, MOVE_BACK, Action, Selection


class MoveParameters(SinkParameters):
    """Which sink's deliveries go to which other sink. `sink`: one that left the config."""

    into: str = Field(max_length=200, description="New sink of its deliveries.")
    delivered: bool = Field(False, description="Also move successful deliveries; they are not sent again.")
    undo: bool = Field(False, description="Return what `into` got from `sink` and has not delivered.")
    dry_run: bool = Field(False, description="Change nothing: return the count, and some of the deliveries.")


def move_sink(service: Service, actor: Actor, wanted: MoveParameters) -> TakenResult:
    """Move the deliveries of a removed or renamed sink to another, with the same idempotency keys.

    Pending ones are due at once; dead and cancelled ones stay so. Skips results that the other sink has already. The
    clock does it step by step, as an operation.
    """
    _check_move(service.config, wanted)
    giver, taker = (wanted.into, wanted.sink) if wanted.undo else (wanted.sink, wanted.into)
    action = Action(MOVE_BACK if wanted.undo else MOVE, Selection(sink=giver), taker, force=wanted.delivered)
    found = service.ledger.read(lambda it: preview(it, action))
    if not found.count:
        raise Invalid(f"{giver} has no such deliveries, so there is nothing to move")
    if wanted.dry_run:
        return found
    return begun(service.ledger.write(lambda it: begin(it, actor, action, name="sink.move")))


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


MOVE_SINK: Final = call("POST", "/sinks/{sink}/move", OPERATE, move_sink, all_sources=True)
