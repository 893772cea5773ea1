"""How much an event has of its run: which members, how many screenshots and recordings, which files. Pure.

Two events with the same facts may differ in that: Skyvern sets the status of a run before it has saved its files, and a
poll lacks what the webhook has. The ledger keeps the extent of each event as a short text, so that the next one can be
compared without its body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from receiver.domain.shape import NAMED, is_empty

# Bit n of a mask is the nth: the ledger keeps masks, so names may only be added at the end.
MEMBERS: Final = (
    *("run_request", "prompt", "url", "parameters", "title", "workflow_title", "workflow_id", "workflow_permanent_id"),
    *("workflow_run_id", "organization_id", "proxy_location", "summary", "failure_category", "app_url", "step_count"),
    *("queued_at", "started_at", "finished_at", "browser_console_log_url", "total_cost", "credits_used"),
    *("retried_from_workflow_run_id", "retried_by_workflow_run_id", "script_id", "browser_settings_receipt"),
    *("extra_http_headers", "max_steps_per_run", "error_code_mapping", "extracted_information_schema", "attempts"),
)
_BITS: Final = {name: 1 << number for number, name in enumerate(MEMBERS)}
# Members of 1.0.56 that each event has, or that tell no more of the run. One of another name is of a later Skyvern.
_COMMON: Final = NAMED.union(
    MEMBERS,
    ("run_id", "run_type", "status", "output", "errors", "failure_reason", "created_at", "modified_at", "attempt"),
    ("retry_pending", "next_attempt_at", "browser_session_id", "recording_archived", "max_screenshot_scrolls"),
)
# Members of other names that are kept apart; more are left out.
_MOST_OTHERS: Final = 50
# Files that are kept apart; of more only the number counts.
_MOST_FILES: Final = 100
_NO_PARTS: Final[frozenset[str]] = frozenset()


class Extent(NamedTuple):
    """`mask`: which of MEMBERS have a value. `parts`: short hashes of the names and checksums of downloaded files, and
    of the names of members that are of a later Skyvern than this was written for."""

    mask: int
    screenshots: int
    recordings: int
    downloads: int
    parts: frozenset[str]

    def __str__(self) -> str:
        counts = f"{self.mask:x}.{self.screenshots}.{self.recordings}.{self.downloads}"
        return ".".join([counts, *sorted(self.parts)])

    @property
    def size(self) -> tuple[int, int, int, int, int]:
        """How much it is, to be compared with others."""
        return self.mask.bit_count(), self.downloads, self.recordings, self.screenshots, len(self.parts)

    def exceeds(self, others: Iterable[Extent]) -> bool:
        """Whether it has something that none of `others` has."""
        mask, screenshots, recordings, downloads = 0, 0, 0, 0
        parts: set[str] = set()
        for other in others:
            mask |= other.mask
            screenshots = max(screenshots, other.screenshots)
            recordings = max(recordings, other.recordings)
            downloads = max(downloads, other.downloads)
            parts |= other.parts
        more = (self.screenshots > screenshots, self.recordings > recordings, self.downloads > downloads)
        return bool(self.mask & ~mask) or any(more) or not self.parts <= parts


def extent_of(run: Mapping[str, Any]) -> Extent:
    """Return the extent of a run's completed members."""
    mask, others = 0, []
    for name, value in run.items():
        if value or not is_empty(value):
            if bit := _BITS.get(name):
                mask |= bit
            elif name not in _COMMON:
                others.append(name)
    files = _list(run.get("downloaded_files"))
    parts = frozenset(map(_hash, files)) if 0 < len(files) <= _MOST_FILES else _NO_PARTS
    return Extent(
        mask=mask,
        screenshots=max(len(_list(run.get("screenshot_urls"))), 0 if is_empty(run.get("screenshot_url")) else 1),
        recordings=_recordings(run),
        downloads=len(files),
        parts=parts.union(map(_hash_of_name, sorted(others)[:_MOST_OTHERS])) if others else parts,
    )


def _recordings(run: Mapping[str, Any]) -> int:
    """Return 2 for each recording, and 1 more when one is written out: Skyvern records .webm, and makes .mp4 of it
    between the end of the run and its webhook (of a cancelled run: between two of its webhooks)."""
    url, others = run.get("recording_url"), _list(run.get("recording_urls"))
    count = max(len(others), 0 if is_empty(url) else 1)
    if not count:
        return 0
    written = any(isinstance(each, str) and each.partition("?")[0].endswith(".mp4") for each in (url, *others))
    return 2 * count + written


def parse_extent(text: str) -> Extent:
    """Return the extent that was kept as `text`."""
    mask, screenshots, recordings, downloads, *parts = text.split(".")
    return Extent(int(mask, 16), int(screenshots), int(recordings), int(downloads), frozenset(parts))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _hash(file: Any) -> str:
    known = (file.get("filename"), file.get("checksum")) if isinstance(file, dict) else (str(file).partition("?")[0],)
    return hashlib.sha256(repr(known).encode("utf-8", "replace")).hexdigest()[:8]


@lru_cache(256)
def _hash_of_name(member: str) -> str:
    return "m" + hashlib.sha256(member.encode("utf-8", "replace")).hexdigest()[:7]
