"""Bodies that are passed on while they come in: unchanged, and with nothing of a secret."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.skyvern.client import Streamed
from receiver.submit.proxy import ProxiedBody, SecretInBody
from receiver.submit.replies import SecretScan
from receiver.submit.source import Source

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


def proxied(pieces: Sequence[bytes], secrets: Sequence[bytes] = SECRETS, kind: str = "image/png") -> ProxiedBody:
    upstream = Upstream(pieces[1:])
    source = Source("skyvern", NO_API, secrets=SecretScan(each.decode() for each in secrets))
    headers = {"content-type": kind}
    return ProxiedBody(Streamed(200, headers, upstream.chunks(), upstream.aclose), pieces[0], source)


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
async def test_body_without_a_secret_is_unchanged(text: bytes, places: list[int]) -> None:
    assert await sent(proxied(cut(text, places))) == (text, False)
    assert await sent(proxied(cut(text, places), secrets=[])) == (text, False)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", [b"", b"x" * 100])
async def test_secret_across_chunks_is_never_sent(secret: bytes, before: bytes) -> None:
    text = before + secret + b"y" * 100
    seams = list(range(len(before) + 1, len(before) + len(secret)))
    for places in [*([seam] for seam in seams), seams, [1, *seams]]:
        got, found = await sent(proxied(cut(text, places)))
        assert found, places
        assert before.startswith(got), places


TEXT_KINDS = ("application/json; charset=utf-8", "text/plain", "text/html", "", "application/octet-stream")


@given(st.lists(st.integers(0, 800), max_size=12), st.sampled_from(TEXT_KINDS))
async def test_callback_token_is_masked_in_text_only(places: list[int], kind: str) -> None:
    # Given a list of runs that shows callback URLs of ours, in plain and in escaped form
    token = "sub_0123456789abcdef0123456789abcdef"
    urls = [f"https://a.example/webhooks/{name}/{token}" for name in ("skyvern", "n" * 200)]
    text = json.dumps([{"webhook_callback_url": url} for url in urls])
    text += "".join(urls[0].replace("/", escaped) for escaped in ("\\/", "%2F", "\\u002f"))

    # When it is passed on in pieces
    as_text, _ = await sent(proxied(cut(text.encode(), places), kind=kind))
    as_picture, _ = await sent(proxied(cut(text.encode(), places)))

    # Then no token is left, and nothing else has changed, not even the length; a picture is as it came
    assert as_text.decode() == text.replace(token, "sub_" + "*" * 32)
    assert as_picture.decode() == text


SECRET = 'sk-live_/+5e1f\\"ü'
SCAN = SecretScan(["other-secret-1", SECRET])
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON in UTF-8": lambda text: json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", [("", ""), ('{"a": "', '"}')])
def test_secret_is_found_in_each_form(form: str, around: tuple[str, str]) -> None:
    text = around[0] + FORMS[form](SECRET) + around[1]
    assert SCAN.found_in(text.encode())
    assert not SecretScan(["sk-live_/+5e1f-other"]).found_in(text.encode())
    assert len(FORMS[form](SECRET).encode()) - 6 <= SCAN.overlap + 1


@given(st.binary(max_size=200))
def test_other_texts_contain_no_secret(text: bytes) -> None:
    assert not SecretScan(["a-secret-that-chance-does-not-make"]).found_in(text)


def test_short_secrets_are_not_looked_for() -> None:
    assert not SecretScan(["", "short"]).found_in(b"a short text")
