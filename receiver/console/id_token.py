"""The ID token of an OpenID Connect issuer: that it is authentic, for us, and of this sign-in."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

import jwt
from jwt.exceptions import PyJWTError

# Signatures that are believed: with a key that the issuer alone has. None is taken from the token.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
# Seconds by which the issuer's clock and ours may differ.
LEEWAY: Final = 60
_REQUIRED: Final = ("exp", "iat", "iss", "aud", "sub")


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
            options={"require": list(_REQUIRED)},
        )
    except (PyJWTError, ValueError) as error:  # the latter for a key that is none
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
        raise UnknownKey("its key is none of the issuer's" if named else "it does not say which of the keys signed it")
    return found[0]
