"""Looks for Runhook's secrets in what is passed on to a caller, as plain text and as JSON escapes it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

# Characters of a secret under which it is not looked for: any text may contain it.
SHORTEST: Final = 6


class SecretScan:
    """Knows the secrets of all sources. `overlap`: bytes at a text's end that may be the beginning of a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = [each for each in secrets if len(each) >= SHORTEST]
        forms = [each for secret in found for each in (secret, json.dumps(secret)[1:-1])]
        self._needles = {each.encode() for each in (*forms, *(json.dumps(each)[1:-1] for each in forms))}
        self.overlap = max(map(len, self._needles), default=1) - 1

    def found_in(self, text: bytes) -> bool:
        """Return whether `text` contains a secret, also inside a JSON text that is a value of another one."""
        return any(needle in text for needle in self._needles)


NO_SECRETS: Final = SecretScan()
