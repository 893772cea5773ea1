"""DATABASE_URL: which databases and drivers a ledger may be on. Without SQLAlchemy, which a start need not wait for."""

from __future__ import annotations

import re
from typing import Final

from handlers.support.url import has_raw_at
from receiver.errors import ConfigError

# As SQLAlchemy reads one (2.0, engine/url.py); with what it takes for a driver, a host, a port and a database.
_URL: Final = re.compile(
    r"(?P<driver>[\w+]+)://"
    r"(?:[^:/]*(?::[^@]*)?@)?"
    r"(?P<host>\[[^/?]+\]|[^/:?]+)?(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<database>[^?]*))?"
    r"(?:\?.*)?"
)
_DRIVERS: Final = {
    "sqlite": ("sqlite", "sqlite+pysqlite"),
    "postgresql": ("postgres", "postgresql", "postgresql+psycopg"),
}


def check_database_url(url: str) -> None:
    """Raise ConfigError, which says what is right, when no ledger can be at `url`.

    What libpq makes of the parameters of PostgreSQL is seen when a ledger is made.
    """
    found = _URL.match(url)
    if found is None or not (found["port"] is None or found["port"].isdecimal()):
        raise ConfigError(
            "DATABASE_URL: not a database URL; right would be sqlite:///var/ledger.db or "
            "postgresql://user:password@host/name"
        )
    kind, _, driver = found["driver"].partition("+")
    kind = "postgresql" if found["driver"] == "postgres" else kind
    if kind not in _DRIVERS:
        raise ConfigError(
            f"DATABASE_URL: the ledger runs on SQLite or PostgreSQL, not on {kind}; right would "
            "be sqlite:///var/ledger.db or postgresql://user:password@host/name"
        )
    if found["driver"] not in _DRIVERS[kind]:
        raise ConfigError(
            f"DATABASE_URL: the driver {driver} is not used here; write {kind}:// instead of {found['driver']}://"
        )
    if kind == "postgresql" and has_raw_at(url):
        raise ConfigError("DATABASE_URL: has several @; in a user or password write @ as %40 and / as %2F")
    if kind == "sqlite" and found["host"]:
        raise ConfigError(
            "DATABASE_URL: names a host after two slashes, and SQLite has none: three begin a path from here, "
            "sqlite:///var/ledger.db, and four one from the root"
        )
    if kind == "sqlite" and found["database"] in (None, "", ":memory:"):
        raise ConfigError(
            "DATABASE_URL: a ledger in memory would lose everything; give a file: sqlite:///var/ledger.db"
        )
    if kind == "sqlite" and found["database"].startswith("file:"):  # its lock and its mode would be another file's
        raise ConfigError("DATABASE_URL: names SQLite's file by a URI; give its path: sqlite:///var/ledger.db")
