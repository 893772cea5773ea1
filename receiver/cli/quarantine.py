"""`runhook quarantine`: requests that failed the signature check, kept on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from receiver.api.actions import quarantine as actions
from receiver.cli.acting import audited_here
from receiver.cli.options import ConfigFile, DataDirectory, Form, ListJson, Output, chosen_form, load_config
from receiver.cli.output import clean, out, print_rows, relative_path, show_when
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted, UsageError
from receiver.inbox import InboxUnavailable
from receiver.ingest.quarantine import Quarantine, QuarantinedRequest

app = typer.Typer(no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids as `list` shows them.")]


def _store(settings: Settings, config: Config) -> Quarantine:
    if not settings.data.is_dir():
        raise NotStarted(f"there is no data directory {settings.data}; name the right one with --data or RUNHOOK_DATA")
    return Quarantine(settings.data / "quarantine", config.quarantine.max_count, config.quarantine.max_bytes)


@app.command("list")
def list_(
    config: ConfigFile = None, data: DataDirectory = None, output: Output = None, as_json: ListJson = False
) -> None:
    """List what is in quarantine, the oldest first."""
    form = chosen_form(output, as_json)
    settings, loaded = load_config(config, data)
    print_rows(
        [_row(each) for each in _store(settings, loaded).list()],
        {
            "id": "id",
            "source": "source",
            "received": lambda row: show_when(row["received_at"]),
            "bytes": "size",
            "signature": lambda row: clean(row["signature"], 20),
        },
        f"The quarantine is empty ({relative_path(str(settings.data / 'quarantine'))}).",
        form,
    )


def _row(refused: QuarantinedRequest) -> dict[str, Any]:
    return {
        "id": refused.id,
        "source": refused.source,
        "received_at": refused.at,
        "size": refused.size,
        "signature": refused.signature,
        "submission_id": refused.submission_id,
    }


@app.command()
def verify(
    ids: Ids = None,
    config: ConfigFile = None,
    data: DataDirectory = None,
    output: Output = None,
    as_json: ListJson = False,
) -> None:
    """Check the signatures again with the present secrets, and let the authentic requests in. Ends with 1 for none."""
    form = chosen_form(output, as_json)
    settings, loaded = load_config(config, data)
    store = _store(settings, loaded)
    verdicts = actions.check(loaded, store, _chosen(store.list(), ids))
    authentic = actions.authentic_of(verdicts)
    if verdicts:
        with audited_here(settings, actions.VERIFY, {"ids": ids} if ids else {}, required=False) as told:
            try:
                actions.let_in(settings, loaded, store, authentic, told)
            except InboxUnavailable as error:
                told.detail = f"Redis takes no events now ({error})"
                raise NotStarted(f"{told.detail}; what was not let in stays in quarantine") from None
    print_rows(
        [{**_row(refused), "verdict": verdict} for refused, verdict in verdicts],
        {
            "id": "id",
            "source": "source",
            "verdict": lambda row: "let in" if row["verdict"] == "authentic" else row["verdict"],
        },
        f"The quarantine is empty ({relative_path(str(settings.data / 'quarantine'))}).",
        form,
    )
    if verdicts and form is Form.TABLE:
        out().print(f"{len(authentic)} let in, {len(verdicts) - len(authentic)} stay in quarantine.")
    if verdicts and not authentic:
        raise typer.Exit(1)


@app.command()
def drop(
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Drop everything.")] = False,
    config: ConfigFile = None,
    data: DataDirectory = None,
) -> None:
    """Drop requests for good."""
    if bool(ids) == every:
        raise UsageError("name the ids to drop, or --all")
    settings, loaded = load_config(config, data)
    store = _store(settings, loaded)
    chosen = _chosen(store.list(), ids)
    with audited_here(settings, actions.DROP, {"ids": ids} if ids else {}, required=False) as told:
        store.remove(chosen)
        told.count = len(chosen)
    out().print(f"{len(chosen)} dropped.")


def _chosen(kept: Sequence[QuarantinedRequest], ids: Sequence[str] | None) -> list[QuarantinedRequest]:
    if not ids:
        return list(kept)
    unknown = sorted(set(ids) - {each.id for each in kept})
    if unknown:
        raise UsageError(f"not in quarantine: {', '.join(clean(each, 60) for each in unknown)}")
    return [each for each in kept if each.id in set(ids)]
