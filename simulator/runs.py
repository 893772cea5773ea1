"""A simulated run: its request, its state, and the moves between states. Reads the clock, and does no other I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from receiver.domain.run import FINAL
from simulator.artifacts import StoredArtifact
from simulator.faults import Fault

WORKFLOW = "workflow_run"
TASK_V2 = "task_v2"
# Run types by engine.
RUN_TYPES = {
    "skyvern-1.0": "task_v1",
    "skyvern-2.0": TASK_V2,
    "skyvern-3.0": "task_v3",
    "openai-cua": "openai_cua",
    "anthropic-cua": "anthropic_cua",
    "ui-tars": "ui_tars",
    "yutori-navigator": "yutori_navigator",
}
STATUSES = ("created", "queued", "running", "paused", *sorted(FINAL))

REASONS = {
    "failed": "The page did not load within 30 seconds, so the goal could not be reached.",
    "terminated": "The item is out of stock, so the goal cannot be reached.",
    "timed_out": "The run took longer than its time limit.",
}
ERRORS = {
    "terminated": [{"error_code": "OUT_OF_STOCK", "reasoning": "The page says sold out", "confidence_float": 0.95}]
}
# Seconds since 1970 from which Skyvern counts in ids (skyvern/forge/sdk/db/id.py).
_EPOCH = 1655683200


def now() -> datetime:
    """Return the time as Skyvern keeps it: UTC, naive."""
    return datetime.now(UTC).replace(tzinfo=None)


def run_number(seconds: float, maker: int) -> int:
    """Return the number in the id of a run that is made at `seconds` since the epoch: ids sort by that second.

    `maker`: distinguishes the runs of one second.
    """
    return (int(seconds) - _EPOCH & 0xFFFFFFFF) << 32 | (maker & 0x7FFFFFFF) << 1


def attempt_entry(
    number: int, status: str, started_at: datetime | None, finished_at: datetime | None
) -> dict[str, Any]:
    """Return an entry of a workflow run's `attempts` after which no retry follows."""
    return {
        "attempt_number": number,
        "status": status,
        "failure_reason": REASONS.get(status),
        "error_codes": [error["error_code"] for error in ERRORS.get(status, ())],
        "started_at": started_at,
        "finished_at": finished_at,
        "retry_decision": None,
        "decision_reason": None,
        "next_attempt_at": None,
        "webhook_sent_at": None,
    }


@dataclass(slots=True)
class SimRun:
    """One run. `key` signs its webhook: None when a task's submit came with a Bearer token, and then none is sent.

    `base`: of its artifacts' URLs. `number`: counts the runs of this simulation, from 1. `reported`: whether a webhook
    with its current state was delivered. `workflow_run_id`: of a task_v2, the run that its artifacts are listed under.
    `saving`: it has ended, and its files are not all there yet. `trigger`: what started it, as lists show it.
    `retried_from`: the run that Skyvern started again as this one; `retried_by`: the run that this one became.
    """

    number: int
    id: str
    type: str
    request: Mapping[str, Any]
    key: str | None
    callback: str | None
    base: str
    faults: frozenset[Fault]
    created_at: datetime
    modified_at: datetime
    title: str | None = None
    workflow_id: str | None = None
    version_id: str | None = None
    workflow_run_id: str | None = None
    trigger: str = "api"
    retried_from: str | None = None
    retried_by: str | None = None
    file_ids: tuple[str, ...] = ()
    saving: bool = False
    max_steps: int | None = None
    status: str = "created"
    attempt: int = 1
    retry_pending: bool = False
    next_attempt_at: datetime | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output: Any = None
    summary: str | None = None
    failure_reason: str | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    webhook_failure_reason: str | None = None
    step_count: int = 0
    artifacts: list[StoredArtifact] = field(default_factory=list)
    polls: int = 0
    webhooks: int = 0
    reported: bool = False

    @property
    def final(self) -> bool:
        """Whether it has ended, and no further attempt follows."""
        return self.status in FINAL and not self.retry_pending

    @property
    def settled(self) -> bool:
        """Whether it has ended, and all its files are there."""
        return self.final and not self.saving

    @property
    def state(self) -> tuple[str, int, bool, bool]:
        """What distinguishes its states in a webhook."""
        return self.status, self.attempt, self.retry_pending, self.output is None

    @property
    def downloads(self) -> list[StoredArtifact]:
        """The files that it downloaded."""
        return [each for each in self.artifacts if each.type == "download"]

    def of_type(self, prefix: str) -> list[StoredArtifact]:
        """Return its artifacts whose type begins with `prefix`."""
        return [each for each in self.artifacts if each.type.startswith(prefix)]

    def move(self, status: str) -> None:
        """Move to a status that is not final."""
        self.modified_at = now()
        self.status = status
        self.reported = False
        if status == "queued":
            self.queued_at = self.modified_at
        elif status == "running":
            self.started_at = self.started_at or self.modified_at
            self.retry_pending, self.next_attempt_at = False, None

    def end(self, status: str, output: Any = None) -> None:
        """End the run, or an attempt of it."""
        self.modified_at = self.finished_at = now()
        self.status, self.output = status, output
        self.step_count = 0 if status == "canceled" else 3 + self.number % 4
        self.reported = False
        self.failure_reason, self.errors = REASONS.get(status), list(ERRORS.get(status, ()))
        self.summary = "Read the invoice" if status == "completed" else None
        self._note_attempt()

    def fail_attempt(self, next_attempt_at: datetime) -> None:
        """End an attempt as failed; another will follow."""
        self.end("failed")
        self.retry_pending, self.next_attempt_at = True, next_attempt_at
        self.attempts[-1].update(retry_decision="retry", next_attempt_at=next_attempt_at)

    def next_attempt(self) -> None:
        """Begin the next attempt."""
        self.attempt += 1
        self.failure_reason, self.errors, self.output, self.finished_at = None, [], None, None
        self.artifacts = []
        self.move("running")

    def clean_up(self, output: Any) -> None:
        """Add what a cancelled run had found until then."""
        self.output = output
        self.modified_at = now()
        self.reported = False

    def tangle(self) -> None:
        """Make a completed run failed because its webhook could not be delivered, as Skyvern 1.0.50 did."""
        self.status = "failed"
        self.failure_reason = (
            f"Failed to run task 2.0: Failed to send webhook. workflow_run_id={self.id.replace('tsk_v2', 'wr')}   "
            f"task_v2_id={self.id}"
        )
        self.webhook_failure_reason = "Webhook failed with status code 502, error message: "
        self.modified_at = now()
        self.reported = False

    def delivered(self, failure: str) -> None:
        """Record that a webhook was sent. `failure`: why it was not delivered, or ""."""
        self.webhook_failure_reason = failure
        self.modified_at = now()  # it moves although no fact has changed
        if not failure:
            self.webhooks += 1
            self.reported = True

    def _note_attempt(self) -> None:
        if self.type != WORKFLOW:
            return
        del self.attempts[self.attempt - 1 :]
        self.attempts.append(attempt_entry(self.attempt, self.status, self.started_at, self.finished_at))
