"""Runs whose files a sink has stored, as a delivery of them would leave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Ledger
from tests.support.ledger import claim, new_event, record, settle

SIGNED = "?X-Amz-Signature=s3cr3t"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005000201"
    "5fd2a4b40000000049454e44ae426082"
)
FILES: dict[str, bytes] = {
    "invoice.pdf": b"%PDF-1.4 not much",
    "page.html": b"<script>alert(1)</script>",
    "notes.txt": b"<script>alert(1)</script> in a text",
    "recording.webm": bytes(range(256)) * 4000,
    "screenshot-1.png": PNG,
    "screenshot-2.png": PNG,
}


def run_with_files(**more: Any) -> dict[str, Any]:
    """What a body says of these files."""
    downloads = [
        {"url": f"https://files.test/{name}{SIGNED}", "filename": name}
        for name in ("invoice.pdf", "page.html", "notes.txt")
    ]
    return {
        "downloaded_files": downloads,
        "recording_url": f"https://files.test/recording.webm{SIGNED}",
        "screenshot_urls": [f"https://files.test/{n}.png{SIGNED}" for n in (1, 2)],
        **more,
    }


def store_files(ledger: Ledger, folder: Path, run_id: str, sink: str, **body: Any) -> Path:
    """Record a run whose files a sink of the type `files` has stored below `folder`; return where."""
    record(ledger, new_event(run_id, sink, **run_with_files(**body)))
    place = folder / "files"
    place.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (place / name).write_bytes(content)
    keys = [str(place / name) for name in FILES]
    sizes = {name: len(content) for name, content in FILES.items()}
    settle(ledger, claim(ledger, sink), DeliveryMove.ACCEPT, receipt={"id": str(folder), "keys": keys, "sizes": sizes})
    return place
