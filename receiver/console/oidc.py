"""Sign-in by an OpenID Connect issuer: the authorization code flow with PKCE, by Authlib, and the rights of a person.

State, nonce and verifier of a sign-in are in a signed cookie of ten minutes. The issuer is the operator's choice, so it
may be at any address.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from receiver.config.console import OidcConfig
from receiver.console.passwords import Person
from receiver.errors import BadRequest, Busy, Forbidden

# Seconds that a sign-in may take, and that a call of the issuer may take.
LASTS: Final = 600
CALL: Final = 10.0
# Seconds by which the issuer's clock and Runhook's may differ.
LEEWAY: Final = 60
# Characters of a name, and of the requested page: a browser keeps no larger cookie.
_LONGEST_NAME: Final = 100
_LONGEST_WHERE: Final = 2000
_PREFIX: Final = "oidc:"
_HALF: Final = re.compile("[\ud800-\udfff]")
# Signatures that are believed, with a key that only the issuer has.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

log = logging.getLogger("runhook.console")
logging.getLogger("authlib").setLevel(logging.INFO)  # DEBUG shows verifiers


class People(Mapping[str, Person]):
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
    """The issuer of one config. `secret`: signs the cookies; the same on each receiver. Raises Busy when the issuer
    can't be reached."""

    def __init__(self, config: OidcConfig, people: Mapping[str, Person], secret: str) -> None:
        self._config = config
        self._people = people
        self._key = OctKey.import_key(hmac.digest(secret.encode(), b"runhook console oidc", "sha256"))
        self._app: Any = OAuth().register(
            "issuer",
            client_id=config.client_id,
            client_secret=config.client_secret.get_secret_value() if config.client_secret else None,
            server_metadata_url=f"{config.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": " ".join(config.scopes),
                "code_challenge_method": "S256",
                "timeout": CALL,
                "trust_env": False,
            },
        )

    @property
    def host(self) -> str:
        """What the button says."""
        return urlsplit(self._config.issuer).netloc

    async def begin(self, redirect: str, where: str) -> tuple[str, str]:
        """Return where the browser goes for a sign-in, and the cookie that it brings back. `redirect`: where the issuer
        sends it then; `where`: the requested page, which is in the cookie."""
        async with self._reached():
            await self._discover()
            begun = await self._app.create_authorization_url(redirect)
        kept = {name: begun[name] for name in ("state", "nonce", "code_verifier")}
        kept |= {"where": where[:_LONGEST_WHERE], "exp": int(time.time()) + LASTS}
        return begun["url"], jwt.encode({"alg": "HS256"}, kept, self._key)

    def pending(self, given: Mapping[str, str], cookie: str) -> Mapping[str, Any]:
        """Return what was kept of the sign-in that comes back with this query and cookie. Makes no request. Raises
        BadRequest for one that this browser did not begin here: any site can send people to this address."""
        try:
            kept = jwt.decode(cookie, self._key).claims
            jwt.JWTClaimsRegistry().validate(kept)
        except (JoseError, ValueError):
            kept = {}
        if not hmac.compare_digest(given.get("state", "").encode("utf-8", "replace"), kept.get("state", "?").encode()):
            raise BadRequest("This sign-in was begun elsewhere, or took over 10 minutes. Sign in again.")
        return kept

    async def finish(self, redirect: str, given: Mapping[str, str], kept: Mapping[str, Any]) -> Person:
        """Return who came back with this query. `kept`: see `pending`. Raises BadRequest and Forbidden."""
        if given.get("iss", self._config.issuer) != self._config.issuer:
            raise BadRequest("The answer is of another issuer than console.oidc.issuer.")
        if "error" in given:
            reason = " ".join(given.get(name, "")[:200] for name in ("error", "error_description"))
            raise Forbidden(f"{self.host} says: {reason.strip()}")
        code = {"code": given.get("code", ""), "code_verifier": kept["code_verifier"]}
        try:
            async with self._reached():
                await self._discover()
                tokens = await self._app.fetch_access_token(redirect, **code)
                await self._app.fetch_jwk_set(force=True)  # a key that the issuer has withdrawn proves nothing
                expected = {"iss": {"value": self._config.issuer}, "aud": {"value": self._config.client_id}}
                claims = await self._app.parse_id_token(tokens, kept["nonce"], expected, leeway=LEEWAY)
        except OAuthError as error:
            log.warning("console.oidc_refused reason=%s", error.error)
            remedy = {
                "invalid_client": "check client_id and client_secret of console.oidc",
                "invalid_grant": "sign in again; if that does not help, the issuer's clock or redirect URI is wrong",
            }.get(error.error, "see the issuer's log")
            raise Forbidden(f"{self.host} did not take the code ({error.error}): {remedy}.") from None
        except (JoseError, ValueError) as error:  # the latter for an invalid key
            log.warning("console.oidc_refused reason=%s", error)
            raise Forbidden(f"The ID token of {self.host} is not valid: {error}.") from None
        if claims is None:
            raise Forbidden(f"{self.host} sent no ID token: the scope openid must be allowed.")
        return self._person(claims)

    async def _discover(self) -> None:
        """Read the issuer's settings, once. Raises Busy for those of another one."""
        metadata = await self._app.load_server_metadata()
        if (called := metadata.get("issuer")) != self._config.issuer:
            metadata.clear()
            text = f"console.oidc.issuer is {self._config.issuer}, and calls itself {str(called)[:200]}"
            raise Busy(f"{text}: write it the same.")
        listed = metadata.get("id_token_signing_alg_values_supported") or ("RS256",)
        metadata["id_token_signing_alg_values_supported"] = [each for each in listed if each in ALGORITHMS]
        ways = metadata.get("token_endpoint_auth_methods_supported") or ("client_secret_basic",)
        way = "client_secret_basic" if "client_secret_basic" in ways else "client_secret_post"
        self._app.client_kwargs["token_endpoint_auth_method"] = way if self._config.client_secret else "none"

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        """Raise Busy for an issuer that can't be reached, or whose settings are not those of an issuer."""
        try:
            yield
        except httpx2.HTTPError as error:
            log.warning("console.oidc_unavailable reason=%s", error)
            raise Busy(f"{self.host} can't be reached from here: {error}.", retry_after=10) from None
        except (RuntimeError, KeyError, json.JSONDecodeError) as error:  # an address is missing
            raise Busy(f"{self.host} is not an OpenID Connect issuer: {error}. Check console.oidc.issuer.") from None

    def _person(self, claims: Mapping[str, Any]) -> Person:
        """Return who this is: of the first group of the config that they are in."""
        # An address that the issuer has not checked proves nothing.
        doubtful = {"email"} if claims.get("email_verified", True) in (False, "false") else set()
        name_claims = dict.fromkeys((self._config.name_claim, "email", "sub"))
        names = (claims.get(each) for each in name_claims if each not in doubtful)
        shown = next((each for each in names if isinstance(each, str) and each.strip() and _is_text(each)), "")
        if not shown:
            log.warning("console.oidc_refused reason=no name")
            raise Forbidden(f"The ID token of {self.host} has no name of yours in {', '.join(name_claims)}.")
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


def _is_text(value: str) -> bool:
    """Whether it can be encoded: JSON may hold half a character."""
    return not _HALF.search(value)
