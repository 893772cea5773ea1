"""How long a server asks us to wait: the header Retry-After, as seconds or as a date. Pure, and never raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER = 86_400.0
"""Seconds that a server can make us wait."""


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the header Retry-After asks for, at most a day; None without one that can be read.

    `headers`: names in lower case. `now`: seconds since the epoch, against which a date is held unless the server sent
    its own.
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
