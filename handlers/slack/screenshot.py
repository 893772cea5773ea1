"""Upload a run's final screenshot into the thread under its message.

It is optional: the message is posted already, so a failure becomes a note on the receipt. Uses the guarded client, as
for every URL from a payload.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from handlers.contract import Artifact, Delivery, Services, SinkError
from handlers.mirror.artifacts import artifacts_of, url_identity
from handlers.mirror.download import ArtifactFetcher, SkipArtifact
from handlers.slack.client import Api
from handlers.support.deadline import Deadline
from handlers.support.guarded_client import GuardedClient
from handlers.support.wording import stored_links

# Largest screenshot that is uploaded.
MAX_BYTES = 10 * 1024 * 1024
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")


def final_screenshot(artifacts: Sequence[Artifact], run: Mapping[str, Any]) -> Artifact | None:
    """Return the run's last screenshot: `screenshot_url` if listed, else the first, which is the newest."""
    shots = [artifact for artifact in artifacts if artifact.kind == "screenshot"]
    last = run.get("screenshot_url")
    same = [shot for shot in shots if isinstance(last, str) and url_identity(shot.url) == url_identity(last)]
    return next(iter(same or shots), None)


def linked_artifacts(run: Mapping[str, Any]) -> list[Artifact]:
    """Return the run's files to link to: downloads, recordings, and the final screenshot."""
    artifacts = artifacts_of(run)
    last = final_screenshot(artifacts, run)
    return [artifact for artifact in artifacts if artifact is last or artifact.kind in ("download", "recording")]


class ScreenshotUploader:
    """Fetches and uploads for one sink. Thread-safe; opens nothing before its first upload."""

    def __init__(self, services: Services, timeout: float) -> None:
        self._services = services
        self._client = GuardedClient(services.allowed_addresses(), timeout=timeout)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def upload(self, api: Api, delivery: Delivery, channel: str, thread: str) -> str:
        """Upload the run's final screenshot into `thread`. Returns the error; "" on success or without a screenshot."""
        shot = final_screenshot(artifacts_of(delivery.run), delivery.run)
        if shot is None:
            return ""
        try:
            picture = self._fetch(delivery, shot, api.deadline.remaining())
            alt_text = "What the browser showed when the run ended"
            api.upload(picture, shot.name, channel, thread, title="Final screenshot", alt_text=alt_text)
        except (SkipArtifact, SinkError) as error:
            return f"no screenshot: {error}"
        return ""

    def _fetch(self, delivery: Delivery, shot: Artifact, seconds: float) -> bytes:
        fetcher = ArtifactFetcher(self._client, self._services, delivery, Deadline(seconds / 2), cap=MAX_BYTES)
        stored = [replace(shot, url=url) for name, url in stored_links(delivery) if name == shot.name]
        try:
            return _read(fetcher, shot)
        except (SkipArtifact, SinkError):
            if not stored:
                raise
        return _read(fetcher, stored[0])


def _read(fetcher: ArtifactFetcher, shot: Artifact) -> bytes:
    with fetcher.open(shot) as incoming:
        picture = b"".join(incoming)
    if not picture.startswith(_SIGNATURES):
        raise SkipArtifact("its address does not return an image")
    return picture
