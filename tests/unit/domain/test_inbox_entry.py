"""Entries of the inbox: what we signed is read back, and nothing else is an event."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.event import Event, event_id
from receiver.domain.inbox_entry import (
    FORGED,
    MAC_BYTES,
    NO_EVENT,
    UNKNOWN_SOURCE,
    UNSIGNED,
    EntryKeys,
    is_sound,
    message,
    read_entry,
)
from receiver.domain.packed_body import BodyPacker

BODY = b'{"run_id":"tsk_1","status":"completed"}'
KEYS = EntryKeys({"skyvern": ["old", "new"], "other": ["third"]})


def signed(keys: EntryKeys = KEYS, **changes: Any) -> dict[bytes, Any]:
    """An entry as the receiver writes it; `changes` are made after it was signed."""
    fields: dict[bytes, Any] = {
        b"id": event_id("skyvern", BODY).encode(),
        b"source": b"skyvern",
        b"at": b"1700000000.25",
        b"via": b"webhook",
        b"sub": b"sub_1",
        b"body": BODY,
    }
    said = message(*(fields[name] for name in (b"id", b"source", b"at", b"via", b"sub")))
    fields[b"mac"] = keys.macs("skyvern", said)
    return fields | {name.encode(): value for name, value in changes.items()}


def test_what_was_signed_is_read_back() -> None:
    expected = Event(event_id("skyvern", BODY), "skyvern", BODY, 1700000000.25, "webhook", "sub_1")
    assert read_entry(signed(), KEYS) == expected
    assert read_entry(signed(), None) == expected


LARGE = BODY[:-1] + b',"output":"' + b"x" * 10_000 + b'"}'
FRAME = BodyPacker().pack(LARGE)


def signed_packed(**changes: Any) -> dict[bytes, Any]:
    """An entry with a packed body as the receiver writes it; `changes` are made after it was signed."""
    fields = signed() | {b"id": event_id("skyvern", LARGE).encode(), b"body": FRAME, b"size": b"%d" % len(LARGE)}
    said = message(*(fields[name] for name in (b"id", b"source", b"at", b"via", b"sub", b"size")))
    return fields | {b"mac": KEYS.macs("skyvern", said)} | {name.encode(): value for name, value in changes.items()}


def test_a_packed_body_is_read_back_as_it_was() -> None:
    expected = Event(event_id("skyvern", LARGE), "skyvern", LARGE, 1700000000.25, "webhook", "sub_1")
    assert read_entry(signed_packed(), KEYS) == expected
    assert read_entry(signed_packed(), None) == expected


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        *(({"size": size}, NO_EVENT) for size in (b"0", b"-1", b"1e3", b"nan", b"010", b"9" * 11, b" 1")),
        ({"size": b"%d" % (len(LARGE) + 1)}, FORGED),
        ({"size": b""}, FORGED),  # what is packed, said to be a body
        ({"body": LARGE}, FORGED),
        ({"body": FRAME[:-1]}, FORGED),
        ({"body": BodyPacker().pack(LARGE.replace(b"tsk_1", b"tsk_2"))}, FORGED),
        ({"mac": b""}, UNSIGNED),
    ],
)
def test_a_packed_body_that_was_changed_is_no_event(changes: dict[str, bytes], problem: str) -> None:
    assert read_entry(signed_packed(**changes), KEYS) == problem


@pytest.mark.parametrize("size", [b"%d" % len(LARGE), b"%d" % (1 << 30)])
def test_nothing_is_unpacked_that_no_key_has_signed(size: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an entry of a body that is not packed, which somebody has made one of a packed body
    monkeypatch.setattr("receiver.domain.inbox_entry.unpack", lambda *_: pytest.fail("unpacked"))
    assert read_entry(signed(body=FRAME, size=size), KEYS) == FORGED


OTHER = event_id("skyvern", b"{}").encode()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        # times that no dispatcher can work with
        *(({"at": at}, NO_EVENT) for at in (b"nan", b"inf", b"-inf", b"1e400", b"", b"soon", b"1_700_000_000", b"-1")),
        *(({"at": at}, NO_EVENT) for at in (b"0", b"1.5", b"99999999999", b" 1700000000", b"\xff", b"9" * 5000)),
        # fields that are none of ours
        *(({"id": name}, NO_EVENT) for name in (b"", b"evt_1", b"evt_" + b"G" * 32, OTHER + b"\0", b"\xff")),
        *(({"via": via}, NO_EVENT) for via in (b"", b"pigeon", b"\xff")),
        *(({"sub": sub}, NO_EVENT) for sub in (b"x" * 129, b"../x", b"\0", b"\xff")),
        *(({"source": source}, NO_EVENT) for source in (b"", b"a\0b", b"\xff", b"x" * 201)),
        # right in form, and not ours
        ({"at": b"1700000001.25"}, FORGED),
        ({"via": b"poll"}, FORGED),
        ({"sub": b"sub_2"}, FORGED),
        ({"id": OTHER}, FORGED),
        ({"source": b"other"}, FORGED),
        ({"body": b"{}"}, FORGED),
        ({"id": OTHER, "body": b"{}"}, FORGED),
        ({"mac": b"x" * MAC_BYTES}, FORGED),
        ({"mac": b"short"}, FORGED),
        ({"mac": b"x" * 1_000_000}, FORGED),
        ({"source": b"nobody"}, UNKNOWN_SOURCE),
        ({"mac": b""}, UNSIGNED),
    ],
)
def test_nothing_else_is_an_event(changes: dict[str, bytes], problem: str) -> None:
    assert read_entry(signed(**changes), KEYS) == problem


@pytest.mark.parametrize("missing", [b"id", b"source", b"at", b"via", b"sub", b"body"])
def test_a_field_that_is_missing(missing: bytes) -> None:
    fields = signed()
    del fields[missing]
    assert read_entry(fields, KEYS) == NO_EVENT


@pytest.mark.parametrize(
    ("written", "read", "good"),
    [
        (["old"], ["old"], True),
        (["old"], ["old", "new"], True),
        (["old", "new"], ["old"], True),
        (["old", "new"], ["new"], True),
        (["new", "old"], ["old", "new"], True),
        (["old"], ["new"], False),
        (["old"], [], False),
    ],
)
def test_a_secret_is_rotated_on_one_host_after_the_other(written: list[str], read: list[str], good: bool) -> None:
    found = read_entry(signed(EntryKeys({"skyvern": written})), EntryKeys({"skyvern": read}))
    assert (found == FORGED) is not good
    assert isinstance(found, Event) is good


def test_no_key_can_be_told_from_what_is_signed_with_it() -> None:
    assert len({KEYS.macs("other", b"x"), EntryKeys({"other": ["fourth"]}).macs("other", b"x")}) == 2
    assert EntryKeys({"a": ["s"]}).macs("a", b"x") == EntryKeys({"b": ["s"]}).macs("b", b"x")
    assert b"third" not in repr(KEYS).encode()
    assert KEYS.macs("nobody", b"x") == b""


@given(
    st.dictionaries(st.sampled_from([b"id", b"source", b"at", b"via", b"sub", b"body", b"mac", b"size"]), st.binary())
)
def test_no_bytes_of_a_stranger_make_an_event_or_an_error(fields: dict[bytes, bytes]) -> None:
    for entry in (signed(), signed_packed()):
        as_it_was = {b"size": b""} | entry
        assert isinstance(read_entry(entry | fields, KEYS), str) or fields.items() <= as_it_was.items()
    assert isinstance(read_entry(fields, KEYS), str)


@pytest.mark.parametrize(
    "event",
    [
        Event("evt_1", "s", b"", 1.7e9),
        Event(event_id("s", b""), "s", b"", float("nan")),
        Event(event_id("s", b""), "s", b"", float("inf")),
        Event(event_id("s", b""), "s", b"", True),
        Event(event_id("s", b""), "a\0b", b"", 1.7e9),
        Event(event_id("s", b""), "s", b"", 1.7e9, "pigeon"),  # type: ignore[arg-type]
        Event(event_id("s", b""), "s", b"", 1.7e9, "poll", None),  # type: ignore[arg-type]
        Event(event_id("s", b""), ["s"], b"", 1.7e9),  # type: ignore[arg-type]
    ],
)
def test_an_event_of_a_form_that_is_not_ours_is_not_sound(event: Event) -> None:
    assert not is_sound(event)
    assert is_sound(Event(event_id("s", b""), "s", b"", 1.7e9))
