"""Who may sign in to the console."""

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from handlers.support.duration import Seconds
from receiver.config.fields import Name, OptionalKey
from receiver.domain.model import Model

Scopes = list[Literal["view", "operate", "submit", "read", "resubmit"]]


class ConsoleUser(Model):
    """A person who may sign in."""

    password: SecretStr = Field(
        description="Argon2 hash of the password, as `runhook console hash` prints it. ${VARIABLE} keeps "
        "it out of the file."
    )
    scopes: Scopes = Field(
        ["view"],
        description="view reads everything, operate also acts. The other scopes can be given to keys that "
        "the person creates.",
    )
    source: str = Field("*", description="The only source that the person sees; * for all.")

    @field_validator("password")
    @classmethod
    def _is_hash(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith("$argon2"):
            raise ValueError("must be a hash of the password, such as `runhook console hash` prints, not the password")
        return value


class OidcGroup(Model):
    """Rights of a group of the issuer."""

    scopes: Scopes = Field(["view"], description="As for a user.")
    source: str = Field("*", description="The only source that the group sees; * for all.")


class OidcConfig(Model):
    """Signing in by an OpenID Connect issuer, such as Keycloak, Entra or Google. Needs `runhook[oidc]`.

    Its client must allow the redirect URI https://<the console's address>/console/oidc/callback.
    """

    issuer: str = Field(pattern=r"^https?://", description="The issuer, as in its /.well-known/openid-configuration.")
    client_id: str = Field(min_length=1, description="Runhook's client id.")
    client_secret: OptionalKey = Field(
        None, description="Its secret, as ${VARIABLE}. None for a public client: PKCE is always used."
    )
    scopes: list[str] = Field(["openid", "profile", "email"], description="Scopes to request.")
    groups_claim: str = Field("groups", description="Claim of the ID token with the person's groups.")
    name_claim: str = Field("preferred_username", description="Claim with the name for the audit.")
    groups: dict[str, OidcGroup] = Field(
        min_length=1,
        description="Who may sign in, by group. The first matching group counts; * is everyone at the issuer.",
    )


class ConsoleConfig(Model):
    """The console. It is off without users, `oidc` and RUNHOOK_CONSOLE_PASSWORD."""

    oidc: OidcConfig | None = Field(None, description="Sign-in by an OpenID Connect issuer.")

    users: dict[Name, ConsoleUser] = Field(default_factory=dict, description="People who may sign in, by name.")
    session: Seconds = Field(
        43200.0,
        ge=60,
        le=2592000,
        description="Time until a person must sign in again.",
    )
