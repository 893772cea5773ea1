"""Signing in and out over HTTP: the form, a token that is good once, an issuer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import Response

from receiver.console.forms import MAX_LOGIN, form_of
from receiver.console.page import PATH
from receiver.console.rendering import Renderer, page, see_other
from receiver.console.sign_in import (
    COOKIE,
    SIGNING_IN,
    SIGNING_IN_PATH,
    SignIn,
    check_form_token,
    check_same_origin,
    forget_cookie,
    is_secure,
    local_path,
    set_cookie,
)
from receiver.ledger import LedgerUnavailable

if TYPE_CHECKING:
    from receiver.console.oidc import Oidc

_USED: Final = "The address was used already, or belongs to another start."


class SignInPages:
    """`oidc`: the issuer, if there is one. `lasts`: seconds of a session. `by_password`, `by_token`: whether people can
    sign in with a password, and with a token that is good once. `only_name`: the user name if only one exists, else "".
    """

    def __init__(
        self,
        renderer: Renderer,
        sign_in: SignIn,
        oidc: Oidc | None,
        lasts: float,
        *,
        by_password: bool,
        by_token: bool,
        only_name: str,
    ) -> None:
        self._renderer = renderer
        self._sign_in = sign_in
        self._oidc = oidc
        self._lasts = lasts
        self._ways = {"passwords": by_password, "by_token": by_token, "only_name": only_name}

    def routes(self) -> Iterator[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        """Yield the method, the path and the handler of each request."""
        yield "GET", f"{PATH}/login", self.login_form
        yield "POST", f"{PATH}/login", self.login
        yield "POST", f"{PATH}/logout", self.logout
        if self._oidc is not None:
            yield "GET", f"{PATH}/oidc/login", partial(self.to_issuer, self._oidc)
            yield "GET", f"{PATH}/oidc/callback", partial(self.from_issuer, self._oidc)

    async def login_form(self, request: Request) -> Response:
        """Show the form to sign in."""
        if once := request.query_params.get("token"):
            token = await self._sign_in.with_token(once)
            return self._signed_in(request, token, "") if token else self._form("", problem=_USED)
        where = request.query_params.get("next", "")
        try:
            signed_in = await self._sign_in.session_of(request)
        except LedgerUnavailable:
            return self._form(where, problem="The ledger is unavailable. Sign in to see the status.")
        return self._form(where) if signed_in is None else see_other(local_path(where))

    def _form(self, where: str, name: str = "", problem: str = "", status: int = 200) -> Response:
        issuer = self._oidc.host if self._oidc else ""
        values = {"title": "Sign in", "next": local_path(where), "name": name, "problem": problem, "issuer": issuer}
        return page(self._renderer.html("login.html", {**values, **self._ways}), status)

    async def login(self, request: Request) -> Response:
        """Sign a person in."""
        check_same_origin(request)
        form = dict(await form_of(request, MAX_LOGIN))
        name, where = form.get("name", ""), form.get("next", "")
        token = await self._sign_in.with_password(request, name, form.get("password", ""))
        if token is None:
            return self._form(where, name, "The name or the password is wrong.", HTTPStatus.UNAUTHORIZED)
        return self._signed_in(request, token, where)

    async def to_issuer(self, oidc: Oidc, request: Request) -> Response:
        """Lead to the issuer."""
        redirect, where = _redirect_uri(request), local_path(request.query_params.get("next", ""))
        location, cookie = await oidc.begin(redirect, where)
        answer = see_other(location)
        set_cookie(request, answer, SIGNING_IN, cookie, 600, SIGNING_IN_PATH)
        return answer

    async def from_issuer(self, oidc: Oidc, request: Request) -> Response:
        """Sign in who comes back from the issuer."""
        cookie, given = request.cookies.get(SIGNING_IN, ""), dict(request.query_params)
        kept = oidc.pending(given, cookie)
        self._sign_in.throttle(request)  # only now: else pictures of another site could use up a network's tries
        person = await oidc.finish(_redirect_uri(request), given, kept)
        token = await self._sign_in.with_issuer(request, person)
        answer = self._signed_in(request, token, kept["where"])
        forget_cookie(answer, SIGNING_IN, SIGNING_IN_PATH)
        return answer

    def _signed_in(self, request: Request, token: str, where: str) -> Response:
        answer = see_other(local_path(where))
        set_cookie(request, answer, COOKIE, token, self._lasts)
        return answer

    async def logout(self, request: Request) -> Response:
        """Sign a person out, on every host."""
        check_same_origin(request)
        signed_in = await self._sign_in.session_of(request)
        if signed_in is not None:
            check_form_token(signed_in, dict(await form_of(request)).get("form_token", ""))
            await self._sign_in.end(signed_in)
        answer = see_other(f"{PATH}/login")
        forget_cookie(answer, COOKIE)
        return answer


def _redirect_uri(request: Request) -> str:
    """Return where the issuer sends the browser back to. The issuer refuses an invented host."""
    scheme = "https" if is_secure(request) else "http"
    return f"{scheme}://{request.headers.get('host', '')}{PATH}/oidc/callback"
