"""Where a simulated Skyvern keeps the artifacts of its runs, and signs URLs to them."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from simulator import artifacts
from simulator.artifacts import StoredArtifact
from simulator.options import Options
from simulator.runs import SimRun, now


class Storage:
    """The artifacts by id. `first`: a number that the ids are counted from."""

    def __init__(self, options: Options, first: int) -> None:
        self._options = options
        self._first = first
        self._stored: dict[str, StoredArtifact] = {}
        self._secret = secrets.token_bytes(32)

    def get(self, artifact_id: str) -> StoredArtifact | None:
        """Return an artifact as it is stored now, or None."""
        return self._stored.get(artifact_id)

    def create(self, run: SimRun, type_: str, name: str = "") -> StoredArtifact:
        """Return a new artifact of `run`, whole. It is stored, but no answer names it before `run` has it."""
        artifact_id = f"a_{self._first + len(self._stored) + 1}"
        made = replace(artifacts.make(artifact_id, type_, name, run.id, now()), base=run.base)
        self._stored[artifact_id] = made
        return made

    def show(self, run: SimRun, stored: StoredArtifact) -> None:
        """Let `run` have an artifact, or another state of one that it has. The newest screenshot is the first."""
        self._stored[stored.id] = stored
        run.artifacts = [stored, *(each for each in run.artifacts if each.id != stored.id)]

    def link(self, stored: StoredArtifact, *, lapsed: bool = False) -> str | None:
        """Return a fresh signed URL of an artifact; with local storage a file URL, or None."""
        if self._options.local_storage:
            return f"file:///data/artifacts/{stored.id}" if stored.type == "recording" else None
        sensitive = stored.type in artifacts.SENSITIVE
        seconds = self._options.screenshot_url_seconds if sensitive else self._options.url_seconds
        expiry = int(time.time() + (-60 if lapsed else seconds))
        return f"{stored.base}{stored.path}?{artifacts.sign(stored.path, expiry, self._secret)}"

    def verify(self, stored_path: str, expiry: str, kid: str, sig: str) -> bool:
        """Return whether a signed URL is valid now."""
        return artifacts.verify(stored_path, expiry, kid, sig, time.time(), self._secret)
