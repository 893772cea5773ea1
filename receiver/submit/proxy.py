"""Forwards calls that are Skyvern's own business, with the source's API key, and returns the answers.

Answers to reads are streamed, whatever their size. None with one of Runhook's secrets goes out, and no token of its
callback URLs: in a large response, and in one that is not JSON, stars replace it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from receiver.domain import callback_url
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.skyvern.client import BrokenOff, Streamed
from receiver.skyvern.responses import Answer, Answered, Unreachable
from receiver.submit.callback_mask import mask_callbacks
from receiver.submit.replies import read_failed, relay, relayed_headers
from receiver.submit.source import Caller, Source
from receiver.web.responses import Reply, error
from receiver.web.work import off_loop

# Bytes up to which an answer is read before it is passed on, so that our callback URLs in it become the caller's own.
BUFFER_LIMIT = 4 << 20
# Binary content types. In all others, unknown ones too, tokens are masked; that leaves the length as it is.
_NO_TEXT = ("image/", "video/", "audio/", "font/", "application/zip", "application/gzip", "application/pdf")


class SecretInBody(BrokenOff):
    """One of Runhook's secrets was found in a body that is already being sent; the connection is aborted."""


class Proxy:
    """All calls that no other module serves. `ledger`: knows which webhook address a caller may see."""

    def __init__(self, ledger: AsyncLedger) -> None:
        self._ledger = ledger

    async def read(
        self, caller: Caller, method: str, path: str, query: str, headers: Mapping[str, str]
    ) -> Reply | tuple[Reply, ProxiedBody]:
        """Return the answer to a GET or HEAD; of a large one its head, and its body, which must be closed."""
        source = caller.source
        answer = await source.api.stream(method, path, query, headers)
        if isinstance(answer, Unreachable):
            return read_failed(answer)
        body = bytearray()
        complete = False
        try:
            async for chunk in answer.chunks:
                body += chunk
                if len(body) > BUFFER_LIMIT:
                    break
            else:
                complete = True
        except BrokenOff:
            await answer.aclose()
            return error(502, "Skyvern's answer broke off")
        except BaseException:  # the caller disconnected
            await answer.aclose()
            raise
        beginning = bytes(body)
        head = Answered(answer.status, beginning, answer.headers)
        reply = await off_loop(len(beginning), relay, head, source.secrets)
        if complete or reply.status != answer.status:
            await answer.aclose()
            kind = reply.headers.get("content-type", "")
            if "json" in kind:
                reply = await self._masked(caller, reply)
            elif _is_text(kind):
                reply = Reply(reply.status, callback_url.mask_piece(reply.body), reply.headers)
            if method == "HEAD" and "content-length" in answer.headers:
                reply = reply.with_headers(content_length=answer.headers["content-length"])
            return reply
        return Reply(answer.status, b"", relayed_headers(answer.headers)), ProxiedBody(answer, beginning, source)

    async def forward(
        self, caller: Caller, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> Reply:
        """Return the answer to any other call."""
        return await self._relay(caller, await caller.source.api.forward(method, path, query, headers, body))

    async def upload(
        self, caller: Caller, path: str, query: str, headers: Mapping[str, str], body: AsyncIterator[bytes]
    ) -> Reply:
        """Return the answer to an upload, whose `body` is passed on while it is received. Raises what `body` raises."""
        return await self._relay(caller, await caller.source.api.upload(path, query, headers, body))

    async def _relay(self, caller: Caller, answer: Answer) -> Reply:
        size = len(answer.body) if isinstance(answer, Answered) else 0
        return await self._masked(caller, await off_loop(size, relay, answer, caller.source.secrets))

    async def _masked(self, caller: Caller, reply: Reply) -> Reply:
        body = await mask_callbacks(self._ledger, caller.source.name, caller.key, reply.body)
        return Reply(reply.status, body, reply.headers)


class ProxiedBody:
    """A body that is still being received, searched for secrets also across the boundaries of its chunks. In text, of
    which JSON is one kind, the tokens of our callback URLs become stars.

    `beginning`: what was read already, and searched. Call `aclose` also when it was never iterated: the connection to
    Skyvern is held until then. Iterating raises SecretInBody, or BrokenOff when that connection breaks.
    """

    def __init__(self, answer: Streamed, beginning: bytes, source: Source) -> None:
        self._answer = answer
        self._beginning = beginning
        self._secrets = source.secrets
        self._masks = _is_text(answer.headers.get("content-type", ""))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # What may be the beginning of a secret is held back until its end could have come.
        overlap = self._secrets.overlap
        if self._masks:
            overlap = max(overlap, callback_url.LONGEST - 1)
        beginning, self._beginning = self._masked(self._beginning), b""
        free = max(0, len(beginning) - overlap)
        if free:
            yield beginning[:free]
        held = beginning[free:]
        async for chunk in self._answer.chunks:
            held += chunk
            if self._secrets.found_in(held):
                raise SecretInBody
            held = self._masked(held)
            if (free := len(held) - overlap) > 0:
                yield held[:free]
                held = held[free:]
        yield held

    def _masked(self, piece: bytes) -> bytes:
        return callback_url.mask_piece(piece) if self._masks else piece

    async def aclose(self) -> None:
        """Release the connection."""
        await self._answer.aclose()


def _is_text(content_type: str) -> bool:
    return not content_type.lower().startswith(_NO_TEXT)
