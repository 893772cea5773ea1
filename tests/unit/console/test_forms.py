"""The notice of what was done: only what we said ourselves, to the same session."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from receiver.console import forms
from receiver.console.forms import NOTICE, Notice, notice_of, set_notice
from receiver.console.passwords import Person
from receiver.console.sign_in import SignedIn
from receiver.errors import BadRequest, TooLarge


def session(form_token: str = "f" * 64) -> SignedIn:
    return SignedIn(Person("ana", "", frozenset()), form_token, "d")


def request_with(cookie: str) -> Request:
    return Request(
        {
            "type": "http",
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            "headers": [(b"cookie", cookie.encode("latin-1"))],
        }
    )


def cookie_of(notice: Notice, signed_in: SignedIn) -> str:
    answer = Response()
    set_notice(request_with(""), answer, signed_in, notice)
    return answer.headers["set-cookie"].partition(";")[0]


@given(st.text(st.characters(codec="utf-8"), max_size=100))
def test_what_was_said_is_shown(text: str) -> None:
    said = Notice("good", text)
    assert notice_of(request_with(cookie_of(said, session())), session()) == said


def test_another_session_does_not_show_it() -> None:
    cookie = cookie_of(Notice("good", "Done."), session())
    assert notice_of(request_with(cookie), session("e" * 64)) is None


@pytest.mark.parametrize("value", ["", ".", "x", "Z29vZCB5b3UgYXJlIG93bmVk.", "Z29vZCB5b3U=.00", "\xff.\xff", "a.b.c"])
def test_what_we_did_not_say_is_not_shown(value: str) -> None:
    assert notice_of(request_with(f"{NOTICE}={value}"), session()) is None


def test_a_long_notice_fits_into_a_cookie() -> None:
    cookie = cookie_of(Notice("bad", "ü" * 10_000), session())
    assert len(cookie) < 4096
    assert notice_of(request_with(cookie), session())


async def test_a_large_form_is_not_read_by_the_event_loop() -> None:
    def sent(body: bytes) -> asyncio.Task[list[tuple[str, str]]]:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        head = (b"content-type", b"application/x-www-form-urlencoded")
        return asyncio.create_task(forms.form_of(Request({"type": "http", "headers": [head]}, receive)))

    # Given the worst for its reader: a second for a MiB
    reading, turns = sent(b"a=" + b"%" * (forms.MAX_FORM - 2)), 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert await reading == [("a", "%" * (forms.MAX_FORM - 2))]
    # Then the loop has done other work meanwhile
    assert turns > 10
    assert await sent(b"a=1%0D%0A2&b=") == [("a", "1\n2"), ("b", "")]


def test_what_is_no_form_is_refused() -> None:
    def sent(body: bytes, kind: str = "application/x-www-form-urlencoded") -> list[tuple[str, str]]:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        head = (b"content-type", kind.encode())
        return asyncio.run(forms.form_of(Request({"type": "http", "headers": [head]}, receive), 10))

    assert sent(b"a=12345678") == [("a", "12345678")]
    with pytest.raises(TooLarge, match="over 10 bytes"):
        sent(b"a=123456789")
    for body, kind in ((b"a=\xff", "application/x-www-form-urlencoded"), (b"a=1", "application/json")):
        with pytest.raises(BadRequest):
            sent(body, kind)
