"""The environment: what is read, what overrides what, and what is never shown."""

from pathlib import Path

import pytest

from receiver.config.models import SourceConfig
from receiver.config.settings import LOCAL_KEY_FILE, PACKAGED_CONFIG, Settings
from receiver.config.starter import config_text
from receiver.errors import ConfigError
from receiver.ledger import Ledger
from tests.support.paths import ROOT


def test_an_empty_environment_gives_the_embedded_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    settings = Settings.from_env({})

    assert settings.config == PACKAGED_CONFIG
    assert settings.packaged_config
    assert settings.data == Path("var")
    assert settings.embedded_redis
    assert settings.redis_url == f"unix://{tmp_path}/var/redis/valkey.sock"
    assert settings.database_url == f"sqlite:///{tmp_path}/var/ledger.db"
    assert settings.skyvern_base_url == "https://api.skyvern.com"


def test_variables_and_then_overrides_win() -> None:
    environ = {
        "RUNHOOK_CONFIG": "a.yaml",
        "RUNHOOK_DATA": "elsewhere",
        "REDIS_URL": "redis://localhost:6379/0",
        "DATABASE_URL": "postgresql://u@h/db",
        "PUBLIC_URL": "https://hooks.example.com/",
        "SKYVERN_BASE_URL": "http://127.0.0.1:8100/",
    }

    settings = Settings.from_env(environ, config=Path("b.yaml"), data=None)

    assert settings.config == Path("b.yaml")
    assert not settings.packaged_config
    assert settings.data == Path("elsewhere")
    assert not settings.embedded_redis
    assert settings.public_url == "https://hooks.example.com"
    assert settings.skyvern_base_url == "http://127.0.0.1:8100"


def test_the_config_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = []

    for path in ("config/runhook.yaml", "runhook.yaml"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("")
        found.append(Settings.from_env({}))

    assert [str(each.config) for each in found] == ["config/runhook.yaml", "runhook.yaml"]
    assert not any(each.packaged_config for each in found)


def test_first_configs_come_from_one_template() -> None:
    assert PACKAGED_CONFIG.read_text() == (ROOT / "config" / "runhook.yaml").read_text() == config_text([], [])


@pytest.mark.parametrize("path", ["", "/", "/v1", "/api/v1/"])
@pytest.mark.parametrize("base", ["http://10.0.0.5:8000", "https://example.com/skyvern"])
def test_base_url_of_skyvern_may_have_its_version(base: str, path: str) -> None:
    assert Settings.from_env({"SKYVERN_BASE_URL": base + path}).skyvern_base_url == base
    source = SourceConfig.model_validate({"secrets": ["k"], "api_key": "k", "api_base": base + path})
    assert source.api("https://api.skyvern.com") == (base, "k")


def test_base_url_of_skyvern_keeps_its_own_path() -> None:
    assert (
        Settings.from_env({"SKYVERN_BASE_URL": "https://example.com/api"}).skyvern_base_url == "https://example.com/api"
    )


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"REDIS_URL": "redis://127.0.0.1:port/0"}, "REDIS_URL: its host and port can't be read"),
        ({"REDIS_URL": "redis://:se/cret@127.0.0.1:6379/0"}, "in a password write / as %2F"),
        ({"REDIS_URL": "rediss://127.0.0.1:6379/main"}, "REDIS_URL: after the host comes the number of a database"),
        ({"PUBLIC_URL": "https://hooks.example.com:https"}, "PUBLIC_URL: its host and port can't be read"),
        ({"PUBLIC_URL": "https://h.example/webhooks/skyvern"}, "adds /webhooks/SOURCE to it; write https://h.example"),
        ({"PUBLIC_URL": "https://h.example/in?x=1"}, "/webhooks/skyvern to it; write https://h.example/in"),
        ({"RUNHOOK_LOG_LEVEL": "loud"}, "RUNHOOK_LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error'"),
        ({"RUNHOOK_LOG_FORMAT": "xml"}, "RUNHOOK_LOG_FORMAT: must be 'logfmt' or 'json'"),
        ({"SKYVERN_BASE_URL": "http://[::1"}, "SKYVERN_BASE_URL: its host and port can't be read"),
    ],
)
def test_invalid_address_is_reported_with_a_fix(environ: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(environ)

    assert problem in str(caught.value)
    assert "cret@" not in str(caught.value)


def test_invalid_variables_are_named_without_values() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"REDIS_URL": "http://u:sekret@h", "DATABASE_URL": "oracle://u:sekret@h", "PUBLIC_URL": "h"})

    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "REDIS_URL",
        "DATABASE_URL",
        "PUBLIC_URL",
    ]
    assert "sekret" not in str(caught.value)


def test_the_summary_and_the_repr_show_no_secret() -> None:
    settings = Settings.from_env(
        {
            "REDIS_URL": "redis://user:sekret@host/0",
            "DATABASE_URL": "postgresql://user:sekret@host/db?sslpassword=sekret",
            "SKYVERN_API_KEY": "sekret",
            "RUNHOOK_CONSOLE_PASSWORD": "sekret",
            "RUNHOOK_CONSOLE_TOKEN": "sekret",
        }
    )

    assert settings.summary()["REDIS_URL"] == "redis://user:********@host/0"
    assert settings.summary()["SKYVERN_API_KEY"] == "********"
    assert settings.summary()["PUBLIC_URL"] == ""
    assert "sekret" not in str(settings.summary())
    assert "sekret" not in repr(settings)


