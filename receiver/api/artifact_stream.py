"""Files of runs over HTTP: whole or in ranges, read in threads piece by piece, and never all in memory.

Nothing of a file is ever a page of ours: a browser gets types that run nothing, and a policy that lets nothing run.
"""

from __future__ import annotations

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
from receiver.skyvern import BrokenOff
from receiver.submit.connection import StreamedResponse
from receiver.submit.long_poll import TooManyWaiters, WaiterLimit

# Files that are read at once, and the part of them that one caller may have of what others leave.
MAX_STREAMS: Final = 64
CALLER_SHARE: Final = 0.5
# Files that are fetched at once from the Skyvern of one source: some may take minutes, which wait for bytes alone.
FETCHES: Final = 24
# The same from the API and from the console: what is opened by itself is in a sandbox, without an origin.
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
        # Of each source: a Skyvern that hangs holds up no file that is stored, nor those of another source.
        self._fetching: dict[str, CallPool] = {}
        self._places = WaiterLimit(MAX_STREAMS, CALLER_SHARE)

    @staticmethod
    def wanted(request: Request) -> bool:
        """Whether the request asks for bytes: it does unless it asks for JSON by name."""
        return "application/json" not in request.headers.get("accept", "")

    async def answer(self, request: Request, actor: Actor, wanted: ContentParameters) -> Response:
        """Return the file, or the range that the request asks for. Raises RequestError and LedgerUnavailable."""
        content = await self._pool.run(lambda: self._files.at_hand(actor, wanted))
        if isinstance(content, ArtifactRow):
            row = content
            pool = self._fetching.setdefault(row.source, CallPool(f"skyvern-files-{row.source}", FETCHES))
            content = await pool.run(lambda: self._files.fetched(row))
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
        """Return the bytes, of which the first are there: a store that is away is told as such."""
        try:
            with self._places.place(f"{actor.kind} {actor.name} {actor.key_id}"):
                pass  # it is held from the first bytes on
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
                raise BrokenOff from None  # what has come must not look whole
            finally:
                with suppress(ValueError):  # a thread still waits for the store, and ends it
                    chunks.close()  # type: ignore[attr-defined]

        return rest()

    def close(self) -> None:
        """Stop the threads, and close the sinks."""
        self._pool.close()
        for each in self._fetching.values():
            each.close()
        self._files.close()


def _headers(content: ArtifactContent) -> dict[str, str]:
    """Return what is said of a file, whichever part of it is wanted."""
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
    """Return from where up to where a file of `size` bytes is wanted; all of it without a range, for several at once,
    for what is no range, and when `if_range` names another version.

    None for one that no byte is in.
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
