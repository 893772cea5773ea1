"""`runhook …` in the process of the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from typer.testing import CliRunner

from receiver.cli import build_app

Runhook = Callable[..., str]
# Exit code, output, errors.
Said = tuple[int, str, str]


def run_command(*arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """Run a command that ends with 0, and return what it prints to standard output. Raises its errors.

    `environ`: variables besides those of this process.
    """
    done = CliRunner().invoke(build_app(arguments[0]), list(arguments), env=environ)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout
