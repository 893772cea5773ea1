"""An entry of the inbox, as it is signed and read back. Pure.

Whoever can write in Redis must not be able to make an event of it: each entry carries a MAC (keyed BLAKE2b) with a key
that Redis does not have. The key is derived from the secrets that the entry's source signs its webhooks with: each
receiver and each worker has them, and who knows one could send the event by HTTP as well. While a secret is rotated an
entry carries a MAC of each; one that fits is enough, so hosts may learn of the new secret one after the other.

The MAC is of the fields without the body; the event id among them is made of source and body, which is compared too.
An entry with the field `size` holds a packed body (packed_body.py) of so many bytes. That is signed too, so nobody
who can't sign has us unpack more than a receiver has packed.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast, get_args

from receiver.domain.event import Event, Via, event_id
from receiver.domain.packed_body import unpack

MAC_BYTES: Final = 16
# Seconds since the epoch between which an event may have come: from 2017 to 2100.
EARLIEST: Final = 1_500_000_000.0
LATEST: Final = 4_102_444_800.0

# Why an entry is set aside.
NO_EVENT: Final = "its fields are no event's"
UNSIGNED: Final = "it is not signed"
FORGED: Final = "no key of its source has signed it"
UNKNOWN_SOURCE: Final = "its source is not in the config"

_PURPOSE: Final = b"runhook inbox entry"
_SEAL: Final = b"runhook inbox seal"
_ID = re.compile(r"evt_[0-9a-v][0-9a-f]{31}")
_SOURCE = re.compile(r"[\w.-]{1,200}", re.ASCII)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{0,128}")
_SIZE = re.compile(rb"[1-9][0-9]{0,9}")
_AT = re.compile(rb"[0-9]{1,11}(?:\.[0-9]{1,9})?")
_VIAS = frozenset(get_args(Via))


class EntryKeys:
    """The keys of each source. `secrets`: what each source signs its webhooks with."""

    def __init__(self, secrets: Mapping[str, Sequence[str]]) -> None:
        self._hashes = {
            source: tuple(
                hashlib.blake2b(key=hashlib.sha256(_PURPOSE + b"\0" + each.encode()).digest(), digest_size=MAC_BYTES)
                for each in dict.fromkeys(found)
                if each
            )
            for source, found in secrets.items()
        }

        everything = hashlib.sha256(_SEAL)
        for each in sorted({each for found in secrets.values() for each in found if each}):
            everything.update(hashlib.sha256(each.encode()).digest())
        self._seal = everything.digest()

    def seal(self, message: bytes) -> bytes:
        """Return the MAC of `message` with a key of all secrets, in hex: of what no source has signed."""
        return hashlib.blake2b(message, key=self._seal, digest_size=MAC_BYTES).hexdigest().encode()

    def knows(self, source: str) -> bool:
        """Whether the config has the source."""
        return source in self._hashes

    def macs(self, source: str, message: bytes) -> bytes:
        """Return the MAC of `message` with each key of `source`, one after the other; b"" when it has none."""
        macs = b""
        for keyed in self._hashes.get(source, ()):
            fresh = keyed.copy()
            fresh.update(message)
            macs += fresh.digest()
        return macs

    def fit(self, source: str, message: bytes, macs: bytes) -> bool:
        """Whether one of `macs` is that of `message` with one of the keys of `source`."""
        ours, theirs = _split(self.macs(source, message)), _split(macs)
        return len(macs) % MAC_BYTES == 0 and any(hmac.compare_digest(one, other) for one in ours for other in theirs)


def message(name: bytes, source: bytes, at: bytes, via: bytes, submission_id: bytes, size: bytes = b"") -> bytes:
    """Return what is signed of an entry. None of its fields holds a NUL. `size`: bytes of a body that is packed."""
    said = b"%b\0%b\0%b\0%b\0%b" % (name, source, at, via, submission_id)
    return said + b"\0" + size if size else said


def read_entry(fields: Mapping[bytes, Any], keys: EntryKeys | None) -> Event | str:
    """Return the event of an entry's fields, or why it is none. `keys`: None to check no MAC."""
    try:
        name, source, at = fields[b"id"], fields[b"source"], fields[b"at"]
        via, sub, body, size = fields[b"via"], fields[b"sub"], fields[b"body"], fields.get(b"size", b"")
        if type(body) is not bytes or not _AT.fullmatch(at) or (size and not _SIZE.fullmatch(size)):
            return NO_EVENT
        event = Event(name.decode(), source.decode(), body, float(at), cast(Via, via.decode()), sub.decode())
    except (KeyError, ValueError, TypeError, AttributeError):
        return NO_EVENT
    if not is_sound(event):
        return NO_EVENT
    if keys is not None:
        macs = fields.get(b"mac", b"")
        if not keys.knows(event.source):
            return UNKNOWN_SOURCE
        if not macs:
            return UNSIGNED
        if not keys.fit(event.source, message(name, source, at, via, sub, size), macs):
            return FORGED
    if size:
        try:
            event = replace(event, body=unpack(body, int(size)))
        except ValueError:
            return FORGED
    return event if event.id == event_id(event.source, event.body) else FORGED


def is_sound(event: Event) -> bool:
    """Whether an event that was read from somewhere is of our making as far as its form tells."""
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
