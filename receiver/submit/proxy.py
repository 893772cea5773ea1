"""Calls that are Skyvern's own business: passed on with the source's key, and the answer brought back.

Answers of reads come in pieces, whatever their size. None that holds a secret of the source goes out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from receiver.ledger.api_keys import Key
from receiver.skyvern import Answered, BrokenOff, Streamed, Unreachable
from receiver.submit.callback_mask import CallbackMask
from receiver.submit.replies import Reply, error, holds_secret, relay, relayed_headers
from receiver.submit.request.source import Source

WHOLE = 4 << 20
"""Bytes up to which an answer is read before it is passed on, so that our callback URLs in it can be replaced."""


class Leak(Exception):
    """A secret of the source stood in a body that was already on its way; the connection is broken off."""


class Passthrough:
    """All calls that nothing else is done for."""

    def __init__(self, disguise: CallbackMask) -> None:
        self._disguise = disguise

    async def read(
        self, source: Source, key: Key, method: str, path: str, query: str, headers: Mapping[str, str]
    ) -> Reply | tuple[Reply, Rest]:
        """The answer to a GET or HEAD; for a large one its head and its body, which must be closed."""
        said = await source.api.stream(method, path, query, headers)
        if isinstance(said, Unreachable):
            return error(504 if "in time" in said.reason else 503, said.reason, retry_after="5")
        pieces: list[bytes] = []
        size = 0
        whole = False
        try:
            async for piece in said.chunks:
                pieces.append(piece)
                size += len(piece)
                if size > WHOLE:
                    break
            else:
                whole = True
        except BrokenOff:
            await said.aclose()
            return error(502, "Skyvern's answer broke off")
        except BaseException:  # the caller hung up
            await said.aclose()
            raise
        body = b"".join(pieces)
        reply = relay(Answered(said.status, body, said.headers), source.secrets)
        if whole or reply.status != said.status:
            await said.aclose()
            if _is_json(reply.headers):
                reply = Reply(reply.status, await self._disguise.put_on(source, key, reply.body), reply.headers)
            elif method == "HEAD" and "content-length" in said.headers:
                reply = reply.with_headers(content_length=said.headers["content-length"])
            return reply
        return Reply(said.status, b"", relayed_headers(said.headers)), Rest(said, body, source)

    async def act(
        self, source: Source, key: Key, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
    ) -> Reply:
        """The answer to any other call."""
        said = await source.api.forward(method, path, query, headers, body)
        reply = relay(said, source.secrets)
        return Reply(reply.status, await self._disguise.put_on(source, key, reply.body), reply.headers)


def _is_json(headers: Mapping[str, str]) -> bool:
    return "json" in headers.get("content-type", "")


class Rest:
    """A body on its way, of which `first` is read already, looked through for secrets over the seams of its pieces.

    Whoever has one calls `aclose`, also when it was never begun: the connection to Skyvern is held until then. To
    iterate raises Leak, or BrokenOff when that connection breaks.
    """

    def __init__(self, said: Streamed, first: bytes, source: Source) -> None:
        self._said = said
        self._first = first
        self._secrets = source.secrets

    async def __aiter__(self) -> AsyncIterator[bytes]:
        overlap = max((len(secret) for secret in self._secrets), default=1) - 1
        tail = self._first[-overlap:] if overlap else b""
        yield self._first
        async for piece in self._said.chunks:
            if holds_secret(tail + piece, self._secrets):
                raise Leak
            tail = (tail + piece)[-overlap:] if overlap else b""
            yield piece

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._said.aclose()
