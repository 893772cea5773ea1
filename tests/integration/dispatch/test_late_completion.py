"""A run that is told late has what one has that was told in the ordinary order: in the ledger, in rows, in messages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.contract import Delivery
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import to_delivery
from receiver.dispatch.late_binding import LateBinding
from receiver.domain.callback import CALLBACK
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import Event, Via, event_id
from receiver.domain.redaction import Redactor
from receiver.domain.submission import NewSubmission, SubmissionMove
from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed, load_bodies
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.submissions import lifecycle
from receiver.ledger.submissions.lifecycle import SubmitOutcome
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from tests.support import roads
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.ledger import beside, claim, settle
from tests.support.results_db import ResultsDb
from tests.support.runners import Taking

NOW = time.time()
ROUTES = [
    RouteConfig(name="everything", to=["rows", "chat"]),
    RouteConfig(name="by title", when={"run_request.title": "Prices"}, to=["prices"]),
    RouteConfig(name="billing", when={"labels.team": "billing"}, to=["billing"]),
    RouteConfig(name="again", updates=True, to=["followers"]),
]
SINKS = ("rows", "chat", "prices", "billing", "followers", CALLBACK)
REDACTED = ["**.x-secret"]
# What differs between any two runs.
OF_EVENT = {
    "seq",
    "copies",
    "copied_at",
    "id",
    "received_at",
    "recorded_at",
    "event_id",
    "first_seen_at",
    "updated_at",
    "delivered_at",
}
OF_EVENT |= {"statement"}
TABLES = ("runs", "events", "skyvern_runs", "skyvern_runs_history")
# Two runs whose ids have the same length.
ORDINARY, LATE = "7000001", "7000002"


class Account:
    """Runs that are submitted here, whose results come by webhook, or by another road, without their token."""

    def __init__(self, ledger: Ledger, results: ResultsDb, name: str) -> None:
        self.ledger = ledger
        self.results = results
        self._sink = results.sink(history=True)
        self._name = name
        self._router = Router(ROUTES, completing=["rows"])
        self.dispatch_to()
        self._tell = LateBinding(lambda: self._router, Redactor(REDACTED)).route_again

    def dispatch_to(self, **runners: Any) -> None:
        """Dispatch with these runners from now on."""
        redis: Any = None
        self.dispatcher = make_dispatcher(
            self.ledger, self._router, Redactor(REDACTED), redis, redis, lambda _: True, runners
        )

    def webhook(self, number: str) -> dict[str, Any]:
        run_id = f"{'wr' if 'workflow' in self._name else 'tsk'}_{ORDINARY}"
        body = roads.webhook(self._name, NOW, run_id)
        if "workflow" in self._name:
            body["run_request"] = body["run_request"] | {"title": None}
        found: dict[str, Any] = json.loads(json.dumps(body).replace(ORDINARY, number))  # signatures stay as they are
        return found

    def begin(self, number: str, *, kept: bool = True) -> None:
        """Ask Skyvern for a run. `kept`: the request is."""
        asked = roads.request_of(self.webhook(number)) | {"title": "Prices"}
        asked["extra_http_headers"] = {"x-secret": "t0p"}
        new = NewSubmission(
            *(f"sub_{number}", "s", "k1", "tasks", f"hash {number}"),
            labels={"team": "billing"},
            webhook_url="https://app.example/hook",
            request=asked if kept else None,
        )
        self.ledger.write(lambda it: lifecycle.begin(it, new, NOW))

    def answer(self, number: str) -> None:
        """Record Skyvern's answer."""
        self.ledger.write(lambda it: self.record_answer(it, number))

    def record_answer(self, connection: Connection, number: str) -> None:
        run_id = self.webhook(number)["run_id"]
        outcome = SubmitOutcome(SubmissionMove.ACCEPT, run_id, "", 200, b"{}", due_at=NOW + 600)
        lifecycle.record_outcome(connection, f"sub_{number}", outcome, NOW, self._tell)

    def take(self, body: Mapping[str, Any], via: Via = "webhook", token: str = "") -> None:
        content = json.dumps(body).encode()
        dispatch(self.dispatcher, [Event(event_id("s", content), "s", content, time.time(), via, token)])

    def claim(self, sink: str) -> list[Claimed]:
        """Claim what is due, as a deliverer does, with the bodies as they are now."""
        return claim(self.ledger, sink, limit=500, now=time.time() + 5)

    def send(self, sink: str, claimed: list[Claimed]) -> list[Delivery]:
        sent = [to_delivery(each, RetryPolicy()) for each in claimed]
        if sink == "rows":
            self._sink.send_many(sent)
        settle(self.ledger, claimed, DeliveryMove.ACCEPT, now=time.time())
        return sent

    def deliver(self) -> dict[str, list[Delivery]]:
        """Send all that is due; return it by sink."""
        found: dict[str, list[Delivery]] = {}
        for sink in SINKS:
            while claimed := self.claim(sink):
                found.setdefault(sink, []).extend(self.send(sink, claimed))
        return found

    def kept(self, number: str) -> dict[str, Any]:
        """What ledger and results have of a run, without what differs between any two."""
        run_id = self.webhook(number)["run_id"]

        def read(it: Connection) -> tuple[dict[str, Any], list[Any]]:
            rows = {
                "runs": it.execute(sa.select(runs).where(runs.c.run_id == run_id)).all(),
                "events": it.execute(sa.select(events).where(events.c.run_id == run_id).order_by(events.c.seq)).all(),
            }
            sinks = it.execute(sa.select(deliveries.c.sink, deliveries.c.route).where(deliveries.c.run_id == run_id))
            return rows, sorted(set(map(tuple, sinks)))

        in_ledger, told = self.ledger.read(read)
        found: dict[str, Any] = {name: [dict(row._mapping) for row in rows] for name, rows in in_ledger.items()}
        for row in found["events"]:
            row |= {"body": bytes(row["body"]).decode(), "completion": json.loads(row["completion"] or "{}")}
        for table in TABLES[2:]:
            found[table] = [row for row in self.results.rows(table) if row["run_id"] == run_id]
        return {
            "told": told,
            **{name: [of_any(without(row, OF_EVENT), number) for row in rows] for name, rows in found.items()},
        }


