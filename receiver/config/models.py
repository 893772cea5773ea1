"""The config file as models: sources, sinks, routes and limits. It knows no YAML and opens nothing.

Every key is declared here once, with type, default and help; the loader's errors, `runhook schema` and
docs/configuration.md are made from these declarations. `load` in receiver.config.loader returns a Config.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from receiver.config.base import Model
from receiver.config.console import ConsoleConfig
from receiver.config.fields import Keys, Listen, Name, Number, OptionalKey, Rate, Seconds, Size, Whole, parse_rate
from receiver.domain.callback import CALLBACK

DEFAULT_REDACT = (
    "**.extra_http_headers",
    "**.cdp_connect_headers",
    "**.browser_address",
    "**.totp_identifier",
    "**.totp_url",
    "**.totp_verification_url",
)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _rule(value: object) -> object:
    if isinstance(value, str | dict) or value is None:
        return value
    raise ValueError("must be a mapping such as {status: failed}, or a CEL expression in quotes")


def _target(value: object) -> object:
    if isinstance(value, str | dict | ToSink):
        return value
    raise ValueError("must be the name of a sink, or {sink: …, after: …}")


def _targets(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("must be a list of sinks; put the name in brackets")
    if not value:
        raise ValueError("names no sink; an event must go somewhere")
    return value


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
        """Return base and key of the source's API, or None when it must not be called. `default_base` may be ""."""
        base = self.api_base or default_base
        return (base.rstrip("/"), self.api_key.get_secret_value()) if base and self.api_key else None


class RetryPolicy(Model):
    """When a delivery is tried again: after first, first * factor, first * factor² … seconds, with jitter."""

    attempts: Whole = Field(
        12, ge=1, le=1000, description="Attempts before the delivery is dead, the first one included."
    )
    first: Seconds = Field(5.0, gt=0, le=86400, description="Delay before the second attempt: seconds, or such as 5s.")
    factor: Number = Field(2.0, ge=1, le=100, description="By how much each delay is longer than the one before.")
    max: Seconds = Field(3600.0, gt=0, le=604800, description="Longest delay: seconds, or such as 1h.")
    give_up_after: Seconds = Field(
        259200.0,
        gt=0,
        le=31536000,
        description="Time after the first attempt at which a delivery is dead though attempts are left, and so is what"
        " has waited for so long behind an open breaker: seconds, or such as 3d. Time in which the sink was paused, or"
        " workers were stopped, does not count. A replay starts anew.",
    )


Place = Literal["auto", "shared", "own"]


class SinkConfig(Model):
    """A destination. Beside these keys stand the options of its type."""

    type: str = Field(
        description="What it is: database, files, s3, slack, http, notify, queue, resubmit, or a type that a package"
        " adds."
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="When a delivery is tried again.")
    concurrency: Whole = Field(8, ge=1, le=256, description="How many sends may run at once, over all workers.")
    rate: Rate | None = Field(None, description="Most sends in a time, such as 10/s or 100/m. No limit when absent.")
    worker: Place = Field(
        "auto",
        description="The worker process of its sends. shared: one with other sinks, until it hangs, ends its process,"
        " or needs much; then one of its own for a time. own: always its own. auto: shared for the types that come with"
        " Runhook, but notify; own for the others.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="Options of the type, checked by its handler."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, data: Any) -> Any:
        """Move every key that is no field here to `options`, which the handler checks."""
        if not isinstance(data, dict):
            return data
        own = {key: value for key, value in data.items() if key in cls.model_fields}
        rest = {key: value for key, value in data.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **rest}} if rest else own

    @property
    def rate_limit(self) -> tuple[int, float] | None:
        """(how many, in how many seconds), or None."""
        return parse_rate(self.rate) if self.rate else None


