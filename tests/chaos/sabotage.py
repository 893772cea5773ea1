"""Runs a `runhook` command with one of its safeguards taken out, to show that its loss is seen.

    python -m tests.chaos.sabotage NAME COMMAND…

Nothing in the product knows of this: a function is replaced from outside before the command starts.
"""

from __future__ import annotations

import sys
from typing import Any, Final


def _no_claim_sweep() -> None:
    """Nobody takes back what a worker held that was killed whole: neither at once nor when its claims have run out."""
    from receiver.ledger.deliveries import recovery
    from receiver.runtime import liveness

    nothing: Any = lambda *_: 0  # noqa: E731
    recovery.lapse_claims = liveness.reap = nothing


def _no_reclaim() -> None:
    """No dispatcher takes over what a killed one had read."""
    from receiver.inbox import InboxReader

    nothing: Any = lambda _self, *_, **__: []  # noqa: E731
    InboxReader.reclaim = nothing  # type: ignore[method-assign]


def _no_adoption() -> None:
    """No receiver takes over what a killed one had spooled."""
    from receiver.ingest.spool import Spool

    nothing: Any = lambda _self, *_: 0  # noqa: E731
    Spool._adopt = nothing  # type: ignore[method-assign]


SAFEGUARDS: Final = {"claim-sweep": _no_claim_sweep, "reclaim": _no_reclaim, "spool-adoption": _no_adoption}


def main() -> None:
    name, *sys.argv[1:] = sys.argv[1:]
    SAFEGUARDS[name]()
    from receiver.cli import main as runhook

    sys.argv[0] = "runhook"
    runhook()


if __name__ == "__main__":
    main()
