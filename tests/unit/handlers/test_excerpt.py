"""What is kept of a refusing server's response: bounded in time and size, and without what was sent to it."""

import time

import pytest

from handlers import Refused
from handlers.support.excerpt import credentials, keep_response

PATH = "/services/T0/B0/aBcD0123456789xyz"


def kept(body: str, url: str = f"https://app.example{PATH}?token=query-secret", headers: tuple[str, ...] = ()) -> str:
    secrets = {secret for header in headers for secret in credentials(header)}
    with pytest.raises(Refused) as found, keep_response(body.encode(), url, secrets):
        raise Refused("no")
    return found.value.response


@pytest.mark.parametrize("letters", ["a", "a.", "password "])
def test_long_response_takes_little_time(letters: str) -> None:
    began = time.thread_time()
    kept(letters * 60_000)
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize(
    "body",
    [
        f'{{"path": "{PATH}"}}',
        '{"path": "' + PATH.replace("/", r"\/") + '"}',
        "path=" + PATH.replace("/", "%2F"),
        "unknown token aBcD0123456789xyz",
    ],
)
def test_path_of_url_is_hidden_however_it_is_spelt(body: str) -> None:
    assert "aBcD" not in kept(body)


@pytest.mark.parametrize(
    ("header", "body", "secret"),
    [
        ("Basic Y3JtOnBhc3Mtd29yZC0x", "wrong password: pass-word-1", "pass-word-1"),
        ("session=one-secret; csrf=two-secret", '{"session": "one-secret"}', "one-secret"),
        ('Token token="to/ken-of-crm"', r'{"sent": "to\/ken-of-crm"}', "of-crm"),
        ("Bearer a&b<c>d", "sent: a&amp;b&lt;c&gt;d", "amp"),
    ],
)
def test_credentials_of_headers_are_hidden(header: str, body: str, secret: str) -> None:
    assert secret not in kept(body, headers=(header,))


def test_signature_in_url_with_escaped_slashes_is_hidden() -> None:
    response = kept(r'{"file": "https:\/\/files.example\/a?X-Amz-Signature=0123abc"}')
    assert "files.example/a" in response
    assert "0123abc" not in response
