"""Bodies as the inbox keeps them: from some kB on packed by Zstandard, the only module that knows it. Pure.

A packed body is one frame. What is unpacked may come from a stranger, so it can take no more memory than it says to,
and no more than LARGEST.
"""

from __future__ import annotations

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Bytes of a body that is packed. To pack less costs more than Redis then saves. What is larger is rare, and may stay as
# it is: so those who read several entries at once know how much memory these can take.
SMALLEST: Final = 2 << 10
LARGEST: Final = 2 << 20
# Faster levels save a fifth of the time, and leave half as much again; slower ones gain a twentieth.
_LEVEL: Final = 1
# Bytes, as a power of two, that a decoder looks back at the most: else a frame's head could have it take 128 MiB.
_WINDOW: Final = 21


class BodyPacker:
    """Packs bodies. Threads may share one; they wait for each other."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(_LEVEL)

    def pack(self, body: bytes) -> bytes:
        """Return `body` packed, or itself when it is to stay as it is: for its size, or since packing gains nothing."""
        if not SMALLEST <= len(body) <= LARGEST:
            return body
        packed = self._compressor.compress(body, zstd.ZstdCompressor.FLUSH_FRAME)
        return packed if len(packed) < len(body) else body


def unpack(packed: bytes, size: int) -> bytes:
    """Return the body of `size` bytes that was packed. Raises ValueError when `packed` is no such body."""
    if not 0 < size <= LARGEST:
        raise ValueError("no size of a packed body")
    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW})
    try:
        body = decompressor.decompress(packed, max_length=size)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None
    if len(body) != size or not decompressor.eof or decompressor.unused_data:
        raise ValueError("not one frame of that size")
    return body
