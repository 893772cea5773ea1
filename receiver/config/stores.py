"""What is kept here and how much of it, in the config file: inbox, spool, quarantine and ledger."""

from pydantic import Field

from handlers.support.duration import Seconds
from receiver.config.fields import Size, Whole
from receiver.config.section import Section


class InboxConfig(Section):
    """How much may wait in Redis before events go to the spool."""

    max_events: Whole = Field(100_000, ge=1, description="Events in the inbox.")
    max_bytes: Size = Field(512 << 20, ge=1 << 20, description="Bytes in the inbox: a number, or such as 512MiB.")


class SpoolConfig(Section):
    """The local store that takes events while Redis is away."""

    max_bytes: Size = Field(2 << 30, ge=1 << 20, description="Bytes in the spool, over which the answer is 503.")
    reserve_bytes: Size = Field(256 << 20, ge=0, description="Free disk space, under which the answer is 503.")


class QuarantineConfig(Section):
    """The store of requests that failed the signature check."""

    max_count: Whole = Field(1000, ge=0, description="Requests kept; those that name no run go first. 0 keeps none.")
    max_bytes: Size = Field(64 << 20, ge=0, description="Bytes kept.")


class LedgerConfig(Section):
    """What the database of the ledger must promise."""

    accept_weaker_durability: bool = Field(
        False,
        description="Write to a PostgreSQL that may lose what it has confirmed, for it has fsync or full_page_writes"
        " off, as services with a storage of their own may have.",
    )


class RetentionConfig(Section):
    """How long what has ended stays in the ledger."""

    events: Seconds | None = Field(
        None,
        ge=3600,
        description="Age at which events whose deliveries have all ended are removed, with those deliveries:"
        " seconds, or such as 90d. Absent means never.",
    )
