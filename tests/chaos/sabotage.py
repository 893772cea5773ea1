"""Runs a `runhook` command with one of its safeguards taken out, to show that its loss is seen.

    python -m tests.chaos.sabotage NAME COMMAND…

Nothing in the product knows of this: a function is replaced from outside before the command starts.
"""

from __future__ import annotations

import copy
import pkgutil
import sys
from typing import Final

SAFEGUARDS: Final[dict[str, dict[str, object]]] = {
    # Nobody takes back what a worker held that was killed whole: neither at once nor when its claims have run out.
    "claim-sweep": {"receiver.ledger.deliveries.recovery:lapse_claims": 0, "receiver.runtime.liveness:reap": 0},
    # No dispatcher takes over what a killed one had read.
    "reclaim": {"receiver.inbox_recovery:InboxRecovery.take": None},
    # No receiver takes over what a killed one had spooled.
    "spool-adoption": {"receiver.ingest.spool:Spool._adopt": 0},
}
"""For each safeguard the functions that make it, and what one that does nothing returns."""


def take_out(name: str) -> None:
    """Replace the functions of a safeguard. Raises AttributeError for one that is not there any more."""
    for path, result in SAFEGUARDS[name].items():
        pkgutil.resolve_name(path)  # setting an attribute would succeed for any name
        module, _, names = path.partition(":")
        owner, _, attribute = names.rpartition(".")
        place = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
        setattr(place, attribute, lambda *_, result=result, **__: copy.copy(result))


def main() -> None:
    name, *sys.argv[1:] = sys.argv[1:]
    take_out(name)
    from receiver.cli import main as runhook

    sys.argv[0] = "runhook"
    runhook()


if __name__ == "__main__":
    main()
