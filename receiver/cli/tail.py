"""`runhook tail`: events as they are recorded, of a remote service or of this machine's ledger.

What is missed while the service is away comes once it is back, in order: each event says where to go on.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import httpx2
import typer
from pydantic import BaseModel, ValidationError
from rich.text import Text

from receiver import __version__
from receiver.api.models import MAX_LIMIT
from receiver.api.tail import TAIL, TailEvent, TailGap, TailParameters
from receiver.cli.api_options import api_options, named_options
from receiver.cli.client import Client, with_client
from receiver.cli.options import Form, ListJson, Output, chosen_form
from receiver.cli.output import clean, coloured, out, print_rows, show_time
from receiver.cli.remote import RemoteClient
from receiver.errors import Busy, NotStarted, RunhookError, UsageError
from receiver.ledger import LedgerUnavailable

R = TypeVar("R", bound=BaseModel)

# Seconds between two looks at this machine's ledger.
INTERVAL: Final = 1.0
# Seconds of silence after which a stream counts as broken: the service says every 15 s that it is there.
SILENCE: Final = 45.0
# Seconds until a service that is away is tried again: what it said, and then longer and longer.
PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 30.0
# Bytes of the longest message: an event has no body, but all labels and reasons of its run.
LONGEST: Final = 32 << 20
# Parameters of the API that are no options: they are filled in, or would end what has no end.
UNTAKEN: Final = ("limit", "after", "until")

# Where to go on, as a header can say it.
_AN_ID: Final = re.compile(rb"[!-~]{1,1000}")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream. `last_id`: where to go on after it; "" where it does not say."""

    kind: str
    last_id: str
    data: bytes
    retry: float | None = None


def messages(pieces: Iterable[bytes]) -> Iterator[Message]:
    """Yield the messages of server-sent events, also those that only say where to go on, or how long to wait."""
    rest = b""
    for piece in pieces:
        rest += piece
        *whole, rest = rest.split(b"\n\n")
        for each in whole:
            yield _message(each)
        if len(rest) > LONGEST:
            raise RunhookError(f"the stream has a message of more than {LONGEST >> 20} MiB: no Runhook sends that")


def _message(block: bytes) -> Message:
    kind, last_id, data, retry = "message", "", list[bytes](), None
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            kind = value.decode(errors="replace")
        elif name == b"id" and _AN_ID.fullmatch(value):
            last_id = value.decode()
        elif name == b"data":
            data.append(value)
        elif name == b"retry" and value.isdigit():
            retry = min(int(value[:9]) / 1000, LONGEST_PAUSE)
    return Message(kind, last_id, b"\n".join(data), retry)


def follow(
    client: Client, parameters: TailParameters, sleep: Callable[[float], None] = time.sleep
) -> Iterator[TailEvent | TailGap]:
    """Yield what is recorded, for ever, and each gap that was found. `sleep`: waits for so many seconds.

    Raises what the first call does; later only what waiting does not fix, such as a key that was revoked.
    """
    if isinstance(client, RemoteClient):
        yield from _follow_stream(client, parameters, sleep)
    else:
        yield from _follow_ledger(client, parameters, sleep)


def _follow_ledger(
    client: Client, parameters: TailParameters, sleep: Callable[[float], None]
) -> Iterator[TailEvent | TailGap]:
    begun = False
    while True:
        try:
            page = client.call(TAIL, parameters)
        except (LedgerUnavailable, NotStarted) as trouble:
            if not begun:
                raise
            _tell(f"{trouble}; what comes meanwhile is told later")
            sleep(PAUSE)
            continue
        if page.gap is not None:
            yield page.gap
        yield from page.items
        has_moved = begun and page.next != parameters.after
        begun = True
        parameters = parameters.model_copy(update={"after": page.next, "since": None})
        if not has_moved:
            sleep(INTERVAL)


def _follow_stream(
    client: RemoteClient, parameters: TailParameters, sleep: Callable[[float], None]
) -> Iterator[TailEvent | TailGap]:
    path, query = TAIL.path_and_rest(parameters)
    last, pause, said, failures = "", PAUSE, PAUSE, 0
    while True:
        headers = {"accept": "text/event-stream", **({"last-event-id": last} if last else {})}
        try:
            with client.stream("GET", path, query, headers=headers, silence=SILENCE) as answer:
                for each in messages(answer.iter_bytes()):
                    failures, pause = 0, said
                    last = each.last_id or last
                    said = each.retry or said
                    if each.kind == "event" and each.data:
                        yield _read(TailEvent, each.data, client.where)
                    elif each.kind == "gap":
                        yield _read(TailGap, each.data, client.where)
            trouble = "the stream ended"
        except (NotStarted, Busy) as problem:
            if not last:
                raise
            trouble = str(problem)
        except httpx2.HTTPError as problem:
            trouble = clean(str(problem) or type(problem).__name__, 200)
        failures += 1
        if failures == 2:  # once is a restart
            _tell(f"{client.where}: {trouble}; what comes meanwhile is told later")
        sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def _read(kind: type[R], data: bytes, where: str) -> R:
    try:
        return kind.model_validate_json(data)
    except ValidationError:
        raise RunhookError(
            f"{where}: the stream has a message that this version ({__version__}) does not know; is the service of "
            "another version?"
        ) from None


def tell_gap(gap: TailGap) -> None:
    """Write to standard error what may be missing."""
    _tell(
        f"events between {show_time(gap.since)} and {show_time(gap.until)} may be missing: retention has removed what "
        "had ended"
    )


def _tell(text: str) -> None:
    sys.stderr.write(f"runhook: {text}\n")


def _line(event: TailEvent) -> Text:
    """Return an event as one line for people."""
    what = "" if event.disposition == "new" else event.disposition
    where = f"→ {', '.join(dict.fromkeys(event.sinks))}" if event.sinks else ("unrouted" if event.unrouted else "")
    reason = event.problem or event.failure_reason or ""
    said = [event.run_id, event.run_type, what, event.title or "", where, reason]
    line = Text(show_time(event.recorded_at) + "  ").append_text(coloured(f"{clean(event.outcome or '?'):<10}"))
    return line.append("  " + "  ".join(clean(each, 120) for each in said if each))


def _printed(found: Iterator[TailEvent | TailGap], limit: int | None) -> Iterator[TailEvent]:
    """Yield events, each seen by who reads the output before the next is waited for; tell gaps to standard error."""
    count = 0
    for each in found:
        if isinstance(each, TailGap):
            tell_gap(each)
            continue
        yield each
        sys.stdout.flush()
        count += 1
        if count == limit:
            return


@with_client
@api_options(TailParameters, without=UNTAKEN)
def tail(
    client: Client,
    asked: dict[str, Any],
    number: Annotated[
        int | None, typer.Option("-n", "--limit", min=1, metavar="N", help="End after so many events.")
    ] = None,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """Print events as they are recorded; with `--since` those since then first. Ctrl-C ends it."""
    form = chosen_form(output, as_json)
    if form is Form.JSON and number is None:
        raise UsageError("--output json: there is no end to print it at; take jsonl, or say how many with -n")
    client.tell = form is Form.TABLE
    with named_options(asked):
        found = _printed(follow(client, TAIL.validated({**asked, "limit": MAX_LIMIT})), number)
        if form is not Form.TABLE:
            rows = (each.model_dump(mode="json") for each in found)
            print_rows(rows, {}, "", form, names=list(TailEvent.model_fields))
            return
        console = out()
        for each in found:
            console.print(_line(each), soft_wrap=True)
