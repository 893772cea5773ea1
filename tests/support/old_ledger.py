"""A ledger as an earlier release has made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from receiver.ledger import Ledger, migrate


def made_at(ledger_url: str, revision: str, *statements: str) -> Ledger:
    """A ledger that was made at `revision`, and given `statements`."""
    ledger = Ledger(ledger_url)

    def old(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "receiver/ledger/migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)

    ledger.alter(old)
    return ledger


def upgraded(ledger_url: str, revision: str, *statements: str) -> Ledger:
    """The same, brought up to date."""
    ledger = made_at(ledger_url, revision, *statements)
    migrate.ensure_schema(ledger)
    return ledger
