"""The roads by which a run's result arrives, and an account whose runs take them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import redis

from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import to_delivery
from receiver.domain.event import Event, event_id
from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger import Ledger
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from simulator import samples
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.ledger import claim

COMMON = frozenset(
    """
    run_id status output downloaded_files recording_url recording_archived screenshot_urls failure_reason created_at
    modified_at queued_at started_at finished_at app_url browser_session_id browser_profile_id max_screenshot_scrolls
    script_run errors step_count run_type run_request
    """.split()  # noqa: SIM905 - a list of them fills half a page
)
OF_WORKFLOWS = frozenset(
    """
    attempt retry_pending next_attempt_at attempts run_with ai_fallback script_id browser_seed_source
    browser_settings_receipt
    """.split()  # noqa: SIM905
)
NOT_SENT_AGAIN = frozenset(
    {"webhook_callback_url", "totp_verification_url", "totp_identifier", "extra_http_headers", "run_request"}
)
# What a task was asked for: its webhook does not say so.
PROMPT, URL = "Get the price", "https://example.com/p/1"
FINISHED = [name for name in samples.names() if "retry_pending" not in name and "undelivered" not in name]


def webhook(name: str, now: float, run_id: str | None = None) -> dict[str, Any]:
    """The webhook of a sample, with files."""
    body: dict[str, Any] = json.loads(
        samples.build(name, now=now, run_id=run_id, artifacts="https://api.skyvern.com/v1/artifacts")
    )
    return body


def request_of(body: dict[str, Any]) -> dict[str, Any]:
    """What the run of a webhook was asked for, as its submission keeps it."""
    if body["run_type"] == "workflow_run":
        return {"workflow_id": body["workflow_id"], "parameters": body["parameters"], "title": body["workflow_title"]}
    return {
        "prompt": body.get("prompt") or PROMPT,
        "url": body.get("url") or URL,
        "max_steps": body.get("max_steps_per_run"),
    }


def poll(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to GET /v1/runs/{id} for the run of a webhook."""
    workflow = body["run_type"] == "workflow_run"
    kept = COMMON | OF_WORKFLOWS if workflow else COMMON
    request = body["run_request"] if workflow else request_of(body) | {"engine": "skyvern-1.0", "webhook_url": None}
    return {name: value for name, value in body.items() if name in kept} | {"run_request": request}


def early_poll(body: dict[str, Any]) -> dict[str, Any]:
    """The same between the end of the run and its webhook: its files are not saved yet."""
    return poll(body) | {"downloaded_files": [], "recording_url": None, "screenshot_urls": None}


def sent_again(body: dict[str, Any]) -> dict[str, Any]:
    """The webhook as retry_webhook sends it."""
    if body["run_type"] == "task_v2":
        return {name: value for name, value in body.items() if name in COMMON}
    if body["run_type"] == "workflow_run":
        return {name: value for name, value in body.items() if name not in NOT_SENT_AGAIN} | {"step_count": None}
    return dict(body)


NOW = time.time()
# `rows` completes what it keeps, `chat` must never be told twice.
ROUTES = [
    RouteConfig(name="everything", to=["rows"]),
    RouteConfig(name="workflows", when='run.workflow_title != "" && run.parameters.size() >= 0', to=["chat"]),
    RouteConfig(name="by prompt", when='run.prompt.startsWith("Get") && run.url.startsWith("https")', to=["chat"]),
    RouteConfig(name="failures", when={"status": ["failed", "timed_out", "terminated"]}, to=["pages"]),
    RouteConfig(name="webhook's own names", when="run.extracted_information.price > 0", to=["prices"]),
]
Road = Callable[[dict[str, Any]], dict[str, Any]]
WEBHOOK, POLL, EARLY, AGAIN = dict, poll, early_poll, sent_again
ORDERS: list[tuple[Road, ...]] = [
    *((road,) for road in (POLL, AGAIN, EARLY)),
    *itertools.permutations((WEBHOOK, POLL), 2),
    *itertools.permutations((WEBHOOK, EARLY), 2),
    *itertools.permutations((WEBHOOK, EARLY, AGAIN), 3),
    (EARLY, POLL, WEBHOOK, AGAIN),
]


class Account:
    """A ledger and the dispatcher that fills it."""

    def __init__(self, ledger: Ledger, masked: str = "**.secret") -> None:
        self.ledger = ledger
        self.dispatcher = make_dispatcher(
            ledger,
            Router(ROUTES, completing=["rows"]),
            Redactor([masked]),
            None,
            redis.Redis(port=1, retry=None),  # the dispatch of a batch needs none
        )

    def submitted(self, requests: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str]) -> None:
        def work(connection: Any) -> None:
            for run_id, request in requests.items():
                new = NewSubmission(
                    f"sub_{run_id}", "s", "key_1", "tasks", f"hash {run_id}", labels=labels, request=request
                )
                lifecycle.begin(connection, new, NOW)
                outcome = SubmitOutcome(SubmissionMove.ACCEPT, run_id, "", status=200, body=b"{}")
                lifecycle.record_outcome(connection, new.id, outcome, NOW)

        self.ledger.write(work)

    def take(self, *bodies: tuple[Mapping[str, Any], str]) -> None:
        """Dispatch bodies, each with the road that it came by, in one batch."""
        batch = []
        for body, via in bodies:
            content = json.dumps(body).encode()
            batch.append(Event(event_id("s", content), "s", content, time.time(), via))  # type: ignore[arg-type]
        dispatch(self.dispatcher, batch)

    def told(self, sink: str) -> dict[RunKey, list[Any]]:
        """The deliveries that a sink gets, by run, in the order in which they came due."""
        found: dict[RunKey, list[Any]] = {}
        while claimed := claim(self.ledger, sink, limit=500, now=time.time() + 5):
            for each in claimed:
                found.setdefault((each.source, each.run_id), []).append(to_delivery(each, RetryPolicy()))
        return found


def run_of(name: str, order: tuple[Road, ...]) -> str:
    """The id of a run of its own; its last part, a long number, is in the other ids of the run too."""
    prefix = "wr" if "workflow" in name else "tsk"
    number = 7_000_000 + 1000 * FINISHED.index(name) + [(WEBHOOK,), *ORDERS].index(order)
    return f"{prefix}_{'.'.join(road.__name__ for road in order)}_{number}"
