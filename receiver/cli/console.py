"""`runhook console hash`: what stands in place of a password in the config."""

from __future__ import annotations

import sys

import typer

from receiver.cli.output import out
from receiver.errors import UsageError

app = typer.Typer(help="The console for people: what the config needs to let them in.", no_args_is_help=True)

_SHORTEST = 8


@app.command("hash")
def hash_() -> None:
    """Read a password from the terminal, or a line of standard input, and print its hash.

    Put it in the config as `console.users.NAME.password`, or in RUNHOOK_CONSOLE_PASSWORD.
    """
    from receiver.console.passwords import LONGEST, hash_password

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not len(password) >= _SHORTEST or len(password.encode("utf-8", "surrogateescape")) > LONGEST:
        raise UsageError(f"the password must have {_SHORTEST} characters or more, and {LONGEST} bytes at the most")
    out().print(hash_password(password), soft_wrap=True)
