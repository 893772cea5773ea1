"""`runhook inbox`: entries that were set aside. `runhook spool`: events stored on disk while Redis was unavailable."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import redis
import typer

from handlers.support.file_lock import is_locked
from receiver.api.service import Actor
from receiver.checks.board import directory_id
from receiver.cli.ledger_access import open_ledger
from receiver.cli.options import ConfigFile, DataDirectory, Limit, ListJson, Output, chosen_form, load_config, new_app
from receiver.cli.output import clean, out, parse_columns, print_rows, progress
from receiver.cli.profiles import here_only
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.counting import counted
from receiver.domain.event import Event
from receiver.domain.frame import EntryKeys, read_entry
from receiver.domain.run import parse
from receiver.domain.trouble import redis_todo
from receiver.errors import NotStarted, UsageError
from receiver.inbox.set_aside import SetAsideEntry, drop_all, drop_set_aside, fields_of, list_set_aside
from receiver.inbox.writer import InboxUnavailable, InboxWriter, append_each
from receiver.ingest import redis_settings
from receiver.ingest.spool import Spool, list_events
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.lists.filters import LIMIT
from receiver.runtime.redis_client import connect, unusable

app = new_app()
spool_app = new_app()

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
        rows = (_row(each) for each in itertools.islice(list_set_aside(client), limit))
        columns = parse_columns("id since=set_aside_at source event=event_id bytes=size why")
        print_rows(rows, columns, "no entry was set aside", form)


def _row(each: SetAsideEntry) -> dict[str, Any]:
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
        drop_set_aside(client, ids)
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
        count = drop_all(client) if everything else drop_set_aside(client, ids or ())
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


# --- The spool


@spool_app.callback()
def _group() -> None:
    """Keep `send` a subcommand."""


@spool_app.command()
@here_only
def send(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs only.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Send spooled events to Redis after their receiver's host is gone and its disk is mounted here.

    A running receiver sends its own. An event that is sent twice is recognised by its id.
    """
    runs: Counter[str] = Counter()
    directory = Settings.from_env(config=config, data=data).data / "spool"
    if not directory.is_dir():  # first: a wrong folder may lack what else the config needs
        raise UsageError(f"spool not found in {directory.parent}: set --data to the receiver's data directory")
    if dry_run:
        try:
            runs.update(map(_run_of, list_events(directory)))
        except OSError as error:
            fix = f"Check its permissions; `sqlite3 {error.filename} .recover` saves readable events of a damaged file"
            raise NotStarted(f"{error.filename} cannot be read: {error.strerror}. {fix}") from None
        out().print(f"{_events_of(runs)} to send" if runs else "the spool is empty")
        for run in filter(None, runs):
            out().print(clean(run))
        return
    settings, loaded = load_config(config, data)
    server = loaded.server
    redis_settings.check_at_start(
        settings.redis_url, server.max_body, server.accept_weaker_durability, str(settings.config), away=_unavailable
    )
    running = is_locked(directory / "lock")
    spool = Spool(directory, 0, 0)  # nothing is added to it
    spool.open()
    try:
        asyncio.run(_send(settings, loaded, spool, runs))
    finally:
        spool.close()
    with suppress(NotStarted), open_ledger(settings) as ledger:  # a ledger that is down misses it: its problem stays
        asked, who = {"directory": str(directory), "data_id": directory_id(settings.data)}, Actor.local()
        actor = AuditActor(who.kind, who.name)
        ledger.write(lambda it: audit.record(it, actor, "spool.send", asked, runs.total()))
    out().print(f"{_events_of(runs)} sent" if runs else "the spool is empty")
    if running:
        out().print(f"A receiver is running on {settings.data}; it sends what it adds.")


def _unavailable(reason: str) -> None:
    raise NotStarted(f"Redis unavailable: {reason.rstrip('.')}; set REDIS_URL to the server that gets the events")


def _run_of(event: Event) -> str:
    return parse(event.body).run_id


def _events_of(runs: Counter[str]) -> str:
    """Return the number of events and runs in words. `runs`: events by run id; "" where it cannot be read."""
    known, unknown = sum(map(bool, runs)), runs[""]
    unread = f" ({counted(unknown, 'event names', 'events name')} no run)" if unknown else ""
    return f"{counted(runs.total(), 'event', 'events')} of {counted(known, 'run', 'runs')}{unread}"


async def _send(settings: Settings, config: Config, spool: Spool, runs: Counter[str]) -> None:
    """Append all events of the spool to the inbox, count them in `runs`, and remove each once it is there.

    Raises NotStarted.
    """
    total = spool.bytes
    keys = EntryKeys({name: source.signing_secrets for name, source in config.sources.items()})
    writer = InboxWriter(settings.redis_url, timeout=30.0, keys=keys)
    try:
        with progress("bytes", total) as show:
            while (batch := spool.peek()).events:
                await writer.append(batch.events)
                spool.done(batch)
                runs.update(map(_run_of, batch.events))
                show(total - spool.bytes)
    except InboxUnavailable as error:
        raise NotStarted(
            f"Redis does not accept events ({error}); {_events_of(runs)} sent, the others stay in the spool"
        ) from None
    except OSError as error:
        raise NotStarted(f"the spool cannot be read or changed: {error.strerror}; {_events_of(runs)} sent") from None
    finally:
        await writer.close()
