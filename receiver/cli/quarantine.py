"""`runhook quarantine`: requests that failed the signature check, kept on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli.output import clean, iso, out, print_json, print_table, when
from receiver.config.loader import load
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted, UsageError
from receiver.inbox import InboxUnavailable, InboxWriter
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

app = typer.Typer(
    help="Requests that failed the signature check: see them, check them again after a secret was added, drop them.",
    no_args_is_help=True,
)

ConfigOption = Annotated[Path | None, typer.Option("--config", help="The config file (RUNHOOK_CONFIG).")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Data directory (RUNHOOK_DATA).")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.")]


def _open(config: Path | None, data: Path | None) -> tuple[Settings, Config, Quarantine]:
    settings = Settings.from_env(config=config, data=data)
    loaded = load(settings.config, settings.environ)
    store = Quarantine(settings.data / "quarantine", loaded.quarantine.max_count, loaded.quarantine.max_bytes)
    return settings, loaded, store


@app.command("list")
def list_(config: ConfigOption = None, data: DataOption = None, json: JsonOption = False) -> None:
    """List what is in quarantine, the oldest first."""
    _, _, store = _open(config, data)
    kept = store.list()
    if json:
        print_json([_row(each) for each in kept])
        return
    rows = [[each.id, each.source, when(each.at), each.size, clean(each.signature, 20)] for each in kept]
    print_table("", ["id", "source", "received", "bytes", "signature"], rows, "The quarantine is empty.")


def _row(refused: QuarantinedRequest) -> dict[str, object]:
    return {
        "id": refused.id,
        "source": refused.source,
        "received_at": iso(refused.at),
        "size": refused.size,
        "signature": refused.signature,
        "submission_id": refused.submission_id,
    }


@app.command()
def verify(ids: Ids = None, config: ConfigOption = None, data: DataOption = None, json: JsonOption = False) -> None:
    """Check the signatures again with the present secrets, and let the authentic requests in."""
    settings, loaded, store = _open(config, data)
    verdicts: list[tuple[QuarantinedRequest, str]] = []
    for refused in _chosen(store.list(), ids):
        source = loaded.sources.get(refused.source)
        secrets = None if source is None else source.signing_secrets
        with suppress(FileNotFoundError):
            verdicts.append((refused, refused.verdict(store.body(refused), secrets)))
    authentic = [refused for refused, verdict in verdicts if verdict == "authentic"]
    if authentic:
        asyncio.run(_let_in(settings, store, authentic))
    if json:
        print_json([{**_row(refused), "verdict": verdict} for refused, verdict in verdicts])
        return
    rows = [[each.id, each.source, "let in" if verdict == "authentic" else verdict] for each, verdict in verdicts]
    print_table("", ["id", "source", "verdict"], rows, "The quarantine is empty.")
    if verdicts:
        out().print(f"{len(authentic)} let in, {len(verdicts) - len(authentic)} stay in quarantine.")


async def _let_in(settings: Settings, store: Quarantine, authentic: Sequence[QuarantinedRequest]) -> None:
    """Give events to the inbox, as if they had been accepted when they came. The clock wakes the dispatcher."""
    writer = InboxWriter(settings.redis_url, timeout=5.0)
    try:
        for refused in authentic:
            await writer.append([refused.event(store.body(refused))])
            store.remove([refused])
    except InboxUnavailable as error:
        raise NotStarted(f"Redis takes no events now ({error}); what was not let in stays in quarantine") from None
    finally:
        await writer.close()


@app.command()
def drop(
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Drop everything.")] = False,
    config: ConfigOption = None,
    data: DataOption = None,
) -> None:
    """Drop requests for good."""
    if bool(ids) == every:
        raise UsageError("name the ids to drop, or --all")
    _, _, store = _open(config, data)
    chosen = _chosen(store.list(), ids)
    store.remove(chosen)
    out().print(f"{len(chosen)} dropped.")


def _chosen(kept: Sequence[QuarantinedRequest], ids: Sequence[str] | None) -> list[QuarantinedRequest]:
    if not ids:
        return list(kept)
    unknown = sorted(set(ids) - {each.id for each in kept})
    if unknown:
        raise UsageError(f"not in quarantine: {', '.join(clean(each, 60) for each in unknown)}")
    return [each for each in kept if each.id in set(ids)]
