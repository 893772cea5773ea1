"""What a database says, and what would be right."""

import pytest

from receiver.ledger.database.errors import remedy_for, with_remedy


@pytest.mark.parametrize(
    ("reason", "words", "waiting_helps"),
    [
        ('connection failed: FATAL:  database "x" does not exist', "create it, or correct", False),
        ('FATAL:  password authentication failed for user "u"', "correct the user and password", False),
        ('FATAL:  role "u" does not exist', "correct the user and password", False),
        ("fe_sendauth: no password supplied", "correct the user and password", False),
        ('invalid connection option "foo"', "the parameters after the ?", False),
        ('connection is bad: invalid sslmode value: "bogus"', "the parameters after the ?", False),
        ("bad value for connect_timeout: 'abc'", "the parameters after the ?", False),
        ('connection is bad: invalid port number: "99999"', "correct the port", False),
        ("no schema has been selected to create in", "GRANT CREATE ON SCHEMA public", False),
        ("permission denied for schema public", "GRANT CREATE ON SCHEMA public", False),
        ('relation "runs" already exists', "a separate database", False),
        ("table runs already exists", "a separate database", False),
        ("file is not a database", "to an SQLite file", False),
        ("no such module: fts5", "a Python whose SQLite has FTS5", False),
        ("unable to open database file", "a file that this user can write", True),
        ("attempt to write a readonly database", "a file that this user can write", True),
        ('connection to server at "h", port 9 failed: Connection refused', "start it, or correct DATABASE_URL", True),
        ("failed to resolve host 'h': [Errno -2] Name or service not known", "the host name in", True),
        ("the database system is starting up", "", True),
        ("canceling statement due to lock timeout", "", True),
    ],
)
def test_a_reason_has_its_remedy(reason: str, words: str, waiting_helps: bool) -> None:
    found = remedy_for(reason)
    assert words in found.words
    assert bool(words) == bool(found.words)
    assert found.waiting_helps == waiting_helps
    assert with_remedy(reason) == (f"{reason}; {found.words}" if words else reason)
