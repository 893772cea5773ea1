"""`runhook listen`: posts the events of a deployed Runhook to a developer's own server, signed as in production."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx2
import typer
from rich.text import Text

from handlers.support.url import http_parts
from receiver.api.events import GET_EVENT_BODY, LIST_EVENTS
from receiver.api.models import MAX_LIMIT
from receiver.api.rows import EventRow
from receiver.api.tail import TAIL, TailGap, TailParameters
from receiver.cli.client import Client, LocalClient
from receiver.cli.output import clean, out, show_time
from receiver.cli.parameters import named_options, with_filter
from receiver.cli.remote import RemoteClient, is_loopback
from receiver.cli.tail import NO_OPTIONS, follow, warn_of_gap
from receiver.config.loader import load
from receiver.config.variables import process_variables
from receiver.delivery.callback_sink import signed_headers
from receiver.domain.callback import CALLBACK
from receiver.domain.event import delivery_id
from receiver.errors import Busy, NotStarted, RequestError, RunhookError, UsageError

# What a caller's webhook carries: new results.
POSTED: Final = "new"
# Seconds that the developer's server has to respond, as in production; between two tries to fetch a body, and in all.
TIMEOUT: Final = 30.0
_PAUSE: Final = 2.0
_PATIENCE: Final = 120.0


@dataclass(slots=True)
class Listener:
    """Posts events to `url`, signed with `secret`. `sleep`: waits for seconds. Close it after use."""

    client: Client
    url: str
    secret: str
    http: httpx2.Client
    sleep: Callable[[float], None] = time.sleep
    failed: int = 0

    def take(self, event: EventRow) -> None:
        """Fetch the body of an event, post it, and print how it went."""
        began = time.monotonic()
        try:
            body = self._body(event)
            status, problem = self._post(event.id, body)
        except (RequestError, NotStarted) as error:
            status, problem = 0, f"its body cannot be fetched: {error}"
        accepted = 200 <= status < 300
        self.failed += not accepted
        took = f"{(time.monotonic() - began) * 1000:.0f} ms"
        cells = [show_time(event.recorded_at), event.run_id, event.outcome, took, problem]
        line = Text(str(status or "---"), style="green" if accepted else "red")
        out().print(line.append("  " + "  ".join(clean(each, 200) for each in cells if each), style=""), soft_wrap=True)

    def _body(self, event: EventRow) -> bytes:
        """Return the body. Raises RequestError, and NotStarted if the service stays unavailable."""
        until = time.monotonic() + _PATIENCE
        parameters = GET_EVENT_BODY.validated({"event_id": event.id, "source": event.source})
        while True:
            try:
                content: bytes = self.client.call(GET_EVENT_BODY, parameters).content()
                return content
            except (NotStarted, Busy):
                if time.monotonic() > until:
                    raise
                self.sleep(_PAUSE)

    def _post(self, event_id: str, body: bytes) -> tuple[int, str]:
        """Post a body and return the status and "", or 0 and the problem. A repeat has the same webhook-id."""
        headers = signed_headers(delivery_id(event_id, CALLBACK), event_id, self.secret, body, time.time())
        try:
            with self.http.stream("POST", self.url, content=body, headers=headers) as response:
                return response.status_code, ""
        except httpx2.ConnectError:
            return 0, "connection refused"
        except httpx2.TimeoutException:
            return 0, f"no response within {TIMEOUT:g} s"
        except httpx2.HTTPError as error:
            return 0, f"no response: {error or type(error).__name__}"

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


def target_url(target: str, *, anywhere: bool = False) -> str:
    """Return the URL to post to; "3000" and "3000/hook" are ports of this machine. Raises UsageError.

    `anywhere`: also accept addresses of other machines.
    """
    port, slash, path = target.partition("/")
    url = f"http://127.0.0.1:{port}{slash}{path}" if port.isdecimal() else target
    parts = http_parts(url)
    if parts is None:
        raise UsageError(f"{target}: must be a port (3000), a port with a path (3000/hook), or a URL")
    if not anywhere and not is_loopback(parts.hostname or ""):
        raise UsageError(f"{target}: is not this machine; use --anywhere to post results there")
    return url if parts.path else f"{url}/"


def past_results(client: Client, runs: Sequence[str], source: str) -> Iterator[EventRow]:
    """Yield the newest result of each run. Raises RunhookError for a run without one."""
    for run in runs:
        asked = LIST_EVENTS.validated({"run": run, "source": source, "limit": MAX_LIMIT})
        event = next((each for each in client.call(LIST_EVENTS, asked).items if each.disposition == POSTED), None)
        if event is None:
            raise RunhookError(f"--replay {run}: it has no result")
        yield event


@with_filter(TailParameters, without=NO_OPTIONS)
def listen(
    client: Client,
    target: Annotated[
        str, typer.Argument(metavar="PORT|URL", help="Where to post: 3000, 3000/hook, or a URL of this machine.")
    ],
    replay: Annotated[
        list[str] | None,
        typer.Option("--replay", metavar="RUN", help="Post the result of this past run, and stop; repeatable."),
    ] = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Allow a URL of another machine.")] = False,
    *,
    asked: dict[str, Any],
) -> None:
    """Post new results of a deployed Runhook to a server on this machine, signed as in production.

    Signed with RUNHOOK_LISTEN_SECRET, else with the API key, as the webhooks of an app are. Ctrl-C stops it.
    """
    url = target_url(target, anywhere=anywhere)
    if replay and set(asked) - {"source"}:
        raise UsageError("--replay accepts no filter but --source")
    client.announce = True
    http = httpx2.Client(timeout=TIMEOUT, trust_env=False, follow_redirects=False)
    with named_options(asked), closing(Listener(client, url, _secret(client), http)) as listener:
        parameters = TAIL.validated({**asked, "limit": MAX_LIMIT})
        if replay:
            for event in past_results(client, replay, parameters.source):
                listener.take(event)
            if listener.failed:
                raise RunhookError(f"{listener.failed} of {len(replay)} were not accepted")
            return
        out().print(f"posting events of {client.where} to {url}")
        post_all(listener, follow(client, parameters))


def post_all(listener: Listener, found: Iterable[Any]) -> None:
    """Post the new results of `found`, one after the other."""
    for each in found:
        if isinstance(each, TailGap):
            warn_of_gap(each)
        elif each.disposition == POSTED:
            listener.take(each)


def _secret(client: Client) -> str:
    """Return the signing secret: an app's webhooks are signed with its own API key."""
    if secret := process_variables().text("RUNHOOK_LISTEN_SECRET"):
        return secret
    if isinstance(client, LocalClient):
        config = load(client.settings.config, client.settings.environ)
        return next(iter(config.sources.values())).signing_secrets[0]
    assert isinstance(client, RemoteClient)
    return client.service.key
