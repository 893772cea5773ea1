"""`runhook inbox`: entries of the inbox that were set aside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import redis
import typer

from handlers.support.url import hide_password
from receiver.cli.options import ConfigFile, DataDirectory, ListJson, Output, chosen_form, load_config
from receiver.cli.output import clean, out, print_rows, show_when
from receiver.config.settings import Settings
from receiver.domain.event import Event
from receiver.domain.inbox_entry import read_entry
from receiver.errors import NotStarted, UsageError
from receiver.inbox import InboxUnavailable, append_each
from receiver.inbox_recovery import AsideEntry, drop_aside, list_aside
from receiver.runtime.redis_client import connect, no_entry

app = typer.Typer(no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.")]


@app.command("list")
def list_(
    config: ConfigFile = None, data: DataDirectory = None, output: Output = None, as_json: ListJson = False
) -> None:
    """List the entries that were set aside, the oldest first, and why."""
    form = chosen_form(output, as_json)
    settings, _ = load_config(config, data)
    print_rows(
        [_row(each) for each in _aside(settings)],
        {
            "id": "id",
            "since": lambda row: show_when(row["set_aside_at"]),
            "source": lambda row: clean(row["source"], 40),
            "event": lambda row: clean(row["event_id"], 40),
            "bytes": "size",
            "why": "why",
        },
        "Nothing was set aside.",
        form,
    )


def _row(each: AsideEntry) -> dict[str, Any]:
    return {
        "id": each.aside_id,
        "set_aside_at": each.since,
        "source": each.fields.get(b"source", b"").decode(errors="replace")[:200],
        "event_id": each.fields.get(b"id", b"").decode(errors="replace")[:200],
        "size": len(each.fields.get(b"body", b"")),
        "why": each.why,
    }


@app.command()
def accept(ids: Ids = None, config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Sign entries and put them into the inbox again. Only what you know to be of your own receivers."""
    settings, loaded = load_config(config, data)
    if not ids:
        raise UsageError("name the ids to accept, as `runhook inbox list` shows them")
    found: list[tuple[AsideEntry, Event]] = []
    for each in _chosen(_aside(settings), ids):
        event = read_entry(each.fields, None)
        if isinstance(event, str):
            raise UsageError(f"{each.aside_id} can't be accepted: {event}")
        if event.source not in loaded.sources:
            raise UsageError(f"{each.aside_id} can't be accepted: its source is not in the config")
        found.append((each, event))
    events = [event for _, event in found]
    try:
        asyncio.run(append_each(settings.redis_url, loaded.sources, events, lambda _: None))
    except InboxUnavailable as error:
        raise NotStarted(f"Redis takes no events now ({error}); nothing was dropped") from None
    _drop(settings, [each for each, _ in found])
    out().print(f"{len(found)} accepted.")


@app.command()
def drop(
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Drop everything.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Drop entries that were set aside, for good."""
    if bool(ids) == every:
        raise UsageError("name the ids to drop, or --all")
    settings, _ = load_config(config, data)
    out().print(f"{_drop(settings, _chosen(_aside(settings), ids))} dropped.")


def _chosen(aside: Sequence[AsideEntry], ids: Sequence[str] | None) -> list[AsideEntry]:
    known = {each.aside_id for each in aside}
    if unknown := sorted(set(ids or ()) - known):
        raise UsageError(f"not set aside: {', '.join(clean(each, 60) for each in unknown)}")
    return [each for each in aside if not ids or each.aside_id in ids]


def _aside(settings: Settings) -> list[AsideEntry]:
    with _redis(settings) as client:
        try:
            return list_aside(client)
        except redis.RedisError as error:
            raise _unusable(settings, error) from None


def _drop(settings: Settings, aside: Sequence[AsideEntry]) -> int:
    with _redis(settings) as client:
        try:
            return drop_aside(client, [each.aside_id for each in aside])
        except redis.RedisError as error:
            raise _unusable(settings, error) from None


def _unusable(settings: Settings, error: redis.RedisError) -> NotStarted:
    reason = str(error).rstrip(".") or type(error).__name__
    where = hide_password(settings.redis_url)
    return NotStarted(no_entry(settings.redis_url, error) or f"Redis can't be used ({where}): {reason}")


def _redis(settings: Settings) -> redis.Redis:
    return connect(settings.redis_url, timeout=10.0, connect_timeout=2.0, retries=0)