def without(row: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def of_any(value: Any, number: str) -> Any:
    """A value without the number of its run."""
    return json.loads(json.dumps(value, default=str, sort_keys=True).replace(number, "N"))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ResultsDb]:
    it = ResultsDb(f"sqlite:///{tmp_path}/results.db")
    yield it
    it.close()


@pytest.fixture(params=["task_v1.completed", "task_v2.failed", "workflow_run.completed"])
def account(request: pytest.FixtureRequest, ledger: Ledger, results: ResultsDb) -> Account:
    return Account(ledger, results, request.param)


@pytest.fixture
def ordinary(account: Account) -> dict[str, Any]:
    """What is kept of a run whose answer came before its webhook, and what was sent of it."""
    account.begin(ORDINARY)
    account.answer(ORDINARY)
    account.take(account.webhook(ORDINARY))
    sent = account.deliver()
    return account.kept(ORDINARY) | {"sent": messages(sent, ORDINARY)}


def messages(sent: Mapping[str, list[Delivery]], number: str) -> dict[str, Any]:
    """The last message to each sink, as it would write it."""
    return {
        sink: of_any({"run": each[-1].run, "payload": each[-1].payload.decode(), "labels": each[-1].labels}, number)
        for sink, each in sent.items()
    }


def not_yet(account: Account) -> Callable[[], object]:
    """No delivery is begun."""
    return lambda: None


def under_way(account: Account) -> Callable[[], object]:
    """Deliveries are being sent, with what their events had."""
    claimed = {sink: account.claim(sink) for sink in SINKS}
    return lambda: [account.send(sink, of) for sink, of in claimed.items() if of]


def over(account: Account) -> Callable[[], object]:
    """Deliveries have ended."""
    account.deliver()
    return lambda: None


def answered(account: Account) -> None:
    account.answer(LATE)


def sent_again_with_its_token(account: Account) -> None:
    account.take(account.webhook(LATE), token=f"sub_{LATE}")


