"""The callers' own webhooks: signed as Skyvern signs, kept off our own network, each origin on a lane of its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from handlers import Services, SinkOptions, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery.callback_sink import CallbackSink
from receiver.delivery.runner import SinkRunner
from receiver.delivery.send_task import to_delivery
from receiver.domain.api_key import derive, digest
from receiver.domain.callback import key_in
from receiver.domain.redaction import Redactor
from receiver.domain.signature import verify
from receiver.domain.submission import NewSubmission
from receiver.ledger import Connection, Ledger
from receiver.ledger.access import api_keys
from receiver.ledger.deliveries import lanes
from receiver.ledger.deliveries.fair_queue import ManyLanes, Rotation
from receiver.ledger.submissions import lifecycle
from receiver.routing.router import Router
from tests.servers.http import Reply, ScriptedServer
from tests.support import queries
from tests.support.dispatching import dispatch, make_dispatcher
from tests.support.events import body, event
from tests.support.ledger import claim
from tests.support.runners import run_out
from tests.support.waiting import eventually

MASTER = "a master secret of the test"
KEY = derive(MASTER, "a1")
RESUBMIT_KEY = derive(MASTER, "b2")


class Lent(Services):
    """Services that allow loopback: for artifacts, so that no caller's webhook may use it."""

    def allowed_addresses(self) -> tuple[str, ...]:
        return ("127.0.0.1",)


@pytest.fixture
def caller() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def ended(ledger: Ledger, redis_url: str) -> Iterator[Callable[..., bytes]]:
    """Lets a run that a caller submitted come to its end; gives its body."""
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    dispatcher = make_dispatcher(ledger, Router([]), Redactor([]), None, connection)  # type: ignore[arg-type]
    key = api_keys.Key("a1", "app", digest(KEY), "rhk_a1", frozenset({"submit"}), "skyvern", None, 1.0)
    ledger.write(lambda c: api_keys.create(c, key))

    def make(
        run_id: str,
        webhook_url: str,
        key_id: str = "a1",
        labels: dict[str, str] | None = None,
        token: str = "",
        **fields: Any,
    ) -> bytes:
        token = token or f"sub_{run_id}"
        submission = NewSubmission(
            token, "skyvern", key_id, "tasks", run_id, labels=labels or {}, webhook_url=webhook_url
        )
        ledger.write(lambda c: lifecycle.begin(c, submission, time.time()))
        content = body(run_id, **fields)
        dispatch(dispatcher, [event(content, submission_id=token)])
        return content

    yield make
    connection.close()


@pytest.fixture
def deliver(ledger: Ledger, redis_url: str) -> Iterator[Callable[..., None]]:
    """Delivers what is due, at most `slots` at once and 2 to one origin."""
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)

    def run(*allowed: str, master: str = MASTER, slots: int = 4, stop: Callable[[], bool] | None = None) -> None:
        lookup = Ledger(ledger.url.render_as_string(hide_password=False))
        sink: Any = CallbackSink(SinkOptions(timeout=30), Lent(), lookup, lambda: master, allowed)
        run_out(SinkRunner(ledger, sink, RetryPolicy(first=100), slots, connection, "w", lane_limit=2), stop)

    yield run
    connection.close()


def states(ledger: Ledger) -> dict[str, tuple[str, str]]:
    found = ledger.read(lambda c: queries.list_deliveries(c, queries.Filter()))
    return {row["run_id"]: (row["state"], row["reason"]) for row in found}


def test_caller_gets_the_body_signed_with_its_key(
    ledger: Ledger, ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    content = ended("tsk_1", caller.url + "/hooks?x=1")

    deliver("127.0.0.1")

    (request,) = caller.requests
    assert (request.method, request.path, request.body) == ("POST", "/hooks?x=1", content)
    assert verify(request.body, request.headers["x-skyvern-signature"], [KEY])
    assert abs(int(request.headers["x-skyvern-timestamp"]) - time.time()) < 60
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.digest(KEY.encode(), signed, hashlib.sha256)).decode()
    assert request.headers["webhook-signature"] == f"v1,{expected}"
    assert request.headers["x-runhook-submission-id"] == "sub_tsk_1"
    assert states(ledger) == {"tsk_1": ("delivered", "")}


