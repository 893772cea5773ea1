"""Changes that commands make outside of one transaction of the ledger, with their line in the audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from receiver.api.actions.audited import ActionOutcome, audited
from receiver.api.service import Actor
from receiver.cli.ledger_access import open_ledger
from receiver.config.settings import Settings
from receiver.errors import NotStarted


@contextmanager
def audited_here(settings: Settings, action: str, selection: Mapping[str, Any]) -> Iterator[ActionOutcome]:
    """Write what the block does into the audit of the ledger, before and after it, as done by this machine's user.

    When the ledger can't be used at the start, the block runs all the same, unaudited. Raises NotStarted when it can't
    be used after that.
    """
    entered = False
    try:
        with open_ledger(settings) as ledger, audited(ledger, Actor.local(), action, selection) as told:
            entered = True
            yield told
    except NotStarted:
        if entered:
            raise
        yield ActionOutcome()
