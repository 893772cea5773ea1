"""`runhook doctor`: tries everything that Runhook needs, and says what to do where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer
from rich.text import Text

from receiver.cli.options import ConfigFile, DataDirectory, Form, Json, Output, chosen_form
from receiver.cli.output import clean, out, print_rows
from receiver.cli.profiles import here_only
from receiver.config.settings import Settings
from receiver.errors import RunhookError

_MEMBERS: Final = ("check", "ok", "note", "what", "todo")
_OK, _NOTE, _WRONG = Text("ok    ", style="green"), Text("note  ", style="yellow"), Text("WRONG ", style="red")


@here_only
def doctor(config: ConfigFile = None, data: DataDirectory = None, output: Output = None, as_json: Json = False) -> None:
    """Try everything that Runhook needs, and say of each thing that it is well, or what to do. Ends with 1 for a fault.

    Redis and the ledger with their versions and clocks, the hosts, the disk, PUBLIC_URL as Skyvern sees it, secrets
    against the quarantine, and the credentials of each sink. It sends nothing to a sink, and changes nothing.
    """
    from receiver.doctor.examination import examine

    form = chosen_form(output, as_json)
    wrong = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal wrong
        for finding in examine(Settings.from_env(config=config, data=data)):
            wrong += not finding.ok and not finding.note
            yield {name: getattr(finding, name) for name in _MEMBERS}

    if form is Form.TABLE:
        for row in rows():
            mark = _OK if row["ok"] else _NOTE if row["note"] else _WRONG
            out().print(mark.copy().append(f"{clean(row['check'])}: {clean(row['what'])}", style=""), soft_wrap=True)
            if not row["ok"]:
                out().print(Text(f"      {clean(row['todo'])}"), soft_wrap=True)
    else:
        print_rows(rows(), {}, "", form, names=_MEMBERS)
    if wrong:
        raise typer.Exit(RunhookError.exit_code)
