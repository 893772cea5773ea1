"""A ledger that can't be used when a part starts: one line says so, and what would be right."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from handlers.contract import Unavailable
from handlers.database.options import parse_url
from handlers.database.server import Database
from receiver.cli.ledger_access import warning_at_start
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import ConfigError, NotStarted
from receiver.ledger import Ledger
from receiver.ledger.migrate import HEAD, LedgerAway, ensure_schema
from receiver.worker import check
from tests.servers.postgres import PostgresProcess
from tests.servers.valkey import free_port
from tests.support.waiting import PATIENCE, Stopwatch

CONFIG = Config.model_validate({"sources": {"skyvern": {"secrets": ["a-secret"]}}})
FOREIGN = "CREATE TABLE runs (title text)"


def line_of(url: str) -> tuple[str, bool]:
    """What a part says when it does not start with this ledger, and whether it would wait first."""
    ledger = Ledger(url)
    try:
        with pytest.raises(NotStarted) as caught:
            ensure_schema(ledger)
    finally:
        ledger.close()
    (line,) = str(caught.value).splitlines()
    assert "sekret" not in line
    return line, isinstance(caught.value, LedgerAway)


def test_unusable_postgresql_is_reported_with_a_remedy(postgres: PostgresProcess, postgres_url: str) -> None:
    away = line_of(f"postgresql://u:sekret@127.0.0.1:{free_port()}/db?sslpassword=sekret")
    assert away == (away[0], True)
    assert "Connection refused; no PostgreSQL listens there: start it, or correct DATABASE_URL" in away[0]

    nowhere, waits = line_of(postgres.url("nowhere"))
    assert 'database "nowhere" does not exist; create it, or correct the name' in nowhere
    assert not waits

    with contextlib.closing(postgres.connect("postgres")) as connection:
        connection.execute("CREATE DATABASE without_encoding ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        bytes_only, waits = line_of(postgres.url("without_encoding"))
        assert 'database "without_encoding" has the encoding SQL_ASCII and not UTF8; create another' in bytes_only
        assert not waits
        sink = Database(parse_url(postgres.url("without_encoding")), PATIENCE)
        with (
            pytest.raises(Unavailable, match="has the encoding SQL_ASCII and not UTF8"),
            sink.transaction(time.monotonic() + PATIENCE),
        ):
            pass
        sink.close()
    finally:
        with contextlib.closing(postgres.connect("postgres")) as connection:
            connection.execute("DROP DATABASE without_encoding")

    with contextlib.closing(postgres.connect(postgres_url.rpartition("/")[2])) as connection:
        connection.execute(FOREIGN)
    others, waits = line_of(postgres_url)
    assert 'relation "runs" already exists; it belongs to another program' in others
    assert not waits


def test_unusable_sqlite_file_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all" * 100)
    text, waits = line_of(f"sqlite:///{tmp_path}/text.db")
    assert "file is not a database; set DATABASE_URL to an SQLite file" in text
    assert not waits

    other = Ledger(f"sqlite:///{tmp_path}/other.db")
    other.write(lambda it: it.exec_driver_sql(FOREIGN))
    other.close()
    others, waits = line_of(f"sqlite:///{tmp_path}/other.db")
    assert "table runs already exists; it belongs to another program" in others
    assert not waits

    newer = Ledger(f"sqlite:///{tmp_path}/newer.db")
    ensure_schema(newer)
    newer.write(lambda it: it.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    newer.close()
    line, waits = line_of(f"sqlite:///{tmp_path}/newer.db")
    assert line.startswith(f"the ledger's schema is 9999, and this version of Runhook needs {HEAD} (sqlite:///")
    assert "): name a new or empty database with DATABASE_URL" in line
    assert not waits

    (tmp_path / "folder").mkdir()
    folder, waits = line_of(f"sqlite:///{tmp_path}/folder")
    assert "must name a file that this user can write" in folder
    assert waits


def test_a_worker_waits_only_for_what_may_come(tmp_path: Path, redis_url: str, postgres: PostgresProcess) -> None:
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": postgres.url("nowhere"), "RUNHOOK_DATA": str(tmp_path)}
    watch = Stopwatch()
    with pytest.raises(NotStarted, match="create it, or correct the name"):
        check(Settings.from_env(environ), CONFIG, 120)
    watch.at_most(60)


def test_an_option_of_redis_url_that_does_not_exist_is_one_line() -> None:
    from receiver.runtime.redis_client import check_url

    check_url("redis://:pw@127.0.0.1:6379/0?protocol=3&health_check_interval=5")
    for wrong in ("foo=sekret", "socket_timeout=sekret"):
        with pytest.raises(ConfigError) as caught:
            check_url(f"redis://127.0.0.1:6379/0?{wrong}")
        assert str(caught.value).startswith(f"REDIS_URL: the option {wrong.partition('=')[0]}, which is after the ?")
        assert "sekret" not in str(caught.value)


def test_the_receiver_tells_at_its_start_what_it_lacks(
    tmp_path: Path, postgres: PostgresProcess, postgres_url: str
) -> None:
    def told(url: str) -> str:
        return warning_at_start(Settings.from_env({"DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path)}), CONFIG)

    # One that is there, or that worker and clock will make, is no news
    assert told(postgres_url) == told(f"sqlite:///{tmp_path}/none.db") == ""
    assert not list(tmp_path.iterdir())
    # One that is away is told, with what that means
    line = told(f"postgresql://u:sekret@127.0.0.1:{free_port()}/db")
    assert line.startswith("the ledger can't be used (postgresql+psycopg://u:********@127.0.0.1:")
    assert line.endswith("Webhooks are stored; the submit API responds 503")
    # And one that may lose what it confirms is refused
    with postgres.altered(fsync="off"), pytest.raises(NotStarted, match="fsync is off"):
        told(postgres_url)


@pytest.mark.parametrize("revision", ["9999", "0021"])
def test_the_receiver_reports_a_ledger_of_another_schema(ledger: Ledger, tmp_path: Path, revision: str) -> None:
    ledger.write(lambda it: it.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'"))
    url = ledger.url.render_as_string(hide_password=False)

    line = warning_at_start(Settings.from_env({"DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path)}), CONFIG)

    expected = (
        f"the ledger's schema is {revision}, and this version of Runhook needs {HEAD} ({ledger.where}): name a new"
    )
    assert line.startswith(expected)
    assert line.endswith("Webhooks are stored; everything else may fail")


def test_a_ledger_that_answers_nothing_holds_up_no_start(tmp_path: Path) -> None:
    watch = Stopwatch()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://h@127.0.0.1:{silent.getsockname()[1]}/db"
        settings = Settings.from_env({"DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path)})
        assert "no response within 0.2 s" in warning_at_start(settings, CONFIG, patience=0.2)
    watch.at_most(10)
