"""DATABASE_URL as SQLAlchemy's URL. Opens nothing."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from receiver.domain.database_url import check_database_url
from receiver.errors import ConfigError


def checked_url(url: str) -> sa.URL:
    """Return `url` as SQLAlchemy's, with the driver that is used here. Raises ConfigError, which says what is right."""
    check_database_url(url)
    parsed = sa.make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
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
