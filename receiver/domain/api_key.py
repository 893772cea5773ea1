"""The keys of upstream apps: how they are made, and which scope a call needs. Pure: randomness is passed in.

A key is derived: rhk_<id>_<HMAC-SHA256 of the id under the master secret>. So the ledger keeps its hash only, and yet
the worker that serves a caller's own webhook can make the key anew to sign with it. A stolen ledger signs nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final
from urllib.parse import unquote

SCOPES: Final = ("submit", "read", "operate")
"""submit creates runs; read sees runs and results; operate changes them: cancel, send again, all other calls."""
AGAIN: Final = "again"
"""A scope that is given by name only: what is submitted again with such a key counts as its first caller's own, whose
webhook is then signed with that caller's key."""
EVERY: Final = (*SCOPES, AGAIN)

_PREFIX = "rhk_"
_HINT = 12
_SUBMITS = frozenset({"/v1/run/tasks", "/v1/run/agents", "/v1/run/workflows", "/api/v1/tasks"})
_ROOTS = (("v1",), ("api", "v1"))
_REFUSED = frozenset({"apikeys", "api_keys", "api-keys", "ui-session", "internal", ".", "..", ""})
# A segment that hands out, or makes, credentials of Skyvern itself.
_VAULT = frozenset({"get", "create"})
# What ends the paths below credentials/<vault> that tell the vault's own token or client secret.
_CODES = frozenset({"totp", "totp-code"})
# A segment below which a GET tells codes of a second factor.


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


def scope_of(method: str, path: str) -> str | None:
    """The scope that a call needs, or None when it is passed on for nobody. `path`: as it stands on the wire."""
    decoded = unquote(unquote(path)).replace("\\", "/")
    segments = tuple(decoded.lower().removesuffix("/").split("/")[1:])
    if not decoded.startswith("/") or _REFUSED & set(segments):
        return None
    if not any(segments[: len(root)] == root and len(segments) > len(root) for root in _ROOTS):
        return None
    if "credentials" in segments and segments[-1] in _VAULT:
        return None
    if method in ("GET", "HEAD"):
        return "operate" if _CODES & set(segments) else "read"
    if method not in ("POST", "PUT", "PATCH", "DELETE"):
        return None
    if method == "POST" and decoded.removesuffix("/") in _SUBMITS:
        return "submit"
    # Other calls that create runs: /v1/run/tasks/login, /v1/run/workflows/blocks, /v1/workflows/{id}/run.
    creates = method == "POST" and ("run" in segments[1:3] or segments[-1] == "run")
    return "submit" if creates else "operate"
