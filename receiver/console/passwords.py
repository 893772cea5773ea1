"""Passwords of the console: Argon2 hashes, and what they are checked against.

Argon2 is imported with the first password: a receiver without sign-ins does without.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from receiver.api.service import Actor
from receiver.config.console import ConsoleConfig
from receiver.domain.api_key import ALL_SCOPES, ALL_SOURCES

if TYPE_CHECKING:
    from argon2 import PasswordHasher

# Who signs in with RUNHOOK_CONSOLE_PASSWORD.
ADMIN: Final = "admin"
# What a hash begins with; anything else is a password.
HASH_PREFIX: Final = "$argon2"
# Bytes of the longest password that is hashed.
LONGEST: Final = 1024


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()  # its defaults are those of RFC 9106 for little memory: 64 MiB and three passes


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return the Argon2id hash of a password. `salt`: for one that is the same each time; by default a random one."""
    return _hasher().hash(password, salt=salt)


def is_password(hashed: str, password: str) -> bool:
    """Whether `hashed` is the hash of this password. Takes some 50 ms of a core: call it in a thread."""
    if len(password.encode("utf-8", "surrogateescape")) > LONGEST:
        return False
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


@dataclass(frozen=True, slots=True)
class Person:
    """A person who may sign in. `credential`: changes with the password, and reveals nothing about it."""

    name: str
    hashed: str = field(repr=False)
    scopes: frozenset[str]
    source: str = ALL_SOURCES

    @property
    def credential(self) -> str:
        """A hash of the password's hash."""
        return hashlib.sha256(self.hashed.encode()).hexdigest()

    @property
    def actor(self) -> Actor:
        """Who asks, for the functions of the API."""
        return Actor("user", self.name, self.scopes, "" if self.source == ALL_SOURCES else self.source)


def people_of(
    config: ConsoleConfig, admin_password: str, token: str = "", secret: Callable[[], str] = lambda: ""
) -> Mapping[str, Person]:
    """Return who may sign in, by name. `admin_password`: a password or its hash. `token`: signs the admin in as well;
    "" and "" for no admin.

    `secret`: returns what all hosts share, before and after a restart: sessions that were begun with the same password
    are then good on each. Without it they end with the process.
    """
    people = {
        name: Person(name, user.password.get_secret_value(), frozenset(user.scopes), user.source)
        for name, user in config.users.items()
    }
    if admin_password or token:
        known = admin_password.startswith(HASH_PREFIX)
        hashed = admin_password if known else _hashed_alike(admin_password or secrets.token_hex(), secret())
        people[ADMIN] = Person(ADMIN, hashed, frozenset(ALL_SCOPES))
    return people


def _hashed_alike(password: str, secret: str) -> str:
    """Return the same hash for the same password and secret. Who knows no secret can't try passwords with it."""
    salt = hmac.digest(secret.encode(), b"runhook console salt", "sha256")[:16] if secret else None
    return hash_password(password, salt)
