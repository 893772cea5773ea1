"""Read the header Retry-After, in seconds or as a date. Pure, and never raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

# Temporary 4xx statuses.
RETRYABLE = frozenset({408, 425, 429})
# Maximum wait that a server can impose, in seconds.
MAX_RETRY_AFTER = 86_400.0


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of Retry-After, at most a day; None if missing or invalid.

    `headers`: names in lower case. `now`: seconds since the epoch, subtracted from a date unless the server sent its
    own Date.
    """
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
        return min(float(text), MAX_RETRY_AFTER)
    moment = _date(text)
    if moment is None:
        return None
    return min(max(0.0, moment - (_date(headers.get("date", "")) or now)), MAX_RETRY_AFTER)


def _date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
