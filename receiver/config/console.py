"""Who may sign in to the console."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from receiver.config.base import Model
from receiver.config.fields import Name, Seconds


class ConsoleUser(Model):
    """A person who may sign in."""

    password: SecretStr = Field(
        description="Argon2 hash of the password, as `runhook console hash` prints it; ${VARIABLE} keeps it out of the"
        " file."
    )
    scopes: list[Literal["view", "operate", "submit", "read", "resubmit"]] = Field(
        ["view"],
        description="view sees everything; operate replays, cancels, pauses and so on as well. The others do nothing in"
        " the console: keys that the person creates can have them.",
    )
    source: str = Field("*", description="The only source whose things the person sees; * for all.")

    @field_validator("password")
    @classmethod
    def _is_hash(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith("$argon2"):
            raise ValueError("must be a hash of the password, such as `runhook console hash` prints, not the password")
        return value


class ConsoleConfig(Model):
    """The console. Without users, and without RUNHOOK_CONSOLE_PASSWORD, it is off."""

    users: dict[Name, ConsoleUser] = Field(default_factory=dict, description="Who may sign in, by name.")
    session: Seconds = Field(
        43200.0,
        ge=60,
        le=2592000,
        description="Time after which a person must sign in again: seconds, or such as 12h.",
    )