@pytest.mark.parametrize(
    ("scopes", "asked", "label", "signer"),
    [
        ({"submit", "resubmit"}, "/hook", "tsk_1", KEY),
        ({"submit"}, "/hook", "tsk_1", RESUBMIT_KEY),
        ({"submit", "resubmit"}, "/another", "tsk_1", RESUBMIT_KEY),
        ({"submit", "resubmit"}, "/hook", "tsk_unknown", RESUBMIT_KEY),
    ],
    ids=["on the caller's behalf", "without the scope", "to another address", "of a run that nobody knows"],
)
def test_resubmitted_run_is_signed_with_its_callers_key(
    ledger: Ledger,
    ended: Callable[..., bytes],
    deliver: Callable[..., None],
    caller: ScriptedServer,
    scopes: set[str],
    asked: str,
    label: str,
    signer: str,
) -> None:
    ended("tsk_1", caller.url + "/hook")
    key = api_keys.Key("b2", "resubmit", digest(RESUBMIT_KEY), "rhk_b2", frozenset(scopes), "skyvern", None, 1.0)
    ledger.write(lambda c: api_keys.create(c, key))

    ended("tsk_2", caller.url + asked, key_id="b2", labels={"runhook-chain": label})
    deliver("127.0.0.1")

    # It is the caller's, signed with its key and in its share of the places
    lane_of = {
        row["run_id"]: row["lane"] for row in ledger.read(lambda c: queries.list_deliveries(c, queries.Filter()))
    }
    assert key_in(lane_of["tsk_2"]) == ("a1" if signer == KEY else "b2")
    (first,) = [each for each in caller.requests if each.headers["x-runhook-submission-id"] == "sub_tsk_1"]
    (again,) = [each for each in caller.requests if each.headers["x-runhook-submission-id"] == "sub_tsk_2"]
    assert verify(first.body, first.headers["x-skyvern-signature"], [KEY])
    assert verify(again.body, again.headers["x-skyvern-signature"], [signer])


