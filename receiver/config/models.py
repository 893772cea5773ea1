"""The config file as models: the whole of it, and the parts that have no module of their own. It opens nothing.

Every key is declared once, here or in a module that is imported here, with type, default and help. The loader's errors,
`runhook schema` and docs/reference/configuration.md are generated from these declarations. `load` in
receiver.config.loader returns a Config.
"""

from typing import Final, Self

from pydantic import Field

from handlers.support.duration import Seconds
from receiver.config.base import Model
from receiver.config.console import ConsoleConfig
from receiver.config.destinations import CallbacksConfig, RetryPolicy, RouteConfig, SinkConfig
from receiver.config.fields import LOCAL_KEY, Keys, Listen, Name, Number, OptionalKey, Rate, Size, Whole
from receiver.config.section import Section, section
from receiver.config.stores import InboxConfig, LedgerConfig, QuarantineConfig, RetentionConfig, SpoolConfig
from receiver.domain.callback import CALLBACK
from receiver.domain.trouble import Trouble

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


class SourceConfig(Model):
    """Who posts to us. The URL is /webhooks/<name>."""

    secrets: Keys = Field(
        min_length=1,
        description="API keys with which the source signs its webhooks. Several, so that a key can be rotated:"
        " a body that any of them signed is authentic.",
    )
    api_base: str | None = Field(
        None, pattern=r"^https?://", description="Base of the source's API. SKYVERN_BASE_URL when it is absent."
    )
    api_key: OptionalKey = Field(
        None,
        description="Key for the source's API: to submit and poll runs and to renew lapsed artifact URLs."
        " Without it, nothing is asked from the API. It counts as one of the secrets: Skyvern signs with the key that"
        " a run was submitted with.",
    )
    watch: bool = Field(
        False,
        description="Walk Skyvern's list of runs, and take in the end of every run of the account that no webhook"
        " brought: runs of its UI, of schedules, of n8n and others too. Needs api_key.",
    )

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """All keys that may have signed a webhook: `api_key` signs the webhooks of the runs that we submit."""
        found = [*self.secrets, *([self.api_key] if self.api_key else [])]
        return tuple(dict.fromkeys(each.get_secret_value() for each in found if each.get_secret_value()))

    def api(self, default_base: str) -> tuple[str, str] | None:
        """Return base and key of the source's API, or None when it must not be called. `default_base` may be "".

        A key that was made on this machine is for `default_base` alone: it opens nothing at the real Skyvern.
        """
        base = (self.api_base or default_base).rstrip("/")
        key = self.api_key.get_secret_value() if self.api_key else ""
        if not (base and key) or (key.startswith(LOCAL_KEY) and base != default_base.rstrip("/")):
            return None
        return base, key


class ServerConfig(Section):
    """What the receiver accepts, and where."""

    admin: Listen | None = Field(
        None,
        description="A second port, for operators alone: a port of 127.0.0.1, or an address and a port, such as"
        " 10.0.0.5:9000. It serves `/metrics` and `/readyz?all` without a key, `/api/v1` and `/console`; none of these"
        " is then on the port that webhooks come to.",
    )

    max_body: Size = Field(
        16 << 20, ge=1024, le=1 << 30, description="Largest body of a webhook: bytes, or such as 16MiB. Over it: 413."
    )
    accept_weaker_durability: bool = Field(
        False,
        description="Start although Redis does not write each event to disk before the 202, or may evict it.",
    )


class SubmitConfig(Section):
    """The submit API: upstream apps speak Skyvern's own API with us, with keys of ours."""

    rate: Rate | None = Field(
        None,
        description="Most calls of one key in a time, such as 10/s or 100/m, where the key has no rate of its own."
        " Absent: 200/s and 2,000 at once, in each process.",
    )
    max_body: Size = Field(
        4 << 20,
        ge=1024,
        le=64 << 20,
        description="Largest body of a call, uploads of files apart: bytes, or such as 4MiB. Over it: 413.",
    )
    max_wait: Seconds = Field(
        300.0, ge=1, le=3600, description="Longest time that `?wait=` holds a request: seconds, or such as 5m."
    )
    max_waiters: Whole = Field(
        5000,
        ge=1,
        le=100_000,
        description="Requests that may be held at once in one process; over it the answer is 503.",
    )
    waiter_share: Number = Field(
        0.5,
        gt=0,
        le=1,
        description="Part of the places for held requests that one key may take of those which other keys leave free.",
    )
    look_budget: Rate = Field(
        "2/s",
        description="Most calls of a source's API in a time, over all processes, to look at runs that requests wait"
        " for, such as 2/s. Not counted: the one answer that each of them would have asked for itself.",
    )


