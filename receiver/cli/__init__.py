"""The `runhook` command.

An error is one line on standard error and an exit code: 0 done, 1 failed, 2 wrong call, file or variable, 3 something
needed cannot be reached or used.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

from receiver import __version__
from receiver.errors import ConfigError, NotStarted, RunhookError
from receiver.runtime.process import relax_gc_for_imports

if TYPE_CHECKING:
    import typer

# The exit code of a program that SIGPIPE ends.
BROKEN_PIPE: Final = 141


def build_app() -> typer.Typer:
    """Return the command line. It imports a command when that is called."""
    import typer

    from receiver.cli.commands import COMMANDS, LazyGroup

    app = typer.Typer(
        name="runhook",
        help="The callback target for Skyvern runs: verify, store, route, deliver, retry, replay.",
        cls=LazyGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def _version(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
        if version:
            typer.echo(f"runhook {__version__}")
            raise typer.Exit

    for name, each in COMMANDS.items():
        app.command(name, help=each.help)(_placeholder)
    return app


def _placeholder() -> None:
    """Stand in for a command until it is imported."""


def main() -> None:
    """Run the `runhook` command: its entry point."""
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? instead
    relax_gc_for_imports()
    atexit.register(gc.freeze)  # else the interpreter's last collections visit all imports
    try:
        code = _run()
    except RunhookError as error:
        _end([*str(error).splitlines(), *_hints(error)], error.exit_code)
    except BrokenPipeError:
        _discard_output()
        sys.exit(BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _discard_output()
        where = f"{error.filename}: " if error.filename else ""
        _end([where + (error.strerror or str(error)).lower()], NotStarted.exit_code)
    except Exception as error:
        import typer

        if isinstance(error, typer.Abort):
            _end(["aborted, nothing changed; use --yes to skip the prompt"], 1)
        invalid = _invalid_arguments(sys.argv[1:]) if isinstance(error, UnicodeEncodeError) else []
        if not invalid and not hasattr(error, "format_message"):
            raise
        _end(invalid or _wrong_call(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _open_closed_streams() -> None:
    """Open standard input, output and error on /dev/null where the caller closed them.

    A file opened later would get their number, and with it what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _discard_output() -> None:
    """Send what is still buffered to /dev/null, so that Python reports no second error when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run() -> Any:
    """Run this process's arguments and return the exit code. Raises BrokenPipeError if the output's reader is gone."""
    try:
        try:
            code = build_app()(standalone_mode=False, prog_name="runhook")
        except Exception as error:
            if type(error).__name__ != "NoArgsIsHelpError":  # its message is the help
                raise
            sys.stdout.write(f"{error}\n")
            code = 2
        sys.stdout.flush()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # typer and rich end with 1 then
            raise BrokenPipeError from None
        raise
    return code


def _end(lines: list[str], code: int) -> NoReturn:
    from receiver.cli.output import clean
    from receiver.telemetry import logs

    for line in lines:
        logs.say(clean(line), logs.ERROR)
    sys.exit(code)


def _invalid_arguments(arguments: list[str]) -> list[str]:
    """Return a line for each argument that is not UTF-8: Python holds its bytes as surrogates."""
    wrong = [n for n, text in enumerate(arguments, 1) if any("\ud800" <= letter <= "\udfff" for letter in text)]
    return [f"argument {number} is not valid UTF-8" for number in wrong]


def _wrong_call(error: Any) -> list[str]:
    """Return in one line what typer found wrong with the call."""
    text = " ".join(error.format_message().split()).rstrip(".")
    # Its words for values are those of a library for programmers.
    text = text.replace("Value error, ", "").replace("Input should be ", "must be ")
    text = text.replace("must be a valid integer, unable to parse string as an integer", "must be a whole number")
    command = next((each for each in sys.argv[1:] if not each.startswith("-")), "")
    path = error.ctx.command_path if error.ctx else f"runhook {command}".rstrip()
    option = getattr(error, "option_name", "")
    if error.ctx and option in ("--url", "--key", "--profile"):
        return [f"{path.partition(' ')[2]} works on this machine only and does not accept {option}; see `{path} -h`"]
    return [f"{text[:1].lower()}{text[1:]}{' See' if text.endswith('?') else '; see'} `{path} -h`"]


def _hints(error: RunhookError) -> list[str]:
    """Return the next step when the config file lacks variables."""
    problems = str(error) if isinstance(error, ConfigError) else ""
    if "the variable SKYVERN_API_KEY is not set" in problems:
        return ["to try Runhook without an account, run `runhook dev`: it creates a SKYVERN_API_KEY for this machine"]
    hint = "to check a file without its variables, run `runhook check --allow-unset`"
    return [hint] if "is not set; set it" in problems else []
