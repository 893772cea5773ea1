"""Post each delivery once, in its thread, and count repeated failures.

Slack has no idempotency key. Each message has its delivery's mark in metadata; later attempts search the latest
messages for it before they post. The first message of a thread is found the same way.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from handlers.contract import Delivery, Receipt, Unavailable
from handlers.slack.blocks import SlackMessage
from handlers.slack.client import Api, ApiError, Webhook
from handlers.slack.incidents import (
    COUNT_EVENT,
    MESSAGE_EVENT,
    IncidentCount,
    SeenRun,
    Topic,
    mark,
    message_metadata,
    payload_of,
    repeat_line,
    repeat_reply,
    seen_run,
)
from handlers.support.deadline import Deadline

# Maximum messages searched, newest first. Slack returns pages, which are much smaller for some apps.
SEARCHED = 200
# Maximum cached topics per process.
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
    """The cached state of a topic. `root` (first message) and `count_at` (the count) are timestamps, or ""."""

    root: str = ""
    count_at: str = ""
    count: IncidentCount = field(default_factory=IncidentCount)
    waiting: dict[str, SeenRun] = field(default_factory=dict)


# The receipt of a message, and the thread for its screenshot: "" unless the message is new and complete.
Posted: TypeAlias = tuple[Receipt, str]


class ThreadPoster:
    """Posts the messages of one sink to one channel.

    Thread-safe; messages of a topic are serialised. `channel`: a name, or an id; always an id after the first message.
    """

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self._known: OrderedDict[str, Thread] = OrderedDict()
        self._turn = threading.Lock()
        self._guard = threading.Lock()  # of deliveries waiting for their topic's lock
        self._cannot_read = False

    def post(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic | None) -> Posted:
        """Post, update (after an earlier attempt) or count `message`. Raises Refused or Unavailable."""
        if topic is None:
            oldest = f"{delivery.received_at.timestamp() - 3600:.6f}"
            metadata = message_metadata(delivery, None)
            own = self._own(api, delivery, "conversations.history", oldest=oldest)
            return self._update(api, own, message, metadata) if own else self._post(api, message, metadata)
        with self._counted(topic, delivery) as thread, _turn(self._turn, api.deadline):
            try:
                if thread.root and float(thread.root) < topic.since:
                    thread.root, thread.count_at, thread.count = "", "", IncidentCount()
                if not thread.root:
                    since, key = f"{topic.since:.6f}", topic.key
                    first = self._find(api, "conversations.history", MESSAGE_EVENT, "topic", key, oldest=since)
                    thread.root = first["ts"] if first else ""
                return self._post_in(api, delivery, message, topic, thread)
            finally:
                with self._guard:  # before the lock is released, to prevent a second count
                    thread.waiting.pop(mark(delivery), None)

    @contextmanager
    def _counted(self, topic: Topic, delivery: Delivery) -> Iterator[Thread]:
        """Let any thread count the topic's delivery until the block ends."""
        with self._guard:
            thread = _remembered(self._known, topic, Thread())
            if topic.kind == "incident":
                thread.waiting[mark(delivery)] = seen_run(delivery)
        try:
            yield thread
        finally:
            with self._guard:
                thread.waiting.pop(mark(delivery), None)

    def _post_in(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic, thread: Thread) -> Posted:
        metadata = message_metadata(delivery, topic)
        own = self._own(api, delivery, "conversations.replies", ts=thread.root) if thread.root else ""
        if own:
            return self._update(api, own, message, metadata)
        if thread.root and topic.kind == "incident":
            return self._count(api, delivery, topic, thread)
        if thread.root:
            try:
                return self._post(api, message, metadata, thread_ts=thread.root)
            except ApiError as error:
                if error.code not in NOT_FOUND_ERRORS:
                    raise
        posted = self._post(api, message, metadata)
        thread.root = posted[0].id
        return posted

    def _count(self, api: Api, delivery: Delivery, topic: Topic, thread: Thread) -> Posted:
        """Count the delivery, and all that wait for the lock, in one reply to the first message."""
        if mark(delivery) not in thread.count.marks:
            # Another process may have counted in the meantime.
            at = thread.count_at
            where = {"oldest": at, "latest": at, "inclusive": "true"} if at else {}
            reply = self._find(api, "conversations.replies", COUNT_EVENT, "topic", topic.key, ts=thread.root, **where)
            if reply:
                thread.count_at, thread.count = reply["ts"], IncidentCount.from_metadata(payload_of(reply, COUNT_EVENT))
            with self._guard:
                count = thread.count.add(thread.waiting)
            if count.repeats != thread.count.repeats:
                self._write_count(api, count, topic, thread)
        note = f"counted under the message {thread.root}: seen {thread.count.repeats + 1} times"
        return Receipt(thread.count_at or thread.root, note=note), ""

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
        receipt, _ = self._post(api, message, metadata, thread_ts=thread.root)
        thread.count_at, thread.count = receipt.id, count

    def _own(self, api: Api, delivery: Delivery, method: str, **where: Any) -> str:
        """Return the timestamp of the message from an earlier attempt, or ""."""
        if delivery.attempt == 1:
            return ""
        message = self._find(api, method, MESSAGE_EVENT, "delivery", mark(delivery), **where)
        return str(message["ts"]) if message else ""

    def _find(self, api: Api, method: str, event: str, name: str, value: str, **where: Any) -> History | None:
        """Return the latest message with this metadata value of `event`. None also if the bot can't read it."""
        if not CHANNEL_ID.fullmatch(self.channel) or self._cannot_read:
            return None
        cursor: dict[str, str] = {}
        left = SEARCHED
        while left > 0:
            try:
                page = api.call(
                    method, channel=self.channel, limit=left, include_all_metadata="true", **where, **cursor
                )
            except ApiError as error:
                if error.code not in NOT_FOUND_ERRORS | NO_READ_ERRORS:
                    raise
                self._cannot_read = error.code in NO_READ_ERRORS
                return None
            messages = page.get("messages") or ()
            for message in messages:
                if isinstance(message, Mapping) and message.get("ts") and payload_of(message, event).get(name) == value:
                    return message
            following = (page.get("response_metadata") or {}).get("next_cursor")
            if not (messages and following):
                return None
            left -= len(messages)
            cursor = {"cursor": str(following)}
        return None

    def _post(self, api: Api, message: SlackMessage, metadata: Mapping[str, Any], **thread: str) -> Posted:
        answer = api.call("chat.postMessage", channel=self.channel, metadata=metadata, **message.to_dict(), **thread)
        ts, channel = answer.get("ts"), str(answer.get("channel"))
        if not isinstance(ts, str):
            raise Unavailable("Slack said ok but gave no timestamp for the message")
        if CHANNEL_ID.fullmatch(channel):
            self.channel = channel
        return Receipt(ts, note=NO_READ_NOTE if self._cannot_read else ""), thread.get("thread_ts", ts)

    def _update(self, api: Api, ts: str, message: SlackMessage, metadata: Mapping[str, Any]) -> Posted:
        api.call(
            "chat.update", channel=self.channel, ts=ts, text=message.text, blocks=message.blocks, metadata=metadata
        )
        return Receipt(ts), ""


