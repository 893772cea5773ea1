"""The `runhook` command, put together from one file for each group of commands.

An error is one line on standard error and an exit code:
0 done, 1 failed, 2 a wrong call, file or variable, 3 something that is needed can't be reached or used.
"""

from __future__ import annotations

import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

from receiver import __version__
from receiver.cli.commands import COMMANDS
from receiver.cli.overview import VERSION_HELP, overview
from receiver.errors import ConfigError, NotStarted, RunhookError
from receiver.runtime.garbage import relax_gc_for_imports

if TYPE_CHECKING:
    import typer

# The exit code where the reader of the output is gone: that of a program that SIGPIPE ends.
READER_GONE: Final = 141


def build_app(wanted: str | None = None) -> typer.Typer:
    """Return the command line, with only the command `wanted` when that is one of ours.

    Without one, only the names of the commands and what each is for: none is imported.
    """
    import typer

    from receiver.cli.help import CommandGroup

    app = typer.Typer(
        name="runhook",
        cls=CommandGroup,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _version(
        version: bool = typer.Option(False, "--version", help=VERSION_HELP),
    ) -> None:
        if version:
            typer.echo(f"runhook {__version__}")
            raise typer.Exit

    if wanted in COMMANDS:
        listed = COMMANDS[wanted]
        command: Any = getattr(import_module(listed.module), listed.attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=wanted, help=listed.help)
        else:
            app.command(wanted)(command)
    else:
        for name, listed in COMMANDS.items():
            app.command(name, help=listed.help)(_only_listed)
    return app


def _only_listed() -> None:
    """Stand for a command that is listed, and never called."""


def main() -> None:
    """Run the `runhook` command: its entry point."""
    _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for what it lacks
    arguments = sys.argv[1:]
    if arguments[:1] == ["__complete"]:
        import_module("receiver.cli.completer").main(arguments[1:])
        return
    try:
        code = _call(arguments)
    except RunhookError as error:
        _end([*str(error).splitlines(), *_hints(error)], error.exit_code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(READER_GONE)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        _end([where + (error.strerror or str(error)).lower()], NotStarted.exit_code)
    except Exception as error:
        if _is_unconfirmed(error):
            _end(["not confirmed, so nothing was changed; --yes asks nothing"], 1)
        unreadable = _unreadable(arguments) if isinstance(error, UnicodeEncodeError) else []
        if not unreadable and not hasattr(error, "format_message"):
            raise
        _end(unreadable or _wrong_call(error, next(iter(arguments), "")), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _open_what_is_closed() -> None:
    """Open standard input, output and errors on nothing where a caller has closed them: a file that is opened next
    would get their number, and what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _drop_output() -> None:
    """Let go of what nobody can be given: Python would report it once more when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(arguments: list[str]) -> Any:
    """Do what these arguments ask for, and return the exit code. Raises what `main` tells."""
    if arguments == ["--version"]:
        sys.stdout.write(f"runhook {__version__}\n")
    elif arguments[:1] in ([], ["-h"], ["--help"]):
        sys.stdout.write(overview())
    else:
        relax_gc_for_imports()
        return _run(next((argument for argument in arguments if not argument.startswith("-")), None))
    sys.stdout.flush()
    return 0 if arguments else 2


def _run(wanted: str | None) -> Any:
    """Run the command of this process's arguments. Raises BrokenPipeError where the reader of the output is gone."""
    try:
        code = build_app(wanted)(standalone_mode=False, prog_name="runhook")
        sys.stdout.flush()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # for which typer and rich end with 1
            raise BrokenPipeError from None
        raise
    return code


def _end(lines: list[str], code: int) -> NoReturn:
    from receiver.cli.output import clean  # with what prints tables: no command that ends well needs it for this
    from receiver.telemetry import logs

    for line in lines:
        logs.say(clean(line), logs.ERROR)
    sys.exit(code)


def _is_unconfirmed(error: Exception) -> bool:
    """Whether a question was not answered: the terminal was closed, or there is none."""
    import typer

    return isinstance(error, typer.Abort)


def _unreadable(arguments: list[str]) -> list[str]:
    """Return which arguments are no UTF-8: Python has their bytes as surrogates, which no database and no URL takes."""
    wrong = [
        number for number, each in enumerate(arguments, 1) if any("\ud800" <= letter <= "\udfff" for letter in each)
    ]
    return [f"argument {number} is no UTF-8 text; write it anew" for number in wrong]


def _wrong_call(error: Any, command: str) -> list[str]:
    """Return in one line what typer found wrong with the call; nothing when it has shown the help instead. `command`:
    what was called, for what the parser itself finds wrong does not say of which command it is."""
    text = " ".join(error.format_message().split()).rstrip(".")
    if not text:
        return []
    # Its words for values are those of a library for programmers.
    text = text.replace("Value error, ", "").replace("Input should be ", "must be ")
    text = text.replace("must be a valid integer, unable to parse string as an integer", "must be a whole number")
    context = error.ctx
    if context and (option := getattr(error, "option_name", "")) in ("--url", "--key", "--profile"):
        called = context.command_path.partition(" ")[2]
        return [f"{called} works on this machine only, and takes no {option}; see `{context.command_path} -h`"]
    help_command = f"{context.command_path} -h" if context else f"runhook {command} -h"
    return [f"{text[:1].lower()}{text[1:]}; see `{help_command}`"]


def _hints(error: RunhookError) -> list[str]:
    """Return what helps at the first start, when the shipped config lacks its one variable."""
    if isinstance(error, ConfigError) and "SKYVERN_API_KEY is not set" in str(error):
        return [
            "to try Runhook without an account, start `runhook dev`: it makes a SKYVERN_API_KEY for this machine",
            "to check a file without its variables: `runhook check --allow-unset`",
        ]
    return []