def test_a_local_key_is_made_once_and_kept_for_its_owner_only(tmp_path: Path) -> None:
    first = Settings.from_env({}, data=tmp_path).with_local_key()
    again = Settings.from_env({}, data=tmp_path)

    key = first.environ["SKYVERN_API_KEY"]
    assert len(key) > 40
    assert again.environ["SKYVERN_API_KEY"] == key
    assert again.with_local_key() == again
    assert again.local_key
    assert (tmp_path / LOCAL_KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert key not in str(again.summary())


def test_an_empty_key_file_as_a_full_disk_left_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / LOCAL_KEY_FILE).write_text("")

    settings = Settings.from_env({}, data=tmp_path).with_local_key()

    assert settings.environ["SKYVERN_API_KEY"] == (tmp_path / LOCAL_KEY_FILE).read_text().strip() != ""
    assert [path.name for path in tmp_path.iterdir()] == [LOCAL_KEY_FILE]


def test_a_local_key_is_never_sent_to_the_real_skyvern(tmp_path: Path) -> None:
    made = Settings.from_env({}, data=tmp_path).with_local_key()
    found = Settings.from_env({}, data=tmp_path)
    with_simulator = Settings.from_env({"SKYVERN_BASE_URL": "http://127.0.0.1:8100"}, data=tmp_path)

    assert made.skyvern_base_url == found.skyvern_base_url == ""
    assert (
        with_simulator.skyvern_base_url == with_simulator.with_local_key().skyvern_base_url == "http://127.0.0.1:8100"
    )


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("http://localhost:8090", True),
        ("http://[::1]:8090", True),
        ("http://10.1.2.3", True),
        ("http://skyvern:8000", True),
        ("http://skyvern.internal", True),
        ("https://api.skyvern.com", False),
        ("https://skyvern.example.com", False),
        ("http://8.8.8.8", False),
    ],
)
def test_local_key_is_sent_to_this_network_only(tmp_path: Path, url: str, is_local: bool) -> None:
    settings = Settings.from_env({"SKYVERN_BASE_URL": url}, data=tmp_path).with_local_key()

    assert settings.skyvern_base_url == (url if is_local else "")
    assert Settings.from_env({"SKYVERN_BASE_URL": url}, data=tmp_path).skyvern_base_url == settings.skyvern_base_url


def test_a_real_key_wins_over_a_local_one(tmp_path: Path) -> None:
    Settings.from_env({}, data=tmp_path).with_local_key()

    settings = Settings.from_env({"SKYVERN_API_KEY": "real"}, data=tmp_path)

    assert settings.environ["SKYVERN_API_KEY"] == "real"
    assert not settings.local_key
    assert settings.skyvern_base_url == "https://api.skyvern.com"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://u:sekret@127.0.0.1:port/db", "not a database URL; right would be sqlite:///var/ledger.db or"),
        ("postgresql+psycopg2://u:sekret@h/db", "the driver psycopg2 is not used here; write postgresql:// instead of"),
        ("sqlite+aiosqlite:///var/ledger.db", "the driver aiosqlite is not used here; write sqlite:// instead of"),
        ("sqlite://", "a database in memory would lose everything"),
        ("sqlite:///file:ledger.db?mode=memory&uri=true", "names SQLite's file by a URI"),
        ("postgresql://u:pw@sekret@h/db", "has several @; in a user or password write @ as %40"),
        ("postgresql://u:pw@sekret/x@h/db?sslmode=require", "has several @; in a user or password write @ as %40"),
        ("postgresql://u:sekret@h/db?sslmode=never", 'invalid sslmode value: "never"; after the ? stand'),
        ("postgresql://u:sekret@h/db?port=abc", 'invalid integer value "abc" for connection option "port"; after the'),
        ("postgresql://u:sekret@h/db?connect_timeout=a", 'invalid integer value "a" for connection option "connect_'),
        ("postgresql://u:sekret@h/db?keepalives_idle=a", 'invalid integer value "a" for connection option "keepalives'),
        ("postgresql://u:sekret@h/db?host=a&host=b&port=1,2,3", "Can't mix 'multihost' formats"),
        ("sqlite://var/ledger.db", "names a host after two slashes, and SQLite has none: three begin a path from here"),
    ],
)
def test_invalid_ledger_url_is_reported_with_a_fix(url: str, problem: str) -> None:
    settings = Settings.from_env({"DATABASE_URL": url})

    with pytest.raises(ConfigError) as caught:
        Ledger(settings.database_url)

    assert str(caught.value).startswith(f"DATABASE_URL: {problem}")
    assert "sekret" not in str(caught.value)


def test_a_password_may_hold_a_slash() -> None:
    assert Ledger("postgresql://u:pass/word@h/db").url.password == "pass/word"
