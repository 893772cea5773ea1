"""Bodies that are passed on while they come in: unchanged, and with nothing of a secret."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.skyvern import Streamed
from receiver.submit.proxy import ProxiedBody, SecretInBody
from receiver.submit.request.source import Source

SECRETS = (b"sk-live-0123456789", b"whsec-abcdef")
NO_API: Any = None


class Upstream:
    """An answer that comes in these pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self.closed = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

    async def aclose(self) -> None:
        self.closed += 1


def proxied(pieces: Sequence[bytes], secrets: Sequence[bytes] = SECRETS) -> ProxiedBody:
    upstream = Upstream(pieces[1:])
    source = Source("skyvern", NO_API, secrets=tuple(secrets))
    return ProxiedBody(Streamed(200, {}, upstream.chunks(), upstream.aclose), pieces[0], source)


def cut(text: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


async def sent(body: ProxiedBody) -> tuple[bytes, bool]:
    """What a caller gets, and whether it was cut off for a secret."""
    got = b""
    try:
        async for piece in body:
            got += piece
    except SecretInBody:
        return got, True
    return got, False


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=6))
async def test_a_body_without_a_secret_comes_as_it_is_however_it_is_cut(text: bytes, places: list[int]) -> None:
    assert await sent(proxied(cut(text, places))) == (text, False)
    assert await sent(proxied(cut(text, places), secrets=[])) == (text, False)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", [b"", b"x" * 100])
async def test_a_secret_across_the_seams_of_pieces_is_found_and_no_byte_of_it_goes_out(
    secret: bytes, before: bytes
) -> None:
    text = before + secret + b"y" * 100
    seams = list(range(len(before) + 1, len(before) + len(secret)))
    for places in [*([seam] for seam in seams), seams, [1, *seams]]:
        got, found = await sent(proxied(cut(text, places)))
        assert found, places
        assert before.startswith(got), places


async def test_what_only_begins_like_a_secret_is_passed_on_at_the_end() -> None:
    assert await sent(proxied([b"x", b"sk-live-012345678"])) == (b"xsk-live-012345678", False)
