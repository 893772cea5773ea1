"""Frames and entries: what a receiver wrote is read back, and nothing else is an event."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.event import Event, event_id
from receiver.domain.frame import (
    FORGED,
    FRAME,
    MAC_BYTES,
    MACS,
    NO_EVENT,
    UNKNOWN_SOURCE,
    EntryKeys,
    frame_of,
    head_of,
    is_sound,
    read_entry,
    read_frame,
)

BODY = b'{"run_id":"tsk_1","status":"completed"}'
EVENT = Event(event_id("skyvern", BODY), "skyvern", BODY, 1700000000.25, "webhook", "sub_1")
OTHER_ID = event_id("skyvern", b"{}")
KEYS = EntryKeys({"skyvern": ["old", "new"], "other": ["third"], "empty": []})


def signed(
    keys: EntryKeys = KEYS, *, body: bytes = BODY, macs: bytes | None = None, **changes: Any
) -> dict[bytes, Any]:
    """An entry as the receiver writes it; `changes` to its head, and its body, are made after it was signed."""
    head = head_of(EVENT)
    macs = keys.macs("skyvern", head) if macs is None else macs
    if changes:
        head = json.dumps(json.loads(head) | changes).encode()
    return {FRAME: head + b"\n" + body, MACS: macs}


@pytest.mark.parametrize("body", [BODY, b"", b"\n", b"{}\n{}", bytes(range(256)) * 100])
def test_a_frame_is_read_back_as_it_was(body: bytes) -> None:
    event = Event(event_id("skyvern", body), "skyvern", body, 1700000000.123456, "poll")
    assert read_frame(frame_of(event)) == event
    assert frame_of(event).endswith(b"\n" + body)


def test_a_signed_entry_is_read_back() -> None:
    assert read_entry(signed(), KEYS) == read_entry(signed(), None) == EVENT


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        # times that no dispatcher can work with
        *(({"at": at}, NO_EVENT) for at in (None, True, "soon", "1700000000", -1, 0, 1.5, 99999999999, 1e300)),
        *(({"at": at}, NO_EVENT) for at in (float("nan"), float("inf"), 10**400)),
        # members that a receiver does not write
        *(({"id": name}, NO_EVENT) for name in ("", "evt_1", "evt_" + "G" * 32, OTHER_ID + "\0", "\ud800", OTHER_ID)),
        *(({"via": via}, NO_EVENT) for via in ("", "pigeon", ["webhook"])),
        *(({"sub": sub}, NO_EVENT) for sub in ("x" * 129, "../x", "\0", None)),
        *(({"source": source}, NO_EVENT) for source in ("", "a\0b", "x" * 201, "other", "nobody", {})),
        ({"more": 1}, NO_EVENT),
        ({"sub": "x" * 5000}, NO_EVENT),
        # right in form, and not signed so
        ({"at": 1700000001.25}, FORGED),
        ({"via": "poll"}, FORGED),
        ({"sub": "sub_2"}, FORGED),
        ({"source": "other", "id": event_id("other", BODY)}, FORGED),
        ({"source": "nobody", "id": event_id("nobody", BODY)}, UNKNOWN_SOURCE),
        ({"source": "empty", "id": event_id("empty", BODY)}, UNKNOWN_SOURCE),
    ],
)
def test_a_changed_head_is_not_an_event(changes: dict[str, Any], problem: str) -> None:
    assert read_entry(signed(**changes), KEYS) == problem


@pytest.mark.parametrize("macs", [b"", b"x" * MAC_BYTES, b"short", b"x" * 1_000_000])
def test_an_entry_needs_a_mac_that_fits(macs: bytes) -> None:
    assert read_entry(signed(macs=macs), KEYS) == FORGED


def test_a_changed_body_is_not_an_event() -> None:
    assert read_entry(signed(body=b"{}"), KEYS) == NO_EVENT
    assert read_entry(signed(body=b"{}", id=OTHER_ID), KEYS) == FORGED


@pytest.mark.parametrize("frame", [b"", b"\n", b"{}", b"[]\n", b"null\n", BODY, b"x" * 5000, b"[" * 3000 + b"\n"])
def test_what_is_not_a_frame_is_not_an_event(frame: bytes) -> None:
    assert read_entry({FRAME: frame, MACS: b""}, KEYS) == NO_EVENT
    with pytest.raises(ValueError, match=r"."):
        read_frame(frame)


@pytest.mark.parametrize("missing", ["id", "source", "at", "via", "sub"])
def test_each_member_of_the_head_is_needed(missing: str) -> None:
    head = json.loads(head_of(EVENT))
    del head[missing]
    assert read_entry({FRAME: json.dumps(head).encode() + b"\n" + BODY}, None) == NO_EVENT


@pytest.mark.parametrize(
    ("written", "read", "good"),
    [
        (["old"], ["old"], True),
        (["old"], ["old", "new"], True),
        (["old", "new"], ["old"], True),
        (["old", "new"], ["new"], True),
        (["new", "old"], ["old", "new"], True),
        (["old"], ["new"], False),
    ],
)
def test_a_secret_is_rotated_on_one_host_after_the_other(written: list[str], read: list[str], good: bool) -> None:
    found = read_entry(signed(EntryKeys({"skyvern": written})), EntryKeys({"skyvern": read}))
    assert found == (EVENT if good else FORGED)


def test_keys_differ_by_secret_and_do_not_show() -> None:
    assert len({KEYS.macs("other", b"x"), EntryKeys({"other": ["fourth"]}).macs("other", b"x")}) == 2
    assert EntryKeys({"a": ["s"]}).macs("a", b"x") == EntryKeys({"b": ["s"]}).macs("b", b"x")
    assert b"third" not in repr(KEYS).encode()
    assert KEYS.macs("nobody", b"x") == b""


@given(st.dictionaries(st.sampled_from([FRAME, MACS, b"id", b"body"]), st.binary()))
def test_no_bytes_of_a_stranger_make_an_event_or_an_error(fields: dict[bytes, bytes]) -> None:
    changed = signed() | fields
    assert isinstance(read_entry(changed, KEYS), str) or all(changed[name] == signed()[name] for name in (FRAME, MACS))
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
def test_an_event_of_another_form_is_not_sound(event: Event) -> None:
    assert not is_sound(event)
    assert is_sound(Event(event_id("s", b""), "s", b"", 1.7e9))
