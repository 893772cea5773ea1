"""What no config key sets: how long the submit API waits for others, and how much it takes."""

from __future__ import annotations

from typing import Final, NamedTuple

from receiver.web.limits import BODY_TIMEOUT, MAX_CALLS


class SubmitLimits(NamedTuple):
    """Limits of one process, in seconds unless noted.

    `calls`: that may be under way. `body`: in which the body of a call must come. `upload`: bytes of an uploaded file,
    which is passed on while it comes, so submit.max_body need not bound it; Skyvern refuses over 30 MB. `searching`:
    that a caller waits for the run of a lost answer, and `look`: between two reads of the ledger for it. `recording`:
    that a reply waits until it is recorded; a ledger that hangs records it later. `after_wait`: that Skyvern may take
    to say how a run is whose caller has waited for it; `after_stop`: when the process stops. `retry_webhook`: that the
    call waits for the attempt; Skyvern takes up to 60, and SDKs wait that long.
    """

    calls: int = MAX_CALLS
    body: float = BODY_TIMEOUT
    upload: int = 64 << 20
    searching: float = 15.0
    look: float = 0.3
    recording: float = 4.0
    after_wait: float = 8.0
    after_stop: float = 3.0
    retry_webhook: float = 30.0


LIMITS: Final = SubmitLimits()
