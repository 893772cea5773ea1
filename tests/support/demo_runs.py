"""Runs of every kind for a console, and runs whose files a sink has stored."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from receiver.domain import api_key
from receiver.domain.delivery import DeliveryMove
from receiver.domain.signature import sign
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest
from receiver.ledger import Ledger, account, operations, verbs
from receiver.ledger.access import api_keys, audit
from receiver.ledger.access.api_keys import Key
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.account import AgentChange
from receiver.ledger.deliveries import attempts
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.schema import deliveries, events
from receiver.ledger.selection import Selection
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.ledger.verbs import CANCEL, REPLAY, Operation
from tests.support.ledger import claim, index_words, new_event, record, settle
from tests.support.paths import ROOT

RECORDING = ROOT / "tests" / "support" / "data" / "recording.webm"
MASTER = "a-master-secret-of-the-tests"
# Where each agent of the account sends its results: here, elsewhere and nowhere.
HERE, _ELSEWHERE = "https://hooks.example.com/webhooks/skyvern", "https://n8n.example/webhook/orders"
AGENTS = {"wpid_400100": HERE, "wpid_400101": _ELSEWHERE, "wpid_400102": None}
SINKS = ("archive", "results", "chat", "crm")
TITLES = ("Fetch the invoices of October", "Renew the parking permit", "Check the price of item 4711", "File the claim")
REASONS = {
    "failed": "The login page asked for a one-time code that never came",
    "terminated": "The portal says that the account is locked",
    "timed_out": "No answer from the portal within 30 minutes",
}


def picture(width: int, height: int, shade: int) -> bytes:
    """A PNG: a page with a header, lines of text and a button, in a shade."""

    def row(y: int) -> bytes:
        at = y / height
        colour = (40 + shade % 80, 50, 120) if at < 0.09 else (250, 250, 252)
        line = bytearray(bytes(colour) * width)
        if at > 0.16 and int(at * 40) % 3 == 0:
            ink = bytes((190, 192, 205)) * int(width * (0.35 + (int(at * 40) * 7 + shade) % 45 / 100))
            line[int(width * 0.08) * 3 : int(width * 0.08) * 3 + len(ink)] = ink
        return b"\0" + bytes(line[: width * 3])

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(map(row, range(height))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def fill(ledger: Ledger, data: Path, archive: Path, text: str = "", mark: str = "") -> None:
    """Fill a deployment. `text`: stands in every field that a stranger could choose; "" for what people would write.

    `archive`: the folder of the sink of that name. `mark`: of its runs, where there are others.
    """
    now = time.time()
    kinds = ["completed", "failed", "completed", "terminated", "timed_out", "canceled", "completed", "running"]
    for number, status in enumerate(kinds * (1 if text else 3)):
        at = now - 3600 * 0.7 * number - 120
        run_id = f"tsk_{mark}{4821700000 + number * 7919}"
        sinks = [] if status == "running" else list(SINKS[: 1 + number % 4])
        _record(ledger, at, run_id, *sinks, **_body(number, status, text))
    for number in range(0 if text else 40):  # and what an ordinary day has
        at = now - 3600 * (0.8 + 23 * (number / 40) ** 0.8)
        _record(ledger, at, f"tsk_{mark}{4811700000 + number * 7919}", "archive", **_body(number, "completed", ""))
    # One that a sink waits to get which left the config
    _record(ledger, now - 9000, f"tsk_{mark}4790000001", "archive", "former", **_body(1, "completed", text))
    _deliver(ledger, archive, now, text)
    _files(ledger, archive, now, text, mark)
    _submissions(ledger, now, text, mark)
    _account(ledger, now, text)
    _operate(ledger, data, now, text)
    _place_in_time(ledger, now)
    index_words(ledger)


def _record(ledger: Ledger, at: float, run_id: str, *sinks: str, **body: Any) -> None:
    finished = datetime.fromtimestamp(at - 1.3, UTC).isoformat()
    new = new_event(run_id, *sinks, **{"finished_at": finished, **body})
    record(ledger, new._replace(event=replace(new.event, received_at=at)), now=at)


def _body(number: int, status: str, text: str) -> dict[str, Any]:
    output = {
        "invoices": [{"number": f"2026-{n:04}", "amount": 129.5 * n, "paid": n % 2 == 0} for n in range(1, 4)],
        "pages": number,
        "note": None,
    }
    return {
        "status": text or status,
        "run_type": ("task_v2", "workflow_run")[number % 2],
        "title": text or TITLES[number % len(TITLES)],
        "failure_reason": text or REASONS.get(status),
        "output": {text: [text, {text: text}]} if text else output if status == "completed" else None,
        "workflow_permanent_id": text or f"wpid_{400100 + number % 3}",
        "labels": {"team": text or ("billing", "claims")[number % 2]},
    }


def _deliver(ledger: Ledger, archive: Path, now: float, text: str) -> None:
    """Leave the deliveries in each state."""
    accepted, dead, later = DeliveryMove.ACCEPT, DeliveryMove.DIE, DeliveryMove.DEFER
    note = text or "1 file not stored: har.zip is over the size cap"
    _settle(ledger, "archive", 4, accepted, now, receipt={"id": text or str(archive), "note": note})
    _settle(ledger, "results", 2, dead, now, text or "the tracker answered 422: there is no such customer")
    _settle(
        ledger, "results", 2, accepted, now, receipt={"id": text or "row 17", "urls": {"row": text or "https://db"}}
    )
    _settle(ledger, "chat", 1, later, now, text or "the workspace answered 503", due_at=now + 90)
    claim(ledger, "chat", limit=1, now=now)
    query = sa.select(deliveries.c.id).where(deliveries.c.sink == "crm").limit(1)
    ledger.write(lambda it: verbs.cancel(it, it.execute(query).scalars().all(), text or "by ana", now))


def _settle(
    ledger: Ledger, sink: str, most: int, move: DeliveryMove, now: float, reason: str = "", **more: Any
) -> None:
    outcome = {DeliveryMove.ACCEPT: "accepted", DeliveryMove.DEFER: "unavailable", DeliveryMove.DIE: "refused"}[move]
    results = [
        AttemptResult(each.id, each.event_id, each.attempt_number, move, outcome, reason, now - 0.42, now, **more)
        for each in claim(ledger, sink, limit=most, now=now)
    ]
    ledger.write(lambda connection: attempts.settle(connection, "w", results, now))


def _place_in_time(ledger: Ledger, now: float) -> None:
    """Let what was sent have been sent soon after its event came, and what is queued be due now."""
    took = 0.6 + events.c.seq % 7 * 0.9
    sent = sa.select(events.c.received_at + took).where(events.c.id == deliveries.c.event_id).scalar_subquery()
    ended = deliveries.c.state.in_(["delivered", "dead"])
    ledger.write(lambda it: it.execute(deliveries.update().where(ended).values(updated_at=sent)))
    ledger.write(lambda it: it.execute(deliveries.update().where(~ended).values(due_at=now + 60)))


def _files(ledger: Ledger, archive: Path, now: float, text: str, mark: str) -> None:
    """Record a run whose recording and screenshots are in the archive, and one whose files nobody has stored."""
    stored = {f"screenshot-{n}.png": picture(640, 400, 13 * n) for n in range(1, 7)}
    stored["recording.webm"] = RECORDING.read_bytes()
    body = {
        **_body(2, "completed", text),
        "status": "completed",
        "recording_url": "https://files.test/recording.webm?X-Amz-Signature=s",
        "screenshot_urls": [f"https://files.test/{n}.png" for n in range(6)],
        "downloaded_files": [{"url": "https://files.test/x", "filename": text or "invoice.pdf"}],
    }
    _settle(ledger, "archive", 100, DeliveryMove.ACCEPT, now, receipt={"id": str(archive)})
    _record(ledger, now - 30, f"wr_{mark}512004417", "archive", **body)
    archive.mkdir(parents=True, exist_ok=True)
    for name, content in stored.items():
        (archive / name).write_bytes(content)
    keys = [str(archive / name) for name in stored]
    _settle(ledger, "archive", 100, DeliveryMove.ACCEPT, now, receipt={"id": str(archive), "keys": keys})
    _record(ledger, now - 20, f"wr_{mark}512004418", **body)


def _submissions(ledger: Ledger, now: float, text: str, mark: str) -> None:
    for number in range(4):
        new = NewSubmission(
            id=f"sub_{mark or 'd'}{number:031}",
            source="skyvern",
            key_id="a1b2c3",
            call="tasks",
            request_hash=f"{mark}{number}",
            title=text or TITLES[number],
            labels={"team": text or "billing"},
            request={"prompt": text or "Get all invoices of October as PDF", "url": "https://portal.example/login"},
        )
        ledger.write(lambda it, new=new: lifecycle.begin(it, new, now - 600))  # type: ignore[misc]
        if number == 3:
            continue
        moves = (SubmissionMove.ACCEPT, SubmissionMove.REJECT, SubmissionMove.ACCEPT)
        run_id = f"tsk_{mark}{4821700000 + number * 7919}" if moves[number] is SubmissionMove.ACCEPT else ""
        outcome = SubmitOutcome(
            moves[number], run_id, "task_v2", 200 if run_id else 422, b"{}", text if not run_id else "", now + 60
        )
        ledger.write(lambda it, new=new, o=outcome: lifecycle.record_outcome(it, new.id, o, now))  # type: ignore[misc]


def _account(ledger: Ledger, now: float, text: str) -> None:
    """Know the agents of the account."""
    seen = {
        name: (text or TITLES[number % len(TITLES)], text if text and url == _ELSEWHERE else url)
        for number, (name, url) in enumerate(AGENTS.items())
    }
    change = AgentChange("skyvern", "wpid_400100", text or _ELSEWHERE, HERE, now - 9000)

    def write(connection: sa.Connection) -> None:
        account.replace_agents(connection, "skyvern", seen, now)
        account.record_change(connection, change)

    ledger.write(write)


def _operate(ledger: Ledger, data: Path, now: float, text: str) -> None:
    for scopes in ({"view"}, {"submit", "read"}):
        key_id = os.urandom(6).hex()
        whole = api_key.derive(MASTER, key_id)
        name = text or ("reports", "billing app")[len(scopes) - 1]
        key = Key(key_id, name, api_key.digest(whole), api_key.hint(whole), frozenset(scopes), "skyvern", None, now)
        ledger.write(lambda it, key=key: api_keys.create(it, key))  # type: ignore[misc]
    who = AuditActor("user", text or "ana", "")
    chosen = {"run_id": text or "tsk_1", "state": ["dead"]}
    ledger.write(lambda it: audit.record(it, who, "replay", chosen, 12, detail=text))
    ledger.write(lambda it: audit.record(it, who, "sink.test", {"sink": "chat"}, 1, outcome=audit.FAILED, detail=text))
    for kind in (REPLAY, CANCEL):
        action = Operation(kind, Selection(sink="crm"), force=True)
        ledger.write(
            lambda it, action=action: operations.create(  # type: ignore[misc]
                it, f"op_{os.urandom(4).hex()}", action, now, actor=who.name
            )
        )
    body = json.dumps({"run_id": text or "tsk_7", "status": text or "failed", "title": text}).encode()
    refused = QuarantinedRequest.of("skyvern", sign(body, "a wrong secret"), body, text or "Skyvern/1.0", now)
    Quarantine(data / "quarantine", 100, 1 << 20).add(refused, body)


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
