"""The files of the sample runs: small, valid, always the same, so that a body can hold their checksums."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any
from urllib.parse import urlencode

# Seconds for which a signed URL says that it is valid.
LIFETIME = 3600


def _png(width: int, height: int, rgb: tuple[int, int, int]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(rgb) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def _pdf(text: str) -> bytes:
    stream = f"BT /F1 24 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    document, offsets = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        offsets.append(len(document))
        document += b"%d 0 obj%s endobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    return document + b"xref\n0 %d\n0000000000 65535 f \n%strailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (
        count,
        table,
        count,
        len(document),
    )


# A Matroska header that says "webm", with no frames: enough for a file type, not for a film.
_WEBM = bytes.fromhex(
    "1a45dfa39f4286810142f7810142f2810442f381084282847765626d42878104428581021853806701ffffffffffffff"
)

CONTENTS: dict[str, tuple[str, bytes]] = {
    "recording": ("video/webm", _WEBM),
    "screenshot1": ("image/png", _png(64, 40, (230, 234, 240))),
    "screenshot2": ("image/png", _png(64, 40, (46, 160, 67))),
    "invoice": ("application/pdf", _pdf("Invoice")),
}


def artifact_id(number: str, name: str) -> str:
    """Return the id of file `name` of the run with `number` in its id."""
    return f"a_{number}_{name}"


def artifact(artifact_id: str) -> tuple[str, bytes] | None:
    """Return content type and bytes of a file, the answer to GET `/v1/artifacts/{artifact_id}/content`, or None."""
    return CONTENTS.get(artifact_id.rpartition("_")[2])


def url(base: str, number: str, name: str, now: float) -> str:
    """Return the signed URL of a file as it is made at `now`: another one in each answer, as Skyvern's are."""
    identity = artifact_id(number, name)
    expiry = int(now) + LIFETIME
    signature = hashlib.sha256(f"{identity}:{now!r}".encode()).hexdigest()
    return f"{base}/v1/artifacts/{identity}/content?" + urlencode({"expiry": expiry, "kid": "k1", "sig": signature})


def downloaded_file(base: str, number: str, now: float, modified_at: str) -> dict[str, Any]:
    """Return the invoice, as an entry of `downloaded_files`."""
    content = CONTENTS["invoice"][1]
    return {
        "url": url(base, number, "invoice", now),
        "checksum": hashlib.sha256(content).hexdigest(),
        "filename": "invoice.pdf",
        "file_size": len(content),
        "modified_at": modified_at,
        "artifact_id": artifact_id(number, "invoice"),
    }