def _remembered(cache: OrderedDict[str, T], topic: Topic, new: T) -> T:
    """Return the topic's cached value, else `new`. Evicts the least recently used topics."""
    value = cache.setdefault(topic.key, new)
    cache.move_to_end(topic.key)
    while len(cache) > KNOWN_MAX:
        cache.popitem(last=False)
    return value


@contextmanager
def _turn(lock: threading.Lock, deadline: Deadline) -> Iterator[None]:
    """Hold the lock: concurrent sends would each post a first message."""
    if not lock.acquire(timeout=deadline.remaining()):
        raise Unavailable("another message of the same thread is still being sent")
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class WebhookIncident:
    """An incident cached by this process. `started`: time of its first message, in epoch seconds."""

    started: float = 0.0
    count: int = 0


class WebhookPoster:
    """Posts to a webhook, which can neither reply nor search.

    Repeats of an incident are counted in memory, and posted at the 10th, 100th, 1000th, …
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, WebhookIncident] = OrderedDict()
        self._turn = threading.Lock()

    def post(self, hook: Webhook, message: SlackMessage, topic: Topic | None, now: float) -> Receipt:
        """Post or count `message`. Raises Refused or Unavailable; then it is not counted."""
        if topic is None:
            hook.post(message.to_dict())
            return Receipt("webhook")
        with _turn(self._turn, hook.deadline):
            incident = _remembered(self._known, topic, WebhookIncident())
            if incident.started < topic.since:
                incident.started, incident.count = now, 0
            number = incident.count + 1
            if number == 1:
                hook.post(message.to_dict())
            elif number >= 10 and str(number).strip("0") == "1":
                hook.post(repeat_line(message, number, now - incident.started).to_dict())
            incident.count = number
        return Receipt("webhook", note="" if number == 1 else f"counted, not shown: number {number} of one incident")
