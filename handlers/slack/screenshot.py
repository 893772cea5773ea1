"""The final screenshot of a run, for the thread under its message: fetched like any address of a payload, with care.

A picture is an extra: whatever goes wrong with it is a note on the receipt, for the message is there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from handlers.contract import Artifact, Delivery, Services, SinkError
from handlers.mirror import artifacts_of
from handlers.mirror.artifacts import url_identity
from handlers.mirror.download import ArtifactFetcher, ArtifactListing, IncomingFile, SkipArtifact
from handlers.slack.client import Api
from handlers.support.guarded_client import Deadline, GuardedClient
from handlers.support.wording import mirrored

MAX_BYTES = 10 * 1024 * 1024
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF")


def final_screenshot(artifacts: Sequence[Artifact], run: Mapping[str, Any]) -> Artifact | None:
    """The last thing that the run saw: `screenshot_url` where there is one, else the first listed, the newest."""
    shots = [artifact for artifact in artifacts if artifact.kind == "screenshot"]
    last = run.get("screenshot_url")
    same = [shot for shot in shots if isinstance(last, str) and url_identity(shot.url) == url_identity(last)]
    return next(iter(same or shots), None)


def linked(run: Mapping[str, Any]) -> list[Artifact]:
    """The run's files that are worth a link: downloads, recordings, and of the screenshots the final one."""
    artifacts = artifacts_of(run)
    last = final_screenshot(artifacts, run)
    return [one for one in artifacts if one is last or one.kind in ("download", "recording")]


class Pictures:
    """Fetches and uploads for one sink. Safe to use from many threads; opens nothing before its first picture."""

    def __init__(self, services: Services, timeout: float) -> None:
        self._services = services
        self._client = GuardedClient(services.allowed_addresses(), timeout=timeout)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def add(self, api: Api, delivery: Delivery, channel: str, thread: str) -> str:
        """Upload the run's final screenshot into `thread`. Returns why that did not work, or "" (also without one)."""
        shot = final_screenshot(artifacts_of(delivery.run), delivery.run)
        if shot is None:
            return ""
        try:
            picture = self._fetch(delivery, shot, api.remaining())
            api.call(
                "files_upload_v2", channel=channel, thread_ts=thread, content=picture, filename=shot.name,
                title="Final screenshot", alt_txt="What the browser showed when the run ended",
            )  # fmt: skip
        except (SkipArtifact, SinkError) as error:
            return f"no screenshot: {error}"
        return ""

    def _fetch(self, delivery: Delivery, shot: Artifact, seconds: float) -> bytes:
        deadline = Deadline(seconds / 2)
        listing = ArtifactListing(self._services, delivery)
        fetcher = ArtifactFetcher(self._client, self._services, delivery, listing, MAX_BYTES, deadline)
        kept = [replace(shot, url=url) for name, url in mirrored(delivery) if name == shot.name]
        try:
            return _read(fetcher, shot)
        except (SkipArtifact, SinkError):
            if not kept:
                raise
        return _read(fetcher, kept[0])


def _read(fetcher: ArtifactFetcher, shot: Artifact) -> bytes:
    pieces: list[bytes] = []

    def receive(incoming: IncomingFile) -> None:
        pieces.extend(incoming)

    fetcher.fetch(shot, receive)
    picture = b"".join(pieces)
    if not picture.startswith(_BEGINNINGS):
        raise SkipArtifact("what its address gives is no picture")
    return picture
