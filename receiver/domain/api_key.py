"""The API keys of upstream apps: how they are derived, and their scopes. Pure: randomness is passed in.

A key is derived: rhk_<id>_<HMAC-SHA256 of the id under the master secret>. So the ledger keeps its hash only, and yet
the worker that sends a caller's own webhook can derive the key again to sign with it. A stolen ledger signs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

# submit creates runs; read sees runs and results; operate changes them: cancel, retry_webhook, all other calls.
SCOPES: Final = ("submit", "read", "operate")
# Sees all that the JSON API shows; acts there only together with operate. Given by name only: an app that submits runs
# needs none of it.
VIEW: Final = "view"
OPERATE: Final = "operate"
# In place of a key's source: all of them. Of keys that submit and read nothing at Skyvern.
ALL_SOURCES: Final = "*"
# A scope that is given by name only: what is resubmitted with such a key counts as its first caller's own, whose
# webhook is then signed with that caller's key.
RESUBMIT: Final = "resubmit"
# Erases the content of runs, which nothing restores. Given by name only.
ERASE: Final = "erase"
ALL_SCOPES: Final = (*SCOPES, VIEW, RESUBMIT, ERASE)

_PREFIX = "rhk_"
_HINT_LENGTH = 12


def derive(master: str, key_id: str) -> str:
    """Derive the key with this id (hex digits) from the master secret."""
    digest = hmac.digest(master.encode(), b"runhook key " + key_id.encode(), "sha256")
    return f"{_PREFIX}{key_id}_{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def digest(key: str) -> str:
    """Return the hash of a key that the ledger stores: SHA-256, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def hint(key: str) -> str:
    """Return the first characters of a key: enough to tell it from others, too few to use it."""
    return key[:_HINT_LENGTH]
