"""PostgreSQL compares texts by their bytes, as Python and SQLite do, and not by the rules of a language. Revision 0021.

Ids are most of what the ledger's indexes hold, and a comparison by a language's rules takes many times as long. Nothing
is done in a database whose own texts are compared by bytes. Elsewhere the indexes of texts are made anew, no table is,
and nobody else reads or writes the tables meanwhile.
"""

import random
import time

import sqlalchemy as sa
from alembic import op
from sqlalchemy import exc as sa_exc

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_BY_BYTES = """\
SELECT CASE coalesce(to_jsonb(it) ->> 'datlocprovider', 'c')
 WHEN 'c' THEN datcollate IN ('C', 'POSIX') WHEN 'b' THEN true ELSE false END
 FROM pg_database it WHERE datname = current_database()"""
_TABLES = (
    *("active_runs", "agent_changes", "agents", "attempts", "audit", "console_sessions", "deliveries", "events"),
    *("heartbeats", "keys", "lanes", "marks", "operations", "run_texts", "run_words", "runs", "saved_views"),
    *("schedules", "submissions", "text_index", "timeouts", "watches"),
)
# Of a table, those that have no collation of their own.
_TEXTS = """\
SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = to_regclass('{}') AND attnum > 0 AND NOT attisdropped
 AND atttypid = 'text'::regtype AND attcollation = (SELECT oid FROM pg_collation WHERE collname = 'default')
 ORDER BY attnum"""
# Milliseconds that one try waits for a table. Who began before may want one that this try has locked: it goes on when
# the try ends. It is far less than `deadlock_timeout`, after which the server would end either of the two.
_WAIT = 150
# Seconds of tries. Nobody's transaction takes as long: see TimeLimits of handlers/support/postgresql.py.
_TRY_FOR = 60.0
# What the server says where others hold a lock: lock_not_available, deadlock_detected.
_HELD = ("55P03", "40P01")


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql" or connection.exec_driver_sql(_BY_BYTES).scalar_one():
        return
    _lock_all(connection)
    for table in _TABLES:
        names = connection.exec_driver_sql(_TEXTS.format(table)).scalars()
        if changes := ", ".join(f'ALTER COLUMN {name} TYPE text COLLATE "C"' for name in names):
            connection.exec_driver_sql(f"ALTER TABLE {table} {changes}")


def _lock_all(connection: sa.Connection) -> None:
    """Lock all tables at first, with none of them held while one is waited for long: others hold some and want more."""
    until = time.monotonic() + _TRY_FOR
    (before,) = connection.exec_driver_sql("SHOW lock_timeout").one()
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_WAIT}")
    while True:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"LOCK TABLE {', '.join(_TABLES)} IN ACCESS EXCLUSIVE MODE")
            break
        except sa_exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _HELD or time.monotonic() > until:
                raise
        time.sleep(random.uniform(0.05, 0.2))  # for those who have waited for this try
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{before}'")
