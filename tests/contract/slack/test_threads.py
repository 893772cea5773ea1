"""Messages of one run or one incident share a thread, and repeats are counted."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from handlers.contract import Receipt, Unavailable
from handlers.testing.conformance import make_delivery, sample_run
from tests.servers.slack import HOOK, FakeSlack
from tests.support.sinks import Make, failing, now
from tests.support.waiting import Stopwatch


def test_a_reply_whose_answer_was_lost_is_not_posted_again(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="run")
    sink.send(now(make_delivery(sample_run("wr_1", created_at=None))))
    later = now(make_delivery(sample_run("wr_1", created_at=None, attempt=2)))
    slack.fail("chat.postMessage", 500, after=True)
    with pytest.raises(Unavailable):
        sink.send(later)
    sink.send(replace(later, attempt=2))
    assert len(slack.messages) == 2


def test_an_incident_is_one_message_and_one_reply_that_counts(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    receipts = [sink.send(failing()) for _ in range(5)]
    (first,) = slack.top
    (count,) = slack.replies(first["ts"])
    assert "5 times by now" in count["text"]
    assert receipts[0].id == first["ts"]
    assert {receipt.id for receipt in receipts[1:]} == {count["ts"]}
    assert "seen 5 times" in receipts[-1].note


def test_other_workflows_reasons_and_successes_are_separate(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    for delivery in (failing(), failing(workflow_id="wpid_2"), failing(failure_reason="No search form")):
        sink.send(delivery)
    for _ in range(2):
        sink.send(replace(failing(), status="completed"))
    assert len(slack.top) == 5


def test_another_process_goes_on_with_the_same_count(slack: FakeSlack, bot: Make) -> None:
    first, second = bot(thread="incident"), bot(thread="incident")
    for sink in (first, second, first, second, second):
        sink.send(failing())
    bot(thread="incident").send(failing())
    assert len(slack.top) == 1
    (count,) = slack.replies(slack.top[0]["ts"])
    assert "6 times by now" in count["text"]


def test_a_delivery_is_counted_once_however_often_it_is_tried(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    first, second = failing(), failing()
    sink.send(first)
    slack.fail("chat.postMessage", 500, after=True)
    with pytest.raises(Unavailable):
        sink.send(second)
    for one in (second, first, second):
        sink.send(replace(one, attempt=2))
        bot(thread="incident").send(replace(one, attempt=3))
    assert len(slack.messages) == 2
    assert "2 times by now" in slack.messages[1]["text"]


def test_a_storm_is_one_message_and_few_calls(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident", timeout=60)
    sink.send(failing())
    gate = slack.gates["chat.postMessage"] = threading.Event()
    started = threading.Semaphore(0)

    def send() -> Receipt:
        started.release()
        return sink.send(failing())

    with ThreadPoolExecutor(40) as pool:
        work = [pool.submit(send) for _ in range(40)]
        for _ in work:
            started.acquire()
        gate.set()
        assert all(isinstance(each.result(), Receipt) for each in work)
    assert len(slack.top) == 1
    (count,) = slack.replies(slack.top[0]["ts"])
    assert "41 times by now" in count["text"]
    # Each turn counts all that wait.
    assert len(slack.called("chat.update")) <= 5


def test_an_incident_that_is_over_begins_anew(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident", window=60)
    sink.send(failing())
    slack.messages[0]["ts"] = f"{time.time() - 100:.6f}"
    for one in (bot(thread="incident", window=60), bot(thread="incident", window=60)):
        one.send(failing())
    assert len(slack.top) == 2


def test_a_count_that_was_deleted_is_written_anew(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    for _ in range(3):
        sink.send(failing())
    del slack.messages[1]
    sink.send(failing())
    (count,) = slack.replies(slack.top[0]["ts"])
    assert "4 times by now" in count["text"]


def test_trouble_while_counting_loses_no_count(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident")
    sink.send(failing())
    delivery = failing()
    for method in ("conversations.replies", "chat.postMessage"):
        slack.fail(method, 503)
        with pytest.raises(Unavailable):
            sink.send(delivery)
    sink.send(replace(delivery, attempt=2))
    assert "2 times by now" in slack.replies(slack.top[0]["ts"])[0]["text"]


def test_a_bot_that_may_not_read_counts_as_far_as_it_remembers(slack: FakeSlack, bot: Make) -> None:
    slack.scopes.discard("channels:history")
    sink = bot(thread="incident")
    for _ in range(4):
        sink.send(failing())
    assert len(slack.messages) == 2
    assert "4 times by now" in slack.messages[1]["text"]


def test_webhook_shows_an_incident_at_round_numbers(slack: FakeSlack, webhook: Make) -> None:
    sink = webhook(thread="incident")
    receipts = [sink.send(failing()) for _ in range(12)]
    assert len(slack.messages) == 2
    assert "10 times" in slack.messages[1]["text"]
    assert receipts[0].note == ""
    assert "number 12 of one incident" in receipts[-1].note


def test_webhook_counts_only_after_its_first_message(slack: FakeSlack, webhook: Make) -> None:
    sink = webhook(thread="incident")
    slack.fail(HOOK, 503, times=2)
    for _ in range(2):
        with pytest.raises(Unavailable):
            sink.send(failing())
    sink.send(failing())
    assert len(slack.messages) == 1


def test_a_send_that_waits_for_its_turn_gives_up_in_time(slack: FakeSlack, bot: Make) -> None:
    sink = bot(thread="incident", timeout=1)
    slack.fail("conversations.history", 200, b"{}", delay=10)
    errors: list[Exception] = []

    def send() -> None:
        try:
            sink.send(failing())
        except Unavailable as error:
            errors.append(error)

    watch = Stopwatch()
    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    watch.at_most(9)
    assert len(errors) >= 1