def test_body_has_the_callers_address_instead_of_runhooks(
    ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    token = "sub_0123456789abcdef0123456789abcdef"
    ours = f"https://hooks.example/webhooks/skyvern/{token}"
    ended(
        "wr_1",
        caller.url + '/"é',
        token=token,
        run_request={"webhook_url": ours},
        webhook_failure_reason=f"no answer of {ours}",
        output={"n": 12345678901234567890, "f": 1.0},
    )

    deliver("127.0.0.1")

    (request,) = caller.requests
    assert json.loads(request.body)["run_request"]["webhook_url"] == caller.url + '/"é'
    assert token.encode() not in request.body
    assert b'"n": 12345678901234567890, "f": 1.0' in request.body
    assert verify(request.body, request.headers["x-skyvern-signature"], [KEY])


def test_userinfo_in_the_url_becomes_basic_authentication(
    ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    ended("tsk_1", caller.url.replace("//", "//user:p%40ss@") + "/")

    deliver("127.0.0.1")

    assert caller.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()


@pytest.mark.parametrize(
    ("reply", "state", "reason"),
    [
        (Reply(503), "waiting", "the caller's server answered 503"),
        (Reply(403), "waiting", "the caller's server answered 403"),
        (Reply(410), "dead", "the caller's server answered 410"),
        (Reply(302, {"location": "/x"}), "dead", "the caller's server answered 302; redirects are not followed"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else None,
)
def test_answers_mean_what_they_mean_to_skyvern_but_tries_go_on(
    ledger: Ledger,
    ended: Callable[..., bytes],
    deliver: Callable[..., None],
    caller: ScriptedServer,
    reply: Reply,
    state: str,
    reason: str,
) -> None:
    caller.script.append(reply)
    ended("tsk_1", caller.url)

    deliver("127.0.0.1")

    assert states(ledger) == {"tsk_1": (state, reason)}


def test_an_address_of_our_own_network_is_never_called(
    ledger: Ledger, ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    ended("tsk_1", caller.url)
    ended("tsk_2", "http://169.254.169.254/latest")
    ended("tsk_3", "no address")

    deliver()

    assert caller.requests == []
    assert {state for state, _ in states(ledger).values()} == {"dead"}


def test_another_master_secret_signs_nothing(
    ledger: Ledger, ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    ended("tsk_1", caller.url)

    deliver("127.0.0.1", master="another secret altogether")

    assert caller.requests == []
    assert states(ledger)["tsk_1"][0] == "waiting"
    assert "RUNHOOK_SECRET is another one" in states(ledger)["tsk_1"][1]


def test_unavailable_ledger_is_no_fault_of_the_caller(ledger: Ledger, ended: Callable[..., bytes]) -> None:
    ended("tsk_1", "https://caller.example/")
    (claimed,) = claim(ledger, "callback", now=time.time(), many=ManyLanes(4, 2, Counter(), 0, Rotation()))
    gone = Ledger("postgresql+psycopg://postgres@127.0.0.1:1/runhook")
    sink = CallbackSink(SinkOptions(timeout=30), Lent(), gone, lambda: MASTER, ())  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match="the ledger is unavailable") as raised:
        sink.send(to_delivery(claimed, RetryPolicy()))
    assert raised.value.dependency
    sink.close()


def test_a_slow_caller_holds_up_nobody_else(
    ledger: Ledger, ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    with ScriptedServer() as slow:
        others_are_done = threading.Event()
        slow.script += [Reply(until=others_are_done)] * 6

        def done() -> bool:
            if len(caller.requests) >= 20:
                others_are_done.set()
            return others_are_done.is_set()

        for number in range(6):
            ended(f"tsk_slow_{number}", slow.url)
        for number in range(20):
            ended(f"tsk_{number}", caller.url)

        deliver("127.0.0.1", slots=8, stop=done)

        caller.wait_for_requests(20)
        assert len(slow.requests) <= 2
    assert sum(state == "queued" for state, _ in states(ledger).values()) == 4


@pytest.mark.parametrize("ledger", ["sqlite"], indirect=True)
def test_caller_with_many_hung_servers_delays_no_other(
    ledger: Ledger, ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    other = api_keys.Key(
        "c3", "other", digest(derive(MASTER, "c3")), "rhk_c3", frozenset({"submit"}), "skyvern", None, 1
    )
    ledger.write(lambda c: api_keys.create(c, other))
    # Given 128 origins of one caller that take each connection and say nothing
    tarpits = [socket.create_server(("127.0.0.1", 0)) for _ in range(128)]
    for number, tarpit in enumerate(tarpits):
        ended(f"tsk_slow_{number}", f"http://127.0.0.1:{tarpit.getsockname()[1]}/")
    worker = threading.Thread(
        target=deliver, args=("127.0.0.1",), kwargs={"slots": 16, "stop": lambda: len(caller.requests) >= 20}
    )
    worker.start()
    eventually(lambda: sum(state == "sending" for state, _ in states(ledger).values()) >= 8)

    # When another caller's runs end
    for number in range(20):
        ended(f"tsk_{number}", caller.url, key_id="c3")
    caller.wait_for_requests(20)

    # Then its webhooks have waited for none of them
    assert [run for run, (_, reason) in states(ledger).items() if reason] == []
    assert sum(state == "sending" for run, (state, _) in states(ledger).items() if "slow" in run) == 8
    for tarpit in tarpits:
        tarpit.close()
    worker.join(60)
    assert not worker.is_alive()


def test_lane_of_a_dead_caller_is_probed_under_load(
    ledger: Ledger, ended: Callable[..., bytes], deliver: Callable[..., None], caller: ScriptedServer
) -> None:
    with ScriptedServer() as dead:
        ended("tsk_dead", dead.url)
        for number in range(20):
            ended(f"tsk_{number}", caller.url)

        def shut(connection: Connection) -> None:
            connection.exec_driver_sql(
                "INSERT INTO lanes (lane, sink, breaker, failures, until, reason, updated_at)"
                f" VALUES ('callback a1 {dead.url}', 'callback', 'open', 9, 5, 'down', 1)"
            )

        ledger.write(shut)
        deliver("127.0.0.1", stop=lambda: bool(dead.requests))

        assert len(dead.requests) == 1
    # Then it got one webhook, and its answer has opened the lane for the next ones
    assert states(ledger)["tsk_dead"][0] == "delivered"
    lane = ledger.read(lambda connection: lanes.find(connection, f"callback a1 {dead.url}"))
    assert (lane.breaker, lane.failures) == ("closed", 0) if lane else False
