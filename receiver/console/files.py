"""Links to files of runs: signed, and good for a while, so that a player opens them, and a colleague who gets one.

Who is signed in needs no signature: the files are those of the runs that this person may see.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from receiver.console.page import PATH

# Minimum seconds for which a link is valid; the same link is made for a while, so that browsers keep the file.
GOOD_FOR: Final = 3600
_SAME_FOR: Final = 600


class FileLinks:
    """Makes and checks links. `secret`: what all hosts share."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"runhook console files", "sha256")

    def path(self, person: str, source: str, run_id: str, name: str, now: float) -> str:
        """Return the path of a file, which opens what `person` may see."""
        until = (int(now + GOOD_FOR) // _SAME_FOR + 1) * _SAME_FOR
        told = {"source": source, "run_id": run_id, "by": person, "until": str(until)}
        return f"{PATH}/files/{quote(name, safe='')}?{urlencode({**told, 'signature': self._mac(name, told)})}"

    def person(self, name: str, given: Mapping[str, str], now: float) -> str | None:
        """Return by whom a link was made; None for an invalid or expired one."""
        told = {key: given.get(key, "") for key in ("source", "run_id", "by", "until")}
        signature = given.get("signature", "").encode("utf-8", "replace")
        is_ours = hmac.compare_digest(signature, self._mac(name, told).encode())
        return told["by"] if is_ours and now <= int(told["until"]) else None

    def _mac(self, name: str, told: Mapping[str, str]) -> str:
        return hmac.digest(self._key, urlencode({"name": name, **told}, errors="replace").encode(), "sha256").hex()
