"""Signing in to the console: who a person is, for how long, and whether a form is genuine."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from receiver.console.page import PATH
from receiver.console.passwords import ADMIN, Person, hash_password, is_password
from receiver.domain.network import network_of
from receiver.errors import Forbidden, TooMany
from receiver.ledger import LedgerUnavailable
from receiver.ledger.access import console_sessions
from receiver.ledger.access.console_sessions import ConsoleSession
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.runtime.throttle import TokenBucket
from receiver.web.responses import address_of

# The name of the cookie, which only paths below /console get.
COOKIE: Final = "runhook_console"
# That of a sign-in by an issuer, while it lasts.
SIGNING_IN: Final = "runhook_oidc"
SIGNING_IN_PATH: Final = f"{PATH}/oidc"
# Seconds for which a session is valid without asking the ledger: one that was ended on another host still works then.
FRESH_FOR: Final = 5.0
# Sign-in attempts per second, and at once: of one network, and of all networks without a sign-in yet. A name has no
# limit, because an attacker could use it to lock out its owner.
PER_NETWORK: Final = (0.1, 10)
OF_STRANGERS: Final = (1.0, 60)
_MOST: Final = 4096
# Seconds for which a session is valid without the ledger, from its begin or from when the ledger last confirmed it.
OFFLINE: Final = 900.0
# The part of what a request may wait for the ledger that is spent on its session.
_SHARE: Final = 0.15

log = logging.getLogger("runhook.console")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person who is signed in. `form_token`: what each form of this session must hold."""

    person: Person
    form_token: str = field(repr=False)
    digest: str = field(repr=False)