class ToSink(Model):
    """A sink that waits for the receipts of others."""

    sink: str = Field(description="Name of the sink.")
    after: Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        default_factory=list,
        description="Sink, or list of sinks, whose receipts it waits for and gets. They must get the event as well:"
        " by this route, or by an earlier one.",
    )


class RouteConfig(Model):
    """A rule: which events go to which sinks."""

    name: str = Field(min_length=1, max_length=100, description="What lists and explanations call it. Unique.")
    when: Annotated[str | dict[str, Any] | None, BeforeValidator(_rule)] = Field(
        None,
        description="A mapping of dotted paths to a value, list of values or glob, all of which must match;"
        " or a CEL expression. Absent means always.",
    )
    to: Annotated[list[Annotated[str | ToSink, BeforeValidator(_target)]], BeforeValidator(_targets)] = Field(
        min_length=1, description="Names of sinks, or {sink: …, after: …}."
    )
    interim: bool = Field(False, description="Also events of runs that have not ended, or will be tried again.")
    repeats: bool = Field(False, description="Also events that say nothing new.")
    updates: bool = Field(
        False,
        description="Tell its sinks again when a later event of the same result has more files or fields. Sinks that"
        " complete what they keep (database, files, s3) get those anyway.",
    )
    superseded: bool = Field(False, description="Also final events older than the newest one of their run.")
    test: bool = Field(False, description="Also the test webhooks that Skyvern's Test button sends.")
    stop: bool = Field(False, description="When this route matches, the ones after it are not evaluated.")

    @property
    def targets(self) -> tuple[ToSink, ...]:
        """`to` in its long form."""
        return tuple(ToSink(sink=item) if isinstance(item, str) else item for item in self.to)


class ServerConfig(Model):
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


class InboxConfig(Model):
    """How much may wait in Redis before events go to the spool."""

    max_events: Whole = Field(100_000, ge=1, description="Events in the inbox.")
    max_bytes: Size = Field(512 << 20, ge=1 << 20, description="Bytes in the inbox: a number, or such as 512MiB.")


class SpoolConfig(Model):
    """The local store that takes events while Redis is away."""

    max_bytes: Size = Field(2 << 30, ge=1 << 20, description="Bytes in the spool, over which the answer is 503.")
    reserve_bytes: Size = Field(256 << 20, ge=0, description="Free disk space, under which the answer is 503.")


class QuarantineConfig(Model):
    """The store of requests that failed the signature check."""

    max_count: Whole = Field(1000, ge=0, description="Requests kept; those that name no run go first. 0 keeps none.")
    max_bytes: Size = Field(64 << 20, ge=0, description="Bytes kept.")


class SubmitConfig(Model):
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


class CallbacksConfig(Model):
    """The callers' own webhooks: what submitters gave as webhook_url, served by us."""

    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="When a delivery is tried again.")
    timeout: Seconds = Field(30.0, gt=0, le=3600, description="Time that one send may take: seconds, or such as 30s.")
    concurrency: Whole = Field(32, ge=1, le=256, description="How many sends may run at once, over all workers.")
    per_origin: Whole = Field(
        4,
        ge=1,
        le=256,
        description="How many of them one caller may have to one origin, so that one slow server holds up nobody else."
        " All origins of one caller together take half of the places that others leave free.",
    )
    worker: Place = Field("auto", description="The worker process of these sends: as for a sink, and auto is shared.")


