"""The signature of a webhook: HMAC-SHA256 in hex over the raw body, with any of the source's secrets."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.signature import sign, verify

BODY = b'{"run_id":"tsk_1"}'


def test_signature_is_hex_hmac_sha256_of_the_raw_body() -> None:
    assert sign(BODY, "key") == hmac.new(b"key", BODY, hashlib.sha256).hexdigest()


@given(st.binary(max_size=300), st.text(max_size=50).filter(lambda text: text.isprintable()))
def test_what_was_signed_verifies(body: bytes, secret: str) -> None:
    assert verify(body, sign(body, secret), [secret])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_each_of_several_secrets_is_good(position: int) -> None:
    secrets = ["first", "second", "third"]
    assert verify(BODY, sign(BODY, secrets[position]), secrets)


def test_all_secrets_are_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    assert verify(BODY, sign(BODY, "first"), ["first", "second", "third"])
    assert len(compared) == 3


def test_upper_case_hex_is_the_same_number() -> None:
    assert verify(BODY, sign(BODY, "key").upper(), ["key"])


@pytest.mark.parametrize(
    "signature",
    [
        "", "0", "0" * 64, "z" * 64, "é" * 64, "\0" * 64, sign(BODY, "key")[:-1], sign(BODY, "key") + "0",
        "sha256=" + sign(BODY, "key"), sign(BODY, "key")[:-2] + "  ", sign(BODY + b" ", "key"), sign(BODY, "other"),
    ],
)  # fmt: skip
def test_anything_else_fails(signature: str) -> None:
    assert not verify(BODY, signature, ["key"])


def test_without_secrets_nothing_is_authentic() -> None:
    assert not verify(BODY, sign(BODY, ""), [])
