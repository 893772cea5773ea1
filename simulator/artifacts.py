"""The artifacts of a simulated run: screenshots, a recording, an invoice and logs. Pure."""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, replace
from datetime import datetime

CONTENT_TYPES = {"recording": "video/webm", "screenshot_final": "image/png", "screenshot_action": "image/png"}
# Types whose URLs are valid for an hour only: they show what was on the screen.
SENSITIVE = frozenset(CONTENT_TYPES)
# Types that are in the list of a run's artifacts only: no answer and no webhook names them.
LISTED_ONLY = ("har", "skyvern_log", "browser_console_log")


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """One artifact. `name` is that of the file, for downloads.

    `size`: what its record says, in bytes, which can be ahead of `content` while a recording is written out.
    `checksum`: as its record has it: Skyvern computes one of downloaded files only, else it is None. `base`: where its
    URL begins. `modified_at`: when its record was changed; None when it was not since it was made.
    """

    id: str
    type: str
    name: str
    run_id: str
    created_at: datetime
    content: bytes
    size: int
    checksum: str | None
    base: str
    modified_at: datetime | None = None

    @property
    def path(self) -> str:
        """The path of its URL, without the signature."""
        return f"/v1/artifacts/{self.id}/content"

    @property
    def content_type(self) -> str:
        """Its media type."""
        return CONTENT_TYPES.get(self.type, "application/octet-stream")

    def seed(self) -> StoredArtifact:
        """Return the first half of it, as Skyvern stores a recording during a run: its record says 0 bytes."""
        return replace(self, content=self.content[: len(self.content) // 2], size=0)

    def changed(self, moment: datetime) -> StoredArtifact:
        """Return it with a record that was changed at `moment`, as Skyvern's is when a recording is written out."""
        return replace(self, modified_at=moment)

    def announced(self) -> StoredArtifact:
        """Return the seed under a record that already has the whole size: Skyvern changes the record, then uploads."""
        return replace(self.seed(), size=self.size)


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


def content(type_: str, run_id: str) -> bytes:
    """Return the bytes of an artifact: valid files of their kind, but no two runs' are the same."""
    mark = f"run {run_id}".encode()
    if type_ == "recording":
        # A Void element of 48 KiB, which every reader of Matroska skips.
        filling = hashlib.sha256(mark).digest() * 1536
        return CONTENTS["recording"][1] + b"\xec" + struct.pack(">Q", 1 << 56 | len(filling)) + filling
    if type_ == "download":
        return CONTENTS["invoice"][1] + b"% " + mark + b"\n"
    if type_ == "har":
        return b'{"log": {"version": "1.2", "creator": {"name": "simulated", "version": "1"}, "comment": "%s"}}' % mark
    if type_ in LISTED_ONLY:
        return type_.encode() + b" of " + mark + b"\n"
    return CONTENTS["screenshot1" if type_ == "screenshot_action" else "screenshot2"][1] + mark
