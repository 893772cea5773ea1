"""DATABASE_URL: which databases and drivers a ledger may be on. Opens nothing."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from handlers.support.url import has_raw_at
from receiver.errors import ConfigError


def checked_url(url: str) -> sa.URL:
    """Return `url` as SQLAlchemy's, with the driver that is used here. Raises ConfigError, which says what is right."""
    try:
        parsed = sa.make_url(url)
    except (sa_exc.ArgumentError, ValueError):  # the latter for a port that is no number
        raise ConfigError(
            "DATABASE_URL: not a database URL; right would be sqlite:///var/ledger.db or "
            "postgresql://user:password@host/name"
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(
            f"DATABASE_URL: the ledger runs on SQLite or PostgreSQL, not on {parsed.get_backend_name()}; right would "
            "be sqlite:///var/ledger.db or postgresql://user:password@host/name"
        )
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        name = parsed.get_backend_name()
        raise ConfigError(
            f"DATABASE_URL: the driver {parsed.get_driver_name()} is not used here; write {name}:// instead of "
            f"{parsed.drivername}://"
        )
    if parsed.get_backend_name() == "postgresql" and has_raw_at(url):
        raise ConfigError("DATABASE_URL: has several @; in a user or password write @ as %40 and / as %2F")
    if parsed.get_backend_name() == "sqlite" and parsed.host:
        raise ConfigError(
            "DATABASE_URL: names a host after two slashes, and SQLite has none: three begin a path from here, "
            "sqlite:///var/ledger.db, and four one from the root"
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigError(
            "DATABASE_URL: a ledger in memory would lose everything; give a file: sqlite:///var/ledger.db"
        )
    if parsed.get_backend_name() == "postgresql" and (trouble := _parameter_trouble(parsed)):
        raise ConfigError(
            f"DATABASE_URL: {trouble}; right would be postgresql://user:password@host:5432/name, with libpq's "
            "connection parameters after a ?, such as ?sslmode=require"
        )
    return parsed


def _parameter_trouble(url: sa.URL) -> str:
    """Return what is wrong with a PostgreSQL URL that no waiting for a server would mend, or ""."""
    from handlers.support.postgresql import parameter_trouble  # not needed with SQLite

    try:
        return parameter_trouble(url.get_dialect()().create_connect_args(url)[1])
    except sa_exc.ArgumentError as error:  # several hosts
        return str(error)
