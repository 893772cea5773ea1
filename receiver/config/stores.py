"""What is kept here and how much of it, in the config file: inbox, spool, quarantine and ledger."""

from pydantic import Field

from handlers.support.duration import Seconds
from receiver.config.base import Model
from receiver.config.fields import Size, Whole


class InboxConfig(Model):
    """Limits of the inbox in Redis; beyond them, events go to the spool."""

    max_events: Whole = Field(100_000, ge=1, description="Maximum events.")
    max_bytes: Size = Field(512 << 20, ge=1 << 20, description="Maximum size.")


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
    """How long events are kept."""

    events: Seconds | None = Field(
        None,
        ge=3600,
        description="Age at which events whose deliveries have all ended are removed, such as 90d. Default: never.",
    )
