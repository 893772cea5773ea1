"""Who may sign in to the console."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from handlers.support.duration import Seconds
from receiver.config.fields import Name, OptionalKey
from receiver.config.section import Section

Scopes = list[Literal["view", "operate", "submit", "read", "resubmit"]]


class ConsoleUser(Section):
    """A person who may sign in."""

    password: SecretStr = Field(
        description="Argon2 hash of the password, as `runhook console hash` prints it; ${VARIABLE} keeps it out of the"
        " file."
    )
    scopes: Scopes = Field(
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


class OidcGroup(Section):
    """What people of one group of the issuer may do."""

    scopes: Scopes = Field(["view"], description="As those of a user.")
    source: str = Field("*", description="The only source whose things they see; * for all.")


class OidcConfig(Section):
    """Signing in by an OpenID Connect issuer, such as Keycloak, Entra or Google. Needs `runhook[oidc]`.

    Its client must allow the redirect URI https://<the console's address>/console/oidc/callback.
    """

    issuer: str = Field(
        pattern=r"^https?://", description="The issuer, as it calls itself in /.well-known/openid-configuration."
    )
    client_id: str = Field(min_length=1, description="Our client there.")
    client_secret: OptionalKey = Field(
        None, description="Its secret, as ${VARIABLE}. Absent for a public client: PKCE is used either way."
    )
    scopes: list[str] = Field(["openid", "profile", "email"], description="What the issuer is asked for.")
    groups_claim: str = Field("groups", description="The claim of the ID token with the groups that somebody is in.")
    name_claim: str = Field("preferred_username", description="The claim with the name that the audit has.")
    groups: dict[str, OidcGroup] = Field(
        min_length=1,
        description="Who may sign in, by group. Of several the first one counts; the group * is everybody at the"
        " issuer.",
    )


class ConsoleConfig(Section):
    """The console. Without users, `oidc`, and without RUNHOOK_CONSOLE_PASSWORD, it is off."""

    oidc: OidcConfig | None = Field(None, description="Signing in by an OpenID Connect issuer.")

    users: dict[Name, ConsoleUser] = Field(default_factory=dict, description="Who may sign in, by name.")
    session: Seconds = Field(
        43200.0,
        ge=60,
        le=2592000,
        description="Time after which a person must sign in again: seconds, or such as 12h.",
    )
