"""Runs a `runhook` command with one of its safeguards taken out, to show that its loss is seen.

    python -m tests.chaos.sabotage NAME COMMAND…

Nothing in the product knows of this: a function is replaced from outside before the command starts.

What a run shows without each, with seed 1, in the short form:

    claim-sweep      acked events that no sink gets, 17 deliveries `sending` and one `held` for ever
    look             deliveries that wait for a retry stay `queued` for ever, an acked event is missing at a sink
    reclaim          the inbox never becomes empty, 2 acked events in no ledger
    spool-drain      acked events that were spooled are in no ledger and no table
    reset-recovery   after four resets a spool is never drained, 2,256 acked events in no ledger
    peer-limits      a host that vanishes: what it held is locked, 11 deliveries `held` for ever
    database-clock   1,463 sends are 30 s late by the ledger, those of the host whose clock is ahead

The worker is killed whole for this: a child's successor gives its claims back by itself. One kill falls in the middle
of a consumer's hang, so that claims are open for certain.
"""

from __future__ import annotations

import asyncio
import copy
import pkgutil
import sys
import time
from typing import Any, Final


def _as_it_is(kind: Any) -> Any:
    return kind


def _run_once(self: Any, name: str, body: Any) -> Any:
    """Start a task that ends in silence: `Background.keep` without its care."""
    running = self._kept.get(name)
    if running is None:
        running = self._kept[name] = asyncio.create_task(body(), name=name)
    return running


async def _keep_connections(_: Any) -> None:
    """Leave the connections as the reset left them."""


async def _drain_nothing(_: Any) -> bool:
    """Leave the spool as it is."""
    return False


SAFEGUARDS: Final[dict[str, dict[str, object]]] = {
    # Nobody takes back what a worker held that was killed whole: neither at once nor when its claims have run out.
    "claim-sweep": {
        "receiver.ledger.deliveries.recovery:lapse_claims": 0,
        "receiver.worker_process:WorkerProcess._release_dead": None,
    },
    # No worker looks for due deliveries: of retries, and of what had no room, it never hears.
    "look": {"receiver.worker_process:WorkerProcess._poke_due": False},
    # No dispatcher takes over what a killed one had read.
    "reclaim": {"receiver.inbox.recovery:InboxRecovery.take": None},
    # No receiver sends on what it or a killed one had spooled.
    "spool-drain": {"receiver.ingest.group_commit:GroupCommit._drain": _drain_nothing},
    # PostgreSQL waits without end for a host that has vanished in the middle of a transaction.
    "peer-limits": {"handlers.support.postgresql:begin": "BEGIN"},
    # Each host tells what is due by its own clock.
    "database-clock": {
        "receiver.ledger.database.database_clock:DatabaseClock.now": lambda _: time.time(),
        "receiver.ledger.database.database_clock:database_now": lambda _: time.time(),
    },
    # A connection to Redis that was reset is not seen to be lost, and what that ends is not begun again.
    "reset-recovery": {
        "receiver.runtime.redis_client:_seeing_resets": _as_it_is,
        "receiver.runtime.background:Background.keep": _run_once,
        "receiver.inbox.writer:InboxWriter.disconnect": _keep_connections,
    },
}
"""For each safeguard the functions that make it, and what one that does nothing returns; or what takes its place."""


def take_out(name: str) -> None:
    """Replace the functions of a safeguard. Raises AttributeError for one that is not there any more."""
    for path, result in SAFEGUARDS[name].items():
        pkgutil.resolve_name(path)  # setting an attribute would succeed for any name
        module, _, names = path.partition(":")
        owner, _, attribute = names.rpartition(".")
        place = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        instead = result if callable(result) else lambda *_, result=result, **__: copy.copy(result)
        setattr(place, attribute, instead)


def main() -> None:
    name, *sys.argv[1:] = sys.argv[1:]
    take_out(name)
    from receiver.cli import main as runhook

    sys.argv[0] = "runhook"
    runhook()


if __name__ == "__main__":
    main()
