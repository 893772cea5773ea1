"""The conformance suite itself: its deliveries are as the receiver's, and it finds what is wrong with a sink."""

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from handlers.contract import Delivery, Receipt, Sink, SinkOptions, Unavailable
from handlers.testing.conformance import BODIES, SinkConformance, SinkUnderTest, make_delivery
from receiver.domain.run import parse


@pytest.mark.parametrize("kind", BODIES)
def test_a_delivery_of_the_suite_is_like_one_of_the_receiver(kind: str) -> None:
    delivery, run = make_delivery(body=BODIES[kind]), parse(BODIES[kind])
    assert bool(delivery.problem) == bool(run.problem), (delivery.problem, run.problem)
    assert json.dumps(delivery.run) == json.dumps(run.data)
    if not run.problem:
        assert (delivery.run_id, delivery.run_type, delivery.status) == (run.run_id, run.run_type, run.status)


class Options(SinkOptions):
    token: SecretStr = Field(SecretStr("token-5e1f"), description="Token.")


class Good(Sink[Options]):
    """Keeps what it was sent, by key."""

    Options = Options
    kept: dict[str, Any]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lock = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        type(self).kept[delivery.key] = ("test " if delivery.test else "") + delivery.key
        return Receipt(delivery.key)


def target(sink: type[Good]) -> SinkUnderTest:
    sink.kept = {}
    return SinkUnderTest(
        sink, {"token": "token-5e1f"}, lambda: list(sink.kept.values()), idempotent=True, secrets=["token-5e1f"]
    )


class TestGoodConforms(SinkConformance):
    @pytest.fixture
    def target(self) -> SinkUnderTest:
        return target(Good)


class OpensEarly(Good):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.file = Path(__file__).open()  # noqa: SIM115

    def close(self) -> None:
        self.file.close()


class ShowsSecret(Good):
    def __repr__(self) -> str:
        return f"ShowsSecret({self.options.token.get_secret_value()})"


class ClosesOnce(Good):
    def close(self) -> None:
        self.__dict__.pop("lock").acquire()


class NoId(Good):
    def send(self, delivery: Delivery) -> Receipt:
        super().send(delivery)
        return Receipt("")


class LosesAll(Good):
    def send(self, delivery: Delivery) -> Receipt:
        return Receipt(delivery.key)


class SendsAgain(Good):
    def send(self, delivery: Delivery) -> Receipt:
        type(self).kept[f"{delivery.key} {delivery.attempt}"] = delivery.key
        return Receipt(delivery.key)


class Breaks(Good):
    def send(self, delivery: Delivery) -> Receipt:
        return Receipt(super().send(delivery).id + delivery.run["output"].get("x", ""))


class Logs(Good):
    def send(self, delivery: Delivery) -> Receipt:
        logging.getLogger("mine").warning("sent %s", delivery.run)
        return super().send(delivery)


class Hides(Good):
    def send(self, delivery: Delivery) -> Receipt:
        type(self).kept[delivery.key] = delivery.key
        return Receipt(delivery.key)


class Shuffles(Good):
    batch_size = 8

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        return super().send_many(deliveries)[1:]


class AllOrNothing(Good):
    batch_size = 8

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        answers = super().send_many(deliveries)
        return [Unavailable("no")] * len(answers) if any(delivery.problem for delivery in deliveries) else answers


@pytest.mark.parametrize(
    ("sink", "check", "arguments"),
    [
        (OpensEarly, "test_the_constructor_opens_nothing", []),
        (ShowsSecret, "test_options_never_print_a_secret", []),
        (ClosesOnce, "test_closing_twice_is_fine_after_a_send_and_without_one", []),
        (NoId, "test_a_delivery_arrives_and_its_receipt_says_where", ["sink", "caplog"]),
        (LosesAll, "test_a_delivery_arrives_and_its_receipt_says_where", ["sink", "caplog"]),
        (Logs, "test_a_delivery_arrives_and_its_receipt_says_where", ["sink", "caplog"]),
        (SendsAgain, "test_same_delivery_again_is_accepted_once_if_idempotent", ["sink"]),
        (Breaks, "test_no_body_breaks_the_sink", ["sink", "few keys", "caplog"]),
        (LosesAll, "test_eight_threads_may_send_at_once", ["sink"]),
        (Hides, "test_a_test_delivery_is_marked_as_one", ["sink"]),
        (Shuffles, "test_batch_is_answered_in_order_despite_a_bad_delivery", ["sink"]),
        (AllOrNothing, "test_batch_is_answered_in_order_despite_a_bad_delivery", ["sink"]),
    ],
)
def test_what_a_sink_does_wrong_is_found(
    sink: type[Good], check: str, arguments: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    suite, mark = SinkConformance(), target(sink)
    built = suite.build(mark)
    given = [{"sink": built, "caplog": caplog}.get(name, name) for name in arguments]
    with pytest.raises((AssertionError, KeyError)):
        getattr(suite, check)(mark, *given)
    if sink is not ClosesOnce:
        built.close()
