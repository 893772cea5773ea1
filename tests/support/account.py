"""An account whose runs' results come by several roads: a real ledger, and a dispatcher with routes."""

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
from tests.support import roads
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.ledger import claim

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
WEBHOOK, POLL, EARLY, AGAIN = dict, roads.poll, roads.early_poll, roads.sent_again
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
    number = 7_000_000 + 1000 * roads.FINISHED.index(name) + [(WEBHOOK,), *ORDERS].index(order)
    return f"{prefix}_{'.'.join(road.__name__ for road in order)}_{number}"
