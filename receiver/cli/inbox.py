"""`runhook inbox`: inbox entries that were set aside."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import redis
import typer

from receiver.cli.lists import parse_columns
from receiver.cli.options import ConfigFile, DataDirectory, Limit, ListJson, Output, chosen_form, load_config, new_app
from receiver.cli.output import clean, out, print_rows
from receiver.cli.profiles import here_only
from receiver.config.settings import Settings
from receiver.domain.event import Event
from receiver.domain.frame import read_entry
from receiver.domain.trouble import redis_todo
from receiver.errors import NotStarted, UsageError
from receiver.inbox.aside import AsideEntry, drop_all, drop_aside, fields_of, list_aside
from receiver.inbox.writer import InboxUnavailable, append_each
from receiver.ledger.filters import LIMIT
from receiver.runtime.redis_client import connect, unusable

app = new_app()

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of entries.")]


@app.command("list")
@here_only
def list_(
    config: ConfigFile = None,
    data: DataDirectory = None,
    limit: Limit = LIMIT,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """List entries that were set aside with their reasons, oldest first."""
    form = chosen_form(output, as_json)
    with _redis(Settings.from_env(config=config, data=data)) as client:
        rows = (_row(each) for each in itertools.islice(list_aside(client), limit))
        columns = parse_columns("id since=set_aside_at source event=event_id bytes=size why")
        print_rows(rows, columns, "no entry was set aside", form)


def _row(each: AsideEntry) -> dict[str, Any]:
    return {
        "id": each.aside_id,
        "set_aside_at": each.since,
        "source": each.source,
        "event_id": each.event_id,
        "size": each.size,
        "why": each.why,
    }


@app.command()
@here_only
def accept(ids: Ids = None, config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Sign entries and put them back into the inbox. Accept only entries that your own receivers wrote."""
    settings, loaded = load_config(config, data)
    if not ids:
        raise UsageError("nothing selected: pass ids from `runhook inbox list`")
    with _redis(settings) as client:
        events = [_acceptable(client, each) for each in dict.fromkeys(ids)]
        for event in events:
            if event.source not in loaded.sources:
                raise UsageError(f"{event.id} cannot be accepted: its source is not in the config")
        try:
            asyncio.run(append_each(settings.redis_url, loaded.sources, events, lambda _: None))
        except InboxUnavailable as error:
            raise NotStarted(f"Redis does not accept events ({error}); nothing was dropped") from None
        drop_aside(client, ids)
    out().print(f"{len(events)} accepted.")


def _acceptable(client: redis.Redis, aside_id: str) -> Event:
    fields = fields_of(client, aside_id)
    if fields is None:
        raise _not_found([aside_id])
    event = read_entry(fields, None)
    if isinstance(event, str):
        raise UsageError(f"{aside_id} cannot be accepted: {event}")
    return event


@app.command()
@here_only
def drop(
    ids: Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all entries.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Delete entries that were set aside."""
    if bool(ids) == everything:
        raise UsageError("nothing selected: pass ids, or --all")
    settings, _ = load_config(config, data)
    with _redis(settings) as client:
        if unknown := [each for each in ids or () if fields_of(client, each) is None]:
            raise _not_found(unknown)
        count = drop_all(client) if everything else drop_aside(client, ids or ())
    out().print(f"{count} dropped.")


def _not_found(ids: Sequence[str]) -> UsageError:
    return UsageError(f"not set aside: {', '.join(clean(each, 60) for each in ids)}; see `runhook inbox list`")


@contextmanager
def _redis(settings: Settings) -> Iterator[redis.Redis]:
    """Give the block a client. Raises NotStarted if Redis cannot be used."""
    with connect(settings.redis_url, timeout=10.0, connect_timeout=2.0, retries=0) as client:
        try:
            yield client
        except redis.RedisError as error:
            raise NotStarted(
                unusable(settings.redis_url, error, redis_todo(embedded=settings.embedded_redis))
            ) from None
