"""Post with a bot token: each delivery once, in its thread, and repeated failures as one count.

Slack has no idempotency key. Each message has its delivery's mark in metadata, and an attempt after the first searches
for it before it posts. A thread's first message is found the same way when this process does not know it.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from handlers.contract import Delivery, Receipt, Unavailable
from handlers.slack.blocks import SlackMessage
from handlers.slack.client import Api, ApiError, Webhook
from handlers.slack.incident_count import COUNT_EVENT, IncidentCount, SeenRun, repeat_line, repeat_reply
from handlers.slack.incidents import MESSAGE_EVENT, Topic, mark, message_metadata, payload_of

PAGE = 200
# Pages that are searched: the last 2,000 messages of a channel.
PAGES = 10
# Topics that a process remembers.
KNOWN_MAX = 2000
NOT_FOUND_ERRORS = frozenset(
    {"message_not_found", "thread_not_found", "cannot_reply_to_message", "cant_update_message"}
)
NOT_EDITABLE_ERRORS = NOT_FOUND_ERRORS | {"edit_window_closed"}
NO_READ_ERRORS = frozenset({"missing_scope", "not_allowed_token_type", "method_not_supported_for_channel_type"})
NO_READ_NOTE = (
    "the bot may not read the channel (scope channels:history or groups:history), so messages can appear twice"
)
CHANNEL_ID = re.compile(r"[CDG][A-Z0-9]{6,}")

History = Mapping[str, Any]
T = TypeVar("T")


@dataclass(slots=True)
class Thread:
    """What this process knows of a topic. `root` (first message) and `count_at` (the count) are timestamps, or ""."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    root: str = ""
    count_at: str = ""
    count: IncidentCount = field(default_factory=IncidentCount)
    waiting: dict[str, SeenRun] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Posted:
    """Where a message is. `fresh`: it is new and whole, so a screenshot may follow it in `thread`. `channel`: an id."""

    receipt: Receipt
    ts: str
    thread: str
    channel: str
    fresh: bool


