"""Who may sign in, and what a session is bound to."""

import pytest

from receiver.config.console import ConsoleConfig
from receiver.console.passwords import ADMIN, Person, hash_password, is_password, people_of


def admin(password: str, secret: str = "shared by all hosts") -> Person:
    return people_of(ConsoleConfig(), password, secret=lambda: secret)[ADMIN]


def test_a_session_is_good_on_each_host_and_after_a_restart() -> None:
    # Given two processes with the same password and secret
    one, other = admin("correct horse"), admin("correct horse")
    # Then what a session is bound to is the same, and each knows the password
    assert one.credential == other.credential
    assert is_password(other.hashed, "correct horse")
    assert not is_password(other.hashed, "correct house")


@pytest.mark.parametrize(("password", "secret"), [("another", "shared by all hosts"), ("correct horse", "another")])
def test_another_password_or_secret_ends_it(password: str, secret: str) -> None:
    assert admin("correct horse").credential != admin(password, secret).credential


def test_nothing_is_alike_without_a_secret() -> None:
    assert admin("correct horse", "").credential != admin("correct horse", "").credential


def test_a_hash_is_taken_as_it_is_and_asks_for_no_secret() -> None:
    def none() -> str:
        raise AssertionError

    hashed = hash_password("correct horse")
    assert people_of(ConsoleConfig(), hashed, secret=none)[ADMIN].hashed == hashed
