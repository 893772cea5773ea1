"""A ledger that an older program made keeps what is in it, in today's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from receiver.ledger import Ledger, api_keys, migrate

_EVENT = (
    "INSERT INTO events (id, source, run_id, via, run_type, status, outcome, attempt, retry_pending, final,"
    " fingerprint, output_null, disposition, unrouted, problem, submission_id, received_at, recorded_at, body)"
    " VALUES ('evt_{0}', 's', 'tsk_1', 'webhook', '', 'completed', 'completed', 1, false, true, '', true, '{0}',"
    " false, '', '', 1, 1, 'body')"
)
_KEY = "INSERT INTO keys (id, name, hash, hint, scopes, source, created_at) VALUES ('{0}', '', '{0}', '', '{1}', '', 1)"


def upgraded(ledger_url: str, revision: str, *statements: str) -> Ledger:
    """A ledger that was made at `revision`, given `statements`, and then brought up to date."""
    ledger = Ledger(ledger_url)

    def old(connection: sa.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "receiver/ledger/migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements:
            connection.exec_driver_sql(statement)

    ledger.write(old)
    migrate.ensure_schema(ledger)
    return ledger


def rows(ledger: Ledger, query: str) -> Sequence[tuple[Any, ...]]:
    return [tuple(row) for row in ledger.read(lambda connection: connection.exec_driver_sql(query).all())]


def test_0003_keeps_deliveries(ledger_url: str) -> None:
    ledger = upgraded(
        ledger_url,
        "0002",
        "INSERT INTO deliveries (id, event_id, sink, lane, route, source, run_id, state, due_at, created_at,"
        " updated_at) VALUES ('dlv_1', 'evt_1', 'ops', 'ops', 'r', 's', 'tsk_1', 'queued', 1, 1, 1)",
    )

    assert rows(ledger, "SELECT id, target FROM deliveries") == [("dlv_1", "")]
    ledger.close()


def test_0004_renames_the_disposition_and_the_scope(ledger_url: str) -> None:
    ledger = upgraded(
        ledger_url,
        "0003",
        *(_EVENT.format(each) for each in ("news", "repeat", "interim")),
        _KEY.format("a1", "again operate read submit"),
        _KEY.format("b2", "read submit"),
    )

    assert rows(ledger, "SELECT id, disposition FROM events ORDER BY id") == [
        ("evt_interim", "interim"),
        ("evt_news", "new"),
        ("evt_repeat", "repeat"),
    ]
    assert [each.scopes for each in ledger.read(api_keys.every)] == [
        {"resubmit", "operate", "read", "submit"},
        {"read", "submit"},
    ]
    ledger.close()