class ThreadPoster:
    """Posts the messages of one sink to one channel. Safe to use from many threads."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._known: OrderedDict[str, Thread] = OrderedDict()
        self._guard = threading.Lock()
        self._cannot_read = False

    def post(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic | None) -> Posted:
        """Post `message`, or update it if an earlier attempt posted it, or count it. Raises Refused or Unavailable."""
        if topic is None:
            return self._post_alone(api, delivery, message)
        thread = self._thread(topic)
        with self._turn(thread, delivery, topic, api.deadline):
            if thread.root and float(thread.root) < topic.since:
                thread.root, thread.count_at, thread.count = "", "", IncidentCount()
            if not thread.root:
                self._find_root(api, thread, topic)
            return self._post_in(api, delivery, message, topic, thread)

    @contextmanager
    def _turn(self, thread: Thread, delivery: Delivery, topic: Topic, deadline: float) -> Iterator[None]:
        """Hold the thread's lock. The holder counts every waiting delivery, so one stops waiting only when its own turn
        has ended: otherwise the next holder would count it again."""
        one = mark(delivery)
        if topic.kind == "incident":
            with self._guard:
                thread.waiting[one] = SeenRun.of(delivery)
        try:
            with _turn(thread.lock, deadline):
                try:
                    yield
                finally:
                    with self._guard:
                        thread.waiting.pop(one, None)
        finally:
            with self._guard:
                thread.waiting.pop(one, None)  # it may have timed out without a turn

    def _post_alone(self, api: Api, delivery: Delivery, message: SlackMessage) -> Posted:
        if delivery.attempt > 1:
            own = self._find(
                api, "conversations_history", _is_own(delivery), oldest=delivery.received_at.timestamp() - 3600
            )
            if own:
                return self._update(api, own["ts"], message, message_metadata(delivery, None))
        return self._post_new(api, message, message_metadata(delivery, None))

    def _post_in(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic, thread: Thread) -> Posted:
        metadata = message_metadata(delivery, topic)
        if not thread.root:
            posted = self._post_new(api, message, metadata)
            thread.root = posted.ts
            return posted
        if topic.kind == "incident":
            return self._count(api, delivery, message, topic, thread)
        if delivery.attempt > 1:
            own = self._find(api, "conversations_replies", _is_own(delivery), ts=thread.root)
            if own:
                return self._update(api, own["ts"], message, metadata)
        try:
            return self._post_new(api, message, metadata, thread_ts=thread.root)
        except ApiError as error:
            if error.code not in NOT_FOUND_ERRORS:
                raise
            posted = self._post_new(api, message, metadata)
            thread.root = posted.ts
            return posted

    def _count(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic, thread: Thread) -> Posted:
        """Count the delivery in the one reply under the first message, which is edited as the number grows.

        The lock's holder counts all deliveries that wait for it, so a burst costs few calls.
        """
        if delivery.attempt > 1:
            root = self._find(api, "conversations_replies", _is_own(delivery), ts=thread.root)
            if root and root["ts"] == thread.root:
                return self._update(api, thread.root, message, message_metadata(delivery, topic))
        if mark(delivery) not in thread.count.marks:
            self._read_count(api, thread, topic)
            with self._guard:
                waiting = dict(thread.waiting)
            count = thread.count.add(waiting)
            if count.repeats != thread.count.repeats:
                self._write_count(api, count, topic, thread)
        note = f"counted under the message {thread.root}: seen {thread.count.repeats + 1} times"
        return Posted(
            Receipt(thread.count_at or thread.root, note=note), thread.count_at, thread.root, self._channel, False
        )

    def _read_count(self, api: Api, thread: Thread, topic: Topic) -> None:
        """Read the count from Slack, since another process may have counted meanwhile."""
        just_it = {"oldest": thread.count_at, "latest": thread.count_at, "inclusive": True} if thread.count_at else {}
        found = self._find(
            api,
            "conversations_replies",
            lambda one: payload_of(one, COUNT_EVENT).get("topic") == topic.key,
            ts=thread.root,
            **just_it,
        )
        if found:
            thread.count_at, thread.count = found["ts"], IncidentCount.from_metadata(payload_of(found, COUNT_EVENT))

    def _write_count(self, api: Api, count: IncidentCount, topic: Topic, thread: Thread) -> None:
        message, metadata = repeat_reply(count), count.to_metadata(topic.key)
        if thread.count_at:
            try:
                self._update(api, thread.count_at, message, metadata)
                thread.count = count
                return
            except ApiError as error:
                if error.code not in NOT_EDITABLE_ERRORS:
                    raise
        posted = self._post_new(api, message, metadata, thread_ts=thread.root)
        thread.count_at, thread.count = posted.ts, count

    def _find_root(self, api: Api, thread: Thread, topic: Topic) -> None:
        found = self._find(
            api,
            "conversations_history",
            lambda one: payload_of(one, MESSAGE_EVENT).get("topic") == topic.key,
            oldest=topic.since,
        )
        if found:
            thread.root = found["ts"]

    def _find(self, api: Api, method: str, wanted: Callable[[History], bool], **where: Any) -> History | None:
        """Return the newest message in the channel or thread that is wanted. None too if the bot may not read it."""
        if not CHANNEL_ID.fullmatch(self._channel) or self._cannot_read:
            return None
        if "oldest" in where and not isinstance(where["oldest"], str):
            where["oldest"] = f"{where['oldest']:.6f}"
        cursor: dict[str, str] = {}
        for _ in range(PAGES):
            try:
                page = api.call(method, channel=self._channel, limit=PAGE, include_all_metadata=True, **where, **cursor)
            except ApiError as error:
                if error.code in NOT_FOUND_ERRORS:
                    return None
                if error.code not in NO_READ_ERRORS:
                    raise
                self._cannot_read = True
                return None
            for message in page.get("messages") or ():
                if isinstance(message, Mapping) and message.get("ts") and wanted(message):
                    return message
            following = (page.get("response_metadata") or {}).get("next_cursor")
            if not following:
                return None
            cursor = {"cursor": str(following)}
        return None

    def _post_new(self, api: Api, message: SlackMessage, metadata: Mapping[str, Any], **thread: str) -> Posted:
        answer = api.call("chat_postMessage", channel=self._channel, metadata=metadata, **message.to_dict(), **thread)
        ts, channel = answer.get("ts"), str(answer.get("channel") or self._channel)
        if not isinstance(ts, str):
            raise Unavailable("Slack said ok but gave no timestamp for the message")
        if CHANNEL_ID.fullmatch(channel):
            self._channel = channel
        return Posted(
            Receipt(ts, note=NO_READ_NOTE if self._cannot_read else ""), ts, thread.get("thread_ts", ts), channel, True
        )

    def _update(self, api: Api, ts: str, message: SlackMessage, metadata: Mapping[str, Any]) -> Posted:
        api.call(
            "chat_update", channel=self._channel, ts=ts, text=message.text, blocks=message.blocks, metadata=metadata
        )
        return Posted(Receipt(ts), ts, ts, self._channel, False)

    def _thread(self, topic: Topic) -> Thread:
        with self._guard:
            return _remembered(self._known, topic, Thread())


def _remembered(known: OrderedDict[str, T], topic: Topic, new: T) -> T:
    """Return what is known of the topic, else `new`; forget the topics that were used longest ago."""
    value = known.setdefault(topic.key, new)
    known.move_to_end(topic.key)
    while len(known) > KNOWN_MAX:
        known.popitem(last=False)
    return value


def _is_own(delivery: Delivery) -> Callable[[History], bool]:
    wanted = mark(delivery)
    return lambda message: payload_of(message, MESSAGE_EVENT).get("delivery") == wanted


@contextmanager
def _turn(lock: threading.Lock, deadline: float) -> Iterator[None]:
    """Hold the lock of a topic: two sends at once would both find no first message and post one each."""
    if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise Unavailable("another message of the same thread is still on its way to Slack")
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class WebhookIncident:
    """An incident as this process remembers it. `started`: time of its first message, in seconds since the epoch."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    started: float = 0.0
    count: int = 0


class WebhookPoster:
    """Posts to a webhook, which can neither reply nor search.

    Repeats of an incident are counted in this process's memory, and posted only at the 10th, 100th, 1000th, …
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, WebhookIncident] = OrderedDict()
        self._guard = threading.Lock()

    def post(self, hook: Webhook, message: SlackMessage, topic: Topic | None, now: float) -> Receipt:
        """Post `message`, or count it. Raises Refused or Unavailable; then it was not counted."""
        if topic is None:
            hook.post(message.to_dict())
            return Receipt("webhook")
        with self._guard:
            incident = _remembered(self._known, topic, WebhookIncident())
        with _turn(incident.lock, hook.deadline):
            if incident.started < topic.since:
                incident.started, incident.count = now, 0
            number = incident.count + 1
            if number == 1:
                hook.post(message.to_dict())
            elif _is_round(number):
                hook.post(repeat_line(message, number, now - incident.started).to_dict())
            incident.count = number
        return Receipt("webhook", note="" if number == 1 else f"counted, not shown: number {number} of one incident")


def _is_round(number: int) -> bool:
    """Whether `number` is 10, 100, 1000, …"""
    return number >= 10 and str(number).strip("0") == "1"
