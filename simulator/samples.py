"""Sample webhook bodies, one for each run type and way to end, as Skyvern would send them: for demo, tests, trials.

Pure: the time is passed in, and with run id and number it fixes every byte. A sample's name is `<run type>.<ending>`;
`SERIES` are several bodies about one run, in the order in which Skyvern sends them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from simulator import bodies
from simulator.artifacts import CONTENTS, StoredArtifact
from simulator.runs import ERRORS, REASONS, TASK_V2, WORKFLOW, SimRun, attempt_entry, run_number

TASK_TYPES = ("task_v1", "task_v3", "openai_cua", "anthropic_cua", "yutori_navigator", "ui_tars")
ENDINGS = ("completed", "failed", "terminated", "timed_out", "canceled")
# Other endings: status, attempt, whether a retry is pending, whether there is output.
_EXTRA = {
    # 1.0.50: completed, then called failed because its webhook could not be delivered
    "task_v2.undelivered": ("failed", 1, False, True),
    "workflow_run.retry_pending": ("failed", 1, True, False),
    "workflow_run.retry_pending_again": ("failed", 2, True, False),
    "workflow_run.completed_after_retries": ("completed", 3, False, True),
    "workflow_run.canceled_with_output": ("canceled", 1, False, True),
}
_NAMES = (
    *(f"{kind}.{ending}" for kind in (*TASK_TYPES, "task_v2", "workflow_run") for ending in ENDINGS),
    *_EXTRA,
)

SERIES: dict[str, tuple[str, ...]] = {
    "workflow_run.retries": (
        "workflow_run.retry_pending",
        "workflow_run.retry_pending_again",
        "workflow_run.completed_after_retries",
    ),
    "workflow_run.canceled_twice": ("workflow_run.canceled", "workflow_run.canceled_with_output"),
}

ALIASES: dict[str, str] = {
    **{ending: f"task_v1.{ending}" for ending in ENDINGS},
    **{kind: f"{kind}.completed" for kind in (*TASK_TYPES, "task_v2", "workflow_run")},
    "retry_pending": "workflow_run.retry_pending",
    "undelivered": "task_v2.undelivered",
    "retries": "workflow_run.retries",
    "canceled_twice": "workflow_run.canceled_twice",
}

# Seconds for which a signed URL says that it is valid, and that a run takes.
_LIFETIME = 3600
_TAKES = 47.0
_FILES = {"recording": "recording", "screenshot2": "screenshot_final", "screenshot1": "screenshot_action"}


def names() -> list[str]:
    """Return the names that `build` takes, without aliases and series."""
    return list(_NAMES)


def expand(name: str) -> tuple[str, ...]:
    """Return the samples that a name, an alias or a series stands for, in order of sending. Raises KeyError."""
    name = ALIASES.get(name, name)
    if name in SERIES:
        return SERIES[name]
    if name not in _NAMES:
        raise KeyError(name)
    return (name,)


def build(name: str, *, now: float, run_id: str | None = None, seq: int = 0, artifacts: str = "") -> bytes:
    """Return the body of sample `name` (or of an alias for one), sent at `now` (seconds since the epoch).

    `run_id`: by default one made from `now` and `seq`. `seq`: its place among several, which also varies the invoice.
    `artifacts`: base URL at which recording, screenshots and files are (their bytes: `artifact(id)`); without it the
    run has none, as on a Skyvern with local storage. Raises KeyError for an unknown name and for a series.
    """
    sample, *more = expand(name)
    if more:
        raise KeyError(name)
    run = _run(sample, now, run_id, seq, artifacts.rstrip("/"))
    return bodies.dumps(bodies.webhook(run, lambda stored: _signed(stored, now)))


def artifact(artifact_id: str) -> tuple[str, bytes] | None:
    """Return content type and bytes of a file, the answer to GET `/v1/artifacts/{artifact_id}/content`, or None."""
    return CONTENTS.get(artifact_id.rpartition("_")[2])


def _run(sample: str, now: float, run_id: str | None, seq: int, base: str) -> SimRun:
    """Return the run of a sample as it is when its body is sent."""

    def ago(seconds: float) -> datetime:
        return datetime.fromtimestamp(now, UTC).replace(tzinfo=None) - timedelta(seconds=seconds)

    kind, _, ending = sample.partition(".")
    status, attempt, pending, has_output = _EXTRA.get(sample, (ending, 1, False, ending == "completed"))
    number = _number(run_id) or str(run_number(now, (int(now % 1 * 1e6) << 11) + seq))
    prefix = {WORKFLOW: "wr", TASK_V2: "tsk_v2"}.get(kind, "tsk")
    run = SimRun(
        number=seq,
        id=run_id or f"{prefix}_{number}",
        type=kind,
        request={
            "prompt": "Download the newest invoice and tell its number and total",
            "url": "https://suppliers.example.com/invoices",
            "parameters": {"order": f"PO-{1200 + seq}"},
        },
        key=None,
        callback="http://127.0.0.1:8000/webhooks/skyvern",
        base="https://app.skyvern.com",
        faults=frozenset(),
        created_at=ago(_TAKES + 2),
        modified_at=ago(0.01),
        queued_at=ago(_TAKES + 1),
        started_at=ago(_TAKES),
        finished_at=ago(0.02),
        title="Fetch invoices",
        workflow_id=bodies.AGENT_OF_TASK_V2 if kind == WORKFLOW else None,
        workflow_run_id=f"wr_{number}" if kind == TASK_V2 else None,
        max_steps=10,
        status=status,
        attempt=attempt,
        retry_pending=pending,
        next_attempt_at=ago(-30) if pending else None,
        attempts=_attempts(status, attempt, ago, pending=pending),
        output=_output(kind, seq) if has_output else None,
        summary="Found and downloaded the newest invoice" if has_output else None,
        failure_reason=REASONS.get(status),
        errors=list(ERRORS.get(status, ())),
        step_count=5,
    )
    if ending == "undelivered":
        run.failure_reason = f"Failed to run task 2.0: Failed to send webhook.    task_v2_id={run.id}"
    if base:
        run.artifacts = [_stored(run, number, name, type_, ago(1), base) for name, type_ in _FILES.items()]
        if has_output and status != "canceled":
            run.artifacts.append(_stored(run, number, "invoice", "download", ago(1), base))
    return run


def _number(run_id: str | None) -> str:
    """Return what the ids of a run's parts have in common with its own."""
    return "".join(filter(str.isalnum, run_id.rpartition("_")[2])) or "0" if run_id else ""


