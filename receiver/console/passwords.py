"""Passwords of the console: Argon2 hashes, and what they are checked against."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from receiver.api.service import Actor
from receiver.config.console import ConsoleConfig
from receiver.domain.api_key import ALL_SOURCES, OPERATE, VIEW

# Who signs in with RUNHOOK_CONSOLE_PASSWORD.
ADMIN: Final = "admin"
# What a hash begins with; anything else is a password.
HASH_PREFIX: Final = "$argon2"
# Bytes of the longest password that is hashed.
LONGEST: Final = 1024

# argon2-cffi's defaults are those of RFC 9106 for little memory: 64 MiB and three passes.
_HASHER: Final = PasswordHasher()


def hash_password(password: str) -> str:
    """Return the Argon2id hash of a password."""
    return _HASHER.hash(password)


def is_password(hashed: str, password: str) -> bool:
    """Whether `hashed` is the hash of this password. Takes some 50 ms of a core: call it in a thread."""
    if len(password.encode("utf-8", "surrogateescape")) > LONGEST:
        return False
    try:
        return _HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may sign in. `credential`: changes with the password, and tells nothing about it."""

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


def people_of(config: ConsoleConfig, admin_password: str, token: str = "") -> Mapping[str, Person]:
    """Return who may sign in, by name. `admin_password`: a password or its hash. `token`: signs the admin in as well;
    "" and "" for no admin.
    """
    people = {
        name: Person(name, user.password.get_secret_value(), frozenset(user.scopes), user.source)
        for name, user in config.users.items()
    }
    if admin_password or token:
        known = admin_password.startswith(HASH_PREFIX)
        hashed = admin_password if known else hash_password(admin_password or secrets.token_hex())
        people[ADMIN] = Person(ADMIN, hashed, frozenset({VIEW, OPERATE}))
    return people
