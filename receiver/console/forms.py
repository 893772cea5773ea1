"""The fields of a form, and the notice that the next page shows after an action."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from receiver.console.sign_in import SignedIn, set_cookie
from receiver.errors import BadRequest, TooLarge
from receiver.web.work import off_loop

# Bytes of the largest form: of people who have signed in, and of those who sign in.
MAX_FORM: Final = 1 << 20
MAX_LOGIN: Final = 4 << 10

NOTICE: Final = "runhook_notice"
# Characters of a notice, and seconds for which a browser keeps one.
_LONGEST: Final = 600
_KEPT: Final = 60


class Notice(NamedTuple):
    """A message that a page shows once. `tone`: good, bad or wait."""

    tone: str
    text: str


async def form_of(request: Request, most: int = MAX_FORM) -> list[tuple[str, str]]:
    """Return the fields of a form. `most`: bytes. Raises BadRequest, TooLarge."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise BadRequest("This takes a form.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"The form is over {most} bytes.")
    return await off_loop(len(body), _fields, bytes(body))


def _fields(body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a body: a second's work for the worst of the largest. Raises BadRequest."""
    try:
        fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=2000)
    except ValueError:
        raise BadRequest("The form can't be read.") from None
    return [(name, value.replace("\r\n", "\n")) for name, value in fields]  # as browsers send the lines of a text


def set_notice(request: Request, response: Response, signed_in: SignedIn, notice: Notice) -> None:
    """Set the notice of the next page of this session."""
    text = f"{notice.tone} {notice.text[:_LONGEST]}".encode("utf-8", "replace")
    value = f"{base64.urlsafe_b64encode(text).decode()}.{_mac(signed_in, text)}"
    set_cookie(request, response, NOTICE, value, _KEPT)


def notice_of(request: Request, signed_in: SignedIn) -> Notice | None:
    """Return the notice for this session. A notice that Runhook did not sign for it is ignored."""
    encoded, _, mac = request.cookies.get(NOTICE, "").rpartition(".")
    try:
        text = base64.urlsafe_b64decode(encoded)
    except (binascii.Error, ValueError):
        return None
    if not text or not hmac.compare_digest(mac.encode("utf-8", "replace"), _mac(signed_in, text).encode()):
        return None
    tone, _, message = text.decode("utf-8", "replace").partition(" ")
    return Notice(tone, message)


def _mac(signed_in: SignedIn, text: bytes) -> str:
    return hmac.digest(signed_in.form_token.encode(), b"notice\0" + text, "sha256").hex()
