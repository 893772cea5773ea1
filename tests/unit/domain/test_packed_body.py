"""Packed bodies: what was packed comes back, and nothing that a stranger writes takes more memory than it says."""

from __future__ import annotations

import random
import sys
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.packed_body import LARGEST, SMALLEST, BodyPacker, unpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Bodies of JSON and of bytes that have nothing in common, around the sizes that decide.
BODIES = st.builds(
    lambda piece, size: (piece * (size // len(piece) + 1))[:size],
    st.binary(min_size=1, max_size=200),
    st.one_of(st.integers(SMALLEST, 4 * SMALLEST), st.sampled_from([LARGEST - 1, LARGEST])),
)


def packed(body: bytes) -> bytes:
    return BodyPacker().pack(body)


@given(BODIES)
def test_what_was_packed_comes_back(body: bytes) -> None:
    found = packed(body)

    assert len(found) < len(body)
    assert unpack(found, len(body)) == body


def test_one_packer_packs_one_body_after_another() -> None:
    packer = BodyPacker()
    for number in range(10):
        body = b'{"number":%d}' % number * 1000
        found = packer.pack(body)
        assert unpack(found, len(body)) == body


@pytest.mark.parametrize("size", [0, 1, SMALLEST - 1, LARGEST + 1])
def test_a_body_is_as_it_is_where_its_size_is_not_worth_it(size: int) -> None:
    body = b"x" * size

    assert BodyPacker().pack(body) is body


def test_a_body_is_as_it_is_where_packing_gains_nothing() -> None:
    body = random.Random(1).randbytes(2 * SMALLEST)

    assert BodyPacker().pack(body) is body


@given(BODIES, st.data())
def test_a_frame_that_was_changed_is_refused_or_is_what_it_was_in_size(body: bytes, data: st.DataObject) -> None:
    found = bytearray(packed(body))
    at = data.draw(st.integers(0, len(found) - 1))
    found[at] ^= data.draw(st.integers(1, 255))

    with suppress(ValueError):
        assert len(unpack(bytes(found), len(body))) == len(body)


@given(st.binary(max_size=500), st.integers(-1, LARGEST + 1))
def test_no_bytes_of_a_stranger_make_another_error(frame: bytes, size: int) -> None:
    with suppress(ValueError):
        assert len(unpack(frame, size)) == size


BODY = b"x" * 10_000


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (packed(BODY), len(BODY) - 1),
        (packed(BODY), len(BODY) + 1),
        (packed(BODY)[:-1], len(BODY)),
        (packed(BODY) + b"x", len(BODY)),
        (packed(BODY) * 2, 2 * len(BODY)),
        (b"", 0),
        (b"", 1),
        (packed(BODY), 0),
        (packed(BODY), -1),
        # sizes that no receiver packs
        (zstd.compress(b"x" * (LARGEST + 1)), LARGEST + 1),
        (b"", LARGEST + 1),
        (b"", 1 << 70),
    ],
)
def test_a_frame_of_another_size_is_none(frame: bytes, size: int) -> None:
    with pytest.raises(ValueError):
        unpack(frame, size)


def test_a_frame_that_holds_much_more_than_is_said_takes_no_memory_for_it() -> None:
    bomb = zstd.compress(bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not one frame"):
            unpack(bomb, len(BODY))
        assert tracemalloc.get_traced_memory()[1] < LARGEST
    finally:
        tracemalloc.stop()


def test_a_frame_that_would_look_back_far_is_none() -> None:
    far = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    frame = far.compress(BODY) + far.flush()  # in pieces, so that it can't know how little there is
    with pytest.raises(ValueError, match="too much memory"):
        unpack(frame, len(BODY))