class SignIn:
    """Sessions of the console. `people`: who may sign in. `lasts`: seconds that a session lasts.

    `once`: a token that signs its first bearer in as the admin; "" for none. `fresh_for`, `offline_for`: seconds for
    which a session is valid without asking the ledger, and while that is unavailable. `per_network`: see PER_NETWORK.
    """

    def __init__(
        self,
        ledger: AsyncLedger,
        people: Mapping[str, Person],
        lasts: float,
        once: str,
        *,
        fresh_for: float = FRESH_FOR,
        offline_for: float = OFFLINE,
        per_network: tuple[float, float] = PER_NETWORK,
    ) -> None:
        self._ledger = ledger
        self._fresh_for = fresh_for
        self._offline_for = offline_for
        self._per_network = per_network
        self._people = people
        self._lasts = lasts
        self._once = once
        self._known: dict[str, tuple[float, ConsoleSession]] = {}
        self._offline: dict[str, ConsoleSession] = {}
        self._ended: set[str] = set()  # sessions that the ledger may still have
        self._buckets: dict[str, TokenBucket] = {}
        self._strangers = TokenBucket(*OF_STRANGERS)
        self._trusted: set[str] = set()
        # One at a time: each takes 64 MiB and a core.
        self._pool = ThreadPoolExecutor(1, "console-passwords")
        self._dummy = ""

    async def with_password(self, request: Request, name: str, password: str) -> str | None:
        """Return the token of a new session; None for a wrong name or password. Raises TooMany."""
        network = self.throttle(request)
        person = self._people.get(name)
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._pool, self._check, person, password) or person is None:
            log.warning("console.refused network=%s", network)
            return None
        return await self._welcome(person, network)

    async def with_issuer(self, request: Request, person: Person) -> str:
        """Return the token of a new session for a person that the issuer named."""
        return await self._welcome(person, _network(request))

    async def _welcome(self, person: Person, network: str) -> str:
        log.info("console.signed_in user=%s network=%s", person.name, network)
        if len(self._trusted) < _MOST:
            self._trusted.add(network)
        return await self._begin(person)

    async def with_token(self, token: str) -> str | None:
        """Return the token of a new admin session for the one-time token; None for any other token."""
        if not self._once or not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), self._once.encode()):
            return None
        self._once = ""
        return await self._begin(self._people[ADMIN])

    def throttle(self, request: Request) -> str:
        """Return the network of the request. Raises TooMany when it has tried too often."""
        network = _network(request)
        if len(self._buckets) > _MOST:
            self._buckets.clear()
        now = time.monotonic()
        of_network = self._buckets.setdefault(network, TokenBucket(*self._per_network))
        if not of_network.take(1, now) or not (network in self._trusted or self._strangers.take(1, now)):
            raise TooMany("too many tries to sign in; wait a minute", headers={"Retry-After": "60"})
        return network

    def _check(self, person: Person | None, password: str) -> bool:
        """Called in a thread. An unknown name takes as long as a known one."""
        if person is None and not self._dummy:
            self._dummy = hash_password(secrets.token_hex())
        return is_password(person.hashed if person else self._dummy, password)

    async def _begin(self, person: Person) -> str:
        token = secrets.token_urlsafe(32)
        now = self._ledger.now()
        session = ConsoleSession(_digest(token), person.name, person.credential, now, now + self._lasts)
        try:
            await self._ledger.write(lambda it: console_sessions.create(it, session), share=_SHARE)
        except LedgerUnavailable:  # an operator must see on the overview what is wrong
            if len(self._offline) > _MOST:
                self._offline.clear()
            self._offline[session.hash] = replace(session, expires_at=now + min(self._lasts, self._offline_for))
        return token

    async def session_of(self, request: Request) -> SignedIn | None:
        """Return the session of a request, or None. Raises LedgerUnavailable."""
        token = request.cookies.get(COOKIE, "")
        if not token:
            return None
        digest = _digest(token)
        session = await self._session(digest)
        person = self._people.get(session.user) if session else None
        if session is None or person is None or not hmac.compare_digest(person.credential, session.credential):
            return None
        return SignedIn(person, _form_token(token), digest)

    async def _session(self, digest: str) -> ConsoleSession | None:
        if digest in self._ended:
            return None
        seen_at, session = self._known.get(digest, (float("-inf"), None))
        now, age = self._ledger.now(), time.monotonic() - seen_at
        if session is not None and age <= self._fresh_for and session.expires_at > now:
            return session
        offline = self._offline.get(digest)
        if offline is not None:
            return offline if offline.expires_at > now else None
        try:
            session = await self._ledger.read(lambda it: console_sessions.find(it, digest, now), share=_SHARE)
        except LedgerUnavailable:
            if session is None or session.expires_at <= now or age > self._offline_for:
                raise
            return session
        if self._ended:
            await self._end_in_ledger()
        if digest in self._ended:
            return None
        if len(self._known) > _MOST:
            self._known.clear()
        self._known.pop(digest, None)
        if session is not None:
            self._known[digest] = (time.monotonic(), session)
        return session

    async def end(self, signed_in: SignedIn) -> None:
        """End a session: here at once, and on other hosts when the ledger is available."""
        self._known.pop(signed_in.digest, None)
        self._offline.pop(signed_in.digest, None)
        self._ended.add(signed_in.digest)
        await self._end_in_ledger()

    async def _end_in_ledger(self) -> None:
        """Delete ended sessions, or keep them for the next time while the ledger is unavailable."""
        with suppress(LedgerUnavailable):
            for digest in list(self._ended):
                await self._ledger.write(partial(console_sessions.end, digest=digest))
                self._ended.discard(digest)

    async def close(self) -> None:
        """Stop the threads and close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._ledger.close()


def _network(request: Request) -> str:
    address = address_of(request)
    return network_of(address) if address else ""


def set_cookie(request: Request, response: Response, name: str, content: str, lasts: float, path: str = PATH) -> None:
    """Set a cookie that no script reads, and no other site sends with a form. `lasts`: seconds."""
    response.set_cookie(
        name, content, max_age=int(lasts), path=path, secure=is_secure(request), httponly=True, samesite="lax"
    )


def forget_cookie(response: Response, name: str, path: str = PATH) -> None:
    """Delete a cookie."""
    response.delete_cookie(name, path=path, httponly=True, samesite="lax")


def is_secure(request: Request) -> bool:
    """Return whether the browser speaks HTTPS, to us or to the proxy before us."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").lower() == "https"


def check_same_origin(request: Request) -> None:
    """Raise Forbidden for a form from another site, or without the headers that every browser sends."""
    fetched = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    same = fetched == "same-origin" if fetched is not None else False
    if fetched is None and origin is not None:
        with suppress(ValueError):  # it is not an address
            same = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    if not same:
        raise Forbidden("the form came from another site")


def check_form_token(signed_in: SignedIn, given: str) -> None:
    """Raise Forbidden unless the form is one of this session."""
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), signed_in.form_token.encode()):
        raise Forbidden("the form is of another session, or too old; load the page again")


def local_path(text: str) -> str:
    """Return where to go after signing in: `text` if it is a path of the console, else its first page."""
    clean = text.startswith(PATH + "/") and not any(char <= " " or char > "~" or char == "\\" for char in text)
    return text if clean and "//" not in text.split("?", maxsplit=1)[0] else PATH + "/"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _form_token(token: str) -> str:
    return hmac.digest(token.encode("utf-8", "surrogateescape"), b"runhook console form", "sha256").hex()
