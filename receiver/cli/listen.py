"""`runhook listen`: the events of a deployed Runhook, posted to a developer's own server as in production.

One thread follows the service, one reads keys, and the one that posts takes what they bring, one after the other.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

import typer
from rich.text import Text

from handlers.support.daemon_pool import in_thread
from receiver.api.events import GET_EVENT_BODY
from receiver.api.lists import LIST_EVENTS
from receiver.api.models import MAX_LIMIT
from receiver.api.rows import EventRow
from receiver.api.tail import TAIL, TailGap, TailParameters
from receiver.cli.api_options import api_options, named_options
from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.keyboard import keys
from receiver.cli.listen_post import LocalPost, LocalPoster, target_url
from receiver.cli.output import clean, out, show_time
from receiver.cli.remote import RemoteClient
from receiver.cli.submit import console_address
from receiver.cli.tail import UNTAKEN, follow, tell_gap
from receiver.config.loader import load
from receiver.config.variables import process_variables
from receiver.errors import Busy, NotStarted, RequestError, RunhookError, UsageError

# What a route sees unless it asks for more, and so what a caller's webhook brings.
POSTED: Final = frozenset({"new"})
# Events that are taken from the service before the first of them is answered.
_AHEAD: Final = 64
# Seconds between two tries to fetch a body, and for how long.
_PAUSE: Final = 2.0
_PATIENCE: Final = 120.0
_HELP: Final = "r: again   o: open in the console   d: details   q: quit"


class KeyPressed(NamedTuple):
    """A key of the terminal."""

    key: str


class Ended(NamedTuple):
    """The service can't be followed any more, and why; None: there is no more."""

    error: Exception | None


@dataclass(slots=True)
class Listener:
    """Posts what comes. `wait`: sleeps for so many seconds."""

    client: Client
    poster: LocalPoster
    every: bool
    wait: Callable[[float], None] = time.sleep
    last: LocalPost | None = None
    last_event: EventRow | None = None
    posted: int = 0
    failed: int = 0

    def wants(self, event: EventRow) -> bool:
        """Whether an event is one that a caller would get."""
        return self.every or event.disposition in POSTED

    def take(self, event: EventRow) -> None:
        """Fetch the body of an event and post it. What can't be had is told, and left out."""
        try:
            body = self._body(event)
        except (RequestError, NotStarted) as problem:
            self._told("----", event, f"its body can't be had: {problem}", 0.0, "red")
            self.failed += 1
            return
        self._post(event, body)

    def again(self) -> None:
        """Post the last one again, with a new time and signature."""
        if self.last is None or self.last_event is None:
            out().print("nothing was posted yet")
            return
        self._post(self.last_event, self.last.body)

    def details(self) -> None:
        """Print the last post whole, and the beginning of its answer."""
        if self.last is None:
            out().print("nothing was posted yet")
            return
        lines = [f"POST {self.last.url}", *(f"{name}: {value}" for name, value in self.last.headers.items()), ""]
        lines += self.last.body[:20_000].decode(errors="replace").split("\n")
        lines += [
            "",
            f"→ {self.last.status or self.last.problem}",
            *self.last.answer.decode(errors="replace").split("\n"),
        ]
        for line in lines:
            out().print(clean(line), soft_wrap=True)

    def open_console(self, browse: Callable[[str], object] = webbrowser.open) -> None:
        """Open the run of the last event in the service's console."""
        if self.last_event is None:
            out().print("there is no run to open")
            return
        url = console_address(self.client, self.last_event.run_id, self.last_event.source)
        out().print(url, soft_wrap=True)
        browse(url)

    def _body(self, event: EventRow) -> bytes:
        """Return the body. Raises RequestError, and NotStarted when the service stays away."""
        until = time.monotonic() + _PATIENCE
        wanted = GET_EVENT_BODY.validated({"event_id": event.id, "source": event.source})
        while True:
            try:
                found = self.client.call(GET_EVENT_BODY, wanted)
            except (NotStarted, Busy):
                if time.monotonic() > until:
                    raise
                self.wait(_PAUSE)
                continue
            content: bytes = found.content()
            return content

    def _post(self, event: EventRow, body: bytes) -> None:
        self.last, self.last_event = self.poster.post(event.id, body), event
        self.posted += 1
        self.failed += not self.last.accepted
        style = "green" if self.last.accepted else "red"
        self._told(str(self.last.status or "---"), event, self.last.problem, self.last.seconds, style)

    def _told(self, status: str, event: EventRow, problem: str, seconds: float, style: str) -> None:
        what = "" if event.disposition in POSTED else event.disposition
        said = [show_time(event.recorded_at), event.run_id, event.outcome, what, f"{seconds * 1000:.0f} ms", problem]
        line = Text(status, style=style).append("  " + "  ".join(clean(each, 200) for each in said if each), style="")
        out().print(line, soft_wrap=True)
        sys.stdout.flush()


