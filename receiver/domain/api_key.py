"""The keys of upstream apps: how they are made, and their scopes. Pure: randomness is passed in.

A key is derived: rhk_<id>_<HMAC-SHA256 of the id under the master secret>. So the ledger keeps its hash only, and yet
the worker that serves a caller's own webhook can make the key anew to sign with it. A stolen ledger signs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

SCOPES: Final = ("submit", "read", "operate")
"""submit creates runs; read sees runs and results; operate changes them: cancel, send again, all other calls."""
RESUBMIT: Final = "resubmit"
"""A scope that is given by name only: what is submitted again with such a key counts as its first caller's own, whose
webhook is then signed with that caller's key."""
EVERY: Final = (*SCOPES, RESUBMIT)

_PREFIX = "rhk_"
_HINT = 12


def derive(master: str, key_id: str) -> str:
    """The whole key with this id (hex digits)."""
    digest = hmac.digest(master.encode(), b"runhook key " + key_id.encode(), "sha256")
    return f"{_PREFIX}{key_id}_{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def digest(key: str) -> str:
    """What the ledger knows of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def hint(key: str) -> str:
    """How a key begins: enough to tell it from others, of no use to open anything."""
    return key[:_HINT]
