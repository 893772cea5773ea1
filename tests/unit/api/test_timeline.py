"""A run's timeline: everything that happened stands in it once, in the order of time; what is to come stands last."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from receiver.api.rows import AttemptRow, DeliveryRow, EventRow, RunRow, SubmissionRow
from receiver.api.timeline import TimelineEntry, timeline_of
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryState


def run(**known: Any) -> RunRow:
    given = {"run_id": "tsk_1", "status": "completed", "outcome": "completed"}
    return RunRow.model_construct(**{"created_at": None, "started_at": None, "finished_at": None, **given, **known})


def event(**known: Any) -> EventRow:
    given = {"id": "evt_1", "via": "webhook", "outcome": "completed", "disposition": "new", "repeat_of": None}
    given |= {"retry_pending": False, "unrouted": False, "problem": "", "received_at": 20.0, "recorded_at": 20.1}
    return EventRow.model_construct(**(given | known))


def delivery(**known: Any) -> DeliveryRow:
    given = {"id": "dlv_1", "sink": "results", "route": "all", "after": [], "state": "delivered", "attempts": 1}
    given |= {"reason": "", "due_at": 20.1, "created_at": 20.1, "updated_at": 21.0}
    return DeliveryRow.model_construct(**(given | known))


def attempt(**known: Any) -> AttemptRow:
    given = {"delivery_id": "dlv_1", "number": 1, "sink": "results", "outcome": "accepted", "reason": ""}
    given |= {"response": "", "receipt": {"id": "row 7"}, "started_at": 20.5, "ended_at": 20.75}
    return AttemptRow.model_construct(**(given | known))


def submission(**known: Any) -> SubmissionRow:
    given = {"id": "sub_1", "call": "tasks", "state": "accepted", "answer_status": 200, "due_at": None, "polls": 0}
    given |= {"reason": "", "created_at": 1.0, "answered_at": 1.5}
    return SubmissionRow.model_construct(**(given | known))


def lines(entries: list[TimelineEntry]) -> list[str]:
    return [f"{each.at:g} {each.kind} {each.sink} {each.text}".replace("  ", " ") for each in entries]


def test_from_submission_to_receipt() -> None:
    told = timeline_of(
        run(created_at=1.2, started_at=2.0, finished_at=19.0), [event()], [delivery()], [attempt()], [submission()]
    )
    assert lines(told) == [
        "1 submission submitted (tasks)",
        "1.2 skyvern created",
        "1.5 submission accepted, HTTP 200",
        "2 skyvern started",
        "19 skyvern ended: completed",
        "20 event webhook: completed, new",
        "20.1 delivery results by route all",
        "20.75 attempt results attempt 1: accepted in 0.25 s → row 7",
    ]
    assert told[-1].tone == "good"


def test_what_is_to_come_stands_last() -> None:
    # given a delivery that failed and waits, one that waits for it, and a poll that is due earlier than both
    failed = attempt(outcome="unavailable", reason="HTTP 503", receipt=None)
    waiting = delivery(state="waiting", due_at=90.0, reason="HTTP 503")
    held = delivery(id="dlv_2", sink="slack", state="held", after=["results"], attempts=0, due_at=20.1)
    told = timeline_of(run(), [], [waiting, held], [failed], [submission(due_at=5.0, polls=2, answered_at=None)])
    assert lines(told)[-4:] == [
        "20.75 attempt results attempt 1: unavailable in 0.25 s: HTTP 503",
        "5 next ask Skyvern for the result, after 2 polls",
        "20.1 next slack waits for results",
        "90 next results next attempt: HTTP 503",
    ]


def test_note_of_a_receipt_is_shown() -> None:
    kept = attempt(receipt={"id": "s3://b/r/", "note": "1 of 2 files is not kept"})

    told = timeline_of(run(), [], [], [kept], [])

    assert lines(told)[-1].endswith("accepted in 0.25 s → s3://b/r/ (1 of 2 files is not kept)")


def test_delivery_behind_a_shut_sink_says_why_it_waits() -> None:
    # Given deliveries to a paused sink, one that is down, and one that works; some were tried
    reasons = {"a": "answered 503", "b": "answered 422", "c": "", "d": "answered 500"}
    waiting = [
        delivery(id=f"dlv_{name}", sink=name, state="queued", due_at=20.0, reason=why) for name, why in reasons.items()
    ]
    down = {name: Lane(name, name, breaker="open", until=95.0, reason="answered 500") for name in ("b", "d")}

    told = timeline_of(run(), [], waiting, [], [], {"a": Lane("a", "a", paused=True), **down})

    # Then each shows the sink's reason, and its own one where that differs
    assert lines(told)[-4:] == [
        "20 next a waits until a is resumed: it is paused; its last attempt: answered 503",
        "20 next c to be sent",
        "95 next b waits for b, which is probed first: answered 500; its last attempt: answered 422",
        "95 next d waits for d, which is probed first: answered 500",
    ]


def test_what_is_odd_about_an_event_is_said() -> None:
    odd = event(disposition="repeat", repeat_of="evt_0123456789abcdef", recorded_at=80.0, unrouted=True)
    broken = event(
        id="evt_2", received_at=21.0, recorded_at=21.0, outcome="", problem="no JSON", disposition="unreadable"
    )
    told = timeline_of(run(), [odd, broken], [], [], [])
    assert [each.text for each in told] == [
        "webhook: completed, repeat of evt_0123456789ab, no route matches, recorded 60 s later",
        "webhook: unreadable, unreadable: no JSON",
    ]
    assert told[1].tone == "bad"


def test_an_end_without_an_attempt_is_told() -> None:
    told = timeline_of(run(), [], [delivery(state="cancelled", attempts=0, reason="by an operator")], [], [])
    assert lines(told) == ["20.1 delivery results by route all", "21 delivery results cancelled: by an operator"]


@given(st.lists(st.sampled_from([state.value for state in DeliveryState]), max_size=6), st.permutations(range(4)))
def test_the_past_is_in_order_and_nothing_is_left_out(states: list[str], order: list[int]) -> None:
    events = [event(id=f"evt_{number}", received_at=10.0 * number) for number in order]
    made = [delivery(id=f"dlv_{number}", state=state, attempts=0) for number, state in enumerate(states)]
    told = timeline_of(run(), events, made, [], [])
    past = [each for each in told if each.kind != "next"]
    assert past == told[: len(past)]
    assert [each.at for each in past] == sorted(each.at for each in past)
    assert {each.id for each in told} == {each.id for each in (*events, *made)}
