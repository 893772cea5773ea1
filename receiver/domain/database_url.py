"""DATABASE_URL: checked at a start, which need not wait for SQLAlchemy."""

from __future__ import annotations

from handlers.support.database_url import url_problem
from receiver.errors import ConfigError


def check_database_url(url: str) -> None:
    """Raise ConfigError, which says what is right, when no ledger can be at `url`."""
    if problem := url_problem(url, "var/ledger.db"):
        raise ConfigError(f"DATABASE_URL: {problem}")
