"""What the Test button of Skyvern's UI sends, as a Skyvern 1.0.56 wrote it: `bodies/button_*.json`, byte for byte."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

RUN_IDS = {"task": "tsk_sample_123456789", "workflow": "wr_sample_123456789"}
_TIME = re.compile(rb"2026-11-25T16:04:26\.\d{6}Z")


def press(kind: str = "task", number: int = 0, *, run_id: str = "") -> bytes:
    """The body of the `number`th press, which differs from the others in its times only.

    `run_id`: one that was chosen, as the button's API lets a person do.
    """
    body = (ROOT / f"tests/support/bodies/button_{kind}.json").read_bytes().rstrip(b"\n")
    if run_id:
        body = body.replace(RUN_IDS[kind].encode(), run_id.encode())
    return _TIME.sub(f"2026-11-25T16:05:{number:02d}.605112Z".encode(), body)
