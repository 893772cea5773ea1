"""The supported databases and drivers of ledgers and results tables. Without connections or SQLAlchemy."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

# SQLAlchemy's URL pattern (2.0, engine/url.py), with groups for driver, host, port and database.
_URL: Final = re.compile(
    r"(?P<driver>[\w+]+)://"
    r"(?:[^:/]*(?::[^@]*)?@)?"
    r"(?P<host>\[[^/?]+\]|[^/:?]+)?(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<database>[^?]*))?"
    r"(?:\?(?P<query>.*))?"
)
_DRIVERS: Final = {
    "sqlite": ("sqlite", "sqlite+pysqlite"),
    "postgresql": ("postgres", "postgresql", "postgresql+psycopg"),
}


def url_problem(url: str, file: str) -> str:
    """Return what is wrong with `url`, and an example; "" if valid.

    Never contains the URL's secrets. `file`: the example's path.
    """
    parts = _URL.match(url)
    right = f"right would be sqlite:///{file} or postgresql://user:password@host/name"
    if parts is None or not (parts["port"] is None or parts["port"].isdecimal()):
        return f"not a database URL; {right}"
    kind, _, driver = parts["driver"].partition("+")
    kind = "postgresql" if parts["driver"] == "postgres" else kind
    if kind not in _DRIVERS:
        return f"Runhook writes to SQLite and PostgreSQL, not to {kind}; {right}"
    if parts["driver"] not in _DRIVERS[kind]:
        return f"the driver {driver} is not used here; write {kind}:// instead of {parts['driver']}://"
    if kind == "postgresql":  # SQLAlchemy ends a password at the first @ and reads the rest as the host
        if url.partition("?")[0].count("@") > 1:
            return "has several @; in a user or password write @ as %40 and / as %2F"
        return _parameter_problem(parts["query"]) if parts["query"] else ""
    if parts["host"]:
        return (
            "names a host after two slashes, and SQLite has none: three begin a path from here, "
            f"sqlite:///{file}, and four one from the root"
        )
    if parts["database"] in (None, "", ":memory:"):
        return f"a database in memory would lose everything; give a file: sqlite:///{file}"
    if parts["database"].startswith("file:") or "mode=" in (parts["query"] or ""):  # its lock file would differ
        return f"names SQLite's file by a URI; give its path: sqlite:///{file}"
    return ""


def _parameter_problem(query: str) -> str:
    from handlers.support.postgresql import parameter_trouble  # the import takes 0.1 s; few URLs have parameters

    trouble = parameter_trouble(dict(parse_qsl(query)))
    return trouble and f"{trouble}; after the ? stand libpq's connection parameters, such as ?sslmode=require"
