"""Looks for this service's secrets in what is passed on to a caller, also where they are written in another form.

A form is what an echo of a request makes of it: escapes of JSON, of URLs and of HTML, nested too, base64 at any offset,
and hex. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Final

# Bytes of a secret under which it is not looked for: any text may contain it.
SHORTEST: Final = 6
# Bytes that are searched at a time: the search blocks other computation.
_STEP: Final = 1 << 20
# Bytes that one byte of a secret may take in an escaped form, such as \u0061, nested twice.
_LONGEST_ESCAPE: Final = 9

# A run of backslashes is looked at once only, from its beginning.
_ESCAPE = re.compile(
    rb"(?<!\\)\\+u([0-9a-fA-F]{4})|%(?:25)*([0-9a-fA-F]{2})|&#(?:[xX]0*([0-9a-fA-F]{1,6})|0*([0-9]{1,7}));"
)


class SecretScan:
    """Knows the secrets of all sources. `secrets`: those under SHORTEST bytes are left out."""

    def __init__(self, secrets: Iterable[bytes] = ()) -> None:
        found = sorted({each for each in secrets if len(each) >= SHORTEST})
        needles = {needle for each in found for needle in _forms(each)}
        self._needles = sorted(needles, key=len)
        # How many bytes of a text may be the beginning of something that has not come whole.
        self.overlap = max((_LONGEST_ESCAPE * len(each) for each in found), default=1) - 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._needles)} forms)"

    def found_in(self, text: bytes) -> bool:
        """Return whether `text` contains a secret, in any form."""
        if not self._needles:
            return False
        step = max(_STEP, 2 * self.overlap)
        for start in range(0, max(len(text) - self.overlap, 1), step):
            piece = text[start : start + step + self.overlap] if len(text) > step else text
            plain = _unescaped(piece)
            if any(needle in piece or needle in plain for needle in self._needles):
                return True
        return False


NO_SECRETS: Final = SecretScan()


def _unescaped(text: bytes) -> bytes:
    return _ESCAPE.sub(_character, text).replace(b"\\", b"") if b"\\" in text or b"%" in text or b"&#" in text else text


def _character(found: re.Match[bytes]) -> bytes:
    in_json, in_url, hexadecimal, decimal = found.groups()
    if in_url:
        return bytes([int(in_url, 16)])
    code = int(in_json or hexadecimal, 16) if in_json or hexadecimal else int(decimal)
    return chr(code).encode("utf-8", "surrogatepass") if code < 0x110000 else found[0]


def _forms(secret: bytes) -> set[bytes]:
    """Return what may stand for `secret` in a text without escapes."""
    forms = {secret, secret.replace(b"\\", b""), secret.hex().encode(), secret.hex().upper().encode()}
    for before in range(3):  # bytes before it in its group of three
        encoded = base64.b64encode(bytes(before) + secret)
        # Without the characters at both ends that other bytes have a part in.
        inner = encoded[(0, 2, 3)[before] : len(encoded) - (0, 3, 2)[(before + len(secret)) % 3]]
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in forms if len(form) >= SHORTEST}
