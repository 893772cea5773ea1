"""What a sink's answer means for its delivery, and for the breaker."""

import math
from dataclasses import replace

import pytest

from handlers import Receipt, Refused, Unavailable
from handlers.support.excerpt import keep_response
from receiver.config.destinations import RetryPolicy
from receiver.delivery.outcome import availability, outcome_of
from receiver.domain.breaker import Observation
from receiver.domain.delivery import DeliveryMove
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed

RETRY = RetryPolicy(attempts=3, first=10, factor=2, max=100)
CLAIMED = Claimed(
    id="dlv_1", event_id="evt_1", sink="archive", lane="archive", route="everything", attempt_number=2, spent=1,
    probe=False, source="skyvern", run_id="tsk_1", outcome="completed", via="webhook", problem="", received_at=0.0,
    body=b"{}", labels={}, after=(),
)  # fmt: skip
PARKED_UNTIL = 140.0


def result(answer: Receipt | Exception, *, spent: int = 1, parked_until: float | None = None) -> AttemptResult:
    claimed = Claimed(**{name: getattr(CLAIMED, name) for name in Claimed.__slots__} | {"spent": spent})
    return outcome_of(claimed, answer, RETRY, parked_until, 99.0, 100.0, 0.0)


@pytest.mark.parametrize(
    ("answer", "spent", "move", "outcome"),
    [
        (Receipt("r"), 2, DeliveryMove.ACCEPT, "accepted"),
        (Refused("no"), 0, DeliveryMove.DIE, "refused"),
        (Unavailable("away"), 1, DeliveryMove.DEFER, "unavailable"),
        (Unavailable("away"), 2, DeliveryMove.DIE, "unavailable"),
        (Unavailable("a file is gone", dependency=True), 1, DeliveryMove.DEFER, "unavailable"),
        (Unavailable("a file is gone", dependency=True), 2, DeliveryMove.DIE, "unavailable"),
        (ValueError("secret"), 1, DeliveryMove.DEFER, "error"),
        (ValueError("secret"), 2, DeliveryMove.DIE, "error"),
    ],
)
def test_what_becomes_of_an_attempt(answer: Receipt | Exception, spent: int, move: DeliveryMove, outcome: str) -> None:
    found = result(answer, spent=spent)

    assert (found.move, found.outcome, found.spends) == (move, outcome, True)
    assert "secret" not in found.reason


@pytest.mark.parametrize("parked_until", [None, PARKED_UNTIL])
@pytest.mark.parametrize("answer", [Unavailable("away"), Unavailable("x", dependency=True), ValueError("secret")])
@pytest.mark.parametrize(
    ("tried_at", "dead"), [(None, False), (100.0 - 3 * 86_400 + 1, False), (100.0 - 3 * 86_400, True)]
)
def test_attempt_after_time_is_up_is_the_last_despite_breaker(
    answer: Exception, parked_until: float | None, tried_at: float | None, dead: bool
) -> None:
    claimed = replace(CLAIMED, tried_at=tried_at)

    found = outcome_of(claimed, answer, RETRY, parked_until, 99.0, 100.0, 0.0)

    assert (found.move is DeliveryMove.DIE) == dead
    assert found.reason.startswith("given up after 3 d: ") == dead


@pytest.mark.parametrize(
    ("answer", "reason", "retry_after", "receipt"),
    [
        (Receipt("r", note="n"), "", None, {"id": "r", "note": "n"}),
        (Refused("no such channel"), "no such channel", None, None),
        (Unavailable("away"), "away", None, None),
        (Unavailable("too many", retry_after=7), "too many", 7, None),
        (Unavailable("for ever", retry_after=math.inf), "for ever", 86_400, None),
        (Unavailable("who knows", retry_after=math.nan), "who knows", None, None),
    ],
)
def test_an_attempt_keeps_what_the_sink_said(
    answer: Receipt | Exception, reason: str, retry_after: float | None, receipt: dict[str, str] | None
) -> None:
    found = result(answer)

    assert (found.reason, found.retry_after, found.receipt) == (reason, retry_after, receipt)
    assert (found.started_at, found.ended_at) == (99.0, 100.0)


def test_open_breaker_spends_no_attempts() -> None:
    found = result(Unavailable("away"), spent=2, parked_until=PARKED_UNTIL)

    assert (found.move, found.spends, found.due_at) == (DeliveryMove.DEFER, False, 140.0)


def test_delivery_with_missing_files_ends_despite_breaker() -> None:
    # Else one that is alone with its trouble would be tried for ever, and who waits for its receipt would wait as long.
    found = result(Unavailable("a file is gone", dependency=True), spent=2, parked_until=PARKED_UNTIL)

    assert (found.move, found.spends) == (DeliveryMove.DIE, True)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (Receipt("r"), Observation(True)),
        (Refused("no"), Observation(True)),
        (Unavailable("away", retry_after=7), Observation(False, "away", 7)),
        (Unavailable("a file is gone", retry_after=7, dependency=True), Observation(True)),
        (ValueError(), None),
    ],
)
def test_what_the_breaker_learns(answer: Receipt | Exception, seen: Observation | None) -> None:
    assert availability(answer) == seen


def test_callback_token_at_the_cut_is_hidden() -> None:
    text = "x" * 1990 + '{"url": "https://runhook.example/webhooks/skyvern/sub_' + "0123456789abcdef" * 2 + '"}'
    with pytest.raises(Refused) as refused, keep_response(text.encode(), "https://app.example/"):
        raise Refused("no")
    response = result(refused.value).response
    assert response.startswith("xxx")
    assert "0123" not in response
