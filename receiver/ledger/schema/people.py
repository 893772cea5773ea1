"""Who may do what, and who did."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, Index, Integer, Table, Text

from receiver.ledger.schema.base import Serial, metadata

# Who did what: see audit.py.
audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor_kind", Text, nullable=False),  # cli | key | user …
    Column("actor", Text, nullable=False),
    Column("key_id", Text, nullable=False),  # of an API key, or ""
    Column("action", Text, nullable=False),
    Column("source", Text, nullable=False),  # on whose things; "": of all
    Column("selection", Text, nullable=False),  # JSON: what it was asked to take
    Column("count", Integer, nullable=False),
    Column("outcome", Text, nullable=False),  # begun | done | failed
    Column("detail", Text, nullable=False),
    Column("ended_at", Double),  # null while it is begun
    Index(None, "at"),
    Index(None, "source", "id"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", Text, nullable=False),  # SHA-256 of the whole key, hex
    Column("hint", Text, nullable=False),  # how the key begins
    Column("scopes", Text, nullable=False),  # "submit read operate resubmit"
    Column("source", Text, nullable=False),
    Column("rate", Text),  # such as 10/s
    Column("created_at", Double, nullable=False),
    Column("used_at", Double),
    Column("revoked_at", Double),
    Column("expires_at", Double),  # by the database's clock; null: never
    Column("replaced_by", Text, nullable=False, server_default=""),  # id of the key that it was rotated to
    Index("uq_keys_hash", "hash", unique=True),
)

# Who is signed in to the console.
console_sessions = Table(
    "console_sessions",
    metadata,
    Column("hash", Text, primary_key=True),  # SHA-256 of the token, hex
    Column("user", Text, nullable=False),
    Column("credential", Text, nullable=False),  # hash of what the password was checked against
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index(None, "expires_at"),
)

# Views of the console by name: see saved_views.py.
saved_views = Table(
    "saved_views",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),  # kind:name of who saved it
    Column("source", Text, nullable=False),  # the only one that its owner may see; "": all
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),  # below /console
    Column("shared", Boolean, nullable=False),
    Column("saved_at", Double, nullable=False),
    Index("uq_saved_views_owner_source_name", "owner", "source", "name", unique=True),
)