@pytest.mark.parametrize(
    ("sending", "learn"),
    [(not_yet, answered), (under_way, answered), (over, answered), (over, sent_again_with_its_token)],
)
def test_late_bound_run_is_stored_and_sent_like_any_other(
    account: Account,
    ordinary: dict[str, Any],
    sending: Callable[[Account], Callable[[], object]],
    learn: Callable[[Account], None],
) -> None:
    # Given a run whose webhook comes before it is known whose it is
    account.begin(LATE)
    account.take(account.webhook(LATE))
    finish = sending(account)

    # When that is known, and all is sent, what was under way last
    learn(account)
    sent = account.deliver()
    finish()

    # Then all that is kept of it is as it is of the other
    kept = account.kept(LATE)
    for name in TABLES:
        assert kept[name], name
        for mine, other in zip(kept[name], ordinary[name], strict=True):
            assert {column: (value, other[column]) for column, value in mine.items() if value != other[column]} == {}
    assert kept["told"] == ordinary["told"]
    assert kept["events"][0]["completion"]
    # and each message that is sent now
    now = messages(sent, LATE)
    assert {"rows", "billing", "prices", "followers", CALLBACK} <= now.keys()
    for sink, message in now.items():
        assert message == ordinary["sent"][sink], sink
    # and who does not ask for more is told once
    again = {"chat"} if sending is not_yet else set()
    assert {"chat"} & now.keys() == again
    assert {sink: len(each) for sink, each in sent.items()} == dict.fromkeys(now, 1)
    # and nothing that is masked is anywhere
    assert "t0p" not in str(kept) + str(now)


def test_events_after_late_binding_are_classified_as_usual(account: Account) -> None:
    # Given a run of each order
    for number, order in ((ORDINARY, "answer first"), (LATE, "webhook first")):
        account.begin(number)
        if order == "answer first":
            account.answer(number)
        account.take(account.webhook(number))
        account.answer(number)

    # When Skyvern's API says the same, with the request
    for number in (ORDINARY, LATE):
        account.take(roads.poll(account.webhook(number)), "poll")

    # Then it is the same to both
    first, second = account.kept(ORDINARY), account.kept(LATE)
    assert [each["disposition"] for each in first["events"]] == [each["disposition"] for each in second["events"]]
    assert (first["runs"], first["told"]) == (second["runs"], second["told"])


def test_a_row_that_was_written_without_labels_gets_them(account: Account) -> None:
    # Given runs whose request was not kept, one of each order
    for number in (ORDINARY, LATE):
        account.begin(number, kept=False)
    account.answer(ORDINARY)
    for number in (ORDINARY, LATE):
        account.take(account.webhook(number))
    account.deliver()

    # When it is known whose the later one is
    account.answer(LATE)
    account.deliver()

    # Then its row is that of the other
    first, second = account.kept(ORDINARY), account.kept(LATE)
    for name in ("skyvern_runs", "skyvern_runs_history"):
        assert second[name] == first[name]
        assert [row["labels"] for row in second[name]] == [{"team": "billing"}]


def test_what_binds_the_run_is_told_once(account: Account) -> None:
    # Given a run that was told as nobody's, and a runner that takes what is new
    account.begin(LATE)
    account.take(account.webhook(LATE))
    account.deliver()
    account.dispatch_to(rows=Taking("waits"))

    # When its result comes once more with its token, and with more
    account.take(account.webhook(LATE) | {"tokens_used": 9}, token=f"sub_{LATE}")

    # Then it is that runner's, and nothing else is due
    query = sa.select(deliveries.c.claim_owner).where(deliveries.c.sink == "rows").order_by(deliveries.c.created_at)
    assert list(account.ledger.read(lambda it: it.execute(query).scalars().all())) == ["", "waits"]
    assert account.claim("rows") == []


@pytest.mark.parametrize("first", ["claim", "answer"])
def test_delivery_claimed_during_late_binding_is_complete(
    postgres_ledger: Ledger, results: ResultsDb, first: str
) -> None:
    # Given a run whose webhook came before Skyvern's answer
    account = Account(postgres_ledger, results, "task_v1.completed")
    account.begin(LATE)
    account.take(account.webhook(LATE))

    # When its delivery is claimed and read, and the answer recorded, the one while the other is not committed
    def claim_it(connection: Connection) -> list[Claimed]:
        return load_bodies(connection, claims.claim(connection, "rows", 10, "w", time.time() + 5))

    def answer_it(connection: Connection) -> list[Claimed]:
        account.record_answer(connection, LATE)
        return []

    one, other = (claim_it, answer_it) if first == "claim" else (answer_it, claim_it)
    with beside(postgres_ledger, one, other) as done:
        sent = account.send("rows", [each for claimed in done for each in claimed])
    sent += account.deliver().get("rows", [])

    # Then what the sink is told last has the request
    assert sent[-1].run["prompt"] == roads.PROMPT
