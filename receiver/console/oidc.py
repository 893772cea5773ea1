"""Signing in by an OpenID Connect issuer: the authorization code flow with PKCE, and the rights of a person.

What belongs to one sign-in (state, nonce, the code's verifier) is in a signed cookie of ten minutes. The issuer is the
operator's choice, so it may be at any address; what it answers is bounded, and believed only when its token is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode, urlsplit

import jwt
import orjson
from jwt.exceptions import PyJWTError

from handlers.contract import SinkError
from handlers.support.guarded_client import ANY_ADDRESS, GuardedClient, Response
from receiver.config.console import OidcConfig
from receiver.console.passwords import Person
from receiver.errors import BadRequest, Busy, Forbidden

# Seconds that a sign-in may take, that a call of the issuer may take, and after which its addresses and keys are read
# again: also for a key that is unknown, or after a failure.
LASTS: Final = 600
CALL: Final = 10.0
FRESH: Final = 3600.0
AGAIN: Final = 10.0
# Bytes of an answer, characters of a name, and of the requested page.
_MOST: Final = 256 << 10
_LONGEST_NAME: Final = 100
_LONGEST_WHERE: Final = 2000
_PREFIX: Final = "oidc:"
_ADDRESS: Final = re.compile(r"https?://[!-~]+")
_HALF: Final = re.compile("[\ud800-\udfff]")
# Signatures that are believed: with a key that the issuer alone has. None is taken from the token.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
# Seconds by which the issuer's clock and ours may differ.
LEEWAY: Final = 60
_CLAIMS: Final = ("exp", "iat", "iss", "aud", "sub")

log = logging.getLogger("runhook.console")


@dataclass(frozen=True, slots=True)
class Begun:
    """A sign-in that was begun. `location`: where the browser goes. `cookie`: what it brings back."""

    location: str
    cookie: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identified:
    """Who came back, and to which page of the console they wanted."""

    person: Person
    where: str


class Everybody(Mapping[str, Person]):
    """Who may sign in, by name: people with a password, and those of the issuer's groups. The latter are not listed,
    for only the issuer knows them; their name says by which group they may what."""

    def __init__(self, people: Mapping[str, Person], config: OidcConfig) -> None:
        self._people = people
        self._config = config

    def __getitem__(self, name: str) -> Person:
        if name in self._people:
            return self._people[name]
        group, _, who = name.removeprefix(_PREFIX).rpartition(":")
        if not name.startswith(_PREFIX) or not who or group not in self._config.groups:
            raise KeyError(name)
        may = self._config.groups[group]
        # No hash, so no password is right; a session ends when the issuer or the client is another.
        hashed = f"{_PREFIX}{self._config.issuer} {self._config.client_id}"
        return Person(name, hashed, frozenset(may.scopes), may.source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._people)

    def __len__(self) -> int:
        return len(self._people)


class Oidc:
    """The issuer of one config. `secret`: signs the cookies; the same on each receiver. Its calls take a while: make
    them in a thread. They raise Busy when the issuer can't be reached."""

    def __init__(self, config: OidcConfig, people: Mapping[str, Person], secret: str) -> None:
        self._config = config
        self._people = people
        self._secret = hmac.digest(secret.encode(), b"runhook console oidc", "sha256")
        self._client = GuardedClient(ANY_ADDRESS, timeout=CALL)
        self._lock = threading.Lock()
        self._read: dict[str, tuple[float, dict[str, Any]]] = {}
        self._failed: tuple[float, str] = (float("-inf"), "")

    @property
    def host(self) -> str:
        """What the button says."""
        return urlsplit(self._config.issuer).netloc

    def begin(self, redirect: str, where: str) -> Begun:
        """Begin a sign-in. `redirect`: where the issuer sends the browser back to; `where`: the requested page."""
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        asked = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(self._config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _url64(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
        }
        there = self._address("authorization_endpoint")
        kept = {"state": state, "nonce": nonce, "verifier": verifier, "where": where, "until": time.time() + LASTS}
        if len(where) > _LONGEST_WHERE:  # a browser keeps no larger cookie
            kept["where"] = ""
        location = f"{there}{'&' if '?' in there else '?'}{urlencode(asked)}"
        return Begun(location, self._signed(orjson.dumps(kept)))

    def begun(self, given: Mapping[str, str], cookie: str) -> Mapping[str, Any]:
        """Return what was kept of the sign-in that comes back with this query and cookie. Makes no request. Raises
        BadRequest for one that this browser did not begin here: any site can send people to our address."""
        kept = self._opened(cookie)
        if kept is None or not hmac.compare_digest(
            given.get("state", "").encode("utf-8", "replace"), kept["state"].encode()
        ):
            raise BadRequest("This sign-in was begun elsewhere, or took over 10 minutes. Sign in again.")
        return kept

    def finish(self, redirect: str, given: Mapping[str, str], kept: Mapping[str, Any]) -> Identified:
        """Return who came back with this query. `kept`: see `begun`. Raises BadRequest and Forbidden, which say what to
        do."""
        if given.get("iss", self._config.issuer) != self._config.issuer:
            raise BadRequest("The answer is of another issuer than console.oidc.issuer.")
        if "error" in given:
            said = " ".join(given.get(name, "")[:200] for name in ("error", "error_description"))
            raise Forbidden(f"{self.host} says: {said.strip()}")
        claims = self._claims(redirect, given.get("code", ""), kept)
        return Identified(self._person(claims), kept["where"])

    def _claims(self, redirect: str, code: str, kept: Mapping[str, str]) -> dict[str, Any]:
        token = self._exchanged(redirect, code, kept["verifier"])
        known = {"issuer": self._config.issuer, "client_id": self._config.client_id, "nonce": kept["nonce"]}
        try:
            try:
                return verified_claims(token, self._keys(), **known)
            except UnknownKey:
                return verified_claims(token, self._keys(fresh=AGAIN), **known)
        except BadToken as error:
            log.warning("console.oidc_refused reason=%s", error)
            raise Forbidden(f"The ID token of {self.host} is not believed: {error}.") from None

    def _exchanged(self, redirect: str, code: str, verifier: str) -> str:
        """Return the ID token for a code."""
        config = self._config
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect, "code_verifier": verifier}
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
        secret = config.client_secret.get_secret_value() if config.client_secret else ""
        ways = self._discovered().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if secret and "client_secret_basic" in ways:
            pair = f"{quote(config.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": config.client_id} | ({"client_secret": secret} if secret else {})
        found = self._call("POST", self._address("token_endpoint"), urlencode(form).encode(), headers)
        answer = _object(found.body)
        if found.status != 200 or not isinstance(answer.get("id_token"), str):
            reason = str(answer.get("error", ""))[:100] or f"HTTP {found.status}, and no ID token"
            log.warning("console.oidc_refused reason=%s", reason)
            todo = {
                "invalid_client": "check client_id and client_secret of console.oidc",
                "invalid_grant": "sign in again; if that does not help, the issuer's clock or redirect URI is wrong",
            }.get(reason, "see the issuer's log; the scope openid must be allowed")
            raise Forbidden(f"{self.host} did not take the code ({reason}): {todo}.")
        return str(answer["id_token"])

    def _person(self, claims: Mapping[str, Any]) -> Person:
        """Return who this is: of the first group of the config that they are in."""
        # An address that the issuer has not checked proves nothing.
        doubtful = {"email"} if claims.get("email_verified", True) in (False, "false") else set()
        told = dict.fromkeys((self._config.name_claim, "email", "sub"))
        names = (claims.get(each) for each in told if each not in doubtful)
        shown = next((each for each in names if isinstance(each, str) and each.strip() and _is_text(each)), "")
        if not shown:
            log.warning("console.oidc_refused reason=no name")
            raise Forbidden(f"The ID token of {self.host} has no name of yours in {', '.join(told)}.")
        who = quote(shown[:_LONGEST_NAME], safe="@")
        theirs = claims.get(self._config.groups_claim, [])
        theirs = [theirs] if isinstance(theirs, str) else theirs if isinstance(theirs, list) else []
        group = next((each for each in self._config.groups if each in theirs or each == "*"), None)
        if group is None:
            log.warning("console.oidc_refused user=%s reason=no group", who)
            has = ", ".join(str(each)[:60] for each in theirs[:20] if _is_text(str(each))) or "nothing"
            raise Forbidden(
                f"{unquote(who)} is in no group that may use this console: the claim {self._config.groups_claim} has"
                f" {has}, and console.oidc.groups names others."
            )
        return self._people[f"{_PREFIX}{group}:{who}"]

    def _address(self, name: str) -> str:
        there = self._discovered().get(name)
        if not isinstance(there, str) or not _ADDRESS.fullmatch(there):
            raise Busy(f"{self.host} has no {name}: is console.oidc.issuer the address of an OpenID Connect issuer?")
        return there

    def _discovered(self) -> dict[str, Any]:
        found = self._document(f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration", FRESH)
        if found.get("issuer") != self._config.issuer:
            called = str(found.get("issuer"))[:200]
            raise Busy(f"console.oidc.issuer is {self._config.issuer}, and calls itself {called}: write it the same.")
        return found

    def _keys(self, fresh: float = FRESH) -> dict[str, Any]:
        return self._document(self._address("jwks_uri"), fresh)

    def _document(self, url: str, fresh: float) -> dict[str, Any]:
        """Return a JSON document of the issuer that was read in the last `fresh` seconds. One reads it for all."""
        with self._lock:
            at, known = self._read.get(url, (float("-inf"), {}))
            now = time.monotonic()
            if now - at <= fresh:
                return known
            failed_at, failure = self._failed
            if now - failed_at <= AGAIN:
                raise Busy(failure, retry_after=int(AGAIN))
            try:
                answer = self._call("GET", url)
                if answer.status != 200 or not (known := _object(answer.body)):
                    raise Busy(f"{self.host} answers {answer.status} to {url}, and no JSON object of settings.")
            except Busy as error:
                self._failed = (now, error.message)
                raise
            self._read[url] = (now, known)
            return known

    def _call(self, method: str, url: str, content: bytes = b"", headers: Mapping[str, str] | None = None) -> Response:
        try:
            return self._client.request(method, url, content=content, headers=headers, deadline=CALL, max_answer=_MOST)
        except SinkError as error:
            log.warning("console.oidc_unavailable reason=%s", error)
            raise Busy(f"{self.host} can't be reached from here: {error}.", retry_after=int(AGAIN)) from None

    def _signed(self, content: bytes) -> str:
        return f"{_url64(content)}.{_url64(hmac.digest(self._secret, content, 'sha256'))}"

    def _opened(self, cookie: str) -> dict[str, Any] | None:
        """Return what a cookie holds that we signed and that is not too old, or None."""
        encoded, _, mac = cookie.partition(".")
        try:
            content = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except ValueError:
            return None
        wanted = _url64(hmac.digest(self._secret, content, "sha256"))
        if not hmac.compare_digest(mac.encode("utf-8", "replace"), wanted.encode()):
            return None
        kept: dict[str, Any] = orjson.loads(content)
        return kept if kept["until"] > time.time() else None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _is_text(value: str) -> bool:
    """Whether it can be encoded: JSON may hold half a character."""
    return not _HALF.search(value)


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _object(body: bytes) -> dict[str, Any]:
    """Return a JSON object, or an empty one for anything else."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


class BadToken(Exception):
    """A token that is not believed, and why."""


class UnknownKey(BadToken):
    """A token that was signed with a key which is not among the issuer's: it may have a new one."""


def verified_claims(token: str, keys: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str) -> dict[str, Any]:
    """Return the claims of a token. `keys`: the issuer's JWK set. Raises BadToken, UnknownKey."""
    try:
        chosen = _key_of(token, keys)
        claims: dict[str, Any] = jwt.decode(
            token,
            chosen,
            algorithms=list(ALGORITHMS),
            audience=client_id,
            issuer=issuer,
            leeway=LEEWAY,
            options={"require": list(_CLAIMS)},
        )
    except (PyJWTError, ValueError) as error:  # the latter for an invalid key
        raise BadToken(f"{type(error).__name__}: {error}") from None
    several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
    if claims.get("azp", None if several else client_id) != client_id:
        raise BadToken("it is for another client")
    if not hmac.compare_digest(str(claims.get("nonce", "")).encode("utf-8", "replace"), nonce.encode()):
        raise BadToken("it is of another sign-in")
    return claims


def _key_of(token: str, keys: Mapping[str, Any]) -> jwt.PyJWK:
    """Return the key that the token names, or the only one that there is. Raises PyJWTError, UnknownKey."""
    named = jwt.get_unverified_header(token).get("kid")
    listed = keys.get("keys")
    given = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    there = [each for each in jwt.PyJWKSet(given).keys if each.public_key_use in (None, "sig")]
    found = [each for each in there if named is None or each.key_id == named]
    if len(found) != 1:
        raise UnknownKey(
            "its key is not one of the issuer's" if named else "it does not say which of the keys signed it"
        )
    return found[0]