def past_events(client: Client, runs: Sequence[str], source: str, *, every: bool) -> Iterator[EventRow]:
    """Yield what these runs brought, the oldest first: of each the newest result, or with `every` all events.

    Raises RunhookError for a run without any.
    """
    for run in runs:
        asked = LIST_EVENTS.validated({"run": run, "source": source, "limit": MAX_LIMIT})
        found = [each for each in client.call(LIST_EVENTS, asked).items if every or each.disposition in POSTED]
        if not found:
            raise RunhookError(f"--replay {run}: it has brought no result" + ("" if every else "; --every posts more"))
        yield from reversed(found if every else found[:1])


def run(listener: Listener, found: Iterable[Any]) -> None:
    """Post what `found` brings until it ends or somebody quits. Raises what ended it."""
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = threading.Semaphore(_AHEAD)

    def bring() -> None:
        try:
            for each in found:
                room.acquire()
                news.put(each)
            news.put(Ended(None))
        except Exception as error:  # noqa: BLE001 - raised where somebody sees it
            news.put(Ended(error))

    with keys(lambda key: news.put(KeyPressed(key))) as interactive:
        if interactive:
            out().print(Text(_HELP, style="dim"))
        in_thread("follow", bring)
        while True:
            match news.get():
                case Ended() as end:
                    if end.error is not None:
                        raise end.error
                    return
                case KeyPressed(key="q" | "\x04"):
                    return
                case KeyPressed(key=key):
                    _act(listener, key)
                case TailGap() as gap:
                    room.release()
                    tell_gap(gap)
                case event:
                    room.release()
                    if listener.wants(event):
                        listener.take(event)


def _act(listener: Listener, key: str) -> None:
    act = {"r": listener.again, "d": listener.details, "o": listener.open_console}.get(key)
    if act is None:
        out().print(Text(_HELP, style="dim"))
    else:
        act()


@with_client
@api_options(TailParameters, without=UNTAKEN)
def listen(
    client: Client,
    target: Annotated[
        str, typer.Argument(metavar="PORT|URL", help="Where to post: 3000, 3000/hook, or a URL of this machine.")
    ],
    replay: Annotated[
        list[str] | None, typer.Option("--replay", metavar="RUN", help="Post this past run, and end; may be repeated.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Also what is no new result: interim events, updates, repeats, tests.")
    ] = False,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Also to a URL that is not this machine's.")] = False,
    *,
    asked: dict[str, Any],
) -> None:
    """Post the events of a deployed Runhook to a server on this machine, signed as in production."""
    url = target_url(target, anywhere=anywhere)
    if replay and set(asked) - {"source"}:
        raise UsageError("--replay: posts the runs that it names, and takes no filter but --source")
    with named_options(asked):
        parameters = TAIL.validated({**asked, "limit": MAX_LIMIT})
    client.tell = True
    with closing(LocalPoster(url, _secret(client))) as poster:
        listener = Listener(client, poster, every)
        if replay:
            for event in past_events(client, replay, parameters.source, every=every):
                listener.take(event)
            if listener.failed:
                raise RunhookError(f"{listener.failed} of {len(replay)} were not accepted")
            return
        out().print(f"events of {client.where} go to {url}")
        with named_options(asked):
            run(listener, follow(client, parameters))


def _secret(client: Client) -> str:
    """Return what the developer's server checks signatures with: in production an app's webhooks are signed with its
    own API key."""
    if found := process_variables().text("RUNHOOK_LISTEN_SECRET"):
        return found
    if isinstance(client, LocalClient):
        config = load(client.settings.config, client.settings.environ)
        return next(iter(config.sources.values())).signing_secrets[0]
    assert isinstance(client, RemoteClient)
    return client.service.key
