"""Where a simulated Skyvern keeps the artifacts of its runs, and signs URLs to them.

The signature is Skyvern's: HMAC-SHA256 of method, path, expiry and key id, in 43 URL-safe base64 characters.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time

from simulator.artifacts import SENSITIVE, StoredArtifact, content
from simulator.options import Options
from simulator.runs import SimRun, now

_KEY_ID = "k1"


class Storage:
    """The artifacts by id."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._first = time.time_ns() // 1000  # ids of a later simulation never meet those of an earlier one
        self._stored: dict[str, StoredArtifact] = {}
        self._secret = secrets.token_bytes(32)

    def get(self, artifact_id: str) -> StoredArtifact | None:
        """Return an artifact as it is stored now, or None."""
        return self._stored.get(artifact_id)

    def create(self, run: SimRun, type_: str, name: str = "") -> StoredArtifact:
        """Return a new, complete artifact of `run`. It is stored, but no answer names it before `run` has it."""
        artifact_id, data = f"a_{self._first + len(self._stored) + 1}", content(type_, run.id)
        checksum = hashlib.sha256(data).hexdigest() if type_ == "download" else None
        stored = StoredArtifact(artifact_id, type_, name, run.id, now(), data, len(data), checksum, run.base)
        self._stored[artifact_id] = stored
        return stored

    def show(self, run: SimRun, stored: StoredArtifact) -> None:
        """Let `run` have an artifact, or another state of one that it has. The newest screenshot is the first."""
        self._stored[stored.id] = stored
        run.artifacts = [stored, *(each for each in run.artifacts if each.id != stored.id)]

    def link(self, stored: StoredArtifact, *, lapsed: bool = False) -> str | None:
        """Return a new signed URL of an artifact; with local storage a file URL, or None."""
        if self._options.local_storage:
            return f"file:///data/artifacts/{stored.id}" if stored.type == "recording" else None
        sensitive = stored.type in SENSITIVE
        seconds = self._options.screenshot_url_seconds if sensitive else self._options.url_seconds
        expiry = str(int(time.time() + (-60 if lapsed else seconds)))
        signature = self._signature(stored.path, expiry)
        return f"{stored.base}{stored.path}?expiry={expiry}&kid={_KEY_ID}&sig={signature}"

    def verify(self, path: str, expiry: str, kid: str, sig: str) -> bool:
        """Return whether a signed URL is valid now."""
        if kid != _KEY_ID or not (expiry.isascii() and expiry.isdigit()) or int(expiry) <= time.time():
            return False
        return hmac.compare_digest(self._signature(path, expiry).encode(), sig.encode())

    def _signature(self, path: str, expiry: str) -> str:
        digest = hmac.digest(self._secret, f"GET\n{path}\n{expiry}\n{_KEY_ID}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
