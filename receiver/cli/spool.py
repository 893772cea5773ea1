"""`runhook spool`: events that a receiver kept on its own disk while Redis was away."""

from __future__ import annotations

import asyncio

import typer

from receiver.cli.options import ConfigFile, DataDirectory, load_config
from receiver.cli.output import out
from receiver.cli.profiles import here_only
from receiver.cli.progress import ProgressLine
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.frame import EntryKeys
from receiver.errors import NotStarted, UsageError
from receiver.inbox.writer import InboxUnavailable, InboxWriter
from receiver.ingest import durability
from receiver.ingest.disk_file import is_open
from receiver.ingest.spool import Spool

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make `send` a command of its own, though it is the only one."""


@app.command()
@here_only
def send(config: ConfigFile = None, data: DataDirectory = None) -> None:
    """Send what lies in a spool to Redis, when its receiver does not start again: its host is gone, its disk is here.

    A receiver that runs sends its own. An event that is sent twice is recognised by its id.
    """
    directory = Settings.from_env(config=config, data=data).data / "spool"
    if not directory.is_dir():  # first: a wrong folder may lack what else the config needs
        raise UsageError(f"there is no spool in {directory.parent}; name the receiver's data directory with --data")
    settings, loaded = load_config(config, data)
    server = loaded.server
    durability.check_at_start(
        settings.redis_url, server.max_body, server.accept_weaker_durability, str(settings.config), away=_away
    )
    running = is_open(directory)
    spool = Spool(directory, 0, 0)  # nothing is added to it
    spool.open()
    try:
        sent = asyncio.run(_send(settings, loaded, spool))
    finally:
        spool.close()
    out().print(f"{sent} sent." if sent else "The spool is empty.")
    if running:
        out().print(f"A receiver runs on {settings.data}; it sends what it adds.")


def _away(reason: str) -> None:
    raise NotStarted(f"Redis can't be used: {reason.rstrip('.')}; set REDIS_URL to the one that takes the events")


async def _send(settings: Settings, config: Config, spool: Spool) -> int:
    """Append all events of the spool to the inbox, and take each out when it is there. The clock wakes the dispatcher.

    Returns how many. Raises NotStarted.
    """
    total = spool.bytes
    keys = EntryKeys({name: source.signing_secrets for name, source in config.sources.items()})
    writer = InboxWriter(settings.redis_url, timeout=30.0, keys=keys)
    sent = 0
    try:
        with ProgressLine("bytes", total) as progress:
            while (batch := spool.peek()).events:
                await writer.append(batch.events)
                spool.done(batch)
                sent += len(batch.events)
                progress.show(total - spool.bytes)
    except InboxUnavailable as error:
        raise NotStarted(f"Redis takes no events now ({error}); {sent} sent, the others are still there") from None
    except OSError as error:
        raise NotStarted(f"the spool can't be read or changed: {error.strerror}; {sent} sent") from None
    finally:
        await writer.close()
    return sent
