"""A frame: an event as the inbox and the spool store it. Pure.

    {"id": …, "source": …, "at": …, "via": …, "sub": …}     the head: one line of JSON
    …                                                       the body, byte for byte

An entry of the inbox is a frame and the MACs of its head. A process that can write in Redis, but does not know the
secrets, must not be able to make an event: the key of a MAC (keyed BLAKE2b) is derived from a secret that the source
signs its webhooks with. While a secret is rotated, an entry carries a MAC of each; one that fits is enough. The event
id in the head is made of source and body, so the MAC covers the body as well.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import orjson

from receiver.domain.event import Event, Via, event_id

MAC_BYTES: Final = 16
# Names of an entry's fields.
FRAME: Final = b"e"
MACS: Final = b"m"
# Seconds since the epoch between which an event may have come: from 2017 to 2100.
EARLIEST: Final = 1_500_000_000.0
LATEST: Final = 4_102_444_800.0

# Why an entry is not an event of Runhook's.
NO_EVENT: Final = "it is not a valid event"
FORGED: Final = "no key of its source has signed it"
UNKNOWN_SOURCE: Final = "its source is not in the config"

_PURPOSE: Final = b"runhook inbox entry"
_MEMBERS: Final = {"id", "source", "at", "via", "sub"}
_LONGEST_HEAD: Final = 2048
_ID = re.compile(r"evt_[0-9a-v][0-9a-f]{31}")
_SOURCE = re.compile(r"[\w.-]{1,200}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{0,128}")
_VIAS = frozenset(get_args(Via))


class EntryKeys:
    """The keys of each source. `secrets`: what each source signs its webhooks with."""

    def __init__(self, secrets: Mapping[str, Sequence[str]]) -> None:
        self._hashes = {
            source: tuple(
                hashlib.blake2b(key=hashlib.sha256(_PURPOSE + b"\0" + each.encode()).digest(), digest_size=MAC_BYTES)
                for each in dict.fromkeys(source_secrets)
                if each
            )
            for source, source_secrets in secrets.items()
        }

    def knows(self, source: str) -> bool:
        """Return whether the config has the source and a secret of it."""
        return bool(self._hashes.get(source))

    def macs(self, source: str, head: bytes) -> bytes:
        """Return the MAC of `head` with each key of `source`, one after the other; b"" without keys."""
        macs = b""
        for keyed in self._hashes.get(source, ()):
            copy = keyed.copy()
            copy.update(head)
            macs += copy.digest()
        return macs

    def fit(self, source: str, head: bytes, macs: bytes) -> bool:
        """Return whether one of `macs` is that of `head` with one of the keys of `source`."""
        ours, theirs = _split(self.macs(source, head)), _split(macs)
        return len(macs) % MAC_BYTES == 0 and any(hmac.compare_digest(mac, other) for mac in ours for other in theirs)


def head_of(event: Event) -> bytes:
    """Return the head of the event's frame, without the line's end."""
    return orjson.dumps(
        {
            "id": event.id,
            "source": event.source,
            "at": event.received_at,
            "via": event.via,
            "sub": event.submission_id,
        }
    )


def frame_of(event: Event) -> bytes:
    """Return the event's frame."""
    return head_of(event) + b"\n" + event.body


def begins_with_id(beginning: str) -> bytes:
    """Return the first bytes of the frames of events whose ids begin with `beginning`."""
    return b'{"id":"' + beginning.encode(errors="replace")


def read_head(frame: bytes) -> tuple[str, str, float] | None:
    """Return id, source and time of a frame, of which the beginning is enough; None for another text."""
    try:
        about = orjson.loads(frame.partition(b"\n")[0])
        return str(about["id"]), str(about["source"]), float(about["at"])
    except (ValueError, TypeError, KeyError):
        return None


def read_frame(frame: bytes) -> Event:
    """Return the event of a frame. Raises ValueError for a frame that Runhook has not written."""
    head, _, body = frame.partition(b"\n")
    if len(head) > _LONGEST_HEAD:
        raise ValueError("the head is too long")
    about = orjson.loads(head)
    if not isinstance(about, dict) or about.keys() != _MEMBERS:
        raise ValueError("the head is not that of an event")
    event = Event(about["id"], about["source"], body, about["at"], about["via"], about["sub"])
    if not is_sound(event):
        raise ValueError("a member of the head is not valid")
    if event.id != event_id(event.source, event.body):
        raise ValueError("the id is not that of the body")
    return event


def read_entry(fields: Mapping[bytes, Any], keys: EntryKeys | None) -> Event | str:
    """Return the event of an entry's fields, or the reason why it is invalid. `keys`: None to check no MAC."""
    frame, macs = fields.get(FRAME), fields.get(MACS, b"")
    if type(frame) is not bytes or type(macs) is not bytes:
        return NO_EVENT
    try:
        event = read_frame(frame)
    except ValueError:
        return NO_EVENT
    if keys is None:
        return event
    if not keys.knows(event.source):
        return UNKNOWN_SOURCE
    return event if keys.fit(event.source, frame.partition(b"\n")[0], macs) else FORGED


def is_sound(event: Event) -> bool:
    """Return whether the members of an event have the form that Runhook gives them."""
    values = (event.id, event.source, event.via, event.submission_id)
    return (
        all(type(value) is str for value in values)
        and type(event.received_at) in (float, int)
        and math.isfinite(event.received_at)
        and EARLIEST <= event.received_at <= LATEST
        and _ID.fullmatch(event.id) is not None
        and _SOURCE.fullmatch(event.source) is not None
        and _TOKEN.fullmatch(event.submission_id) is not None
        and event.via in _VIAS
    )


def _split(macs: bytes) -> list[bytes]:
    return [macs[at : at + MAC_BYTES] for at in range(0, min(len(macs), 64 * MAC_BYTES), MAC_BYTES)]