class ReconcileConfig(Section):
    """Polling for results that no webhook has brought."""

    enabled: bool = Field(True, description="Whether the clock polls overdue runs.")
    after: Seconds = Field(
        600.0,
        gt=0,
        le=604800,
        description="Time after which a run without a result is polled, where its request sets no limit: seconds, or"
        " such as 10m.",
    )
    webhook_grace: Seconds = Field(
        120.0,
        ge=0,
        le=86400,
        description="Time that an end which Skyvern's API shows waits for its webhook, which has the same facts and"
        " more files; then the API's answer is taken: seconds, or such as 2m. Default without PUBLIC_URL, and"
        " in `runhook dev`: 9s, by when a run has all its files.",
    )
    stuck_after: Seconds = Field(
        14400.0,
        gt=0,
        le=2592000,
        description="Age at which a run that is still queued or running becomes an interim event, once, as one that is"
        " paused does at its first poll: seconds, or such as 4h.",
    )
    watch_every: Seconds = Field(
        60.0,
        ge=1,
        le=86400,
        description="Pause between two walks of Skyvern's list of runs: seconds, or such as 1m. Default without"
        " PUBLIC_URL, and in `runhook dev`: 15s.",
    )
    watch_back: Seconds = Field(
        0.0,
        ge=0,
        le=2592000,
        description="How far back the first walk of a source goes: seconds, or such as 1d. 0: runs that ended before it"
        " are not imported.",
    )
    longest: Seconds = Field(
        3600.0, gt=0, le=604800, description="Longest pause between two polls of one run: seconds, or such as 1h."
    )
    concurrency: Whole = Field(8, ge=1, le=64, description="How many polls of one source may run at once.")
    budget: Rate = Field("60/m", description="Most calls of a source's API in a time, such as 60/m.")
    absent_after: Seconds = Field(
        600.0,
        ge=60,
        le=86400,
        description="Time after which a submit whose answer was lost, and of which Skyvern's list certainly shows no"
        " run, counts as never made, so that its Idempotency-Key is free again: seconds, or such as 10m.",
    )

    def paced(self, *, webhooks: bool) -> Self:
        """Return these settings for a receiver that waits for `webhooks`, or does not: then ends are found and taken
        sooner, where the file does not say when."""
        if webhooks:
            return self
        sooner = {"webhook_grace": SETTLED_AFTER, "watch_every": WATCH_ALONE_EVERY}
        return self.model_copy(update={key: sooner[key] for key in sooner.keys() - self.model_fields_set})


class Config(Model):
    """The whole file."""

    sources: dict[Name, SourceConfig] = Field(min_length=1, description="Who posts to us, by name.")
    sinks: dict[Name, SinkConfig] = Field(default_factory=dict, description="Destinations, by name.")
    # Empty lists, which pydantic copies, and not `list` as a factory: that costs Python's tokenizer a start.
    routes: list[RouteConfig] = Field([], description="Rules, evaluated from top to bottom.")
    redact: list[str] = Field(
        default_factory=lambda: list(DEFAULT_REDACT),
        description="Dotted paths that are masked before anything is kept in the ledger or sent to a sink:"
        " * is one level, ** any depth. A list here replaces the default one.",
    )
    allowed_addresses: list[str] = Field(
        [],
        description="Hosts and CIDR networks that may be fetched from and posted to although they are private.",
    )
    server: ServerConfig = section(ServerConfig, "What the receiver accepts.")
    inbox: InboxConfig = section(InboxConfig, "How much may wait in Redis.")
    spool: SpoolConfig = section(SpoolConfig, "The store for when Redis is away.")
    quarantine: QuarantineConfig = section(QuarantineConfig, "The store of requests that failed the signature check.")
    console: ConsoleConfig = section(ConsoleConfig, "The console, for people.")
    submit: SubmitConfig = section(SubmitConfig, "The submit API.")
    callbacks: CallbacksConfig = section(CallbacksConfig, "The callers' own webhooks.")
    reconcile: ReconcileConfig = section(ReconcileConfig, "Polling for results that no webhook has brought.")
    ledger: LedgerConfig = section(LedgerConfig, "What the database of the ledger must promise.")
    retention: RetentionConfig = section(RetentionConfig, "How long ended things are kept.")

    @property
    def submits(self) -> bool:
        """Whether runs can be submitted here: a source has a key for Skyvern's API."""
        return any(source.api_key for source in self.sources.values())

    @property
    def durable_ledger(self) -> bool:
        """Whether the ledger must not lose what it has confirmed."""
        return not self.ledger.accept_weaker_durability

    def no_webhooks_warning(self, default_base: str, public_url: str) -> Trouble | None:
        """Return what does not work because Skyvern gets no URL for the webhooks of runs that can be submitted."""
        submits = {name: source for name, source in self.sources.items() if source.api(default_base) is not None}
        names = [name for name, source in submits.items() if not source.watch]  # else a walk finds the ends soon
        if public_url or not names:
            return None
        return Trouble(
            f"PUBLIC_URL is not set, though runs can be submitted to {', '.join(names)}: results come by polling "
            "alone, and late; and when Skyvern's answer to a submit is lost, nothing can prove whether there is a run",
            "set it to where Skyvern reaches this receiver, such as https://hooks.example.com",
        )

    @property
    def destinations(self) -> list[str]:
        """All sinks that deliveries have: those of the file, and CALLBACK where runs can be submitted."""
        return [*self.sinks, *([CALLBACK] if self.submits else [])]

    def retry_of(self, destination: str) -> RetryPolicy:
        """Return when deliveries to one of the `destinations` are tried again."""
        return self.callbacks.retry if destination == CALLBACK else self.sinks[destination].retry