def _output(kind: str, seq: int) -> dict[str, Any]:
    invoice = bodies.invoice(seq)
    if kind != WORKFLOW:
        return invoice
    block: dict[str, Any] = {
        "status": "completed",
        "extracted_information": invoice,
        "failure_reason": None,
        "errors": [],
    }
    return {"download_invoice_output": block, "extracted_information": [invoice]}


def _attempts(status: str, attempt: int, ago: Callable[[float], datetime], *, pending: bool) -> list[dict[str, Any]]:
    """Return the attempts so far. Those before the last one failed and were retried."""
    entries = []
    for number in range(1, attempt + 1):
        last, start = number == attempt, _TAKES * (attempt - number + 1)
        entry = attempt_entry(number, status if last else "failed", ago(start), ago(0.02 if last else start - 40))
        if not last:
            entry |= {"retry_decision": "retry", "next_attempt_at": ago(start - 45), "webhook_sent_at": ago(start - 41)}
        elif pending:
            entry |= {"retry_decision": "retry", "next_attempt_at": ago(-30)}
        entries.append(entry)
    return entries


def _stored(run: SimRun, number: str, name: str, type_: str, moment: datetime, base: str) -> StoredArtifact:
    content = CONTENTS[name][1]
    checksum = hashlib.sha256(content).hexdigest() if type_ == "download" else None
    file = "invoice.pdf" if type_ == "download" else ""
    return StoredArtifact(f"a_{number}_{name}", type_, file, run.id, moment, content, len(content), checksum, base)


def _signed(stored: StoredArtifact, now: float) -> str:
    """Return the URL of a file as it is signed at `now`: another one in each response, as Skyvern's are."""
    signature = hashlib.sha256(f"{stored.id}:{now!r}".encode()).hexdigest()
    query = {"expiry": int(now) + _LIFETIME, "kid": "k1", "sig": signature}
    return f"{stored.base}{stored.path}?{urlencode(query)}"
