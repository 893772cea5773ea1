"""The scope that a call of Skyvern's paths needs. Pure."""

from __future__ import annotations

from urllib.parse import unquote

_SUBMITS = frozenset({"/v1/run/tasks", "/v1/run/agents", "/v1/run/workflows", "/api/v1/tasks"})
_ROOTS = (("v1",), ("api", "v1"))
# Path segments that return, or create, credentials of Skyvern itself.
_REFUSED = frozenset({"apikeys", "api_keys", "api-keys", "ui-session", "internal", ".", "..", ""})
# The last segments of paths below credentials/<vault> that return the vault's own token or client secret.
_VAULT = frozenset({"get", "create"})
# Path segments below which a GET returns codes of a second factor.
_CODES = frozenset({"totp", "totp-code"})


def scope_of(method: str, path: str) -> str | None:
    """Return the scope that a call needs, or None when no key may make it. `path`: as it was on the wire."""
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
