"""Which service a command works on."""

from pathlib import Path

import pytest

from receiver.cli.profiles import FILE, RemoteService, remote_service
from receiver.errors import ConfigError, UsageError

PROFILES = """\
[prod]
url = "https://runhook.example.com/api/v1/"
key = "rhk_prod"

[open]
url = "http://127.0.0.1:8000"
"""


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RUNHOOK_URL", "RUNHOOK_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(home: Path, text: str = PROFILES, mode: int = 0o600) -> Path:
    path = home / FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("variables", "options", "service"),
    [
        ({}, ("https://a.example/", "rhk_1", None), ("https://a.example", "rhk_1")),
        ({"RUNHOOK_KEY": "rhk_v"}, ("http://localhost:80/x", None, None), ("http://localhost:80/x", "rhk_v")),
        ({"RUNHOOK_URL": "https://v.example", "RUNHOOK_KEY": "rhk_v"}, (None,) * 3, ("https://v.example", "rhk_v")),
        ({"RUNHOOK_URL": "https://v.example"}, ("https://a.example", "rhk_1", None), ("https://a.example", "rhk_1")),
        ({"RUNHOOK_URL": "https://v.example"}, (None, "rhk_1", None), ("https://v.example", "rhk_1")),
        ({"RUNHOOK_KEY": "rhk_v"}, (None, None, "prod"), ("https://runhook.example.com", "rhk_prod")),
        ({"RUNHOOK_KEY": "rhk_v"}, (None, None, "open"), ("http://127.0.0.1:8000", "rhk_v")),
        ({}, (None, "rhk_1", "prod"), ("https://runhook.example.com", "rhk_1")),
    ],
)
def test_options_win_over_profiles_and_those_over_variables(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: tuple[str | None, str | None, str | None],
    service: tuple[str, str],
) -> None:
    write(home)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert remote_service(*options) == RemoteService(*service)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("https://a.example", None, None), "--url needs a key: --key, RUNHOOK_KEY or a profile"),
        ((None, "rhk_secret", None), "--key needs a remote service: name it with --url"),
        (("https://a.example", "rhk_secret", "prod"), "--profile and --url are mutually exclusive"),
        (("a.example", "rhk_secret", None), "--url: must be a URL such as https://"),
        (("https://a.example:x", "rhk_secret", None), "--url: must be a URL such as https://"),
        (("ftp://a.example", "rhk_secret", None), "--url: must be a URL such as https://"),
        (("https://a.example?x=1", "rhk_secret", None), "--url: must be a URL such as https://"),
        (("https://me:pw@a.example", "rhk_secret", None), "--url: must not contain a user or password"),
        (("https://a.example", "rhk_sec\nret", None), "the key contains a character that no key has"),
        (("https://a.example", "rhk_sécret", None), "the key contains a character that no key has"),
        ((None, None, "prd"), "--profile prd: not found in "),
    ],
)
def test_a_wrong_word_is_one_line_without_the_key(
    home: Path, options: tuple[str | None, str | None, str | None], said: str
) -> None:
    write(home)

    with pytest.raises(UsageError) as error:
        remote_service(*options)

    assert str(error.value).startswith(said)
    assert "sec" not in str(error.value)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(home: Path, mode: int) -> None:
    path = write(home, mode=mode)

    with pytest.raises(ConfigError, match="contains keys and other users can read it; run `chmod 600 "):
        remote_service(None, None, "prod")
    path.chmod(0o400)
    assert remote_service(None, None, "prod") is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[prod]\nurl = "x', "not valid TOML"),
        ('[prod]\nkey = "rhk_secret"\n', "prod.url: Field required"),
        ('[prod]\nurl = "https://a"\nkeys = "rhk_secret"\n', "prod.keys: Extra inputs are not permitted"),
        ("[prod]\nurl = 3\n", "prod.url: Input should be a valid string"),
        ('prod = "rhk_secret"\n', "prod: Input should be"),
    ],
)
def test_a_wrong_file_is_one_line_without_the_key(home: Path, text: str, said: str) -> None:
    path = write(home, text)

    with pytest.raises(ConfigError) as error:
        remote_service(None, None, "prod")

    assert str(error.value).startswith(f"{path}: {said}")
    assert "secret" not in str(error.value)


def test_a_service_shows_no_key() -> None:
    assert "rhk" not in repr(RemoteService("https://a.example", "rhk_1"))