class ReconcileConfig(Model):
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
        " more files; then the API's answer is taken: seconds, or such as 2m.",
    )
    stuck_after: Seconds = Field(
        14400.0,
        gt=0,
        le=2592000,
        description="Age at which a run that is still queued or running becomes an interim event, once, as one that is"
        " paused does at its first poll: seconds, or such as 4h.",
    )
    watch_every: Seconds = Field(
        60.0, ge=1, le=86400, description="Pause between two walks of Skyvern's list of runs: seconds, or such as 1m."
    )
    watch_back: Seconds = Field(
        86400.0,
        ge=0,
        le=2592000,
        description="How far back the first walk of a source goes: seconds, or such as 1d.",
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


class LedgerConfig(Model):
    """What the database of the ledger must promise."""

    accept_weaker_durability: bool = Field(
        False,
        description="Write to a PostgreSQL that may lose what it has confirmed, for it has fsync or full_page_writes"
        " off, as services with a storage of their own may have.",
    )


class RetentionConfig(Model):
    """How long what has ended stays in the ledger."""

    events: Seconds | None = Field(
        None,
        ge=3600,
        description="Age at which events whose deliveries have all ended are removed, with those deliveries:"
        " seconds, or such as 90d. Absent means never.",
    )


class Config(Model):
    """The whole file."""

    sources: dict[Name, SourceConfig] = Field(min_length=1, description="Who posts to us, by name.")
    sinks: dict[Name, SinkConfig] = Field(default_factory=dict, description="Destinations, by name.")
    routes: list[RouteConfig] = Field(default_factory=list, description="Rules, evaluated from top to bottom.")
    redact: list[str] = Field(
        default_factory=lambda: list(DEFAULT_REDACT),
        description="Dotted paths that are masked before anything is kept in the ledger or sent to a sink:"
        " * is one level, ** any depth. A list here replaces the default one.",
    )
    allowed_addresses: list[str] = Field(
        default_factory=list,
        description="Hosts and CIDR networks that may be fetched from and posted to although they are private.",
    )
    server: ServerConfig = Field(default_factory=ServerConfig, description="What the receiver accepts.")
    inbox: InboxConfig = Field(default_factory=InboxConfig, description="How much may wait in Redis.")
    spool: SpoolConfig = Field(default_factory=SpoolConfig, description="The store for when Redis is away.")
    quarantine: QuarantineConfig = Field(
        default_factory=QuarantineConfig, description="The store of requests that failed the signature check."
    )
    console: ConsoleConfig = Field(default_factory=ConsoleConfig, description="The console, for people.")
    submit: SubmitConfig = Field(default_factory=SubmitConfig, description="The submit API.")
    callbacks: CallbacksConfig = Field(default_factory=CallbacksConfig, description="The callers' own webhooks.")
    reconcile: ReconcileConfig = Field(
        default_factory=ReconcileConfig, description="Polling for results that no webhook has brought."
    )
    ledger: LedgerConfig = Field(
        default_factory=LedgerConfig, description="What the database of the ledger must promise."
    )
    retention: RetentionConfig = Field(default_factory=RetentionConfig, description="How long ended things are kept.")

    @property
    def submits(self) -> bool:
        """Whether runs can be submitted here: a source has a key for Skyvern's API."""
        return any(source.api_key for source in self.sources.values())

    @property
    def durable_ledger(self) -> bool:
        """Whether the ledger must not lose what it has confirmed."""
        return not self.ledger.accept_weaker_durability

    def no_webhooks_warning(self, default_base: str, public_url: str) -> str:
        """Return a warning when runs can be submitted but Skyvern gets no URL for their webhooks; else ""."""
        names = [name for name, source in self.sources.items() if source.api(default_base) is not None]
        if public_url or not names:
            return ""
        return (
            f"PUBLIC_URL is not set, though runs can be submitted to {', '.join(names)}: results come by polling "
            "alone, and late; and when Skyvern's answer to a submit is lost, nothing can prove whether there is a run. "
            "Set it to where Skyvern reaches this receiver, such as https://hooks.example.com"
        )

    @property
    def destinations(self) -> list[str]:
        """All sinks that deliveries have: those of the file, and CALLBACK where runs can be submitted."""
        return [*self.sinks, *([CALLBACK] if self.submits else [])]

    def retry_of(self, destination: str) -> RetryPolicy:
        """Return when deliveries to one of the `destinations` are tried again."""
        return self.callbacks.retry if destination == CALLBACK else self.sinks[destination].retry
