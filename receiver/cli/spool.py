"""`runhook spool`: events that a receiver stored on its own disk while Redis was unavailable."""

from __future__ import annotations

import asyncio

from receiver.cli.options import ConfigFile, DataDirectory, load_config, new_app
from receiver.cli.output import out, progress
from receiver.cli.profiles import here_only
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.frame import EntryKeys
from receiver.errors import NotStarted, UsageError
from receiver.inbox.writer import InboxUnavailable, InboxWriter
from receiver.ingest import durability
from receiver.ingest.disk_file import is_open
from receiver.ingest.spool import Spool

app = new_app()


@app.callback()
def _group() -> None:
    """Keep `send` a subcommand."""


@app.command()
@here_only
def send(config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Send spooled events to Redis after their receiver's host is gone and its disk is mounted here.

    A running receiver sends its own. An event that is sent twice is recognised by its id.
    """
    directory = Settings.from_env(config=config, data=data).data / "spool"
    if not directory.is_dir():  # first: a wrong folder may lack what else the config needs
        raise UsageError(f"spool not found in {directory.parent}: set --data to the receiver's data directory")
    settings, loaded = load_config(config, data)
    server = loaded.server
    durability.check_at_start(
        settings.redis_url, server.max_body, server.accept_weaker_durability, str(settings.config), away=_unavailable
    )
    running = is_open(directory)
    spool = Spool(directory, 0, 0)  # nothing is added to it
    spool.open()
    try:
        sent = asyncio.run(_send(settings, loaded, spool))
    finally:
        spool.close()
    out().print(f"{sent} sent." if sent else "the spool is empty")
    if running:
        out().print(f"A receiver is running on {settings.data}; it sends what it adds.")


def _unavailable(reason: str) -> None:
    raise NotStarted(f"Redis unavailable: {reason.rstrip('.')}; set REDIS_URL to the server that gets the events")


async def _send(settings: Settings, config: Config, spool: Spool) -> int:
    """Append all events of the spool to the inbox, and remove each once it is there. Returns how many.

    Raises NotStarted.
    """
    total, sent = spool.bytes, 0
    keys = EntryKeys({name: source.signing_secrets for name, source in config.sources.items()})
    writer = InboxWriter(settings.redis_url, timeout=30.0, keys=keys)
    try:
        with progress("bytes", total) as show:
            while (batch := spool.peek()).events:
                await writer.append(batch.events)
                spool.done(batch)
                sent += len(batch.events)
                show(total - spool.bytes)
    except InboxUnavailable as error:
        raise NotStarted(f"Redis does not accept events ({error}); {sent} sent, the others stay in the spool") from None
    except OSError as error:
        raise NotStarted(f"the spool cannot be read or changed: {error.strerror}; {sent} sent") from None
    finally:
        await writer.close()
    return sent
