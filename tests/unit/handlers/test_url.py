"""Addresses that hold secrets, in every form that they may be written in, and messages that repeat them."""

from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from handlers.support.url import hide_password, hide_secrets, without_query
from receiver.ledger import Ledger

SECRET = "s3kret/w?rd=1@x"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        # user:password@
        ("redis://:pw@h:1/0", "redis://:********@h:1/0"),
        ("rediss://user:pw@h:1/0", "rediss://user:********@h:1/0"),
        ("postgresql+psycopg://u:p@w@h/db", "postgresql+psycopg://u:********@h/db"),
        ("postgresql://u:p/w@h/db", "postgresql://u:********@h/db"),
        ("postgresql://u:p?w=1@h/db?sslmode=require", "postgresql://u:********@h/db?sslmode=require"),
        ("postgresql://u:p%40w@[::1]:5432/db", "postgresql://u:********@[::1]:5432/db"),
        ("postgresql://u:1234@h/db", "postgresql://u:********@h/db"),
        ("postgresql://u:p@h1:5432,h2:5433/db", "postgresql://u:********@h1:5432,h2:5433/db"),
        ("postgresql://u:secret", "postgresql://u:********"),
        ("https://u:p@h/x", "https://u:********@h/x"),
        ("https://token@h/x", "https://********@h/x"),
        # the query
        ("postgresql://h/db?user=u&password=pw", "postgresql://h/db?user=u&password=********"),
        (
            "postgresql://h/db?sslpassword=pw&sslkey=/k&sslmode=require",
            "postgresql://h/db?sslpassword=********&sslkey=********&sslmode=require",
        ),
        ("postgresql://h/db?passfile=/p&options=-c%20a%3Dx", "postgresql://h/db?passfile=********&options=********"),
        ("postgresql://h/db?pass%77ord=pw&PASSWORD=pw", "postgresql://h/db?pass%77ord=********&PASSWORD=********"),
        ("postgresql:///db?host=/run/pg&password=pw", "postgresql:///db?host=/run/pg&password=********"),
        ("postgresql://h1:5432,h2/db?password=a:b@c", "postgresql://h1:5432,h2/db?password=********"),
        ("redis://h:6379/0?password=a:b@c", "redis://h:6379/0?password=********"),
        ("rediss://h:6379?db=0&ssl_password=pw", "rediss://h:6379?db=0&ssl_password=********"),
        ("unix:///a/b.sock?password=pw&db=1", "unix:///a/b.sock?password=********&db=1"),
        ("https://h/x?sig=abc&a", "https://h/x?sig=********&********"),
        # key=value
        ("host=h password=pw user=u", "host=h password=******** user=u"),
        ("host=h password = 'p w\\' x' user=u", "host=h password = ******** user=u"),
        ("sslkey=/k passfile=/p sslpassword=pw", "sslkey=******** passfile=******** sslpassword=********"),
        # nothing to hide
        ("sqlite:///var/ledger.db", "sqlite:///var/ledger.db"),
        ("unix:///a/b.sock", "unix:///a/b.sock"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("postgresql://%2Fvar%2Frun/db", "postgresql://%2Fvar%2Frun/db"),
        ("https://host:8080/path@x", "https://host:8080/path@x"),
        ("var/runhook.yaml", "var/runhook.yaml"),
        ("", ""),
    ],
)
def test_secrets_of_an_address_are_stars(url: str, shown: str) -> None:
    assert hide_password(url) == shown
    assert hide_password(shown) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("can't reach redis://:pw@h:1/0: refused", "can't reach redis://:********@h:1/0: refused"),
        ("(postgresql://h/db?sslmode=require): no", "(postgresql://h/db?sslmode=require): no"),
        ("redis://h:6379: no", "redis://h:6379: no"),
        ('could not translate host name "x@h" to address', 'could not translate host name "x@h" to address'),
        ('missing "=" after "s3kret/w?rd=1@x" in connection info', 'missing "=" after "********" in connection info'),
        ("invalid value 's3kret%2Fw%3Frd%3D1%40x'", "invalid value '********'"),
        ("AUTH failed: password=pw2", "AUTH failed: password=********"),
        ("short: pw, powers", "short: ********, powers"),
    ],
)
def test_messages_repeat_no_secret(message: str, shown: str) -> None:
    known = f"postgresql://u:{quote(SECRET, safe='')}@h/db", "redis://h/0?password=pw"
    assert hide_secrets(message, *known) == shown


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=20))
def test_no_form_shows_a_password(password: str) -> None:
    quoted, plus = quote(password, safe=""), quote_plus(password)
    password = f"<{password}>"  # so that it is nothing that the address has anyway
    quoted, plus = quote(password, safe=""), quote_plus(password)
    forms = [f"{scheme}://{user}:{quoted}@h:1/0" for scheme in ("redis", "postgresql", "https") for user in ("", "u")]
    forms += [f"postgresql://h/db?{name}={plus}" for name in ("password", "sslpassword", "options", "passw%6Frd")]
    forms += [f"postgresql://u:{quoted}@a:1,b:2/db?sslmode=require", f"unix:///s.sock?password={plus}"]
    for form in forms:
        shown = hide_password(form)
        assert quoted not in shown
        assert plus not in shown
        assert password not in shown
        said = hide_secrets(f'failed with "{password}" or {quoted}, {form}', form)
        assert password not in said
        assert quoted not in said


@given(st.text(max_size=40), st.text(max_size=40))
def test_anything_can_be_shown(text: str, url: str) -> None:
    hide_password(text)
    hide_secrets(text, url, f"redis://{url}")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://u:p@h.example:8/a/b.pdf?sig=1#f", "https://h.example:8/a/b.pdf"),
        ("https://h/a@b", "https://h/a@b"),
        ("file:///var/x.mp4", "file:///var/x.mp4"),
        ("nonsense?sig", "nonsense"),
    ],
)
def test_stored_address_has_no_signature_and_no_password(url: str, kept: str) -> None:
    assert without_query(url) == kept


def test_a_ledger_names_itself_without_any_secret() -> None:
    url = sa.URL.create("postgresql", "u", SECRET, "h", 1, "db", {"sslpassword": "other", "options": "-c x=third"})
    shown = repr(Ledger(url.render_as_string(hide_password=False)))
    assert shown.startswith("Ledger(postgresql+psycopg://u:********@h:1/db?")
    assert not any(secret in shown for secret in ("s3kret", "other", "third"))
