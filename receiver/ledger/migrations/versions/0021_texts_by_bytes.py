"""PostgreSQL compares texts by their bytes, as Python and SQLite do, and not by the rules of a language. Revision 0021.

Ids are most of what the ledger's indexes hold, and a comparison by a language's rules takes many times as long. Nothing
is done in a database whose own texts are compared by bytes. Elsewhere the indexes of texts are made anew, no table is,
and nobody else reads or writes the tables meanwhile.
"""

from alembic import op

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


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql" or connection.exec_driver_sql(_BY_BYTES).scalar_one():
        return
    # All of them at first: to wait for one while another is held would keep others waiting who wait for nothing long.
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(_TABLES)} IN ACCESS EXCLUSIVE MODE")
    for table in _TABLES:
        names = connection.exec_driver_sql(_TEXTS.format(table)).scalars()
        if changes := ", ".join(f'ALTER COLUMN {name} TYPE text COLLATE "C"' for name in names):
            connection.exec_driver_sql(f"ALTER TABLE {table} {changes}")
