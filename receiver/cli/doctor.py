"""`runhook doctor`: tries everything that Runhook needs, and says what to do where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer
from rich.text import Text

from receiver.api.examination import GET_DOCTOR, FindingRow
from receiver.cli.client import Client, LocalClient, with_client
from receiver.cli.options import Form, Json, Output, chosen_form
from receiver.cli.output import clean, out, print_rows
from receiver.errors import RunhookError

_MEMBERS: Final = ("check", "ok", "note", "what", "todo")
_OK, _NOTE, _WRONG = Text("ok    ", style="green"), Text("note  ", style="yellow"), Text("WRONG ", style="red")


@with_client
def doctor(client: Client, output: Output = None, as_json: Json = False) -> None:
    """Try everything that Runhook needs, and say of each thing that it is well, or what to do. Ends with 1 for a fault.

    Redis and the ledger with their versions and clocks, the hosts, the disk, PUBLIC_URL as Skyvern sees it, secrets
    against the quarantine, and the credentials of each sink. It sends nothing to a sink, and changes nothing. Of a
    remote service, its own process tries them.
    """
    form = chosen_form(output, as_json)
    wrong = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal wrong
        for finding in _findings(client):
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


def _findings(client: Client) -> Iterator[Any]:
    if isinstance(client, LocalClient):
        from receiver.doctor.examination import examine

        yield from examine(client.settings)  # one by one, as they come
        return
    told = client.call(GET_DOCTOR, GET_DOCTOR.validated({}))
    yield from told.items
    if not told.complete:
        what = "not all was tried in the time that a call has"
        yield FindingRow(check="doctor", ok=False, note=True, what=what, todo="run `runhook doctor` on its host")
