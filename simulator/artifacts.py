"""The artifacts of a simulated run: screenshots, a recording, an invoice and logs. Pure."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from datetime import datetime

from simulator.samples.artifacts import CONTENTS

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
