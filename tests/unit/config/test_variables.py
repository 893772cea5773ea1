"""Where the value of a variable comes from, and what counts when several places have one."""

import os
from pathlib import Path
from unittest import mock

import pytest

from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.config.variables import Variables, process_variables
from receiver.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def secrets_directory(**files: str) -> dict[str, str]:
    """A secrets directory with these files, and the variable that names it."""
    Path("secrets").mkdir()
    for name, text in files.items():
        Path("secrets", name).write_text(text)
    return {"RUNHOOK_SECRETS_DIR": "secrets"}


def test_the_place_of_highest_priority_counts() -> None:
    Path("named").write_text("of the file")
    Path(".env").write_text("A=dotenv\nB=dotenv\nC=dotenv\n")
    places = secrets_directory(a="secret", b="secret", c="secret", d="secret")

    found = Variables({**places, "A": "environment", "B_FILE": "named"}).replaced("X", "given", "option")

    assert {name: found.find(name) for name in "ABCDEX"} == {
        "A": ("environment", "environment"),
        "B": ("of the file", "file named (B_FILE, environment)"),
        "C": ("dotenv", ".env:3"),
        "D": ("secret", "secrets directory: secrets/d"),
        "E": None,
        "X": ("given", "option"),
    }


def test_an_empty_value_gives_way_to_the_next_place() -> None:
    Path("empty").write_text("\n")
    Path(".env").write_text("A=dotenv\nB=\n")
    places = secrets_directory(a="secret", B="secret", c="secret")

    found = Variables({**places, "A": " ", "C_FILE": "empty", "D": ""})

    assert [found.text(name) for name in "ABCD"] == ["dotenv", "secret", "secret", ""]
    assert "D" in found


@pytest.mark.parametrize("content", [b"  sekret\n\n", b"\xef\xbb\xbfsekret\r\n"])
def test_a_file_is_read_without_blanks_and_byte_order_mark(content: bytes) -> None:
    Path("key").write_bytes(content)

    assert Variables({"SKYVERN_API_KEY_FILE": "key"})["SKYVERN_API_KEY"] == "sekret"


@pytest.mark.parametrize(
    ("environ", "dotenv"),
    [({"KEY": "a"}, "KEY_FILE=nowhere"), ({"KEY_FILE": "named"}, "KEY=b"), ({"KEY": "a"}, "KEY=b")],
)
def test_environment_wins_over_both_forms_in_dotenv(environ: dict[str, str], dotenv: str) -> None:
    Path("named").write_text("a")
    Path(".env").write_text(dotenv)

    assert Variables(environ)["KEY"] == "a"


@pytest.mark.parametrize("place", ["environment", ".env:1"])
def test_both_forms_in_one_place_are_an_error(place: str) -> None:
    Path("named").write_text("")
    both = {"KEY": "sekret", "KEY_FILE": "named"}
    if place != "environment":
        Path(".env").write_text("".join(f"{name}={value}\n" for name, value in both.items()))

    found = Variables(both if place == "environment" else {})

    with pytest.raises(ConfigError) as caught:
        found.find("KEY")
    assert str(caught.value) == f"KEY and KEY_FILE are both set ({place}). Unset one of them"


def test_an_unreadable_file_is_an_error_with_the_variable() -> None:
    Path("binary").write_bytes(b"\xff\xfe")

    for path, why in (("nowhere", "no such file or directory"), ("binary", "it is not UTF-8 text")):
        with pytest.raises(ConfigError) as caught:
            Settings.from_env({"RUNHOOK_SECRET_FILE": path})
        assert str(caught.value) == f"RUNHOOK_SECRET_FILE: {path} can't be read: {why}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# a comment\n\n\nnot a variable at all\n", 4),
        ("A=1\nB='sekret\n", 2),
        ("A=1\n\nSEKRET\n", 3),
        ("A=1\nB=se\0kret\n", 2),
    ],
)
def test_a_wrong_line_of_dotenv_is_an_error(text: str, line: int) -> None:
    Path(".env").write_text(text)

    with pytest.raises(ConfigError) as caught:
        Variables({})

    assert str(caught.value).startswith(f".env:{line}: not a variable: write NAME=value")
    assert "sekret" not in str(caught.value).lower()


def test_a_value_of_dotenv_is_taken_as_it_is() -> None:
    Path(".env").write_text("A=pa$s${HOME}word\nB='x # y'\nC=\"two\\nlines\" # a comment\n")

    found = Variables({"HOME": "/here"})

    assert (found["A"], found["B"], found["C"]) == ("pa$s${HOME}word", "x # y", "two\nlines")


def test_a_secrets_directory_that_is_missing_is_an_error() -> None:
    with pytest.raises(ConfigError, match="RUNHOOK_SECRETS_DIR: nowhere can't be read: no such file or directory"):
        Variables({"RUNHOOK_SECRETS_DIR": "nowhere"})


def test_yaml_variables_come_from_every_place() -> None:
    Path("b").write_text("of-b")
    Path(".env").write_text("export A='of-a' # with a comment\n")
    places = secrets_directory(c="of-c")
    Path("c.yaml").write_text("sources: {s: {secrets: ['${A}', '${B}', '${C}', '${D:-of-d}']}}")

    settings = Settings.from_env({**places, "B_FILE": "b", "RUNHOOK_CONFIG": "c.yaml"})

    source = load(settings.config, settings.environ).sources["s"]
    assert source.signing_secrets == ("of-a", "of-b", "of-c", "of-d")


def test_a_child_process_sees_the_same_values() -> None:
    Path("key").write_text("sekret")
    Path(".env").write_text("A=dotenv\nPUBLIC_URL=https://a.example\n")
    places = secrets_directory(redis_url="redis://h/0")
    ours = Settings.from_env({**places, "SKYVERN_API_KEY_FILE": "key", "RUNHOOK_DATA_FILE": "key"}, data=Path("d"))

    theirs = Settings.from_env({**ours.environ})

    assert theirs.summary() == ours.summary()
    assert (theirs.environ["A"], theirs.data, theirs.redis_url) == ("dotenv", Path("d"), "redis://h/0")


def test_libraries_find_in_the_environment_what_dotenv_sets() -> None:
    Path(".env").write_text("AWS_REGION=eu-north-1\nHOME=/elsewhere\n")

    with mock.patch.dict(os.environ, {"HOME": "/here"}, clear=True):
        first, again = process_variables(), process_variables()

        assert dict(os.environ) == {"HOME": "/here", "AWS_REGION": "eu-north-1"}
    assert first.find("AWS_REGION") == again.find("AWS_REGION") == ("eu-north-1", ".env:1")


def test_dotenv_may_name_a_file_of_its_own() -> None:
    Path("key").write_text("sekret")
    Path(".env").write_text("KEY_FILE=key\n")

    assert Variables({}).find("KEY") == ("sekret", "file key (KEY_FILE, .env:1)")


def test_a_file_that_no_setting_names_is_not_read() -> None:
    Settings.from_env({"SSL_CERT_FILE": "/nowhere"})
