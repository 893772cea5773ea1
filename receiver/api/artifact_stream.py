"""Files of runs over HTTP: complete or in ranges, read in threads, chunk by chunk.

A file never runs as a page of Runhook: a browser gets harmless types, and a policy that forbids scripts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from handlers.mirror.names import DEFAULT
from receiver.api.artifact_content import ArtifactContent, ArtifactFiles, ContentParameters
from receiver.api.artifacts import ArtifactRow
from receiver.api.call_pool import CallPool
from receiver.api.responses import is_known
from receiver.api.service import Actor, Service
from receiver.errors import Busy
from receiver.skyvern.client import BrokenOff
from receiver.web.limits import TooManyWaiters, WaiterLimit
from receiver.web.responses import StreamedResponse
from receiver.web.work import SingleFlight

# Files that are read at once, and the share of the free places that one caller may take.
MAX_STREAMS: Final = 64
CALLER_SHARE: Final = 0.5
# Files that are fetched at once from the Skyvern of one source. One may take minutes.
FETCHES: Final = 24
# For the API and the console: a file that is opened in a tab of its own is in a sandbox, without an origin.
SECURITY: Final = {
    "content-security-policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline';"
    " frame-ancestors 'none'; sandbox",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
_RANGE: Final = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE)


class ArtifactStreams:
    """The files that one process serves."""

    def __init__(self, service: Service) -> None:
        self._files = ArtifactFiles(service)
        self._pool = CallPool("artifacts")
        # By source: a Skyvern that hangs delays neither stored files nor those of another source.
        self._fetching: dict[str, CallPool] = {}
        self._fetches: SingleFlight[tuple[str, str], ArtifactContent] = SingleFlight()
        self._places = WaiterLimit(MAX_STREAMS, CALLER_SHARE)

    @staticmethod
    def accepts_stream(request: Request) -> bool:
        """Whether the request asks for bytes: it does unless it asks for JSON by name."""
        return "application/json" not in request.headers.get("accept", "")

    async def answer(self, request: Request, actor: Actor, parameters: ContentParameters) -> Response:
        """Return the file, or the range that the request asks for. Raises RequestError and LedgerUnavailable."""
        content = await self._pool.run(lambda: self._files.at_hand(actor, parameters))
        if isinstance(content, ArtifactRow):
            row = content
            pool = self._fetching.setdefault(row.source, CallPool(f"skyvern-files-{row.source}", FETCHES))
            content = await self._fetches.run(
                (row.event_id, row.name), functools.partial(pool.run, functools.partial(self._files.fetched, row))
            )
        headers = _headers(content)
        if is_known(",".join(request.headers.getlist("if-none-match")), content.etag):
            return Response(status_code=304, headers=headers)
        size = content.facts.size
        part = range_of(request.headers.get("range", ""), request.headers.get("if-range", ""), content.etag, size)
        if part is None:
            return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
        start, end = part
        headers |= {"content-type": content.facts.content_type, "content-length": str(end - start)}
        is_part = end - start < size
        if is_part:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        status = 206 if is_part else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers)
        return StreamedResponse(await self._opened(actor, content, start, end), status, headers)

    async def _opened(
        self, actor: Actor, content: ArtifactContent, start: int, end: int
    ) -> AsyncGenerator[bytes, None]:
        """Return the bytes, of which the first are read: an unavailable store gets its own response."""
        try:
            with self._places.place(f"{actor.kind} {actor.name} {actor.key_id}"):
                pass  # taken when the first bytes are sent
        except TooManyWaiters:
            raise Busy("too many files are being read", retry_after=5) from None
        chunks = content.chunks(start, end)
        first = await self._pool.run(lambda: next(chunks, b""))

        async def rest() -> AsyncGenerator[bytes, None]:
            chunk = first
            try:
                with self._places.place(f"{actor.kind} {actor.name} {actor.key_id}"):
                    while chunk:
                        yield chunk
                        chunk = await self._pool.run(lambda: next(chunks, b""))
            except (Busy, TooManyWaiters):
                raise BrokenOff from None  # what was sent must not look complete
            finally:
                with suppress(ValueError):  # a thread still reads, and closes it
                    chunks.close()  # type: ignore[attr-defined]

        return rest()

    def close(self) -> None:
        """Stop the threads, and close the sinks."""
        self._pool.close()
        for each in self._fetching.values():
            each.close()
        self._files.close()


def _headers(content: ArtifactContent) -> dict[str, str]:
    """Return the headers of a file, whichever part of it is requested."""
    facts = content.facts
    how = "attachment" if facts.content_type == DEFAULT else "inline"
    headers = {
        "etag": content.etag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "vary": "authorization, x-api-key, accept, cookie",
        "content-disposition": f"{how}; filename*=UTF-8''{quote(facts.name, safe='')}",
        **SECURITY,
    }
    return {**headers, "content-encoding": content.file.encoding} if content.file.encoding else headers


def range_of(header: str, if_range: str, etag: str, size: int) -> tuple[int, int] | None:
    """Return the first and the last position + 1 of the requested range of a file of `size` bytes; None if it is empty.

    The complete file without a valid single range, and when `if_range` names another version.
    """
    found = _RANGE.fullmatch(header)
    if found is None or found[0].endswith("=-") or (if_range and if_range.strip() != etag):
        return 0, size
    first, last = found[1], found[2]
    if not first and not last:
        return 0, size
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return 0, size
    return (start, end) if start < end else None
