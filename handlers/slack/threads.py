"""Posting with a bot token: each delivery once, in the thread where it belongs, and a storm of failures as one count.

Slack has no idempotency key. Each message carries its delivery's mark in metadata, and an attempt after the first looks
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
from typing import Any

from handlers.contract import Delivery, Receipt, Unavailable
from handlers.slack.blocks import SlackMessage
from handlers.slack.client import Api, ApiError, Webhook
from handlers.slack.incident_count import TALLY, IncidentCount, Seen, again, many
from handlers.slack.incidents import MESSAGE, Topic, mark, message_metadata, payload_of

PAGE = 200
PAGES = 10  # what lies further back in a channel than 2,000 messages is not looked for
KNOWN_MAX = 2000  # threads that a process remembers
GONE = frozenset({"message_not_found", "thread_not_found", "cannot_reply_to_message", "cant_update_message"})
STUCK = GONE | {"edit_window_closed"}
UNREADABLE = frozenset({"missing_scope", "not_allowed_token_type", "method_not_supported_for_channel_type"})
BLIND = "the bot may not read the channel (scope channels:history or groups:history), so messages can appear twice"
CHANNEL_ID = re.compile(r"[CDG][A-Z0-9]{6,}")

History = Mapping[str, Any]


@dataclass(slots=True)
class Thread:
    """What this process knows of a topic. `root` and `count_at` are timestamps of messages, or ""."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    root: str = ""
    count_at: str = ""
    tally: IncidentCount = field(default_factory=IncidentCount)
    waiting: dict[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Posted:
    """`fresh`: the message is new and whole, so that a picture may follow it in `thread`; `channel` is an id."""

    receipt: Receipt
    ts: str
    thread: str
    channel: str
    fresh: bool


class Threads:
    """The messages of one sink in one channel. Safe to use from many threads."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self._known: OrderedDict[str, Thread] = OrderedDict()
        self._guard = threading.Lock()
        self._blind = False

    def post(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic | None) -> Posted:
        """Post `message`, or find that it is there already, or count it. Raises Refused or Unavailable."""
        if topic is None:
            return self._post_alone(api, delivery, message)
        thread = self._thread(topic)
        with self._turn(thread, delivery, topic, api.deadline):
            if thread.root and float(thread.root) < topic.since:
                thread.root, thread.count_at, thread.tally = "", "", IncidentCount()
            if not thread.root:
                self._learn(api, thread, topic)
            return self._post_in(api, delivery, message, topic, thread)

    @contextmanager
    def _turn(self, thread: Thread, delivery: Delivery, topic: Topic, deadline: float) -> Iterator[None]:
        """A turn in the thread. Whoever has one counts for all that wait, so a delivery waits until its turn ends and
        not a moment longer: the next one would count again what this one has posted."""
        one = mark(delivery)
        if topic.kind == "incident":
            with self._guard:
                thread.waiting[one] = Seen.of(delivery)
        try:
            with _turn(thread.lock, deadline):
                try:
                    yield
                finally:
                    with self._guard:
                        thread.waiting.pop(one, None)
        finally:
            with self._guard:
                thread.waiting.pop(one, None)  # its turn may never have come

    def _post_alone(self, api: Api, delivery: Delivery, message: SlackMessage) -> Posted:
        if delivery.attempt > 1:
            own = self._find(
                api, "conversations_history", _own(delivery), oldest=delivery.received_at.timestamp() - 3600
            )
            if own:
                return self._renew(api, own["ts"], message, message_metadata(delivery, None))
        return self._new(api, message, message_metadata(delivery, None))

    def _post_in(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic, thread: Thread) -> Posted:
        metadata = message_metadata(delivery, topic)
        if not thread.root:
            posted = self._new(api, message, metadata)
            thread.root = posted.ts
            return posted
        if topic.kind == "incident":
            return self._count(api, delivery, message, topic, thread)
        if delivery.attempt > 1:
            own = self._find(api, "conversations_replies", _own(delivery), ts=thread.root)
            if own:
                return self._renew(api, own["ts"], message, metadata)
        try:
            return self._new(api, message, metadata, thread_ts=thread.root)
        except ApiError as error:
            if error.word not in GONE:
                raise
            posted = self._new(api, message, metadata)
            thread.root = posted.ts
            return posted

    def _count(self, api: Api, delivery: Delivery, message: SlackMessage, topic: Topic, thread: Thread) -> Posted:
        """Seen before: one reply under the first message says how often, and is edited as the number grows.

        Whoever gets the turn counts for all that wait for it, so that a storm costs few calls.
        """
        if delivery.attempt > 1:
            root = self._find(api, "conversations_replies", _own(delivery), ts=thread.root)
            if root and root["ts"] == thread.root:
                return self._renew(api, thread.root, message, message_metadata(delivery, topic))
        if mark(delivery) not in thread.tally.marks:
            self._read_tally(api, thread, topic)
            with self._guard:
                waiting = dict(thread.waiting)
            tally = thread.tally.add(waiting)
            if tally.count != thread.tally.count:
                self._write_tally(api, tally, topic, thread)
        note = f"counted under the message {thread.root}: seen {thread.tally.count + 1} times"
        return Posted(
            Receipt(thread.count_at or thread.root, note=note), thread.count_at, thread.root, self._channel, False
        )

    def _read_tally(self, api: Api, thread: Thread, topic: Topic) -> None:
        """Another process may have counted meanwhile: what stands in Slack is what counts."""
        just_it = {"oldest": thread.count_at, "latest": thread.count_at, "inclusive": True} if thread.count_at else {}
        found = self._find(
            api,
            "conversations_replies",
            lambda one: payload_of(one, TALLY).get("topic") == topic.key,
            ts=thread.root,
            **just_it,
        )
        if found:
            thread.count_at, thread.tally = found["ts"], IncidentCount.from_metadata(payload_of(found, TALLY))

    def _write_tally(self, api: Api, tally: IncidentCount, topic: Topic, thread: Thread) -> None:
        message, metadata = again(tally), tally.to_metadata(topic.key)
        if thread.count_at:
            try:
                self._renew(api, thread.count_at, message, metadata)
                thread.tally = tally
                return
            except ApiError as error:
                if error.word not in STUCK:
                    raise
        posted = self._new(api, message, metadata, thread_ts=thread.root)
        thread.count_at, thread.tally = posted.ts, tally

    def _learn(self, api: Api, thread: Thread, topic: Topic) -> None:
        found = self._find(
            api,
            "conversations_history",
            lambda one: payload_of(one, MESSAGE).get("topic") == topic.key,
            oldest=topic.since,
        )
        if found:
            thread.root = found["ts"]

    def _find(self, api: Api, method: str, wanted: Callable[[History], bool], **where: Any) -> History | None:
        """The newest message in the channel or thread that is wanted. None too when the bot may not look."""
        if not CHANNEL_ID.fullmatch(self._channel) or self._blind:
            return None
        if "oldest" in where and not isinstance(where["oldest"], str):
            where["oldest"] = f"{where['oldest']:.6f}"
        cursor: dict[str, str] = {}
        for _ in range(PAGES):
            try:
                page = api.call(method, channel=self._channel, limit=PAGE, include_all_metadata=True, **where, **cursor)
            except ApiError as error:
                if error.word in GONE:
                    return None
                if error.word not in UNREADABLE:
                    raise
                self._blind = True
                return None
            for message in page.get("messages") or ():
                if isinstance(message, Mapping) and message.get("ts") and wanted(message):
                    return message
            following = (page.get("response_metadata") or {}).get("next_cursor")
            if not following:
                return None
            cursor = {"cursor": str(following)}
        return None

    def _new(self, api: Api, message: SlackMessage, metadata: Mapping[str, Any], **thread: str) -> Posted:
        answer = api.call("chat_postMessage", channel=self._channel, metadata=metadata, **message.to_dict(), **thread)
        ts, channel = answer.get("ts"), str(answer.get("channel") or self._channel)
        if not isinstance(ts, str):
            raise Unavailable("Slack said ok but gave no timestamp for the message")
        if CHANNEL_ID.fullmatch(channel):
            self._channel = channel
        return Posted(Receipt(ts, note=BLIND if self._blind else ""), ts, thread.get("thread_ts", ts), channel, True)

    def _renew(self, api: Api, ts: str, message: SlackMessage, metadata: Mapping[str, Any]) -> Posted:
        api.call(
            "chat_update", channel=self._channel, ts=ts, text=message.text, blocks=message.blocks, metadata=metadata
        )
        return Posted(Receipt(ts), ts, ts, self._channel, False)

    def _thread(self, topic: Topic) -> Thread:
        with self._guard:
            thread = self._known.setdefault(topic.key, Thread())
            self._known.move_to_end(topic.key)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            return thread


def _own(delivery: Delivery) -> Callable[[History], bool]:
    wanted = mark(delivery)
    return lambda message: payload_of(message, MESSAGE).get("delivery") == wanted


@contextmanager
def _turn(lock: threading.Lock, deadline: float) -> Iterator[None]:
    """One send at a time for a topic: two at once would both find no first message and post one each."""
    if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
        raise Unavailable("another message of the same thread is still on its way to Slack")
    try:
        yield
    finally:
        lock.release()


@dataclass(slots=True)
class Storm:
    """An incident as a webhook's process remembers it. `begun`: seconds since the epoch, of its first message."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: float = 0.0
    count: int = 0


class Storms:
    """The same for a webhook, which can neither reply nor look back: an incident's later runs are counted in memory,
    and one line says so at the 10th, 100th, 1000th. What one process counts, another does not know.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, Storm] = OrderedDict()
        self._guard = threading.Lock()

    def post(self, hook: Webhook, message: SlackMessage, topic: Topic | None, now: float) -> Receipt:
        """Post `message`, or count it. Raises Refused or Unavailable, and has then not counted it."""
        if topic is None:
            hook.post(message.to_dict())
            return Receipt("webhook")
        storm = self._storm(topic)
        with _turn(storm.lock, hook.deadline):
            if storm.begun < topic.since:
                storm.begun, storm.count = now, 0
            number = storm.count + 1
            if number == 1:
                hook.post(message.to_dict())
            elif _is_round(number):
                hook.post(many(message, number, now - storm.begun).to_dict())
            storm.count = number
        return Receipt("webhook", note="" if number == 1 else f"counted, not shown: number {number} of one incident")

    def _storm(self, topic: Topic) -> Storm:
        with self._guard:
            storm = self._known.setdefault(topic.key, Storm())
            self._known.move_to_end(topic.key)
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            return storm


def _is_round(number: int) -> bool:
    """10, 100, 1000, …"""
    return number >= 10 and str(number).strip("0") == "1"
