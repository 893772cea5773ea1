"""The config file as models: the whole of it, and the parts that have no module of their own. It opens nothing.

Every key is declared once, here or in a module that is imported here, with type, default and help. The loader's errors,
`runhook schema` and docs/reference/configuration.md are generated from these declarations. `load` in
receiver.config.loader returns a Config.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field

from handlers.support.address_policy import AllowedAddresses
from handlers.support.duration import Seconds
from receiver.config.console import ConsoleConfig
from receiver.config.destinations import CallbacksConfig, RetryPolicy, SinkConfig
from receiver.config.fields import (
    LOCAL_KEY,
    Keys,
    Listen,
    Name,
    Number,
    OptionalKey,
    Rate,
    Size,
    Whole,
    without_version,
)
from receiver.domain.callback import CALLBACK
from receiver.domain.model import Model
from receiver.domain.redaction import Redactor
from receiver.errors import ConfigError
from receiver.routing.route import RouteConfig

# Seconds after which a run whose end Skyvern shows has all its files: 0.3 to 8 s pass between its final status and its
# webhook (1.0.56).
SETTLED_AFTER: Final = 9.0
# Seconds between two walks where no webhook is waited for: a result is then here within 30 s of its run's end.
WATCH_ALONE_EVERY: Final = 15.0

DEFAULT_REDACT = (
    "**.extra_http_headers",
    "**.cdp_connect_headers",
    "**.browser_address",
    "**.totp_identifier",
    "**.totp_url",
    "**.totp_verification_url",
)


def _redacted(path: str) -> str:
    try:
        Redactor([path])
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("redact: ")) from None
    return path


def _allowed(entry: str) -> str:
    AllowedAddresses([entry])
    return entry


class SourceConfig(Model):
    """A sender of webhooks. It posts to `/webhooks/NAME`."""

    secrets: Keys = Field(
        min_length=1,
        description="API keys that sign its webhooks; several while you rotate one.",
    )
    api_base: str | None = Field(
        None, pattern=r"^https?://", description="Base URL of its API. Default: SKYVERN_BASE_URL."
    )
    api_key: OptionalKey = Field(
        None,
        description="Key for its API, to submit and poll runs and to renew expired file URLs. It also "
        "counts as one of `secrets`.",
    )
    watch: bool = Field(
        False,
        description="Read the account's list of runs, and import results that no webhook brought. Needs `api_key`.",
    )

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """All keys that may have signed a webhook: `api_key` signs the webhooks of the runs that we submit."""
        keys = [*self.secrets, *([self.api_key] if self.api_key else [])]
        return tuple(dict.fromkeys(each.get_secret_value() for each in keys if each.get_secret_value()))

    def api(self, default_base: str) -> tuple[str, str] | None:
        """Return base and key of the source's API, or None when it must not be called. `default_base` may be "".

        A key that was made on this machine is for `default_base` alone: it opens nothing at the real Skyvern.
        """
        base = without_version((self.api_base or default_base).rstrip("/"))
        key = self.api_key.get_secret_value() if self.api_key else ""
        if not (base and key) or (key.startswith(LOCAL_KEY) and base != default_base.rstrip("/")):
            return None
        return base, key


class ServerConfig(Model):
    """What the receiver accepts, and where."""

    admin: Listen | None = Field(
        None,
        description="A second port for operators, as PORT of 127.0.0.1 or ADDRESS:PORT. It serves "
        "`/metrics` and `/readyz?all` without a key, `/api/v1` and `/console`; the main port "
        "no longer does.",
    )

    max_body: Size = Field(
        16 << 20, ge=1024, le=1 << 30, description="Maximum size of a webhook; a larger one gets 413."
    )
    accept_weaker_durability: bool = Field(
        False,
        description="Start although Redis does not sync each event to disk before the 202, or may evict it.",
    )


class SubmitConfig(Model):
    """The submit API: Skyvern's own API for your apps, with Runhook's keys."""

    rate: Rate | None = Field(
        None,
        description="Maximum rate of calls per key that has no rate of its own. Default: 200/s and 2,000 "
        "at once, per process.",
    )
    max_body: Size = Field(
        4 << 20,
        ge=1024,
        le=64 << 20,
        description="Maximum size of a call, uploads excepted; a larger one gets 413.",
    )
    max_wait: Seconds = Field(300.0, ge=1, le=3600, description="Maximum time that `?wait=` holds a request.")
    max_waiters: Whole = Field(
        5000,
        ge=1,
        le=100_000,
        description="Maximum held requests per process; beyond it, 503.",
    )
    waiter_share: Number = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of the held requests that one key may take of those that other keys leave free.",
    )


class InboxConfig(Model):
    """Limits of the inbox in Redis; beyond them, events go to the spool."""

    max_events: Whole = Field(100_000, ge=1, description="Maximum events.")
    max_bytes: Size = Field(512 << 20, ge=1 << 20, description="Maximum size, including entries that were set aside.")


class SpoolConfig(Model):
    """Limits of the spool, the local store for events while Redis is down; beyond them, webhooks get 503."""

    max_bytes: Size = Field(2 << 30, ge=1 << 20, description="Maximum size.")
    reserve_bytes: Size = Field(256 << 20, ge=0, description="Free disk space to leave.")


class QuarantineConfig(Model):
    """Limits of the quarantine, the store of requests that failed the signature check."""

    max_count: Whole = Field(
        1000, ge=0, description="Maximum requests; those that name no run are removed first. 0 stores none."
    )
    max_bytes: Size = Field(64 << 20, ge=0, description="Maximum size.")


class LedgerConfig(Model):
    """What the ledger requires of its database."""

    accept_weaker_durability: bool = Field(
        False,
        description="Write to a PostgreSQL with fsync or full_page_writes off, as managed services with "
        "their own storage may have.",
    )


class RetentionConfig(Model):
    """How long events and submissions are kept."""

    events: Seconds | None = Field(
        90 * 86400.0,
        ge=3600,
        description="Age at which events whose deliveries have all ended are removed, such as 90d. null: never.",
    )
    submissions: Seconds | None = Field(
        None,
        ge=3600,
        description="Age at which ended submissions whose run has no events left are removed. Default: as `events`.",
    )


class ReconcileConfig(Model):
    """Polling for results that no webhook brought."""

    enabled: bool = Field(True, description="Whether the clock polls overdue runs.")
    after: Seconds = Field(
        600.0,
        gt=0,
        le=604800,
        description="Age at which a run without a result is polled, if its request sets no limit.",
    )
    webhook_grace: Seconds = Field(
        120.0,
        ge=0,
        le=86400,
        description="How long a result seen by the API waits for its webhook, which has more files. "
        "Default without PUBLIC_URL and in `runhook dev`: 9s.",
    )
    stuck_after: Seconds = Field(
        14400.0,
        gt=0,
        le=2592000,
        description="Age at which a queued or running run becomes an interim event, once.",
    )
    watch_every: Seconds = Field(
        60.0,
        ge=1,
        le=86400,
        description="Pause between two reads of Skyvern's list of runs. Default without PUBLIC_URL and in "
        "`runhook dev`: 15s.",
    )
    watch_back: Seconds = Field(
        0.0,
        ge=0,
        le=2592000,
        description="How far back the first read of a source goes. 0 imports only runs that end after it.",
    )
    longest: Seconds = Field(3600.0, gt=0, le=604800, description="Maximum pause between two polls of one run.")
    concurrency: Whole = Field(8, ge=1, le=64, description="Maximum polls of one source at once.")
    budget: Rate = Field("180/m", description="Maximum rate of calls of a source's API, over all processes.")
    absent_after: Seconds = Field(
        600.0,
        ge=60,
        le=86400,
        description="Age at which a submission counts as never sent, if its response was lost and "
        "Skyvern's list proves that no run exists.",
    )

    def paced(self, *, webhooks: bool) -> Self:
        """Return these settings for a receiver that waits for `webhooks`, or does not: then ends are found and taken
        sooner, where the file does not say when."""
        if webhooks:
            return self
        sooner = {"webhook_grace": SETTLED_AFTER, "watch_every": WATCH_ALONE_EVERY}
        return self.model_copy(update={key: sooner[key] for key in sooner.keys() - self.model_fields_set})


class AlertsConfig(Model):
    """Messages to operators by the clock: problems of `runhook status`, and a digest."""

    to: list[Name] = Field([], description="Sinks that get them, of a type that can: slack, http, notify.")
    after: Seconds = Field(
        120.0,
        ge=0,
        le=86400,
        description="How long a problem lasts before it is reported, and is gone before its end is.",
    )
    digest: Literal["daily"] | None = Field(
        None, description="daily: yesterday's runs by status, and failures by workflow and reason, after 00:00 UTC."
    )
    link: str | None = Field(
        None, pattern=r"^https?://", description="Address to show in each message. Default: PUBLIC_URL/console."
    )


class Config(Model):
    """The complete file."""

    sources: dict[Name, SourceConfig] = Field(min_length=1, description="Senders of webhooks, by name.")
    sinks: dict[Name, SinkConfig] = Field(default_factory=dict, description="Destinations, by name.")
    # Empty lists, which pydantic copies, and not `list` as a factory: that costs Python's tokenizer a start.
    routes: list[RouteConfig] = Field([], description="Rules, evaluated from top to bottom.")
    redact: list[Annotated[str, AfterValidator(_redacted)]] = Field(
        default_factory=lambda: list(DEFAULT_REDACT),
        description="Dotted paths that are masked before anything is stored or sent: * is one level, ** "
        "any depth. A list replaces the default.",
    )
    allowed_addresses: list[Annotated[str, AfterValidator(_allowed)]] = Field(
        [],
        description="Private hosts and CIDR networks that may be fetched from and posted to.",
    )
    server: ServerConfig = Field(default_factory=ServerConfig, description="What the receiver accepts.")
    inbox: InboxConfig = Field(default_factory=InboxConfig, description="Limits of the inbox in Redis.")
    spool: SpoolConfig = Field(default_factory=SpoolConfig, description="Limits of the spool on disk.")
    quarantine: QuarantineConfig = Field(default_factory=QuarantineConfig, description="Limits of the quarantine.")
    console: ConsoleConfig = Field(default_factory=ConsoleConfig, description="Who may sign in to the console.")
    submit: SubmitConfig = Field(default_factory=SubmitConfig, description="The submit API.")
    callbacks: CallbacksConfig = Field(
        default_factory=CallbacksConfig, description="Webhooks of apps that submit runs."
    )
    reconcile: ReconcileConfig = Field(
        default_factory=ReconcileConfig, description="Polling for results that no webhook brought."
    )
    ledger: LedgerConfig = Field(default_factory=LedgerConfig, description="What the ledger requires of its database.")
    retention: RetentionConfig = Field(
        default_factory=RetentionConfig, description="How long events and submissions are kept."
    )

    alerts: AlertsConfig = Field(default_factory=AlertsConfig, description="Messages to operators.")

    @property
    def submits(self) -> bool:
        """Whether runs can be submitted here: a source has a key for Skyvern's API."""
        return any(source.api_key for source in self.sources.values())

    @property
    def durable_ledger(self) -> bool:
        """Whether the ledger must not lose what it has confirmed."""
        return not self.ledger.accept_weaker_durability

    @property
    def destinations(self) -> list[str]:
        """All sinks that deliveries have: those of the file, and CALLBACK where runs can be submitted."""
        return [*self.sinks, *([CALLBACK] if self.submits else [])]

    def retry_of(self, destination: str) -> RetryPolicy:
        """Return when deliveries to one of the `destinations` are tried again."""
        return self.callbacks.retry if destination == CALLBACK else self.sinks[destination].retry
